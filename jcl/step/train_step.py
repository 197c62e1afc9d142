"""The pmapped train step and its gradient.

The step is `jax.jit` around `jax.shard_map` over one mesh axis: `jax.pmap` compiles to the same
program, and here leaves may also be sharded. Sums and counts are psummed, so a loss is the
target-weighted mean over the whole batch on any number of devices, however uneven their rows are.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jcl.batching.batch import Batch
from jcl.errors import UserError
from jcl.step import losses
from jcl.step.groups import ALL, NO_GROUPS, Groups, check_like, combined, gradients
from jcl.step.shapes import check_array, check_batch
from jcl.step.sharding import AXIS, blocks_of, mapped, mask_specs, specs, summed
from jcl.step.shards import gather, varying
from jcl.step.trainable import counted, held, is_none, join
from jcl.types import Tree


class StepFunctions(Protocol):
  """The functions of a `jcl.methods.Method` that a step calls; their contract stands there."""

  @property
  def _field_defaults(self) -> dict[str, Any]: ...
  @property
  def penalty_fn(self) -> Callable: ...
  @property
  def objective(self) -> Callable: ...
  @property
  def after_step(self) -> Callable | None: ...
  @property
  def combine(self) -> Callable | None: ...
  @property
  def project_gradient(self) -> Callable | None: ...
  @property
  def project(self) -> Callable | None: ...


def weighted(
  weights: Mapping[str, jax.Array | float], values: Mapping[str, jax.Array]
) -> jax.Array:
  """Σ_k weights[k]·values[k] -> scalar; a term without a weight counts 1."""
  return sum((weights.get(k, 1.0) * v for k, v in values.items()), jnp.float32(0))


def _ratio(sums: jax.Array, counts: jax.Array) -> jax.Array:
  """The mean, 0 where nothing counts; of vectors (one entry a task) the sum of the means."""
  return jnp.sum(sums / jnp.where(counts > 0, counts, 1))


def _totals(terms: Mapping, batch: Batch, tasks: int) -> tuple[dict, dict]:
  """{term: sum} and {term: count} of this device's targets."""
  pairs = {k: losses.total(v, w, batch, tasks) for k, (v, w) in terms.items()}
  return {k: s for k, (s, _) in pairs.items()}, {k: c for k, (_, c) in pairs.items()}


def _whole(plain: Callable, objective: Callable, tasks: int, groups: Groups) -> Callable:
  """-> f(params, weights, batch) -> (loss, means), {group: gradient}.

  One pass over this device's batch. An `objective` is wrapped only where there is one group.
  """

  def call(params, weights, batch):
    def value(params, batch):
      terms = plain(params, batch)
      sums, counts = summed(_totals(terms, batch, tasks))
      means = {k: _ratio(sums[k], counts[k]) for k in sums}
      return weighted(weights, means), (means, terms)

    def by_group(params):
      loss, (means, _) = objective(value)(params, batch)
      if groups.names == (ALL,):
        return {ALL: loss}, (loss, means)
      return groups.values(functools.partial(weighted, weights), means), (loss, means)

    return gradients(by_group, params)

  return call


def _accumulated(
  plain: Callable, own: Tree, tasks: int, groups: Groups, microbatches: int
) -> Callable:
  """The same values and gradients as `_whole`, a microbatch at a time.

  Counts depend on the batch alone and are taken first, for all microbatches and devices; each
  microbatch then adds Σ_k w_k·sum_k/count_k, so uneven microbatches weigh as they should.
  """

  def call(params, weights, batch):
    parts = jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), batch)
    marked = varying(params, own)
    # The forward pass in here is dead code: only where_M and the weights reach the counts.
    per_part = lax.map(lambda part: _totals(plain(params, part), part, tasks)[1], parts)
    counts = summed(jax.tree.map(lambda x: x.sum(0), per_part))
    weigh = functools.partial(weighted, weights)

    def by_group(part, params):
      sums, _ = _totals(plain(params, part), part, tasks)
      return groups.values(weigh, {k: _ratio(sums[k], counts[k]) for k in sums}), sums

    def add(carry, part):
      sums, grads = gradients(functools.partial(by_group, part), marked)
      return jax.tree.map(jnp.add, carry, (sums, grads)), None

    blank = jax.tree.map(jnp.zeros_like, (counts, marked))
    blank = lax.pcast(blank[0], AXIS, to='varying'), dict.fromkeys(groups.names, blank[1])
    (sums, grads), _ = lax.scan(add, blank, parts)
    sums = summed(sums)
    whole = lambda tree: jax.tree.map(lambda g, spec: g if AXIS in spec else summed(g), tree, own)
    grads = {name: whole(tree) for name, tree in grads.items()}
    means = {k: _ratio(sums[k], counts[k]) for k in sums}
    return (weigh(means), means), grads

  return call


