"""Heads where tasks share classes, wholly or partly: masks and losses against NumPy."""

import functools

import jax
import numpy as np
import pytest
from oracles import distillation, penalties
from support import tiny

from jcl import methods
from jcl.batching.batch import Heads, Row, Shape, layout, membership, table
from jcl.errors import UserError
from jcl.methods import Method
from jcl.step import losses, sharding, train_step, trainable

CLASSES, TASKS = 5, 4
MODEL = tiny.recurrent(tiny.CONFIG.vocabulary, classes=CLASSES)
ALONE, SAME = [(0, 1), (2,), (3,), (4,)], [(0, 1)] * 4


def shared(seed):
  """Classes of four tasks: a class may be of one task, of some or of all."""
  if seed < 2:
    return (ALONE, SAME)[seed]
  random = np.random.default_rng(seed)
  some = lambda: tuple(random.choice(CLASSES, random.integers(1, CLASSES + 1), replace=False))
  return [tuple(map(int, some())) for _ in range(TASKS)]


def rows_of(classes_of, current, seed):
  """Rows of the tasks up to `current`, each with a class of its task; those of old ones replay."""
  random, made = np.random.default_rng(100 + seed), []
  for number in range(14):
    task = int(random.integers(0, current + 1))
    tokens = random.integers(0, tiny.CONFIG.vocabulary, random.integers(3, 9)).astype(np.int32)
    wanted = np.array([random.choice(classes_of[task])])
    made.append(Row(tokens, np.array([len(tokens) - 1]), wanted, number, task, task < current))
  return made


def may_answer(classes_of, current, told, task):
  """Classes by the words of the scenario."""
  tasks = [task] if told else range(current + 1)
  return sorted({c for t in tasks for c in classes_of[t]})


def learned(classes_of, current, told, task):
  """Returns the classes a row may answer that were met before the task under way."""
  before = {c for t in range(current) for c in classes_of[t]}
  return [c for c in may_answer(classes_of, current, told, task) if c in before]


@pytest.mark.parametrize('seed', range(12))
def test_a_row_may_be_answered_with_the_classes_of_its_task_or_of_the_tasks_so_far(seed):
  classes_of = shared(seed)
  for current in range(TASKS):
    for told in (False, True):
      heads = Heads(membership(classes_of, CLASSES), current, told)
      rows = rows_of(classes_of, current, seed)
      batch = layout(rows, 2, Shape(14, 8, 7), heads=heads)
      tokens = np.asarray(batch.target_position) + 56 * (np.arange(14) // 7)
      for m, task in enumerate(np.asarray(batch.task)[tokens // 8]):
        wanted = may_answer(classes_of, current, told, task)
        assert np.flatnonzero(batch.allowed[m]).tolist() == wanted
        known = learned(classes_of, current, told, task)
        assert np.flatnonzero(batch.known[m]).tolist() == known
        assert batch.target_token[m] in wanted


@functools.cache
def compiled(name, told):
  """The jitted objective of a method, its terms and gradient."""
  method = methods.make(MODEL, methods.settings(name)) if name != 'seq' else Method()
  loss_fn = method.loss_fn or losses.plain(MODEL)
  tasks = TASKS if told else 0
  fn = train_step.make_gradient(method, loss_fn, sharding.make_mesh(1), tasks=tasks)
  return jax.jit(fn)


def by_task(values, told):
  """The mean of (task, value); with the task told the sum of each task's mean."""
  groups = {}
  for task, value in values:
    groups.setdefault(task if told else 0, []).append(value)
  return sum(sum(group) / len(group) for group in groups.values())


@pytest.mark.parametrize('told', [False, True])
@pytest.mark.parametrize('stored', [False, True])
@pytest.mark.parametrize('seed', range(8))
def test_losses_are_those_of_numpy_over_the_classes_that_may_be_answered(seed, told, stored):
  """CE of new and old rows, and the squared distance to a teacher's or to stored logits."""
  classes_of, current = shared(seed), 1 + seed % (TASKS - 1)
  rows = rows_of(classes_of, current, seed)
  heads = Heads(membership(classes_of, CLASSES), current, told)
  params, past = tiny.params(MODEL, seed), tiny.params(MODEL, 50 + seed)
  wide = lambda tree: {k: np.asarray(v['kernel'], np.float64) for k, v in tree.items()}
  logits = lambda tree, row: penalties.logits(wide(tree), (row.tokens, row.targets), CLASSES)
  tables = {}
  if stored:  # as the model stored them at the end of the task of each row
    then = {r.number: may_answer(classes_of, r.task, told, r.task) for r in rows if r.replay}
    bits = {n: np.isin(np.arange(CLASSES), own)[None] for n, own in then.items()}
    old = {r.number: logits(past, r) for r in rows if r.replay}
    tables = {'teacher_logits': table(old, (CLASSES,)), 'known': table(bits, (CLASSES,))}
  batch = layout(rows, 1, Shape(16, 8, 16), tiny.keys(14), tables, heads)
  trained, frozen, _ = trainable.split(params, (('.*', True),))
  one = {k: np.float32(1) for k in ('new', 'old', 'mse')}
  (loss, found), grads = compiled('derpp', told)(
    trained, frozen, {} if stored else past, one, batch
  )
  values = {'new': [], 'old': [], 'mse': []}
  for row in rows:
    z_C, past_C = logits(params, row)[0], logits(past, row)[0]
    allowed = may_answer(classes_of, current, told, row.task)
    surprise = distillation.surprise(z_C[allowed], allowed.index(row.wanted[0]))
    values['old' if row.replay else 'new'].append((row.task, surprise))
    before = may_answer(classes_of, row.task, told, row.task) if stored else None
    known = learned(classes_of, current, told, row.task)
    known = [c for c in (allowed if stored else known) if not stored or c in before]
    if row.replay and known:
      values['mse'].append((row.task, distillation.distance(z_C[known], past_C[known])))
  wanted = {term: by_task(each, told) for term, each in values.items()}
  assert {k: float(v) for k, v in found.items()} == {k: tiny.nearly(v) for k, v in wanted.items()}
  assert float(loss) == tiny.nearly(sum(wanted.values()))
  assert float(loss) < 1e3  # no class that may not be answered is ever wanted
  forbidden = ~np.asarray(batch.allowed).any(0)
  assert not np.asarray(grads['head']['kernel'])[:, forbidden].any()


@pytest.mark.parametrize(
  ('wanted', 'task', 'told', 'says'),
  [
    (3, 0, True, r'example 2 of task 0 has class 3; in task 1 it must be one of \[0, 1\]'),
    (3, 0, False, r'has class 3; in task 1 it must be one of \[0, 1, 2\]'),
    (-1, 0, False, r'has class -1; in task 1 it must be one of'),
    (9, 0, True, r'has class 9; in task 1 it must be one of'),
    (0, -1, True, r'a row has task -1; where the task id is given it must be the index of one of'),
  ],
)
def test_a_class_that_may_not_be_answered_is_refused(wanted, task, told, says):
  heads = Heads(membership(ALONE, CLASSES), 1, told)
  row = Row(np.array([1, 2, 3]), np.array([2]), np.array([wanted]), 4, task)
  with pytest.raises(UserError, match=says):
    layout([row], 1, Shape(1, 8, 1), heads=heads)
