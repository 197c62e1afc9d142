"""Parts of leaves inside a shard_map, and how they become whole: layer by layer, or once a phase.

A leaf is whole on every device, or split in one dimension. Stacked layers stay `Shard`s until a
module reads its own layer.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct
from flax.core.meta import AxisMetadata
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.tree_util import KeyPath

from jcl.step.sharding import AXIS, Leaf, is_stacked, specs
from jcl.types import Tree


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered_as(part: jax.Array, dim: int, dtype: Any) -> jax.Array:
  """Gathers a whole leaf in another type; its gradient is summed in the type of the part."""
  return lax.all_gather(part.astype(dtype), AXIS, axis=dim, tiled=True)


def _gathered_forward(part: jax.Array, dim: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
  """Also returns an array of no entries that has the type of the part."""
  return _gathered_as(part, dim, dtype), jnp.zeros(0, part.dtype)


def _gathered_backward(dim: int, dtype: Any, like: jax.Array, slope: jax.Array) -> tuple[jax.Array]:
  """Sums the gradient over devices in the type of the part, for the narrow type loses digits."""
  wide = slope.astype(like.dtype)
  return (lax.psum_scatter(wide, AXIS, scatter_dimension=dim, tiled=True),)


_gathered_as.defvjp(_gathered_forward, _gathered_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _gathered_apart(
  part: jax.Array, weight: jax.Array, whole: jax.Array | None, dim: int | None, dtype: Any,
  becomes: Callable,
) -> jax.Array:  # fmt: skip
  """Gathers a leaf whose gradient is Σ weight · becomes(each device's own gradient), scattered.

  Args:
    part: this device's; of a leaf that is not split, the leaf.
    weight: of this device; where it is 0 its gradient counts nothing, be it NaN.
    whole: the leaf where it was gathered before; None: it is gathered here.
    dim: dimension that is split; None: it is whole, and devices are not summed here.
    dtype: of the gathered leaf.
    becomes: function of the entries of a gradient, such as the square.
  """
  if whole is not None:
    return whole.astype(dtype)
  part = part.astype(dtype)
  return part if dim is None else lax.all_gather(part, AXIS, axis=dim, tiled=True)


def _apart_forward(
  part: jax.Array, weight: jax.Array, whole: jax.Array | None, dim: int | None, dtype: Any,
  becomes: Callable,
) -> tuple[jax.Array, tuple]:  # fmt: skip
  """Also returns the weight, the leaf if it was whole, and no entries of the type of the part."""
  like = jnp.zeros(0, part.dtype)
  return _gathered_apart(part, weight, whole, dim, dtype, becomes), (weight, whole, like)


def _apart_backward(
  dim: int | None, dtype: Any, becomes: Callable, kept: tuple, slope: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Returns the part of the weighted sum over devices, and 0 for all else."""
  weight, whole, like = kept
  own = jnp.where(weight > 0, weight * becomes(slope.astype(like.dtype)), 0)
  if dim is not None:
    own = lax.psum_scatter(own, AXIS, scatter_dimension=dim, tiled=True)
  return own, jnp.zeros_like(weight), None if whole is None else jnp.zeros_like(whole)


_gathered_apart.defvjp(_apart_forward, _apart_backward)


class Shard(struct.PyTreeNode, AxisMetadata):
  """One device's part of a leaf of stacked layers; a module that reads its layer gathers it whole.

  Attributes:
    value: the part.
    dim: dimension of the leaf that is split.
    dtype: of the whole leaf; None: that of the part.
    weight: [L], see `gather_apart`; None: gradients of devices are summed.
    becomes: see `gather_apart`.
    whole: the leaf where it was gathered before, see `gather_apart`.
  """

  value: jax.Array
  dim: int = struct.field(pytree_node=False)
  dtype: Any = struct.field(pytree_node=False, default=None)
  weight: jax.Array | None = None
  becomes: Any = struct.field(pytree_node=False, default=None)
  whole: jax.Array | None = None

  def astype(self, dtype: Any) -> 'Shard':
    """Returns the shard of which a whole leaf of another type is gathered."""
    return self.replace(dtype=jnp.dtype(dtype))

  def unbox(self) -> jax.Array:
    """Gathers the whole leaf; of a narrower type, it is narrowed before it is sent."""
    if self.weight is not None:
      dtype = self.dtype or self.value.dtype
      return _gathered_apart(self.value, self.weight, self.whole, self.dim, dtype, self.becomes)
    if self.dtype in (None, self.value.dtype):
      return lax.all_gather(self.value, AXIS, axis=self.dim, tiled=True)
    return _gathered_as(self.value, self.dim, self.dtype)

  def replace_boxed(self, val: Any) -> 'Shard':
    """Returns the shard with another value."""
    return self.replace(value=val)

  def add_axis(self, index: int, params: dict) -> 'Shard':
    """Returns the shard whose value has one more axis, at `index`."""
    return self.replace(dim=self.dim + (index <= self.dim))

  def remove_axis(self, index: int, params: dict) -> 'Shard':
    """Returns the shard whose value lacks the axis `index`, as in a scan over layers."""
    return self.replace(dim=self.dim - (index < self.dim))


def gather(tree: Tree, tree_specs: Tree) -> Tree:
  """Gathers whole leaves from their shards, inside a shard_map; stacked layers stay `Shard`s.

  Args:
    tree: of arrays, this device's parts.
    tree_specs: their partition specs, as `specs` gives them.

  Raises:
    AssertionError: the two trees differ in structure.
  """
  chex.assert_trees_all_equal_structs(tree, tree_specs, custom_message='argument tree_specs')

  def one(path, x, spec):
    if AXIS not in spec:
      return x
    shard = Shard(x, tuple(spec).index(AXIS))
    return shard if is_stacked(path) else shard.unbox()

  return jax.tree_util.tree_map_with_path(one, tree, tree_specs)


def gather_apart(
  tree: Tree, tree_specs: Tree, weight: jax.Array, becomes: Callable, whole: Tree = None
) -> Tree:
  """Gathers leaves as `gather` does; the gradient with respect to `tree` keeps the devices apart.

  It is Σ_devices weight · becomes(g) with g the gradient of each device's own function, and stands
  where `tree` stands, so that no device ever has the whole g of stacked layers.

  Args:
    tree: of arrays, this device's parts.
    tree_specs: their partition specs.
    weight: [] float32, of this device.
    becomes: function of the entries of a gradient.
    whole: the tree as `gathered` makes it; None: each leaf is gathered where it is needed.
  """

  def one(path, x, spec, whole=None):
    dim = tuple(spec).index(AXIS) if AXIS in spec else None
    if dim is None:  # the transpose of the mark is the sum over devices
      marked = lax.pcast(x, AXIS, to='varying')
      return _gathered_apart(marked, weight, None, None, x.dtype, becomes)
    if whole is not None:  # otherwise the transpose of its use would sum over devices
      whole = lax.pcast(whole, AXIS, to='varying')
    if not is_stacked(path):
      return _gathered_apart(x, weight, whole, dim, x.dtype, becomes)
    return Shard(x, dim, None, jnp.broadcast_to(weight, x.shape[:1]), becomes, whole)

  trees = (tree_specs,) if whole is None else (tree_specs, whole)
  return jax.tree_util.tree_map_with_path(one, tree, *trees)


def varying(tree: Tree, tree_specs: Tree) -> Tree:
  """Marks whole leaves as varying over devices, inside a shard_map; gradients are summed here.

  If they were not marked here, a scan over layers would mark the leaves of each layer, and keep the
  marked copies for the backward pass.

  Args:
    tree: of arrays; shards are marked already, other leaves are not.
    tree_specs: their partition specs, as `specs` gives them.
  """
  mark = lambda x, spec: x if AXIS in spec else lax.pcast(x, AXIS, to='varying')
  return jax.tree.map(mark, tree, tree_specs)


def _sent_as(path: KeyPath, x: Leaf, dtype: Any) -> Any:
  """Returns the type in which a leaf is gathered: kernels of layers are multiplied in `dtype`."""
  narrow = dtype is not None and is_stacked(path) and getattr(path[-1], 'key', None) == 'kernel'
  return jnp.dtype(dtype) if narrow else x.dtype


def whole_bytes(tree: Tree, mesh: Mesh, dtype: Any = None) -> int:
  """Returns the bytes on each device of what `gathered` makes of a tree of arrays or shapes."""

  def size(path, x, spec):
    shape = NamedSharding(mesh, spec).shard_shape(x.shape)
    return math.prod(shape) * jnp.dtype(_sent_as(path, x, dtype)).itemsize

  sizes = jax.tree_util.tree_map_with_path(size, tree, specs(tree, mesh))
  return sum(jax.tree.leaves(sizes))


def gathered(mesh: Mesh, dtype: Any = None) -> Callable:
  """Returns the jitted function (tree sharded with FSDP) -> the tree, sharded without it.

  What computes with the result has the bits of what computes with `Shard`s.

  Args:
    mesh: of devices.
    dtype: of kernels of layers, which become narrow before they are sent; None: their own.
  """

  @jax.jit
  def call(tree: Tree) -> Tree:
    own, whole = specs(tree, mesh, fsdp=True), specs(tree, mesh)

    def one(path, x, spec):
      x = x.astype(_sent_as(path, x, dtype))
      if AXIS not in spec:
        return x
      return lax.all_gather(x, AXIS, axis=tuple(spec).index(AXIS), tiled=True)

    every = lambda tree: jax.tree_util.tree_map_with_path(one, tree, own)
    # What is gathered is the same everywhere, which JAX does not see.
    return jax.shard_map(every, mesh=mesh, in_specs=(own,), out_specs=whole, check_vma=False)(tree)

  return call