def _refuse(method: StepFunctions, microbatches: int) -> None:
  """Refuses what a method that wraps the objective cannot have.

  Raises:
    UserError: naming the setting, or the two functions.
  """
  if method.objective is method._field_defaults['objective']:
    return
  if microbatches > 1:  # an inner gradient would be the microbatch's own
    raise UserError(f'train.microbatches is {microbatches}; it must be 1 with this method')
  if method.combine is not None:
    raise UserError(
      'a method that combines the gradients of groups of terms (Method.combine) cannot wrap its '
      'objective: set adversarial.epsilon to 0, and compose it with no method that has one'
    )


def _check_groups(method: StepFunctions, groups: Groups) -> None:
  """Refuses groups that nothing combines, and a method that combines groups without any.

  Raises:
    UserError: `TaskPlan.groups` and `Method.combine` do not go together.
  """
  if method.combine is None and groups.group_of:
    raise UserError(
      f'TaskPlan.groups has {", ".join(map(repr, groups.names))}, but the method has no combine '
      'that takes their gradients; give Method.combine or leave the groups out'
    )
  if method.combine is not None and not groups.group_of:
    raise UserError('the method has combine, so its TaskPlan.groups must give each term a group')


def _data_gradients(
  method: StepFunctions, loss_fn: Callable, mesh: Mesh, fsdp: bool, tasks: int, microbatches: int
) -> Callable:
  """-> f(trained, frozen, masks, teacher_params, weights, batch, groups).

  It returns (loss, means), {group: gradient}: terms of data alone, inside a shard_map; what it
  returns is global.
  """

  def call(trained, frozen, masks, teacher_params, weights, batch, groups):
    own, rest, theirs = (specs(t, mesh, fsdp) for t in (trained, frozen, teacher_params))
    of_masks = mask_specs(masks, own)

    def per_device(trained, frozen, masks, teacher_params, weights, batch):
      teacher_params, every = gather(teacher_params, theirs), join(own, rest)

      # The gather is inside: an objective's inner gradients are global. So is the mask: its inner
      # and virtual steps leave the entries that do not train.
      def plain(trained, batch):
        trained = held(trained, masks)
        if microbatches == 1:  # microbatches mark them once for all
          trained = varying(trained, own)
        params = gather(join(trained, varying(frozen, rest)), every)
        return losses.checked(loss_fn(params, teacher_params, batch), batch)

      if microbatches > 1:
        value_and_grad = _accumulated(plain, own, tasks, groups, microbatches)
      else:
        value_and_grad = _whole(plain, method.objective, tasks, groups)
      return value_and_grad(trained, weights, batch)

    return mapped(
      per_device,
      mesh,
      in_specs=(own, rest, of_masks, theirs, P(), P(AXIS)),
      out_specs=((P(), P()), dict.fromkeys(groups.names, own)),
    )(trained, frozen, masks, teacher_params, weights, batch)

  return call


