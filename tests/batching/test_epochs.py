"""Which rows make up which step, and the thread that lays them out ahead."""

import collections
import threading

import chex
import numpy as np
import pytest
from support import tiny
from support.buffers import examples, rows_of

from jcl import seeds
from jcl.batching import epochs
from jcl.batching.batch import Row
from jcl.config import TrainConfig
from jcl.streams.stream import Example, TaskPlan
from jcl.training.batch_loader import BatchLoader

NEW = [Example(i, 'x', 'y', 2) for i in range(10)]
OLD = [Example(100 + i, 'x', 'y', i % 2) for i in range(7)]


def epoch(plan, number=0, seed=0, task=2, size=4):
  return list(epochs.steps(plan, rows_of, seed, task, number, size))


def counts(steps):
  """How often each example occurs, new and old."""
  every = [pair for step in steps for pair in examples(step)]
  new = collections.Counter(n for n, replay in every if not replay)
  return new, collections.Counter(n for n, replay in every if replay)


def content(steps):
  return [([r.number for r in s.rows], s.keys.tolist()) for s in steps]


PLANS = {
  'new alone': TaskPlan(NEW),
  'all old': TaskPlan(NEW, OLD),
  'ratio': TaskPlan(NEW, OLD, ratio=0.5),
  'tokens': TaskPlan(NEW, OLD, ratio=0.5, unit='tokens'),
  'batch': TaskPlan(NEW, OLD, level='batch'),
  'task': TaskPlan(NEW, OLD, level='task'),
}


@pytest.mark.parametrize('name', list(PLANS))
def test_steps_are_a_function_of_seed_task_and_epoch(name):
  plan = PLANS[name]
  first = content(epoch(plan, 3))
  epoch(plan, 1)
  assert content(epoch(plan, 3)) == first
  for other in (epoch(plan, 2), epoch(plan, 3, seed=1), epoch(plan, 3, task=1)):
    assert [ids for ids, _ in content(other)] != [ids for ids, _ in first]
    assert [keys for _, keys in content(other)] != [keys for _, keys in first]


@pytest.mark.parametrize('name', list(PLANS))
def test_every_new_example_once_an_epoch_and_every_row_a_key_of_its_own(name):
  seen = set()
  for number in range(3):
    steps = epoch(PLANS[name], number)
    new, _ = counts(steps)
    assert new == dict.fromkeys(range(10), 1)
    for step in steps:
      assert step.keys.shape == (len(step.rows), 2)
      assert step.keys.dtype == np.uint32
      seen.update(map(tuple, step.keys.tolist()))
  assert len(seen) == sum(len(s.rows) for n in range(3) for s in epoch(PLANS[name], n))


