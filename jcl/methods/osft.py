"""OSFT, orthogonal subspace fine-tuning (Nayak et al. 2025, "Sculpting Subspaces").

    before a task    W = U S Vᵀ,  U_k and V_k the first k columns of U and V
    in each step     ΔW ← (I − U_k U_kᵀ) ΔW (I − V_k V_kᵀ)     k = (1 − unfreeze_ratio) · full rank

W [in, out] is a projection as it stands before the task. The k directions of the largest singular
values hold what the model knows, of the tasks before too, and stay as they are. The gradient is
projected before the optimiser sees it, so that its moments hold nothing else than the free
directions, and so is the update, for Adam divides each entry by another number.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jcl.backbones import Backbone
from jcl.config import number
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.method import Method, Settings
from jcl.types import Params, Tree

KERNEL, IN, OUT = 'kernel', 'in', 'out'  # a projection; its kept directions on both sides
HEAD = 'head'  # the entry of the parameters that is not constrained


@dataclasses.dataclass
class Osft(Settings):
  """Full fine-tuning; norms, biases, embeddings and a head train without a constraint."""

  # share of the directions of each projection that may change
  unfreeze_ratio: float = number(0.5, above=0, most=1)
  holds_tree: ClassVar = True

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `osft`."""
    return osft(backbone, self)


def osft(backbone: Backbone, settings: Osft) -> Method:
  """Returns the method; `teacher` holds U_k and V_k of each projection, 0 before the first task."""
  decompose = jax.jit(_with_layer)

  def init(params, stream, tools):
    kept = {}
    for path, kernel in _kernels(params).items():
      *layers, rows, columns = kernel.shape
      full = min(rows, columns)
      if k := full - max(round(settings.unfreeze_ratio * full), 1):
        kept[*path, IN] = jnp.zeros((*layers, rows, k), kernel.dtype)
        kept[*path, OUT] = jnp.zeros((*layers, columns, k), kernel.dtype)
    return {'teacher': unflatten_dict(kept)}

  def before_task(memory, params, task, tools):
    kernels = _kernels(params)

    def body(kept, chunk):
      path, layer = chunk
      flat = flatten_dict(kept)
      sides = (*path, IN), (*path, OUT)
      found = decompose(kernels[path], layer, *(flat[side] for side in sides))
      flat.update(zip(sides, jax.block_until_ready(found), strict=True))
      return unflatten_dict(flat)

    paths = [path[:-1] for path in flatten_dict(memory['teacher']) if path[-1] == IN]
    chunks = [(path, layer) for path in paths for layer in range(_layers(kernels[path]))]
    return memory | {'teacher': tools.fold('directions', body, memory['teacher'], chunks)}, params

  def project_gradient(gradient, params, teacher_params):
    return _free(gradient, teacher_params)

  def project(updates, params, teacher_params, step):
    return _free(updates, teacher_params)

  return Method(init, before_task, project_gradient=project_gradient, project=project)


def _kernels(params: Params) -> dict[tuple[str, ...], jax.Array]:
  """Returns the projections by their place: each kernel of two axes, or of three with layers in
  front, except in a head."""
  return {
    path[:-1]: leaf for path, leaf in flatten_dict(params).items()
    if path[-1] == KERNEL and HEAD not in path and jnp.ndim(leaf) > 1
  }  # fmt: skip


def _layers(kernel: jax.Array) -> int:
  """Returns the number of matrices in a projection."""
  return math.prod(kernel.shape[:-2])


def _with_layer(
  kernel_LIO: jax.Array, layer: jax.Array, in_LIK: jax.Array, out_LOK: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns U_k and V_k of a projection with those of one layer filled in.

  Args:
    kernel_LIO: the projection.
    layer: index of the layer; not read where there is no axis of layers.
    in_LIK, out_LOK: the directions that are known so far.
  """
  at = layer if kernel_LIO.ndim == 3 else ()
  kernel_IO, k = kernel_LIO[at], in_LIK.shape[-1]
  if kernel_IO.shape[0] >= kernel_IO.shape[1]:
    u_IR, _, v_RO = jnp.linalg.svd(kernel_IO, full_matrices=False)
  else:  # a tall matrix is decomposed faster
    v_OR, _, u_RI = jnp.linalg.svd(kernel_IO.T, full_matrices=False)
    u_IR, v_RO = u_RI.T, v_OR.T
  return in_LIK.at[at].set(u_IR[:, :k]), out_LOK.at[at].set(v_RO[:k].T)


def _free(tree: Tree, kept: Tree) -> Tree:
  """Returns a gradient or updates without what would change the kept directions.

  Args:
    tree: a tree like the parameters, None in place of a leaf that is frozen.
    kept: U_k and V_k of each projection, as `teacher` has them.
  """
  found = {}
  for name, part in tree.items():
    if name in kept and isinstance(part, dict):
      own = kept[name]
      if IN not in own:
        part = _free(part, own)
      elif part[KERNEL] is not None:
        left = _without(part[KERNEL], own[IN])
        right = _without(jnp.swapaxes(left, -1, -2), own[OUT])
        part = {**part, KERNEL: jnp.swapaxes(right, -1, -2)}
    found[name] = part
  return found


def _without(x_LIO: jax.Array, kept_LIK: jax.Array) -> jax.Array:
  """(I − K Kᵀ) x, layer by layer -> [L, I, O]; exact in float32 on all devices."""
  share = jnp.einsum('...ik,...io->...ko', kept_LIK, x_LIO, precision='highest')
  return x_LIO - jnp.einsum('...ik,...ko->...io', kept_LIK, share, precision='highest')