def make_gradient(
  method: StepFunctions,
  loss_fn: Callable,
  mesh: Mesh,
  *,
  fsdp: bool = False,
  tasks: int = 0,
  microbatches: int = 1,
  norms: Callable = lambda trained: {},
) -> Callable:
  """-> f(trained, frozen, teacher_params, weights, batch, groups, masks) -> (loss, values), grads.

  The data terms are differentiated inside the shard_map, one gradient for each group of terms;
  `method.combine` makes one of them in the global view. The gradient of the penalties and norms,
  which are functions of whole parameters, is added to it. `values` has every term's unweighted
  value, and `loss` is their weighted sum, whatever `combine` does. Entries that `masks` holds are
  stopped before the objective, the penalties and the norms see them: their gradient is 0, no inner
  step moves them, and norms do not count them. Without masks every entry of `trained` trains.

  Args:
    method: the record of the method.
    loss_fn: (params, teacher_params, batch) -> {term: (value_M, where_M)}.
    mesh: of devices.
    fsdp: leaves are sharded.
    tasks: of the stream, where each task's mean counts apart; else 0.
    microbatches: parts of a device's batch, computed one after another.
    norms: trained -> {term: value}, penalties on what trains that are not the method's.

  Raises:
    UserError: the method wraps the objective, and there are microbatches or it combines gradients;
      at trace time, a penalty has the name of a term of the loss.
  """
  _refuse(method, microbatches)
  data = _data_gradients(method, loss_fn, mesh, fsdp, tasks, microbatches)

  def gradient(trained, frozen, teacher_params, weights, batch, groups=NO_GROUPS, masks=None):
    _check_groups(method, groups)
    check_batch(batch, blocks_of(mesh) * microbatches)
    for term, weight in weights.items():
      check_array(f'weights[{term!r}]', weight, ())
    masks = {} if masks is None else masks
    (loss, means), by_group = data(trained, frozen, masks, teacher_params, weights, batch, groups)
    grads = combined(method.combine, by_group, teacher_params)

    def penalty(trained):
      whole = join(held(trained, masks), frozen)
      values = {**method.penalty_fn(whole, teacher_params), **norms(counted(trained, masks))}
      return weighted(weights, values), values

    (extra, penalties), more = jax.value_and_grad(penalty, has_aux=True)(trained)
    if both := sorted(means.keys() & penalties.keys()):
      raise UserError(f'{both[0]!r} is a term of the loss and of the penalties; rename one of them')
    values = {**means, **penalties}
    if unknown := set(weights) - set(values):
      found = ', '.join(sorted(values))
      raise UserError(f'the plan has a weight for {min(unknown)}, but the terms are {found}')
    return (loss + extra, values), jax.tree.map(jnp.add, grads, more)

  return gradient


def make_step(
  method: StepFunctions,
  loss_fn: Callable,
  optimizer: optax.GradientTransformationExtraArgs,
  mesh: Mesh,
  **how: Any,
) -> jax.stages.Wrapped:
  """The pmapped train step.

  Args:
    method: the record of the method.
    loss_fn: (params, teacher_params, batch) -> {term: (value_M, where_M)}.
    optimizer: gives updates before the learning rate, which the step multiplies in; it is told
      whether the step is `good`, and otherwise changes nothing.
    mesh: of devices.
    **how: as `make_gradient`.

  Returns:
    jitted step(state, fixed, weights, rate, batch, groups) -> state, metrics. `state` (donated)
    holds params (those that train), optimizer, step and a teacher that moves; `fixed` holds frozen,
    masks and a teacher that does not; `groups` are those of the task's plan, by default none. A
    step whose loss or gradient is not finite changes nothing but the count of steps.
  """
  gradient = make_gradient(method, loss_fn, mesh, **how)

  def step(state, fixed, weights, rate, batch, groups=NO_GROUPS):
    (frozen, masks, still), params = fixed, state['params']
    check_array('rate', rate, (), jnp.floating)
    check_array("state['step']", state['step'], (), jnp.integer)
    teacher_params = state.get('teacher', still)
    (loss, values), grads = gradient(params, frozen, teacher_params, weights, batch, groups, masks)
    whole = join(params, frozen)
    if method.project_gradient is not None:
      projected = method.project_gradient(grads, whole, teacher_params)
      check_like('Method.project_gradient', projected, grads, 'a gradient')
      grads = projected
    norm = optax.tree.norm(grads)
    good = jnp.isfinite(loss) & jnp.isfinite(norm)
    updates, opt = optimizer.update(grads, state['optimizer'], params, good=good)
    updates = jax.tree.map(lambda u, m: -rate * u * m, updates, masks)
    if method.project is not None:
      projected = method.project(updates, whole, teacher_params, state['step'])
      check_like('Method.project', projected, updates, 'updates')
      updates = projected
    new = {'params': optax.apply_updates(params, updates)}
    if method.after_step is not None:
      whole = join(new['params'], frozen)
      new['teacher'], moved = method.after_step(teacher_params, whole, state['step'])
      new['params'] = jax.tree.map(
        lambda p, m: None if p is None else m, params, moved, is_leaf=is_none
      )
    old = {name: state[name] for name in new}
    new = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
    metrics = {'loss': loss, 'gradient_norm': norm, **values}
    return {**new, 'optimizer': opt, 'step': state['step'] + 1}, metrics

  return jax.jit(step, donate_argnums=0)
