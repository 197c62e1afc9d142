"""Buffers that fill while their task is trained: which rows stand in which step."""

import dataclasses

import numpy as np
import pytest
from support import runs, tiny
from support.buffers import examples, offered, rows_of

from jcl import methods
from jcl.batching import epochs
from jcl.config import TrainConfig
from jcl.errors import UserError
from jcl.memory import buffer
from jcl.streams.stream import Example, TaskPlan
from jcl.training import experiment
from jcl.training.batch_loader import BatchLoader

NEW = [Example(100 + i, 'x', 'y', 2, i % 2) for i in range(22)]
POLICIES = ('fifo', 'reservoir', 'class_balanced')


def plan(policy='fifo', every=0, past=0, size=1000, **how):
  """22 new examples and a buffer that has `past` others."""
  held = buffer.add(buffer.empty(), offered(0, past), size, policy, 0)
  online_buffer = buffer.OnlineBuffer(held, size, policy, every)
  return TaskPlan(NEW, held['examples'], **{'ratio': 0.5, **how}, online_buffer=online_buffer)


def by_reference(example, replay):
  """The rows of an example or of a reference, as the feed finds them."""
  if isinstance(example, tuple):
    example = Example(example[1], 'x', 'y', example[0])
  return rows_of(example, replay)


def epoch(made, number, size=4):
  """[[(number, replay), …] of each step]."""
  return [examples(s) for s in epochs.steps(made, by_reference, 0, 2, number, size)]


def split(steps):
  """New and replayed numbers, in order."""
  flat = [x for step in steps for x in step]
  return [n for n, replay in flat if not replay], [n for n, replay in flat if replay]


WAYS = [(0, 'dataset'), (0, 'batch'), (1, 'dataset'), (3, 'dataset'), (1, 'batch'), (3, 'batch')]


@pytest.mark.parametrize(('every', 'level'), WAYS)
@pytest.mark.parametrize('past', [0, 9])
def test_only_what_was_trained_on_before_is_replayed(past, every, level):
  """In the first epoch what entered by then; afterwards all may come. New ones once an epoch."""
  made, replayed_early = plan(past=past, every=every, level=level), set()
  steps = epoch(made, 0)
  entered = set(range(past))
  for first in range(0, len(steps), every or len(steps)):
    part = steps[first : first + (every or len(steps))]
    new, old = split(part)
    assert set(old) <= entered
    replayed_early |= set(old) & set(range(100, 122))
    entered |= set(new)
  assert bool(replayed_early) == (every > 0)
  for number in range(4):
    new, old = split(epoch(made, number))
    assert sorted(new) == list(range(100, 122))
    assert number == 0 or set(old) & set(range(100, 122))
    assert not past or set(old) & set(range(past))


@pytest.mark.parametrize(('every', 'level'), WAYS)
@pytest.mark.parametrize('unit', ['rows', 'tokens'])
def test_the_ratio_and_the_size_of_steps_hold(every, level, unit):
  if (unit, level) == ('tokens', 'batch'):
    return
  made = plan(past=30, every=every, level=level, unit=unit)
  for number in (0, 1):
    steps = epoch(made, number, size=6)
    new, old = split(steps)
    assert len(new) == 22
    assert max(map(len, steps)) == 6
    if level == 'batch':
      assert all(sum(r for _, r in s) == sum(not r for _, r in s) for s in steps)
    elif unit == 'rows':
      assert len(old) == pytest.approx(11, abs=3 if every and not number else 0)
    else:
      tokens = lambda numbers: sum(2 * (n % 4 + 1) for n in numbers)
      assert tokens(old) == pytest.approx(tokens(new) / 2, abs=1 if number or not every else 8)


@pytest.mark.parametrize('level', ['dataset', 'batch'])
@pytest.mark.parametrize('every', [1, 2, 5])
def test_new_examples_enter_every_so_many_steps(every, level):
  """Of a fifo of two the steps show which two entered last; all steps are full but the last."""
  made = plan(past=4, every=every, level=level, size=2, ratio=1.0)
  steps = epoch(made, 0)
  seen = [0, 1, 2, 3]
  for first in range(0, len(steps), every):
    new, old = split(steps[first : first + every])
    assert set(old) <= set(seen[-2:])
    seen += new
  assert [len(s) for s in steps[:-1]] == [4] * (len(steps) - 1)


@pytest.mark.parametrize('every', [0, 3])
@pytest.mark.parametrize('policy', POLICIES)
def test_after_the_task_the_buffer_is_the_one_that_was_drawn_from(policy, every):
  """Each example was offered once, in the order first trained on; nothing replayed came again."""
  made = plan(policy, every, past=9, size=10)
  first = list(epochs.steps(made, by_reference, 0, 2, 0, 4))
  order = epochs.trained(made, first)
  assert [e.number for e in order] == split([examples(s) for s in first])[0]
  after = made.online_buffer.take(order, 0).buffer
  assert after['seen'] == 9 + 22
  assert len(set(after['examples'])) == len(after['examples']) <= 10
  for number in (1, 2, 3):
    _, old = split(epoch(made, number))
    assert set(old) <= {n for _, n in after['examples']}
  again = buffer.add(made.online_buffer.buffer, order, 10, policy, 0)
  assert again == after


@pytest.mark.parametrize('every', [0, 2])
def test_steps_are_a_function_of_the_epoch_and_leave_the_plan_as_it_was(every):
  made = plan('reservoir', every, past=9, size=10)
  before = repr(made)
  third = epoch(made, 3)
  epoch(made, 0)
  assert epoch(made, 3) == third
  assert epoch(made, 2) != third
  assert repr(made) == before


