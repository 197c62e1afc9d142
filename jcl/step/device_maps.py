"""Functions of one device's rows, mapped over all devices."""

from collections.abc import Callable
from typing import Protocol, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jcl.batching.batch import Batch
from jcl.step.shapes import check_array, check_batch, check_divisible
from jcl.step.sharding import AXIS, ROWS, WHOLE, blocks_of, mapped, specs, summed
from jcl.step.shards import gather, gather_apart
from jcl.types import Params, Tree

HELD = 2**26  # numbers of single examples held at once on a device, 256 MB of float32


def largest(score_B: jax.Array, where_B: jax.Array, key_B2: jax.Array, share: int) -> jax.Array:
  """Chooses the rows with the largest scores of all devices -> [B] bool of this device's rows.

  Called inside a shard_map. Of the `count` rows in `where_B` on all devices it chooses
  count // share.

  Args:
    score_B: of this device's rows.
    where_B: bool, the rows that may be chosen.
    key_B2: uint32 key data of the rows; equal scores are ordered by it, on any number of devices.
    share: of how many rows one is chosen.
  """
  check_array('score_B', score_B, (None,), jnp.floating)
  check_array('where_B', where_B, score_B.shape, jnp.bool_)
  check_array('key_B2', key_B2, (*score_B.shape, 2), jnp.uint32)
  every = lambda x: lax.all_gather(x, AXIS, tiled=True)
  score, where, key = every(score_B), every(where_B), every(key_B2)
  order = jnp.lexsort((key[:, 1], key[:, 0], -score, ~where))  # the last is the first to count
  rank = jnp.zeros(len(order), jnp.int32).at[order].set(jnp.arange(len(order), dtype=jnp.int32))
  chosen = where & (rank < where.sum() // share)
  return lax.dynamic_slice_in_dim(chosen, lax.axis_index(AXIS) * len(score_B), len(score_B))


def map_targets(fn: Callable, mesh: Mesh, fsdp: bool = False) -> Callable:
  """Maps fn(params, batch) -> [M, …] of one device over all devices.

  Args:
    fn: of one device's rows; stacked layers that are sharded come as `Shard`s.
    mesh: of devices.
    fsdp: parameters are sharded; each layer is whole only while it is needed.

  Returns:
    jitted call(params, batch) -> [n·M, …] in the order of devices; rows and targets of `batch`
    divide evenly among the n devices of the mesh.
  """

  @jax.jit
  def call(params: Params, batch: Batch) -> Tree:
    check_batch(batch, blocks_of(mesh))
    own = specs(params, mesh, fsdp)
    per_device = lambda params, batch: fn(gather(params, own), batch)
    return jax.shard_map(per_device, mesh=mesh, in_specs=(own, P(AXIS)), out_specs=P(AXIS))(
      params, batch
    )  # fmt: skip

  return call


class OfGradient(Protocol):
  """A function of one item's gradient, see `jcl.memory.fisher.OfGradient`."""

  @property
  def fn(self) -> Callable: ...
  @property
  def becomes(self) -> Callable: ...


def sum_examples(fn: Callable, mesh: Mesh, fsdp: bool = False) -> Callable:
  """Sums fn(params, batch of one item) -> tree over every item on every device.

  The batch is laid out with one block an item, so positions are local to it. At most `HELD`
  numbers of single items stand in memory at once (those of one item at least).

  Args:
    fn: of one item; a function of a gradient says so by `fn` and `becomes`.
    mesh: of devices.
    fsdp: parameters are sharded. Of a function of a gradient the result is sharded as they are, and
      each layer is whole only while it is needed; for others parameters are gathered whole.

  Returns:
    jitted call(params, batch, counts, whole=None) -> tree; counts [items] float32 weighs each
    item's tree, 0 for a padding block. `whole` are the parameters as `shards.gathered` makes them,
    for a function of a gradient with `fsdp`: then no layer is gathered here.
  """

  of = hasattr(fn, 'becomes')
  apart = fsdp and blocks_of(mesh) > 1 and of

  @jax.jit
  def call(params: Params, batch: Batch, counts: jax.Array, whole: Params | None = None) -> Tree:
    check_array('counts', counts, (None,), jnp.floating)
    check_divisible('counts', len(counts), blocks_of(mesh))
    check_batch(batch, len(counts))
    if apart:
      return _gradients_apart(cast(OfGradient, fn), mesh, params, batch, counts, whole)
    own = len(counts) // blocks_of(mesh)

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

      zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
      blank = jax.tree.map(jnp.zeros_like, params) if of else lax.pcast(zeros, AXIS, to='varying')
      return summed(lax.scan(add, blank, chunks)[0])

    whole = specs(params, mesh)
    sums = whole if of else WHOLE
    return mapped(per_device, mesh, (whole, ROWS, ROWS), sums)(params, batch, counts)

  return call


def _gradients_apart(
  of: OfGradient, mesh: Mesh, params: Params, batch: Batch, counts: jax.Array,
  whole: Params | None,
) -> Tree:  # fmt: skip
  """Sums becomes(∇fn) over items, sharded as the parameters are; one item a device at a time."""
  own = specs(params, mesh, fsdp=True)

  def per_device(params, batch, counts, whole):
    items = jax.tree.map(lambda x: x.reshape(len(counts), -1, *x.shape[1:]), batch)

    def add(carry, item_and_count):
      item, count = item_and_count
      value = lambda params: of.fn(gather_apart(params, own, count, of.becomes, whole), item)
      return jax.tree.map(jnp.add, carry, jax.grad(value)(params)), None

    blank = jax.tree.map(jnp.zeros_like, params)
    return lax.scan(add, blank, (items, counts))[0]

  given = own, ROWS, ROWS, specs(whole, mesh)
  return mapped(per_device, mesh, given, own)(params, batch, counts, whole)


def everywhere(count: jax.Array) -> jax.Array:
  """Returns the largest of a number of each device, inside a `map_rows` function."""
  return lax.pmax(count, AXIS)


def map_rows(fn: Callable, mesh: Mesh, fsdp: bool = False) -> Callable:
  """Maps fn(params, *arrays with a leading row axis, *scalars) of one device over all devices.

  Without `fsdp` `fn` has no collective: devices may leave its loop at different steps.

  Args:
    fn: of one device's rows.
    mesh: of devices.
    fsdp: parameters are sharded, and `fn` gathers each layer while it needs it; all devices must
      then leave each of its loops at the same step.

  Returns:
    jitted call(params, rows, scalars) with the arrays and the scalars as tuples; every leading axis
    of `rows` has the same size, which the number of devices divides.
  """

  @jax.jit
  def call(params: Params, rows: tuple, scalars: tuple) -> Tree:
    leaves = jax.tree.leaves(rows)
    for number, x in enumerate(leaves):
      check_array(f'rows, leaf {number}', x, (len(leaves[0]), *[None] * (x.ndim - 1)))
      check_divisible(f'rows, leaf {number}', len(x), blocks_of(mesh))
    own = specs(params, mesh, fsdp)
    return jax.shard_map(
      lambda params, rows, scalars: fn(gather(params, own), *rows, *scalars),
      mesh=mesh, in_specs=(own, P(AXIS), P()), out_specs=P(AXIS), check_vma=False,
    )(params, rows, scalars)  # fmt: skip

  return call
