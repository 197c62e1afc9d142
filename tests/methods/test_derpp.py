"""DER++: stored logits, a buffer that fills within the task, the published weights of heads."""

import dataclasses
import types

import chex
import jax
import numpy as np
import pytest
from oracles import distillation
from support import runs, tiny
from support.lives import HEAD, Life

from jcl import methods
from jcl.batching.batch import Heads, Shape, layout, look_up
from jcl.errors import UserError
from jcl.memory import teacher
from jcl.step import sharding, train_step, trainable
from jcl.training import experiment


def head_tools(task_id_given=False):
  """Tools of a head over the six classes of the three tasks."""
  tools = tiny.tools('class', make=lambda size: tiny.recurrent(size, classes=6), examples=7)
  heads = {'membership': tiny.OWN, 'task_id_given': task_id_given}
  return dataclasses.replace(tools, **heads)


def values(life, task, params=None):
  """-> objective and its terms on the batch of one task, and the params that they are of."""
  params = tiny.params(life.tools.backbone, 5) if params is None else params
  tasks = 3 if life.tools.task_id_given else 0
  gradient = train_step.make_gradient(
    life.method, life.method.loss_fn, sharding.make_mesh(1), tasks=tasks
  )
  trained, frozen, _ = trainable.split(params, (('.*', True),))
  past, weights = life.memories[task]['teacher'], life.plans[task].weights
  (loss, terms), _ = jax.jit(gradient)(trained, frozen, past, weights, life.batch(task))
  return float(loss), {k: float(v) for k, v in terms.items()}, params


def kept_rows(life, memory):
  return [r for item in life.tools.rows(memory['buffer']['examples']) for r in item]


# Stored logits.


@pytest.mark.parametrize('kind', ['model', 'head', 'head told'])
def test_an_example_keeps_the_logits_of_the_model_at_the_end_of_its_task(kind):
  """To the bit, at its targets, as long as it stays in a buffer of ten."""
  tools = tiny.tools('plain', examples=7) if kind == 'model' else head_tools(kind == 'head told')
  life = Life('derpp', tools, targets='stored', buffer_size=10, policy='fifo')
  tables = [m['tables'] for m in [*life.memories, life.last]]
  held = [m['buffer']['examples'] for m in [*life.memories, life.last]]
  assert [len(h) for h in held] == [0, 7, 10, 10]
  for table, memory in zip(tables, [*life.memories, life.last], strict=True):
    rows = kept_rows(life, memory)
    assert table['teacher_logits']['rows'].tolist() == sorted(r.number for r in rows)
    for task, params in enumerate(life.ends):
      mine = [r for r in rows if r.task == task]
      wanted = tools.at(task).map_targets(tools.backbone.logits, params, mine)
      for row, logits_mV in zip(mine, wanted, strict=True):
        found = look_up(table['teacher_logits'], row.number)
        np.testing.assert_array_equal(found, logits_mV)
        assert found.shape == (len(row.targets), tools.backbone.outputs)
        if kind != 'model':
          covered = np.arange(6) // 2 == task if tools.task_id_given else np.arange(6) // 2 <= task
          np.testing.assert_array_equal(look_up(table['known'], row.number), [covered])
  assert {m['teacher'] == {} for m in life.memories} == {True}
  gone = set(held[1]) - set(held[2])
  assert len(gone) == 4
  assert all(look_up(tables[2]['teacher_logits'], 2 * n) is None for _, n in gone)


def test_storing_leaves_the_memory_before_as_it_was():
  life = Life('derpp', tiny.tools('plain', examples=7), targets='stored', buffer_size=10)
  before = life.memories[2]
  kept = jax.tree.map(np.copy, before['tables'])
  task = life.tools.stream.tasks[2]
  after, _ = life.method.after_task(before, life.ends[2], task, life.tools)
  chex.assert_trees_all_equal(before['tables'], kept)
  assert not np.array_equal(
    after['tables']['teacher_logits']['rows'], kept['teacher_logits']['rows']
  )


