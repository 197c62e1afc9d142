"""The mesh, and which device holds which part of a tree. Only files in `step/` name an axis.

A leaf is whole on every device, or sharded in one dimension. Stacked layers stay sharded until a
module reads its own layer.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.core.meta import AxisMetadata
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import KeyPath

from jcl.backbones.files import stored
from jcl.batching.batch import Batch
from jcl.errors import UserError
from jcl.types import Tree

Leaf = jax.Array | np.ndarray | jax.ShapeDtypeStruct
AXIS = 'data'
WHOLE = P()
ROWS = P(AXIS)  # of a batch: each device has its own block


def make_mesh(devices: int = 0) -> Mesh:
  """Returns a mesh of the first `devices` devices; 0: of all devices."""
  every = jax.devices()
  count = devices or len(every)
  return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=every[:count])


def given_mesh(mesh: object) -> Mesh:
  """Returns the mesh that a user gave; None: one of all devices.

  Raises:
    UserError: it is no mesh of the one axis `data`.
  """
  if mesh is None:
    return make_mesh()
  if isinstance(mesh, Mesh) and mesh.axis_names == (AXIS,):
    return mesh
  given = f'has the axes {mesh.axis_names}' if isinstance(mesh, Mesh) else f'is {mesh!r:.60}'
  raise UserError(f"mesh {given}; give jax.make_mesh((N,), ('{AXIS}',)), or None for all devices")


def specs(tree: Tree, mesh: Mesh, fsdp: bool = False) -> Tree:
  """Returns a partition spec for each leaf.

  With `fsdp` a matrix is split in the largest dimension that the number of devices divides; all
  other leaves are whole. The axis of stacked layers is never split, since layers are gathered one
  at a time.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, x: _spec(_stacked(path), x, mesh.size, fsdp), tree
  )


def mask_specs(masks: Tree, tree_specs: Tree) -> Tree:
  """Returns the partition specs of masks; {} without masks.

  A mask is split as its leaf is, except in a dimension along which it is broadcast.

  Args:
    masks: tree of arrays that broadcast to the parameters.
    tree_specs: partition specs of the parameters.
  """
  if not masks:
    return masks

  def one(mask, spec):
    return P(*(axis if size > 1 else None for axis, size in zip(spec, mask.shape, strict=False)))

  return jax.tree.map(one, masks, tree_specs)


def _spec(stacked: bool, x: Leaf, count: int, fsdp: bool) -> P:
  """Returns the partition spec of one leaf on `count` devices; see `specs`."""
  first = int(stacked)
  shape = np.shape(x)
  dims = [i for i, size in enumerate(shape) if size % count == 0 and i >= first]
  if not (fsdp and count > 1 and dims and len(shape) - first > 1):
    return P()
  return P(*[None] * max(dims, key=lambda i: shape[i]), AXIS)


def place_leaf(path: str, x: Leaf, mesh: Mesh, fsdp: bool = False) -> jax.Array:
  """Places one leaf on the mesh, sharded as `specs` says; `path` is such as `/layers/q/kernel`."""
  return place(x, mesh, _spec('layers' in path.split('/'), x, mesh.size, fsdp))


def _stacked(path: KeyPath) -> bool:
  """Whether the first axis of a leaf runs over layers."""
  return any(getattr(key, 'key', None) == 'layers' for key in path)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _gathered_apart(
  part: jax.Array, weight: jax.Array, dim: int | None, dtype: Any, becomes: Callable
) -> jax.Array:
  """Gathers a leaf whose gradient is Σ weight · becomes(each device's own gradient), scattered.

  Args:
    part: this device's; of a leaf that is not split, the leaf.
    weight: of this device; where it is 0 its gradient counts nothing, be it NaN.
    dim: dimension that is split; None: it is whole, and devices are not summed here.
    dtype: of the gathered leaf.
    becomes: function of the entries of a gradient, such as the square.
  """
  part = part.astype(dtype)
  return part if dim is None else lax.all_gather(part, AXIS, axis=dim, tiled=True)


