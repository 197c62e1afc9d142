"""Functions of one device's rows, mapped over all devices."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jcl.step.sharding import AXIS

HELD = 2**26  # numbers of single examples held at once on a device, 256 MB of float32


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
