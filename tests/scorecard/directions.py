"""Columns of a step that does not follow the gradient of its objective: combine and project."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from oracles import meta
from oracles.directions import DIRECTIONS
from support import tiny

from jcl import methods
from jcl.batching import batch as batches
from jcl.batching.batch import Shape
from jcl.config import TrainConfig
from jcl.methods import Method
from jcl.step import losses, sharding, train_step, trainable
from jcl.step.optimizer import make_optimizer
from scorecard.cases import WAYS, Case, flat, host
from scorecard.wrong import above, near, nothing


def combines(case: Case) -> bool:
  """Whether it sees the gradients of groups of terms."""
  return case.method.combine is not None


def combine(case: Case) -> None:
  """The combined gradient is the oracle's, and the same on all devices, shards and microbatches.

  It is the gradient of no objective, so there are no finite differences of it; those of the
  objective, whose groups it combines, are in the column `gradient`. With the oracle of a method
  from another package the value of the objective alone is compared.
  """
  moment, every = case.last, case.rows(case.last.items)
  new = [(example, replay) for example, replay in moment.items if not replay]
  changes = []
  for params in (case.elsewhere(moment), moment.end):
    for items, what in ((moment.items, 'all rows'), (new, 'new rows alone')):
      rows, found = case.rows(items), {}
      for way, (devices, _, microbatches) in WAYS.items():
        blocks = devices * microbatches
        batch = case.batch(moment, rows, case.shape(every, blocks), blocks)
        found[way] = case.judge(moment, batch, params, way, combined=True)
      if case.name in DIRECTIONS:
        wanted = DIRECTIONS[case.name](case.given(moment, params, case.oracle_rows(items)))
        near(f'{what}: direction', found['1'].gradient, wanted, case.tolerance)
      for way in WAYS:
        near(f'{what}, {way}', found[way].gradient, found['1'].gradient, case.tolerance)
        near(f'{what}, {way}: objective', found[way].loss, found['1'].loss, case.tolerance)
      whole = case.judge(moment, case.batch(moment, rows, case.shape(every)), params)
      changes.append(np.abs(found['1'].gradient - whole.gradient).max())
  above('what combining changes', max(changes), 1e-3)


# The projection belongs to the step, and no method of the package has one.

BACKBONE = tiny.recurrent(tiny.CONFIG.vocabulary)
LENGTH = 0.5  # of all updates together, at most
RULES = (('embed', False), ('mix', np.arange(16) < 5), ('.*', True))


def project(updates: Any, params: Any, teacher_params: Any, step: Any) -> Any:
  """Takes the share along the teacher out, shortens the rest to `LENGTH`, pulls along the teacher.

  Every factor is a sum over whole leaves; the pull is as strong as the parameters lie along it.
  """
  both = functools.partial(jax.tree.map, is_leaf=trainable.is_none)
  trains = lambda tree: both(lambda u, x: None if u is None else x, updates, tree)
  dot = lambda one, other: sum(jax.tree.leaves(both(
    lambda x, y: None if x is None else jnp.sum(x * y), one, other
  )))  # fmt: skip
  along = trains(teacher_params)
  share = dot(updates, along) / dot(along, along)
  rest = jax.tree.map(lambda u, t: u - share * t, updates, along)
  shorter = jnp.minimum(1, LENGTH / jnp.sqrt(dot(rest, rest)))
  pull = 1e-3 * dot(params, teacher_params)
  return jax.tree.map(lambda u, t: shorter * u - pull * t, rest, along)


def projected() -> None:
  """The updates that `project` returns are applied: after rate and masks, from whole arrays."""
  start, teacher = (tiny.params(BACKBONE, seed) for seed in (0, 1))
  trained = trainable.split(start, RULES)[0]
  plain = _moved(Method(), '1', start, teacher)
  wide = functools.partial(jax.tree.map, lambda x: np.asarray(x, np.float64))
  updates = jax.tree.map(np.subtract, plain, wide(trained))
  masked = updates['mix']['kernel'][5:]
  nothing('updates of masked entries', masked)
  change = project(updates, wide(start), wide(teacher), 0)
  above('what the projection changes', np.abs(flat(change) - flat(updates)).max(), 1e-2)
  wanted = flat(jax.tree.map(np.add, wide(trained), host(change)))
  for way in WAYS:
    found = _moved(Method(project=project), way, start, teacher)
    near(f'parameters after the step, {way}', flat(found), wanted, 5e-6)


def masked() -> None:
  """Inner steps and norms leave entries that a mask freezes; MAML by its oracle."""
  params, rows, own = tiny.params(BACKBONE), tiny.rows(), np.arange(16) < 5
  trained, frozen, masks = trainable.split(params, RULES)
  trains = {name: float(name in trained and trained[name]['kernel'] is not None) for name in params}
  trains['mix'] = 1.0 * own[:, None]
  wide = {name: np.asarray(leaf['kernel'], np.float64) for name, leaf in params.items()}
  maml = methods.make(BACKBONE, methods.settings_class('maml')(inner_lr=0.3, inner_steps=2))
  batch = batches.layout(rows, 1, Shape(16, 20, 64), tiny.keys(len(rows)))
  fn = train_step.make_gradient(
    maml, losses.plain(BACKBONE), sharding.make_mesh(1), norms=losses.norms
  )
  (_, values), _ = jax.jit(lambda *args: fn(*args, masks=masks))(trained, frozen, {}, {}, batch)
  after = lambda trains: meta.maml(wide, rows, tiny.CONFIG.vocabulary, 0.3, 2, trains)
  above(
    'what inner steps of all entries change', abs(after({**trains, 'mix': 1}) - after(trains)), 1e-4
  )
  near('MAML with a masked leaf', values['ce'], after(trains), 5e-6)
  squares = sum((np.square(wide[name]) * trains[name]).sum() for name in wide)
  near('l2_norm with a masked leaf', values['l2_norm'], squares, 5e-6)


def _moved(method: Method, way: str, start: Any, teacher: Any) -> Any:
  """-> the parameters that train after one step of AdamW, on the host."""
  devices, sharded, microbatches = WAYS[way]
  mesh, blocks = sharding.make_mesh(devices), devices * microbatches
  put = lambda tree: sharding.place(tree, mesh, sharding.specs(tree, mesh, sharded))
  trained, frozen, masks = trainable.split(start, RULES)
  optimizer = make_optimizer(TrainConfig(weight_decay=0.1))
  state = {
    'params': jax.tree.map(jnp.array, put(trained)), 'step': sharding.place(np.int32(0), mesh),
    'optimizer': put(optimizer.init(trained)),
  }  # fmt: skip
  rows = tiny.rows()
  batch = batches.layout(rows, blocks, Shape(16, 20, 64), tiny.keys(len(rows)))
  step = train_step.make_step(
    method, losses.plain(BACKBONE), optimizer, mesh, fsdp=sharded, microbatches=microbatches
  )
  fixed = put(frozen), sharding.place(masks, mesh), put(teacher)
  state, metrics = step(state, fixed, {}, np.float32(0.1), sharding.place_batch(batch, mesh))
  jax.block_until_ready(metrics)
  return host(state['params'])
