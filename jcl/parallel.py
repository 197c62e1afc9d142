"""The mesh, the pmapped step and its sisters. The only file that knows an axis name.

`jax.jit` around `jax.shard_map` over one axis: what `jax.pmap` compiles to, and leaves may
be sharded. Sums and counts are psummed, so a loss is the target-weighted mean over the whole batch
on any number of devices, however uneven their rows.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from flax.core.meta import AxisMetadata
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jcl import losses
from jcl.batch import Batch
from jcl.errors import UserError
from jcl.partition import is_none, join

AXIS = 'data'
WHOLE = P()
ROWS = P(AXIS)  # of a batch: each device has its own block
HELD = 2**26  # numbers of single examples held at once on a device, 256 MB of float32
Tree = Any


def make_mesh(devices: int = 0) -> Mesh:
  """A mesh of the first `devices` devices; 0: of all."""
  every = jax.devices()
  count = devices or len(every)
  return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=every[:count])


def specs(tree: Tree, mesh: Mesh, fsdp: bool = False) -> Tree:
  """A partition spec a leaf: with `fsdp` its largest dimension that divides evenly, else whole.

  The axis of stacked layers is never split: layers are gathered one at a time.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, x: _spec(_stacked(path), x, mesh.size, fsdp), tree
  )


def _spec(stacked: bool, x: Any, count: int, fsdp: bool) -> P:
  first = int(stacked)
  dims = [i for i, size in enumerate(jnp.shape(x)) if size % count == 0 and i >= first]
  if not (fsdp and count > 1 and dims and jnp.ndim(x) - first > 1):
    return P()
  return P(*[None] * max(dims, key=lambda i: x.shape[i]), AXIS)


def place_leaf(path: str, x: Any, mesh: Mesh, fsdp: bool = False) -> jax.Array:
  """One leaf as `place` would put it by `specs`; its path is written `/layers/q/kernel`."""
  return place(x, mesh, _spec('layers' in path.split('/'), x, mesh.size, fsdp))


def _stacked(path: tuple) -> bool:
  """Whether a leaf has one entry a layer on its first axis."""
  return any(getattr(key, 'key', None) == 'layers' for key in path)


class Shard(struct.PyTreeNode, AxisMetadata):
  """This device's part of a leaf of all layers; a module that reads its layer's gets it whole.

  Attributes:
    value: the part.
    dim: the dimension in which it is one.
  """

  value: Any
  dim: int = struct.field(pytree_node=False)

  def unbox(self) -> jax.Array:
    """The whole leaf."""
    return lax.all_gather(self.value, AXIS, axis=self.dim, tiled=True)

  def replace_boxed(self, val: Any) -> 'Shard':
    """Another value in the same box."""
    return self.replace(value=val)

  def add_axis(self, index: int, params: dict) -> 'Shard':
    """An axis more, before the dimension or behind it."""
    return self.replace(dim=self.dim + (index <= self.dim))

  def remove_axis(self, index: int, params: dict) -> 'Shard':
    """An axis less, as when a scan hands out one layer."""
    return self.replace(dim=self.dim - (index < self.dim))


def gather(tree: Tree, tree_specs: Tree) -> Tree:
  """Whole leaves from their shards, inside a shard_map; those of stacked layers stay `Shard`s."""

  def one(path, x, spec):
    if AXIS not in spec:
      return x
    shard = Shard(x, tuple(spec).index(AXIS))
    return shard if _stacked(path) else shard.unbox()

  return jax.tree_util.tree_map_with_path(one, tree, tree_specs)


def place(tree: Tree, mesh: Mesh, tree_specs: Tree = WHOLE) -> Tree:
  """Arrays on the mesh; what is on the host must be whole in every process."""

  def one(x, spec):
    sharding = NamedSharding(mesh, spec)
    if jax.process_count() == 1 or not getattr(x, 'is_fully_addressable', True):
      return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  if isinstance(tree_specs, P):
    return jax.tree.map(lambda x: one(x, tree_specs), tree)
  return jax.tree.map(one, tree, tree_specs)


def place_batch(batch: Batch, mesh: Mesh) -> Batch:
  """A batch on the mesh, each device its own block."""
  return place(batch, mesh, ROWS)


