"""The mesh, and which device holds which part of a tree. Only files in `step/` name an axis.

A leaf is whole on every device, or sharded in one dimension.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import KeyPath

from jcl.batching.batch import Batch
from jcl.errors import UserError
from jcl.storage import stored
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
    lambda path, x: _spec(is_stacked(path), x, mesh.size, fsdp), tree
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


def _spec(stacked: bool, x: Leaf | stored.Stored, count: int, fsdp: bool) -> P:
  """Returns the partition spec of one leaf on `count` devices; see `specs`."""
  first = int(stacked)
  shape = np.shape(x)
  dims = [i for i, size in enumerate(shape) if size % count == 0 and i >= first]
  if not (fsdp and count > 1 and dims and len(shape) - first > 1):
    return P()
  return P(*[None] * max(dims, key=lambda i: shape[i]), AXIS)


def place_leaf(path: str, x: Leaf | stored.Stored, mesh: Mesh, fsdp: bool = False) -> jax.Array:
  """Places one leaf on the mesh, sharded as `specs` says.

  Args:
    path: of the leaf, such as `/layers/q/kernel`, or `/[0].mu['layers']['q']` of an optimiser.
    x: the leaf.
    mesh: of devices.
    fsdp: as in `specs`.
  """
  return place(x, mesh, _spec('layers' in re.findall(r'\w+', path), x, mesh.size, fsdp))


def is_stacked(path: KeyPath) -> bool:
  """Whether the first axis of a leaf runs over layers."""
  return any(getattr(key, 'key', None) == 'layers' for key in path)


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
