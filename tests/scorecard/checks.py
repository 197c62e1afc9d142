"""Columns of any objective: each is one function of a case that raises `Wrong` with a figure."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from support import compositions, tiny

from jcl import methods
from jcl.batching import batch as batches
from jcl.batching import batch_shapes
from jcl.batching.batch import Shape
from jcl.errors import UserError
from jcl.memory.pseudo import FIRST_NUMBER
from jcl.step import losses, sharding, train_step, trainable
from scorecard import cases
from scorecard.cases import ALL, LAST, Case, Judged, Moment
from scorecard.wrong import Wrong, above, equal, near, nothing

VALUE = 1e-5  # float32 against an oracle's float64
# A divergence near 0 is off by T² · ε · log V, here 1e-6: a third of VALUE · NATS.
NATS = 0.3
FEW = 3  # rows, of which most of eight devices have none
SEQ = methods.Method()
STEEP = ('expand', 'slao')  # deeper, or with adapters that start orthonormal and not small


def same(what: str, found: Judged, wanted: Judged, tolerance: float) -> None:
  """Objective, the value of every term and the gradient agree."""
  equal(f'{what}: terms', sorted(found.values), sorted(wanted.values))
  near(f'{what}: objective', found.loss, wanted.loss, tolerance)
  for term, value in wanted.values.items():
    near(f'{what}: {term}', found.values[term], value, tolerance)
  near(f'{what}: gradient', found.gradient, wanted.gradient, tolerance)


def value(case: Case) -> None:
  """The objective is the oracle's, in every task, on rows that the oracle made itself."""
  for moment in case.moments:
    params, rows = case.elsewhere(moment), case.rows(moment.items)
    found = case.judge(moment, case.batch(moment, rows), params)
    wanted = case.wanted(moment, params, moment.items)
    near(f'objective in task {moment.task.index + 1}', found.loss, wanted, VALUE, NATS)


def gradient(case: Case) -> None:
  """Central differences of fourth order of the whole objective, float64, along some directions.

  A direction is half the gradient's own and half random. A decoder's softmax is float32 always.
  """
  step, tolerance = (3e-3, 1e-5) if case.deep else (1e-3, 1e-7)
  if case.name in STEEP:  # its fifth derivative is large
    step, tolerance = step / 3, 3 * tolerance  # float32's rounding is divided by the step
  with jax.enable_x64(True):
    call, trained = _wide(case)
    grads = jax.tree.map(np.asarray, call(trained)[1])
    norm, random = float(optax.tree.norm(grads)), np.random.default_rng(0)
    unit = lambda tree: jax.tree.map(lambda x: x / optax.tree.norm(tree), tree)
    for _ in range(4):
      noise = unit(jax.tree.map(lambda x: random.standard_normal(x.shape), trained))
      way = unit(jax.tree.map(np.add, unit(grads), noise))
      at = lambda s, way=way: float(call(jax.tree.map(lambda x, y: x + s * y, trained, way))[0][0])
      wanted = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
      found = float(optax.tree.vdot(grads, way))
      above('slope', abs(found), 100 * tolerance * norm)
      near('slope in units of the gradient', found / norm, wanted / norm, tolerance)


def _wide(case: Case) -> tuple[Callable, Any]:
  """The jitted objective in float64 on the rows of the third task, and parameters for it."""
  wide = lambda tree: jax.tree.map(
    lambda x: np.asarray(x, np.float64) if np.asarray(x).dtype.kind == 'f' else np.asarray(x), tree
  )
  classes = len(tiny.CLASSES) if case.classes_of else 0
  backbone = cases.model(case.deep, classes, 'float64')(case.backbone.vocabulary)
  method, moment = methods.make(backbone, case.settings), case.last
  loss_fn = method.loss_fn or losses.plain(backbone)
  batch = wide(case.batch(moment, case.rows(moment.items)))
  trained, frozen, _ = trainable.split(wide(case.elsewhere(moment)), ALL)
  teacher_params = wide(cases.host(moment.memory['teacher']))
  rest = frozen, teacher_params, dict(moment.plan.weights), batch
  method = method._replace(combine=None)  # of the objective
  fn = jax.jit(train_step.make_gradient(method, loss_fn, sharding.make_mesh(1)))
  return lambda params: jax.block_until_ready(fn(params, *rest)), trained