def _apart_forward(
  part: jax.Array, weight: jax.Array, dim: int | None, dtype: Any, becomes: Callable
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Also returns the weight, and an array of no entries that has the type of the part."""
  like = jnp.zeros(0, part.dtype)
  return _gathered_apart(part, weight, dim, dtype, becomes), (weight, like)


def _apart_backward(
  dim: int | None, dtype: Any, becomes: Callable, kept: tuple, slope: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the part of the weighted sum over devices, and 0 for the weight."""
  weight, like = kept
  own = jnp.where(weight > 0, weight * becomes(slope.astype(like.dtype)), 0)
  if dim is not None:
    own = lax.psum_scatter(own, AXIS, scatter_dimension=dim, tiled=True)
  return own, jnp.zeros_like(weight)


_gathered_apart.defvjp(_apart_forward, _apart_backward)


class Shard(struct.PyTreeNode, AxisMetadata):
  """One device's part of a leaf of stacked layers; a module that reads its layer gathers it whole.

  Attributes:
    value: the part.
    dim: dimension of the leaf that is split.
    dtype: of the whole leaf; None: that of the part.
    weight: [L], see `gather_apart`; None: gradients of devices are summed.
    becomes: see `gather_apart`.
  """

  value: jax.Array
  dim: int = struct.field(pytree_node=False)
  dtype: Any = struct.field(pytree_node=False, default=None)
  weight: jax.Array | None = None
  becomes: Any = struct.field(pytree_node=False, default=None)

  def astype(self, dtype: Any) -> 'Shard':
    """Returns the shard of which a whole leaf of another type is gathered."""
    return self.replace(dtype=jnp.dtype(dtype))

  def unbox(self) -> jax.Array:
    """Gathers the whole leaf; of a narrower type, it is narrowed before it is sent."""
    if self.weight is not None:
      dtype = self.dtype or self.value.dtype
      return _gathered_apart(self.value, self.weight, self.dim, dtype, self.becomes)
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
    return shard if _stacked(path) else shard.unbox()

  return jax.tree_util.tree_map_with_path(one, tree, tree_specs)


def gather_apart(tree: Tree, tree_specs: Tree, weight: jax.Array, becomes: Callable) -> Tree:
  """Gathers leaves as `gather` does; the gradient with respect to `tree` keeps the devices apart.

  It is Σ_devices weight · becomes(g) with g the gradient of each device's own function, and stands
  where `tree` stands, so that no device ever has the whole g of stacked layers.

  Args:
    tree: of arrays, this device's parts.
    tree_specs: their partition specs.
    weight: [] float32, of this device.
    becomes: function of the entries of a gradient.
  """

  def one(path, x, spec):
    dim = tuple(spec).index(AXIS) if AXIS in spec else None
    if dim is None:  # the transpose of the mark is the sum over devices
      marked = lax.pcast(x, AXIS, to='varying')
      return _gathered_apart(marked, weight, None, x.dtype, becomes)
    if not _stacked(path):
      return _gathered_apart(x, weight, dim, x.dtype, becomes)
    return Shard(x, dim, None, jnp.broadcast_to(weight, x.shape[:1]), becomes)

  return jax.tree_util.tree_map_with_path(one, tree, tree_specs)


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


def summed(tree: Tree) -> Tree:
  """Sums arrays over all devices, inside a `mapped` function; of one device nothing is copied."""
  return lax.psum(tree, AXIS) if lax.axis_size(AXIS) > 1 else tree


def mapped(fn: Callable, mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable:
  """Returns the `jax.shard_map` of `fn`, in which JAX checks what varies over devices.

  On one device nothing varies and nothing is checked: the gradients of whole leaves would be
  summed, and XLA copies what it sums, over one device too.

  Args:
    fn: of one device's parts; it sums over devices by `summed`.
    mesh: of devices.
    in_specs, out_specs: partition specs of what `fn` takes and returns.
  """
  several = mesh.size > 1
  return jax.shard_map(
    fn, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=several
  )  # fmt: skip


def place(tree: Tree, mesh: Mesh, tree_specs: Tree = WHOLE) -> Tree:
  """Places arrays on the mesh; arrays on the host must be whole in every process.

  Of a leaf that is still in its file each process reads what its own devices hold.
  """

  def one(x, spec):
    sharding = NamedSharding(mesh, spec)
    if isinstance(x, stored.Stored):
      return stored.placed(x, sharding)
    if jax.process_count() == 1 or not getattr(x, 'is_fully_addressable', True):
      return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  if isinstance(tree_specs, P):
    return jax.tree.map(lambda x: one(x, tree_specs), tree)
  return jax.tree.map(one, tree, tree_specs)


def born(fn: Callable, mesh: Mesh, fsdp: bool = False) -> Callable:
  """Returns the jitted `fn` whose result is made where `specs` puts it, never whole before.

  Args:
    fn: of arrays -> a tree of arrays.
    mesh: of devices.
    fsdp: as in `specs`.
  """

  def call(*args: Any) -> Tree:
    shapes = jax.eval_shape(fn, *args)
    there = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(shapes, mesh, fsdp))
    return jax.jit(fn, out_shardings=there)(*args)

  return call


def place_batch(batch: Batch, mesh: Mesh) -> Batch:
  """Places a batch on the mesh, on each device its own block of rows and targets."""
  return place(batch, mesh, ROWS)


def outline(tree: Tree, mesh: Mesh, tree_specs: Tree = WHOLE) -> Tree:
  """Returns shapes and shardings of the arrays that `place` makes, to compile without memory."""
  if isinstance(tree_specs, P):
    tree_specs = jax.tree.map(lambda x: tree_specs, tree)
  return jax.tree.map(
    lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)),
    tree,
    tree_specs,
  )