@pytest.mark.parametrize('kind', ['model', 'head', 'head told'])
def test_the_objective_looks_at_each_examples_own_past(kind):
  """Against the oracle, whose teacher is the model at the end of the task of each row."""
  tools = tiny.tools('plain', examples=7) if kind == 'model' else head_tools(kind == 'head told')
  life = Life('derpp', tools, targets='stored', alpha=0.7, beta=0.4)
  loss, terms, params = values(life, 2)
  outputs = tools.backbone.outputs
  new, old, apart = ({0: [], 1: [], 2: []} for _ in range(3))
  for row in life.rows(2):
    past = life.ends[row.task] if row.replay else params
    for _, z, other, wanted in distillation.targets(params, past, [row], outputs):
      allowed, known = (range(outputs),) * 2
      if kind != 'model':
        covers = lambda c, t, task_id_given=tools.task_id_given: (
          c // 2 == t if task_id_given else c // 2 <= t
        )
        allowed = [c for c in range(6) if covers(c, row.task if tools.task_id_given else 2)]
        known = [c for c in allowed if covers(c, row.task)]
      z, other = np.array(z), np.array(other)
      kind_of = old if row.replay else new
      surprise = distillation.surprise(z[list(allowed)], list(allowed).index(wanted))
      kind_of[row.task].append(surprise)
      if row.replay:
        apart[row.task].append(distillation.distance(z[list(known)], other[list(known)]))
  mean = lambda of: distillation.mean([v for part in of.values() for v in part])
  if tools.task_id_given:
    mean = lambda of: sum(distillation.mean(part) for part in of.values())
  assert min(len(part) for part in (new[2], old[0], old[1], apart[0], apart[1])) >= 1
  wanted = {'new': mean(new), 'old': mean(old), 'mse': mean(apart)}
  assert terms == {k: tiny.nearly(v) for k, v in wanted.items()}
  assert loss == tiny.nearly(terms['new'] + 0.4 * terms['old'] + 0.7 * terms['mse'])


@pytest.mark.parametrize('given', [{'targets': 'stored'}, {'update': 'every_epoch'}])
@pytest.mark.parametrize('kind', ['model', 'head'])
def test_what_the_step_sees_has_one_structure_from_the_first_task_on(kind, given):
  tools = tiny.tools('plain', examples=7) if kind == 'model' else head_tools()
  life = Life('derpp', tools, **given)
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  seen = [shapes((m['teacher'], life.batch(t))) for t, m in enumerate(life.memories)]
  assert seen[0] == seen[1] == seen[2]
  assert shapes(life.first['teacher']) == seen[0][0]


def test_too_many_logits_are_refused_with_the_figure():
  """120 examples of 4 targets at most: MiB of float32, rounded up; the buffer may be smaller."""
  made = runs.config('derpp')
  made.method.targets, made.method.stored_logits_mb = 'stored', 0
  with pytest.raises(UserError) as refused:
    experiment.assemble(made)
  parts = experiment.assemble(runs.config('derpp'))
  targets = max(len(r.targets) for e in parts.stream.examples for r in parts.text.rows(e))
  outputs = parts.backbone.vocabulary
  words = f'logits of 120 examples, {targets} targets and {outputs} outputs take 1 MiB'
  assert str(refused.value) == (
    f"method.stored_logits_mb is 0; {words}: raise it, or use method.targets='teacher'"
  )
  assert 0 < 120 * targets * outputs * 4 < 2**20
  made.method.stored_logits_mb = 1
  experiment.assemble(made)
  most = 2**20 // (targets * outputs * 4)
  held = lambda examples: types.SimpleNamespace(
    targets='stored', stored_logits_mb=1, max_cached_examples=lambda stream: examples
  )
  teacher.check_stored(parts.tools, held(most))
  with pytest.raises(UserError, match=f'logits of {most + 1} examples, .* take 2 MiB'):
    teacher.check_stored(parts.tools, held(most + 1))


# A buffer that fills within the task.


def test_examples_of_the_task_under_way_are_not_held_to_a_model_that_never_saw_them():
  """Examples count as old rows in cross-entropy; the teacher runs in the step, cached or not."""
  life = Life('derpp', update='every_epoch')
  life.rows = lambda task: [
    dataclasses.replace(r, replay=r.task < 2 or r.number % 4 == 0)
    for t in life.tools.stream.tasks
    for e in t.train[:4]
    for r in life.tools.text.rows(e)
  ]
  rows = life.rows(2)
  mine = [r for r in rows if r.replay and r.task == 2]
  assert 0 < len(mine) < 4
  chex.assert_trees_all_equal(life.memories[2]['teacher'], life.starts[2])
  _, terms, params = values(life, 2)
  outputs, past = life.tools.backbone.outputs, life.starts[2]
  every = list(distillation.targets(params, past, rows, outputs))
  mean = distillation.mean
  assert terms['old'] == tiny.nearly(
    mean([distillation.surprise(z, w) for r, z, _, w in every if r.replay])
  )
  assert terms['mse'] == tiny.nearly(
    mean([distillation.distance(z, o) for r, z, o, _ in every if r.task < 2])
  )
  _, first, _ = values(life, 0)
  assert first['mse'] == 0
  assert first['old'] > 0