def padding(case: Case) -> None:
  """A longer bucket, more rows and more places for targets change nothing."""
  moment, rows = case.last, case.rows(case.last.items)
  shape = case.shape(rows)
  larger = Shape(shape.rows + 16, shape.tokens + 16, 2 * shape.targets)
  wanted = case.judge(moment, case.batch(moment, rows, shape))
  same('padded', case.judge(moment, case.batch(moment, rows, larger)), wanted, case.tolerance)


def packed(case: Case) -> None:
  """Several rows in a line are the same as a row a line, every term apart."""
  moment, rows = case.last, case.rows(case.last.items)
  (shape,) = batch_shapes.packed_rungs([rows], 1, case.shape(rows).rows, case.backbone.width)
  if shape.lines >= len(rows):
    raise Wrong(f'{len(rows)} rows stand in {shape.lines} lines')
  judged = [case.batch(moment, rows, s) for s in (shape, case.shape(rows))]
  found, wanted = (case.judge(moment, batch) for batch in judged)
  same('packed', found, wanted, case.tolerance)
  apart = [
    case.apart(functools.partial(case.judge, moment, batch), whole)
    for batch, whole in zip(judged, (found, wanted), strict=True)
  ]
  for term, gradient in apart[1].items():
    near(f'packed: gradient of {term}', apart[0][term], gradient, case.tolerance)


def mask(case: Case) -> None:
  """Targets of weight 0 are as if their rows were not there."""
  moment, rows = case.last, case.rows(case.last.items)
  shape = case.shape(rows)
  batch = case.batch(moment, rows, shape)
  places = np.argsort(batches.deal(rows, 1)[0])
  gone = places[::3]
  masked = batch.only(~np.isin(batch.target_row, gone))
  keys = np.delete(tiny.keys(len(rows)), np.s_[::3], 0)
  kept = [row for i, row in enumerate(rows) if i % 3]
  dropped = case.batch(moment, kept, shape, keys=keys)
  found, wanted = case.judge(moment, masked), case.judge(moment, dropped)
  same('masked', found, wanted, case.tolerance)
  whole = case.judge(moment, batch)
  above('what the masked rows change', abs(found.loss - whole.loss), 1e-4)


def order(case: Case) -> None:
  """The order of rows does not matter."""
  moment, rows = case.last, case.rows(case.last.items)
  wanted = case.judge(moment, case.batch(moment, rows))
  places, keys = np.random.default_rng(5).permutation(len(rows)), tiny.keys(len(rows))
  moved = case.batch(moment, [rows[i] for i in places], keys=keys[places])
  same('in another order', case.judge(moment, moved), wanted, case.tolerance)


def _ways(case: Case, ways: tuple[str, ...]) -> None:
  """Many rows and few are the same on each way as on one device, every term apart."""
  moment, every = case.last, case.rows(case.last.items)
  for rows in (every, every[:FEW]):
    found = {}
    for way in ('1', *ways):
      devices, _, microbatches = cases.WAYS[way]
      blocks = devices * microbatches
      batch = case.batch(moment, rows, case.shape(every, blocks), blocks)
      judge = functools.partial(case.judge, moment, batch, way=way)
      whole = judge()
      found[way] = whole, case.apart(judge, whole)
    for way in ways:
      what = f'{len(rows)} rows, {way}'
      same(what, found[way][0], found['1'][0], case.tolerance)
      for term, wanted in found['1'][1].items():
        near(f'{what}: gradient of {term}', found[way][1][term], wanted, case.tolerance)


def devices(case: Case) -> None:
  """1 device = 8, data parallel and sharded."""
  _ways(case, ('8', '8 fsdp'))


def split(case: Case) -> None:
  """Gradient accumulation: 4 microbatches on one device, 2 on each of 8 that share parameters."""
  _ways(case, ('1 k4', '8 fsdp k2'))