@pytest.mark.parametrize(
  ('ratio', 'wanted'), [(None, 7), (0.0, 0), (0.3, 3), (0.5, 5), (0.7, 7), (1.6, 16)]
)
def test_old_examples_for_each_new_one(ratio, wanted):
  """More than there are: all come round again before one comes a third time."""
  for number in range(3):
    steps = epoch(TaskPlan(NEW, OLD, ratio=ratio), number)
    _, old = counts(steps)
    assert sum(old.values()) == wanted
    assert set(old.values()) <= {wanted // 7, -(-wanted // 7)}
    sizes = [len(examples(s)) for s in steps]
    assert sizes[:-1] == [4] * (len(sizes) - 1)
  mixed = [{replay for _, replay in examples(s)} for s in epoch(TaskPlan(NEW, OLD, ratio=1.0))]
  assert {False, True} in mixed


def test_which_old_examples_come_changes_with_the_epoch():
  draws = [tuple(sorted(counts(epoch(TaskPlan(NEW, OLD, ratio=0.3), n))[1])) for n in range(8)]
  assert len(set(draws)) > 3


def tokens(steps, replay):
  return sum(len(r.tokens) for s in steps for r in s.rows if r.replay is replay)


@pytest.mark.parametrize('ratio', [0.0, 0.03, 0.25, 0.3, 1.0, 3.0])
def test_ratio_in_tokens_is_as_near_as_whole_examples_allow(ratio):
  """Examples of 2, 4, 6 and 8 tokens: no even number is out of reach."""
  for number in range(4):
    steps = epoch(TaskPlan(NEW, OLD, ratio=ratio, unit='tokens'), number)
    assert tokens(steps, False) == sum(2 * (n % 4 + 1) for n in range(10)) == 46
    assert abs(tokens(steps, True) - ratio * 46) <= 1
  chosen = {
    tuple(counts(epoch(TaskPlan(NEW, OLD, ratio=1.0, unit='tokens'), n))[1]) for n in range(9)
  }
  assert len(chosen) > 3


@pytest.mark.parametrize(
  ('sizes', 'ratio', 'wanted'),
  [
    ([5], 0.5, 25), ([5], 0.54, 25), ([5], 0.56, 30), ([7, 3], 0.02, 0), ([7, 3], 0.04, 3),
    ([7, 3], 0.2, 10), ([7, 3], 0.52, 26), ([7, 3], 0.1, 6),
  ],
)  # fmt: skip
def test_what_whole_examples_can_reach_is_reached(sizes, ratio, wanted):
  """Fifty new tokens; the same examples come round again where that is nearer."""
  old = [Example(100 + size, 'x', 'y', 0) for size in sizes]
  new = [Example(10, 'x', 'y', 2)]
  ids = lambda e: np.zeros(50 if e.number == 10 else e.number - 100, np.int32)
  one = lambda e, replay: (Row(ids(e), np.array([0]), np.array([0]), 2 * e.number, e.task, replay),)
  plan = TaskPlan(new, old, ratio=ratio, unit='tokens')
  for seed in range(5):
    assert tokens(epochs.steps(plan, one, seed, 2, 0, 4), True) == wanted


def test_half_of_every_batch_is_old():
  """The last batch is short and takes as many old ones as it has new ones, none twice."""
  steps = epoch(TaskPlan(NEW, OLD, level='batch'), size=8)
  halves = [[replay for _, replay in examples(s)] for s in steps]
  assert halves == [[False] * 4 + [True] * 4] * 2 + [[False] * 2 + [True] * 2]
  for step in steps:
    assert len(set(examples(step))) == len(examples(step))
  drawn = [tuple(n for n, replay in examples(s) if replay) for s in steps]
  assert len(set(drawn)) > 1


def test_a_buffer_smaller_than_half_a_batch_repeats_as_little_as_it_can():
  for step in epoch(TaskPlan(NEW, OLD[:3], level='batch'), size=8):
    new, old = counts([step])
    assert sum(old.values()) == sum(new.values())
    assert max(old.values()) - min([old[e.number] for e in OLD[:3]]) <= 1


def test_candidates_multiply_what_is_drawn():
  steps = epoch(TaskPlan(NEW, OLD, level='batch', candidates=3), size=4)
  assert [len(examples(s)) for s in steps] == [8] * 5
  assert all(max(counts([s])[1].values()) == 1 for s in steps)


@pytest.mark.parametrize('level', ['batch', 'task', 'dataset'])
def test_without_a_past_batches_are_full_of_new_examples(level):
  steps = epoch(TaskPlan(NEW, (), level=level, ratio=0.5), size=4)
  assert [len(examples(s)) for s in steps] == [4, 4, 2]


def test_batches_of_one_task_alternate_between_new_and_each_old_one():
  steps = epoch(TaskPlan(NEW, OLD, level='task'), size=4)
  assert [len(examples(s)) for s in steps] == [4, 4, 4, 4, 2, 2]
  tasks = [{r.task for r in s.rows} for s in steps]
  assert tasks == [{2}, {0}, {2}, {1}, {2}, {0}]
  assert [s.rows[0].replay for s in steps] == [False, True] * 3


def test_draw_takes_all_before_it_takes_one_again():
  random = seeds.generator(0, 'test')
  assert epochs.draw(random, [], 3) == []
  assert epochs.draw(random, 'abc', 0) == []
  assert sorted(epochs.draw(random, 'abc', 3)) == list('abc')
  assert collections.Counter(epochs.draw(random, 'abc', 7)).most_common()[0][1] == 3


def test_few_of_very_many_are_drawn_alike_without_one_twice():
  many, count, rounds = range(epochs.MANY + 1), 64, 400
  one = [epochs.draw(seeds.generator(0, 'test', i), many, count) for i in range(rounds)]
  assert one == [epochs.draw(seeds.generator(0, 'test', i), many, count) for i in range(rounds)]
  assert all(len({*drawn}) == count for drawn in one)
  # Chi-square over 32 equal parts, for the first drawn and for all: above 61 once in 1000.
  for drawn in ([d[0] for d in one], [i for d in one for i in d]):
    found = np.bincount(np.array(drawn) * 32 // len(many), minlength=32)
    expected = len(drawn) / 32
    assert ((found - expected) ** 2 / expected).sum() < 61
  everything = epochs.draw(seeds.generator(0, 'test'), many, len(many))
  assert sorted(everything) == list(many)


def test_numbers_of_the_host_depend_on_seed_purpose_and_numbers():
  one = lambda *args: seeds.generator(*args).integers(2**62)
  draws = [one(0, 'a', 1), one(1, 'a', 1), one(0, 'b', 1), one(0, 'a', 2)]
  assert len({*draws}) == 4
  assert one(0, 'a', 1) == draws[0]


# The feed.


def feed(plan=None, devices=1, **train):
  tools = tiny.tools()
  tasks = tools.stream.tasks
  plan = plan or TaskPlan(tasks[1].train, [e.reference for e in tasks[0].train], ratio=0.5)
  return BatchLoader(plan, 1, tools, TrainConfig(**({'batch_size': 4} | train)))


def same(one, other):
  assert (one.number, one.tokens, one.ends_epoch) == (other.number, other.tokens, other.ends_epoch)
  chex.assert_trees_all_equal(one.batch, other.batch)


def test_length_of_a_task():
  """6 new and 3 old examples in batches of 4 are 3 steps."""
  for settings, total in (({'epochs': 2}, 6), ({'epochs': 9, 'steps': 5}, 5), ({'steps': 1}, 1)):
    loaded = feed(**settings)
    assert (loaded.per_epoch, loaded.total) == (3, total)
    steps = list(loaded.batches())
    assert [f.number for f in steps] == list(range(total))
    assert [f.ends_epoch for f in steps] == [n % 3 == 2 for n in range(total)]
    for f in steps:
      assert f.tokens == np.asarray(f.batch.length).sum()


@pytest.mark.parametrize('packing', ['off', 'on'])
@pytest.mark.parametrize('skip', [1, 3, 4, 7])
def test_going_on_inside_a_task_yields_the_batches_that_were_left(skip, packing):
  whole = list(feed(epochs=3, packing=packing).batches())
  rest = list(feed(epochs=3, packing=packing).batches(skip))
  assert (whole[0].batch.segment is None) == (packing == 'off')
  assert len(rest) == len(whole) - skip
  for one, other in zip(rest, whole[skip:], strict=True):
    same(one, other)


def test_epochs_differ_and_hold_the_same_new_rows():
  first, second = (list(feed(epochs=2).batches())[i : i + 3] for i in (0, 3))
  new = lambda steps: sorted(
    tuple(ids[:n].tolist())
    for f in steps
    for ids, n, old in zip(
      *(np.asarray(x) for x in (f.batch.tokens, f.batch.length, f.batch.replay)), strict=True
    )
    if n and not old
  )
  assert new(first) == new(second)
  assert len(new(first)) == 12
  assert any(
    (np.asarray(a.batch.key) != np.asarray(b.batch.key)).any()
    for a, b in zip(first, second, strict=True)
  )


def test_microbatches_and_short_batches_keep_the_number_of_rows():
  for k in (1, 2, 4):
    shapes = {f.batch.tokens.shape[0] for f in feed(epochs=2, microbatches=k).batches()}
    assert shapes == {8}


def test_half_batches_and_candidates_have_room():
  tools = tiny.tools()
  tasks = tools.stream.tasks
  plan = TaskPlan(tasks[1].train, tasks[0].train, level='batch', candidates=2)
  steps = list(feed(plan, epochs=1).batches())
  assert len(steps) == 3
  real = [(np.asarray(f.batch.length) > 0).sum() for f in steps]
  assert real == [12, 12, 12]


def test_what_goes_wrong_in_the_thread_reaches_the_loop(monkeypatch):
  loaded = feed(epochs=3)
  rows_of, asked = loaded._tools.text.rows, []

  def fail(example, replay):
    asked.append(example)
    if len(asked) > 10:  # in the second epoch
      raise RuntimeError('no more data')
    return rows_of(example, replay)

  monkeypatch.setattr(loaded._tools.text, 'rows', fail)
  taken = []
  with pytest.raises(RuntimeError, match='no more data'):
    taken.extend(f.number for f in loaded.batches())
  assert len(taken) <= 3


def test_a_loop_that_leaves_early_stops_the_thread():
  steps = feed(epochs=50).batches()
  next(steps)
  assert any(t.name == 'jcl-feed' for t in threading.enumerate())
  steps.close()
  assert not any(t.name == 'jcl-feed' for t in threading.enumerate())