# In a run.


def loaded(every, level='dataset', policy='reservoir', past=True, **train):
  tools = tiny.tools(examples=9)
  tasks = tools.stream.tasks
  held = buffer.add(buffer.empty(), tasks[0].train if past else [], 6, policy, 0)
  online_buffer = buffer.OnlineBuffer(held, 6, policy, every)
  made = TaskPlan(tasks[1].train, held['examples'], level, 0.5, online_buffer=online_buffer)
  return BatchLoader(made, 1, tools, TrainConfig(**({'batch_size': 4, 'epochs': 3} | train)))


@pytest.mark.parametrize(('every', 'level'), WAYS)
@pytest.mark.parametrize('past', [False, True])
def test_a_task_is_as_long_as_its_epochs_and_goes_on_anywhere(past, every, level):
  whole = list(loaded(every, level, past=past).batches())
  assert whole[-1].ends_epoch
  assert sum(f.ends_epoch for f in whole) == 3
  ends = [f.number for f in whole if f.ends_epoch]
  assert [f.epoch for f in whole] == [sum(n < f.number for n in ends) for f in whole]
  news = [(~np.asarray(f.batch.replay) & (np.asarray(f.batch.length) > 0)).sum() for f in whole]
  assert sum(news) == 3 * 9 * 2
  for skip in (1, len(whole) - 2):
    rest = list(loaded(every, level, past=past).batches(skip))
    assert [f.number for f in rest] == list(range(skip, len(whole)))
    for one, other in zip(rest, whole[skip:], strict=True):
      np.testing.assert_array_equal(one.batch.tokens, other.batch.tokens)
      np.testing.assert_array_equal(one.batch.replay, other.batch.replay)
      np.testing.assert_array_equal(one.batch.key, other.batch.key)


def test_candidates_have_room_from_the_first_task_on():
  fill = loaded(0, 'batch', past=False)
  tools = fill._tools
  made = fill.plan._replace(candidates=3, new=[e.reference for e in fill.plan.new])
  steps = list(BatchLoader(made, 1, tools, TrainConfig(batch_size=4, epochs=2)).batches())
  assert {f.batch.tokens.shape[0] for f in steps} == {2 * (2 + 3 * 2)}


def test_trained_is_the_order_of_the_first_epoch_as_far_as_it_went():
  tools = tiny.tools(examples=9)
  task = tools.stream.tasks[1]
  made = TaskPlan(
    [e.reference for e in task.train], [e.reference for e in tools.stream.tasks[0].train]
  )
  tools = dataclasses.replace(tools, train=TrainConfig(batch_size=4))
  whole = tools.trained(made, task)
  assert sorted(e.number for e in whole) == [e.number for e in task.train]
  steps = list(BatchLoader(made, 1, tools, tools.train).batches())
  first = [
    row[:n].tolist()
    for f in steps[:5]
    for row, n, old, gen in zip(
      *(
        np.asarray(x) for x in (f.batch.tokens, f.batch.length, f.batch.replay, f.batch.generative)
      ),
      strict=True,
    )
    if n and not old and not gen
  ]
  said = [tools.text.rows(e)[0].tokens.tolist() for e in whole]
  assert sorted(map(str, first)) == sorted(map(str, said))
  tools = dataclasses.replace(tools, train=TrainConfig(batch_size=4, steps=2))
  assert tools.trained(made, task) == whole[: len(tools.trained(made, task))]
  assert 0 < len(tools.trained(made, task)) <= 8


@pytest.mark.parametrize(
  ('given', 'field'),
  [
    ({'update': 'every_epoch', 'policy': 'herding'}, r"update is 'every_epoch'; .*'after_task'"),
    ({'update': 'every_epoch', 'policy': 'importance'}, 'update is'),
    ({'update': 'every_steps'}, r"update_steps is 0; it must be at least 1 with update 'every_st"),
    ({'update_steps': 3}, 'update_steps is 3; .* and 0 with any other'),
    ({'update': 'every_epoch', 'update_steps': 3}, 'update_steps is 3'),
    ({'unit': 'tokens', 'level': 'batch'}, r"unit is 'tokens'; it must be 'rows'"),
    ({'keep_hard': True}, r"keep_hard is True; it must be False unless policy is 'importance'"),
    ({'replay_ratio': float('nan')}, 'replay_ratio is nan'),
    ({'replay_ratio': float('inf')}, 'replay_ratio is inf'),
  ],
)
def test_settings_that_do_not_go_together_are_refused(given, field):
  with pytest.raises(UserError, match=rf'method\.{field}'):
    methods.settings_class('replay')(**given).check()


@pytest.mark.slow
@pytest.mark.parametrize(('update', 'steps'), [('every_epoch', 0), ('every_steps', 1)])
def test_a_run_killed_inside_a_task_ends_in_the_same_bits(update, steps, tmp_path):
  made = runs.config(
    'replay', stream={'max_tasks': 2, 'max_train_per_task': 24, 'max_test_per_task': 4},
    checkpoint={'every_steps': 2},
  )  # fmt: skip
  made.method.update, made.method.update_steps = update, steps
  whole = runs.run(made, tmp_path / 'whole')
  (tmp_path / 'killed').mkdir()
  loop = runs.Loop(experiment.assemble(made), tmp_path / 'killed', quiet=True)
  runs.die_after_step(loop, task=1, step=2)
  resumed = runs.run(made, tmp_path / 'killed')
  assert resumed['params_sha256'] == whole['params_sha256']
  assert resumed['buffer'] == whole['buffer']
  assert whole['buffer'][0]['tasks'] == {whole['tasks'][0]: 24}