# Heads as published.


def test_published_weighting_of_heads():
  """Task by task beta·CE + alpha·MSE over its own head, untrained or not; the first one plain."""
  tools = head_tools(task_id_given=True)
  life = Life('derpp', tools, published_til_weighting=True, alpha=0.7, beta=0.4)
  rows = life.rows(2)
  loss, _, params = values(life, 2)
  every = list(distillation.targets(params, life.starts[2], rows, 6))
  wanted = 0
  for task in range(3):
    own = [2 * task, 2 * task + 1]
    mine = [(z[own], o[own], w - own[0]) for r, z, o, w in every if r.task == task]
    assert mine
    wanted += 0.4 * distillation.mean([distillation.surprise(z, w) for z, _, w in mine])
    wanted += 0.7 * distillation.mean([distillation.distance(z, o) for z, o, _ in mine])
  assert loss == tiny.nearly(wanted)
  plain, terms, _ = values(life, 0)
  assert plain == terms['new'] > 0


def test_by_default_new_rows_of_heads_weigh_one_and_are_held_to_nothing():
  params, past, rows = tiny.params(HEAD), tiny.params(HEAD, 1), tiny.class_rows()
  rows = [dataclasses.replace(r, replay=r.task < 2) for r in rows]
  method = methods.make(HEAD, methods.settings('derpp'))
  batch = layout(rows, 1, Shape(16, 20, 64), heads=Heads(tiny.OWN, 2, True))
  _, where_M = method.loss_fn(params, past, batch)['mse']
  assert not (np.asarray(where_M) & ~np.asarray(batch.replay_M)).any()


@pytest.mark.parametrize(
  ('given', 'scenario', 'head', 'message'),
  [
    ({'published_til_weighting': True}, 'cil', 'linear', 'must be False but for heads in til'),
    ({'published_til_weighting': True}, 'til', '', 'must be False but for heads in til'),
    ({'published_til_weighting': True, 'targets': 'stored'}, 'til', 'linear', "and a 'teacher'"),
    ({'targets': 'stored', 'update': 'every_epoch'}, 'cil', '', "update is 'every_epoch'; it must"),
    ({'stored_logits_mb': -1}, 'cil', '', 'stored_logits_mb is -1; it must be at least 0'),
    ({'targets': 'none'}, 'cil', '', "targets is 'none'; it must be one of 'teacher', 'stored'"),
    (
      {'policy': 'herding', 'buffer_size': 4},
      'cil',
      '',
      'buffer_size is 4; it must be at least 12',
    ),
  ],
)
def test_what_does_not_go_together_is_refused(given, scenario, head, message):
  made = runs.config('derpp', backbone={'head': head})
  made.scenario = scenario
  for field, value in given.items():
    setattr(made.method, field, value)
  with pytest.raises(UserError, match=rf'method\..*{message}'):
    experiment.assemble(made)


# Whole runs.


@pytest.mark.slow
@pytest.mark.parametrize(
  ('given', 'scenario', 'head'),
  [
    ({'targets': 'stored', 'policy': 'class_balanced', 'buffer_size': 24}, 'cil', ''),
    ({'targets': 'stored', 'buffer_size': 30}, 'til', 'cosine'),
    ({'update': 'every_steps', 'update_steps': 1}, 'cil', ''),
  ],
)
def test_a_killed_run_ends_in_the_same_bits(given, scenario, head, tmp_path):
  made = runs.config(
    'derpp', backbone={'head': head}, train={'epochs': 1},
    stream={'max_tasks': 2, 'max_train_per_task': 24, 'max_test_per_task': 4},
  )  # fmt: skip
  made.scenario = scenario
  for field, value in given.items():
    setattr(made.method, field, value)
  whole = runs.run(made, tmp_path / 'whole')
  with pytest.raises(runs.Killed):
    runs.run(made, tmp_path / 'killed', kill=('train', 1))
  again = runs.run(made, tmp_path / 'killed')
  assert again['params_sha256'] == whole['params_sha256']
  assert again['buffer'] == whole['buffer']