def accumulates(case: Case) -> bool:
  """Whether the method lets a batch be split; where not, it says so first."""
  try:
    train_step.make_gradient(case.method, case.loss_fn, sharding.make_mesh(1), microbatches=2)
  except UserError:
    return False
  return True


def neutral(case: Case) -> None:
  """Under `neutral` settings, on new rows of the data, the objective is that of `seq`."""
  moment = case.last
  settings = dataclasses.replace(case.settings, **case.settings.neutral)
  method = methods.make(case.backbone, settings)
  of_data = lambda row: not (row.replay or row.generative) and row.number < 2 * FIRST_NUMBER
  rows = list(filter(of_data, case.rows(moment.items)))
  batch = case.batch(moment, rows)
  weights = method.plan(moment.memory, moment.task).weights
  found = case.judge(moment, batch, weights=weights, method=method)
  wanted = case.judge(moment, batch, weights={}, teacher={}, method=SEQ)
  near('objective', found.loss, wanted.loss, case.tolerance)
  near('gradient', found.gradient, wanted.gradient, case.tolerance)


def has_neutral(case: Case) -> bool:
  """Whether any settings make its objective that of `seq`."""
  return case.settings.neutral is not None


def moves(case: Case) -> None:
  """Every term of the third task has a gradient, every leaf that trains moves, no other does."""
  moment = case.last
  batch = case.batch(moment, case.rows(moment.items))
  judge = functools.partial(case.judge, moment, batch)
  for term, grads in case.apart(judge, judge()).items():
    above(f'largest entry of the gradient of {term}', np.abs(grads).max(), 1e-5)
  for learned in (m for m in case.moments if m.seen):
    apart = jax.tree.map(lambda a, b: np.abs(a - b), learned.end, learned.start)
    for (path, off), mask in zip(
      jax.tree_util.tree_leaves_with_path(apart),
      jax.tree.leaves(_masks(learned), is_leaf=lambda x: x is None),
      strict=True,
    ):
      what = f'task {learned.task.index + 1}, {jax.tree_util.keystr(path)}'
      trains = np.broadcast_to(0.0 if mask is None else mask, off.shape) > 0
      nothing(f'{what}: what is frozen moved by', off[~trains])
      if trains.any():
        above(f'{what}: what trains moved by', off[trains].max(), 1e-4)


def _masks(moment: Moment) -> Any:
  """1 where a leaf trains in this task, None where it is frozen."""
  return trainable.split(moment.start, moment.plan.trainable or ALL)[2]


def three_tasks(case: Case) -> None:
  """Every step of the real loop, in all three tasks, says the loss that the oracle has for it."""
  for moment in case.moments:
    learns = moment.plan.new and moment.plan.takes_steps
    steps = case.course(moment) if learns else []
    equal(f'steps of task {moment.task.index + 1}', len(moment.seen), len(steps))
    for number, (seen, items) in enumerate(zip(moment.seen, steps, strict=True), 1):
      wanted = case.wanted(moment, seen.params, items, steps=number - 1)
      near(f'loss of task {moment.task.index + 1}, step {number}', seen.loss, wanted, VALUE, NATS)


def head(case: Case) -> None:
  """Value and three tasks again with a head: over classes so far, and those the teacher knows."""
  other = cases.case(case.name, cases.APART)
  value(other)
  three_tasks(other)


def shared_classes(case: Case) -> None:
  """The same where tasks share classes: each row over those of its own task, if it may be told."""
  other = cases.case(case.name, cases.SHARED, told='til' in case.settings.head_scenarios)
  value(other)
  three_tasks(other)


def classifies(case: Case) -> bool:
  """Whether it can train a head."""
  return case.settings.text_format == 'plain' and 'cil' in case.settings.head_scenarios


