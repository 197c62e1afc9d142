"""The pmapped train step and its gradient.

`jax.jit` around `jax.shard_map` over one axis: what `jax.pmap` compiles to, and leaves may
be sharded. Sums and counts are psummed, so a loss is the target-weighted mean over the whole batch
on any number of devices, however uneven their rows.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jcl.batching.batch import Batch
from jcl.errors import UserError
from jcl.step import losses
from jcl.step.sharding import AXIS, Tree, gather, specs
from jcl.step.trainable import is_none, join


def weighted(weights: Mapping[str, Any], values: Mapping[str, jax.Array]) -> jax.Array:
  """Σ_k weights[k]·values[k]; a term without a weight counts 1."""
  return sum((weights.get(k, 1.0) * v for k, v in values.items()), jnp.float32(0))


def _ratio(sums: jax.Array, counts: jax.Array) -> jax.Array:
  """The mean, 0 where nothing counts; of vectors (one entry a task) the sum of the means."""
  return jnp.sum(sums / jnp.where(counts > 0, counts, 1))


def _totals(terms: Mapping, batch: Batch, tasks: int) -> tuple[dict, dict]:
  """{term: sum} and {term: count} of this device's targets."""
  pairs = {k: losses.total(v, w, batch, tasks) for k, (v, w) in terms.items()}
  return {k: s for k, (s, _) in pairs.items()}, {k: c for k, (_, c) in pairs.items()}


def _whole(plain: Callable, objective: Callable, tasks: int) -> Callable:
  """-> f(params, weights, batch) -> (loss, means), gradient: one pass over this device's batch."""

  def call(params, weights, batch):
    def value(params, batch):
      terms = plain(params, batch)
      sums, counts = lax.psum(_totals(terms, batch, tasks), AXIS)
      means = {k: _ratio(sums[k], counts[k]) for k in sums}
      return weighted(weights, means), (means, terms)

    def wrapped(params, batch):
      loss, (means, _) = objective(value)(params, batch)
      return loss, means

    return jax.value_and_grad(wrapped, has_aux=True)(params, batch)

  return call


def _accumulated(plain: Callable, own: Tree, tasks: int, microbatches: int) -> Callable:
  """The same value and gradient as `_whole`, a microbatch at a time.

  Counts depend on the batch alone and are taken first, for all microbatches and devices; each
  microbatch then adds Σ_k w_k·sum_k/count_k, so uneven microbatches weigh as they should.
  """

  def call(params, weights, batch):
    parts = jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), batch)
    varying = jax.tree.map(
      lambda x, spec: x if AXIS in spec else lax.pcast(x, AXIS, to='varying'), params, own
    )
    # The forward pass in here is dead code: only where_M and the weights reach the counts.
    per_part = lax.map(lambda part: _totals(plain(params, part), part, tasks)[1], parts)
    counts = lax.psum(jax.tree.map(lambda x: x.sum(0), per_part), AXIS)

    def value(params, part):
      sums, _ = _totals(plain(params, part), part, tasks)
      return weighted(weights, {k: _ratio(sums[k], counts[k]) for k in sums}), sums

    def add(carry, part):
      (_, sums), grads = jax.value_and_grad(value, has_aux=True)(varying, part)
      return jax.tree.map(jnp.add, carry, (sums, grads)), None

    blank = jax.tree.map(jnp.zeros_like, (counts, varying))
    blank = (lax.pcast(blank[0], AXIS, to='varying'), blank[1])
    (sums, grads), _ = lax.scan(add, blank, parts)
    sums = lax.psum(sums, AXIS)
    grads = jax.tree.map(lambda g, spec: g if AXIS in spec else lax.psum(g, AXIS), grads, own)
    means = {k: _ratio(sums[k], counts[k]) for k in sums}
    return (weighted(weights, means), means), grads

  return call