def outline(tree: Tree, mesh: Mesh, tree_specs: Tree = WHOLE) -> Tree:
  """What `place` would give, as shapes with shardings: enough to compile for, nothing allocated."""
  if isinstance(tree_specs, P):
    tree_specs = jax.tree.map(lambda x: tree_specs, tree)
  return jax.tree.map(
    lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)),
    tree,
    tree_specs,
  )


def fetch(x: Any) -> np.ndarray:
  """A whole array on the host, wherever its shards are."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
  return np.asarray(x)


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


def largest(score_B: jax.Array, where_B: jax.Array, key_B2: jax.Array, share: int) -> jax.Array:
  """Inside a shard_map: [B] bool, one of `share` rows `where`: those of the largest scores of all.

  Args:
    score_B: of this device's rows.
    where_B: rows that may be chosen.
    key_B2: their key data, by which ties are broken, whatever the device.
    share: of all rows `where`, on all devices, count // share are chosen.
  """
  every = lambda x: lax.all_gather(x, AXIS, tiled=True)
  score, where, key = every(score_B), every(where_B), every(key_B2)
  order = jnp.lexsort((key[:, 1], key[:, 0], -score, ~where))  # the last is the first to count
  rank = jnp.zeros(len(order), jnp.int32).at[order].set(jnp.arange(len(order), dtype=jnp.int32))
  chosen = where & (rank < where.sum() // share)
  return lax.dynamic_slice_in_dim(chosen, lax.axis_index(AXIS) * len(score_B), len(score_B))


def map_targets(fn: Callable, mesh: Mesh) -> Callable:
  """fn(params, batch) -> [M, …] of one device => the same over all devices, [n·M, …]."""
  return jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS)))


def sum_examples(fn: Callable, mesh: Mesh) -> Callable:
  """fn(params, batch of one item) -> tree => its weighted sum over every item on every device.

  The batch is laid out with one block an item, so positions are local to it. No more than
  `HELD` numbers of single items stand in memory at once (those of one item at least).

  Returns:
    jitted call(params, batch, counts) -> tree; counts [items] float32 weighs each item's tree, 0
    for a padding block.
  """

  @jax.jit
  def call(params, batch, counts):
    own = len(counts) // mesh.size

    def per_device(params, batch, counts):
      # Of a replicated tree jax.grad would hand back the sum over devices, silently.
      params = lax.pcast(params, AXIS, to='varying')
      items = jax.tree.map(lambda x: x.reshape(own, -1, *x.shape[1:]), batch)
      like = jax.eval_shape(fn, params, jax.tree.map(lambda x: x[0], items))
      numbers = sum(x.size for x in jax.tree.leaves(like))
      width = max(w for w in range(1, own + 1) if own % w == 0 and (w == 1 or w * numbers <= HELD))
      chunks = jax.tree.map(lambda x: x.reshape(own // width, width, *x.shape[1:]), (items, counts))

      def add(carry, chunk):
        trees, weight = jax.vmap(fn, (None, 0))(params, chunk[0]), chunk[1]

        def weighted(x):
          each = weight.reshape(-1, *[1] * (x.ndim - 1))
          return jnp.where(each > 0, x * each, 0).sum(0)  # a mean over no target is 0/0

        return jax.tree.map(lambda c, x: c + weighted(x), carry, trees), None

      blank = lax.pcast(
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like), AXIS, to='varying'
      )
      return lax.psum(lax.scan(add, blank, chunks)[0], AXIS)

    return jax.shard_map(
      per_device, mesh=mesh, in_specs=(P(), P(AXIS), P(AXIS)), out_specs=P()
    )(params, batch, counts)  # fmt: skip

  return call


def map_rows(fn: Callable, mesh: Mesh) -> Callable:
  """fn(params, *arrays with a leading row axis, *scalars) => the same over all devices.

  No collective may stand in `fn`: devices may leave its loop at different steps.
  """

  @jax.jit
  def call(params, rows, scalars):
    return jax.shard_map(
      lambda params, rows, scalars: fn(params, *rows, *scalars),
      mesh=mesh, in_specs=(P(), P(AXIS), P()), out_specs=P(AXIS), check_vma=False,
    )(params, rows, scalars)  # fmt: skip

  return call