def empty(case: Case) -> None:
  """Without new, old, answering or any rows all is finite, and a term of nothing is 0 and still."""
  moment = case.last
  params, shape = case.elsewhere(moment), case.shape(case.rows(moment.items))

  @jax.jit
  def count(params, teacher_params, batch):
    terms = case.loss_fn(params, teacher_params, batch)
    return {term: losses.total(v, where, batch)[1] for term, (v, where) in terms.items()}

  new = [(e, False) for e, replay in moment.items if not replay]
  old = [(e, True) for e, replay in moment.items if replay] or [(e, True) for e, _ in new]
  kinds = (lambda row: True, lambda row: row.generative, lambda row: not row.generative)
  for items, kind in [*itertools.product((new, old), kinds), ([], kinds[0])]:
    rows = [row for row in case.rows(items) if kind(row)]
    what = f'{len(rows)} {"old" if items is old else "new"} rows'
    batch = case.batch(moment, rows, shape)
    judge = functools.partial(case.judge, moment, batch, params)
    found = judge()
    near(f'{what}: objective', found.loss, case.wanted(moment, params, items, kind), VALUE, NATS)
    if not np.isfinite(found.gradient).all():
      raise Wrong(f'{what}: {np.sum(~np.isfinite(found.gradient))} entries are not finite')
    counts = count(params, moment.memory['teacher'], batch)
    empties = [term for term, number in counts.items() if not number]
    apart = case.apart(judge, found) if empties else {}
    for term in empties:
      nothing(f'{what}: {term} of no target', found.values[term])
      nothing(f'{what}: gradient of {term} of no target', apart[term])


def traces(case: Case) -> None:
  """The step compiles at most once a bucket and rung, for each program that its tasks have."""
  moments, watch, compiled = case.life
  programs = {watch.programs[moment.task.index] for moment in moments if moment.seen}
  equal('kinds of what the step is given beside batches', len(watch.kinds), len(programs))
  equal('compilations of the step', compiled, len(watch.shapes))


def composed(case: Case) -> None:
  """With another method's penalty the objective is its own and that penalty, its gradient too."""
  other = 'l2' if case.name != 'l2' else 'ewc'
  moment = case.last
  settings = cases.chosen(other)
  method = methods.make(case.backbone, settings)
  memory = method.init(moment.start, case.stream, case.tools)
  memory, _ = method.after_task(memory, moment.start, case.stream.tasks[LAST - 1], case.tools)
  parts = {case.name: (case.method, moment.memory), other: (method, memory)}
  whole = methods.compose({name: part for name, (part, _) in parts.items()})
  together = {
    'teacher': {name: kept['teacher'] for name, (_, kept) in parts.items()},
    **{
      name: {k: v for k, v in kept.items() if k != 'teacher'} for name, (_, kept) in parts.items()
    },
  }
  plan = whole.plan(together, moment.task)
  batch = case.batch(moment, case.rows(moment.items))
  empty = batch.only(np.zeros(len(batch.target_weight), bool))
  weights = method.plan(memory, moment.task).weights
  alone = case.judge(moment, batch)
  pull = case.judge(moment, empty, weights=weights, teacher=memory['teacher'], method=method)
  found = case.judge(moment, batch, weights=plan.weights, teacher=together['teacher'], method=whole)
  above(f'the penalty of {other}', pull.loss, 1e-3)
  equal('terms', sorted(found.values), sorted({*alone.values, other}))
  near('objective', found.loss, alone.loss + pull.loss, case.tolerance)
  near('gradient', found.gradient, alone.gradient + pull.gradient, case.tolerance)


def composes(case: Case) -> bool:
  """Whether a penalty can stand beside it."""
  alone = case.settings.starts_afresh or not case.settings.takes_steps
  return not (alone or 'tree' in case.settings.brings)


def steps(case: Case) -> bool:
  """Whether the optimiser takes steps."""
  return case.settings.takes_steps


def orders(case: Case) -> None:
  """With every method that it composes with, both orders of names make the same life."""
  for name in compositions.partners(case.name):
    pair = tuple(sorted((case.name, name)))
    equal(
      f'what differs between {"+".join(pair)} and its reverse', compositions.difference(pair), ''
    )


def has_partners(case: Case) -> bool:
  """Whether it composes with any method."""
  return bool(compositions.partners(case.name))