def make_gradient(
  method,
  loss_fn: Callable,
  mesh: Mesh,
  *,
  fsdp: bool = False,
  tasks: int = 0,
  microbatches: int = 1,
  norms: Callable = lambda trained: {},
) -> Callable:
  """-> f(trained, frozen, teacher_params, weights, batch) -> (loss, values), gradient.

  Everything the objective is made of: the data terms inside the shard_map, the penalties on whole
  arrays in the global view, each weighted; `values` has every term's unweighted value.

  Args:
    method: the record of the method.
    loss_fn: (params, teacher_params, batch) -> {term: (value_M, where_M)}.
    mesh: of devices.
    fsdp: leaves are sharded.
    tasks: of the stream, where each task's mean counts apart; else 0.
    microbatches: parts of a device's batch, computed one after another.
    norms: trained -> {term: value}, penalties on what trains that are not the method's.

  Raises:
    UserError: microbatches under a method that wraps the objective: an inner gradient would be the
      microbatch's own.
  """
  if microbatches > 1 and method.objective is not method._field_defaults['objective']:
    raise UserError(f'train.microbatches is {microbatches}; it must be 1 with this method')

  def gradient(trained, frozen, teacher_params, weights, batch):
    own, rest, theirs = (specs(t, mesh, fsdp) for t in (trained, frozen, teacher_params))

    def per_device(trained, frozen, teacher_params, weights, batch):
      teacher_params, every = gather(teacher_params, theirs), join(own, rest)

      def plain(trained, batch):  # the gather is inside: an objective's inner gradients are global
        return loss_fn(gather(join(trained, frozen), every), teacher_params, batch)

      if microbatches > 1:
        value_and_grad = _accumulated(plain, own, tasks, microbatches)
      else:
        value_and_grad = _whole(plain, method.objective, tasks)
      return value_and_grad(trained, weights, batch)

    (loss, means), grads = jax.shard_map(
      per_device,
      mesh=mesh,
      in_specs=(own, rest, theirs, P(), P(AXIS)),
      out_specs=((P(), P()), own),
    )(trained, frozen, teacher_params, weights, batch)

    def penalty(trained):
      values = {**method.penalty_fn(join(trained, frozen), teacher_params), **norms(trained)}
      return weighted(weights, values), values

    (extra, penalties), more = jax.value_and_grad(penalty, has_aux=True)(trained)
    values = {**means, **penalties}
    if unknown := set(weights) - set(values):
      raise ValueError(f'weights for terms that the loss does not have: {sorted(unknown)}')
    return (loss + extra, values), jax.tree.map(jnp.add, grads, more)

  return gradient


def make_step(
  method, loss_fn: Callable, optimizer: optax.GradientTransformation, mesh: Mesh, **how
):
  """The pmapped train step.

  Args:
    method: the record of the method.
    loss_fn: (params, teacher_params, batch) -> {term: (value_M, where_M)}.
    optimizer: gives updates before the learning rate, which the step multiplies in.
    mesh: of devices.
    **how: as `make_gradient`.

  Returns:
    jitted step(state, fixed, weights, rate, batch) -> state, metrics. `state` (donated) holds
    params (those that train), optimizer, step and a teacher that moves; `fixed` holds frozen,
    masks and a teacher that does not. A step whose loss or gradient is not finite changes nothing
    but the count of steps.
  """
  gradient = make_gradient(method, loss_fn, mesh, **how)

  def step(state, fixed, weights, rate, batch):
    (frozen, masks, still), params = fixed, state['params']
    teacher_params = state.get('teacher', still)
    mask = lambda tree: jax.tree.map(jnp.multiply, tree, masks)
    (loss, values), grads = gradient(params, frozen, teacher_params, weights, batch)
    grads = mask(grads)
    updates, opt = optimizer.update(grads, state['optimizer'], params)
    updates = jax.tree.map(lambda u: -rate * u, mask(updates))
    new = {'params': optax.apply_updates(params, updates), 'optimizer': opt}
    if method.after_step is not None:
      whole = join(new['params'], frozen)
      new['teacher'], moved = method.after_step(teacher_params, whole, state['step'])
      new['params'] = jax.tree.map(
        lambda p, m: None if p is None else m, params, moved, is_leaf=is_none
      )
    norm = optax.tree.norm(grads)
    good = jnp.isfinite(loss) & jnp.isfinite(norm)
    old = {name: state[name] for name in new}
    new = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
    return {**new, 'step': state['step'] + 1}, {'loss': loss, 'gradient_norm': norm, **values}

  return jax.jit(step, donate_argnums=0)
