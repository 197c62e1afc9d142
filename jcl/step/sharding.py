"""The mesh, and which device holds which part of a tree. Only files in `step/` name an axis.

A leaf is whole on every device, or sharded in one dimension over the devices that have rows of
their own, and in another over those that share a layer.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import KeyPath

from jcl.backbones.split import ALONE, Split, divisors
from jcl.batching.batch import Batch
from jcl.errors import UserError, count_of
from jcl.storage import stored
from jcl.types import Tree

Leaf = jax.Array | np.ndarray | jax.ShapeDtypeStruct
AXIS = 'data'
WHOLE = P()
ROWS = P(AXIS)  # of a batch: each device has its own block
TENSOR = 'tensor'  # axis of devices that share each layer
# Which dimension of a leaf such devices share.
SHARED: dict[tuple, int] = {
  **{
    (name, leaf): -1 for name in ('q', 'k', 'v', 'gate', 'up') for leaf in ('kernel', 'bias', 'b')
  },
  **{(name, leaf): dim for name in ('o', 'down') for leaf, dim in (('kernel', -2), ('a', -1))},
  **{(name, 'embedding'): 0 for name in ('embed', 'unembed')},
}


def make_mesh(devices: int = 0, tensor: int = 1) -> Mesh:
  """Returns a mesh of the first `devices` devices; 0: of all devices.

  Args:
    devices: their number.
    tensor: devices that share each layer; 1: the mesh has no axis for them.

  Raises:
    UserError: `tensor` does not divide the number of devices.
  """
  every = jax.devices()
  count = devices or len(every)
  if count % tensor:
    raise UserError(
      f'train.tensor is {tensor}, which does not divide {count_of(count, "device")}; '
      f'give {divisors(count)}'
    )
  shape = ((count // tensor, AXIS), (tensor, TENSOR))[: 1 + (tensor > 1)]
  sizes, names = zip(*shape, strict=True)
  kinds = (AxisType.Auto,) * len(names)
  return jax.make_mesh(sizes, names, axis_types=kinds, devices=every[:count])


def given_mesh(mesh: object, tensor: int = 1) -> Mesh:
  """Returns the mesh that a user gave; None: one of all devices.

  Args:
    mesh: what was given.
    tensor: size of its axis `tensor`, as in `make_mesh`.

  Raises:
    UserError: it is no mesh of the axis `data`, and of `tensor` where several devices share layers.
  """
  if mesh is None:
    return make_mesh(tensor=tensor)
  names = (AXIS, TENSOR)[: 1 + (tensor > 1)]
  if isinstance(mesh, Mesh) and mesh.axis_names == names and parts_of(mesh) == tensor:
    return mesh
  given = f'has the axes {mesh.axis_names}' if isinstance(mesh, Mesh) else f'is {mesh!r:.60}'
  wanted = f"(N,), ('{AXIS}',)" if tensor == 1 else f"(N, {tensor}), ('{AXIS}', '{TENSOR}')"
  raise UserError(f'mesh {given}; give jax.make_mesh({wanted}), or None for all devices')


def blocks_of(mesh: Mesh) -> int:
  """Returns the number of blocks in which the rows of a batch stand on the devices."""
  return mesh.shape[AXIS]


def parts_of(mesh: Mesh) -> int:
  """Returns the number of devices that share each layer."""
  return mesh.shape.get(TENSOR, 1)


@functools.cache
def split_of(parts: int) -> Split:
  """Returns what `parts` devices that share a model exchange, inside a shard_map."""
  if parts == 1:
    return ALONE
  return Split(
    parts,
    enter=lambda x: lax.pcast(x, TENSOR, to='varying'),
    summed=lambda x: lax.psum(x, TENSOR),
    joined=lambda x: lax.all_gather(x, TENSOR, axis=x.ndim - 1, tiled=True, to='invarying'),
    number=lambda: lax.axis_index(TENSOR),
  )


def specs(tree: Tree, mesh: Mesh, fsdp: bool = False) -> Tree:
  """Returns a partition spec for each leaf.

  Devices that share a model have their parts of heads, of the feed-forward part and of the tables
  of tokens. With `fsdp` a matrix is split over the others too, in the largest further dimension
  that their number divides. All other leaves are whole. The axis of stacked layers is never split,
  since layers are gathered one at a time.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, x: _spec([getattr(key, 'key', None) for key in path], x, mesh, fsdp), tree
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


def _spec(names: Sequence[Any], x: Leaf | stored.Stored, mesh: Mesh, fsdp: bool) -> P:
  """Returns the partition spec of the leaf at a path of `names`; see `specs`."""
  first, count, parts = int('layers' in names), blocks_of(mesh), parts_of(mesh)
  shape = np.shape(x)
  axes: list[str | None] = [None] * len(shape)
  dim = SHARED.get(tuple(names[-2:])) if parts > 1 else None
  if dim is not None and len(shape) - first >= abs(dim) and shape[dim] % parts == 0:
    axes[dim] = TENSOR
  dims = [i for i, n in enumerate(shape) if n % count == 0 and i >= first and axes[i] is None]
  if fsdp and count > 1 and dims and len(shape) - first > 1:
    axes[max(dims, key=lambda i: shape[i])] = AXIS
  while axes and axes[-1] is None:
    axes.pop()
  return P(*axes)


def place_leaf(path: str, x: Leaf | stored.Stored, mesh: Mesh, fsdp: bool = False) -> jax.Array:
  """Places one leaf on the mesh, sharded as `specs` says.

  Args:
    path: of the leaf, such as `/layers/q/kernel`, or `/[0].mu['layers']['q']` of an optimiser.
    x: the leaf.
    mesh: of devices.
    fsdp: as in `specs`.
  """
  return place(x, mesh, _spec(re.findall(r'\w+', path), x, mesh, fsdp))


def is_stacked(path: KeyPath) -> bool:
  """Whether the first axis of a leaf runs over layers."""
  return any(getattr(key, 'key', None) == 'layers' for key in path)


def summed(tree: Tree) -> Tree:
  """Sums arrays over the blocks of a batch, inside a `mapped` function.

  On one device nothing is copied. Devices that share layers have the same values already.
  """
  alone = lax.axis_size(AXIS) == 1 and TENSOR not in jax.sharding.get_abstract_mesh().axis_names
  return tree if alone else lax.psum(tree, AXIS)


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
