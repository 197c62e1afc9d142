"""OSFT, orthogonal subspace fine-tuning (Nayak et al. 2025, "Sculpting Subspaces").

    before a task    W = U S Vᵀ,  U_k and V_k the first k columns of U and V
    in each step     ΔW ← (I − U_k U_kᵀ) ΔW (I − V_k V_kᵀ)     k = (1 − unfreeze_ratio) · full rank

W [in, out] is a projection as it stands before the task. The k directions of the largest singular
values hold what the model knows, of the tasks before too, and stay as they are. The gradient is
projected before the optimiser sees it, so that its moments hold nothing else than the free
directions, and so is the update, for Adam divides each entry by another number.
"""

import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from jcl.backbones import Backbone
from jcl.config import number
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.method import Method, Settings
from jcl.types import Params, Tree

KERNEL, IN, OUT = 'kernel', 'in', 'out'  # a projection; its kept directions on both sides
HEAD = 'head'  # the entry of the parameters that is not constrained
Path = tuple[str, ...]


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
    kept: Tree = {}
    for path, kernel_LIO in _kernels(params).items():
      if k := _rank(kernel_LIO, settings.unfreeze_ratio):
        sides_LSK = kernel_LIO[..., :k], jnp.swapaxes(kernel_LIO, -1, -2)[..., :k]
        kept = _put(kept, path, dict(zip((IN, OUT), map(jnp.zeros_like, sides_LSK), strict=True)))
    return {'teacher': kept}

  def before_task(memory, params, task, tools):
    kernels = _kernels(params)

    def body(kept, chunk):
      path, layer = chunk
      own = decompose(kernels[path], layer, _at(kept, path))
      return _put(kept, path, jax.block_until_ready(own))  # the bar shows what is done

    chunks = [
      (path, layer) for path, kernel in kernels.items() if _rank(kernel, settings.unfreeze_ratio)
      for layer in range(math.prod(kernel.shape[:-2]))
    ]  # fmt: skip
    return memory | {'teacher': tools.fold('directions', body, memory['teacher'], chunks)}, params

  def project_gradient(gradient, params, teacher_params):
    return _free(gradient, teacher_params)

  def project(updates, params, teacher_params, step):
    return _free(updates, teacher_params)

  return Method(init, before_task, project_gradient=project_gradient, project=project)


def _kernels(params: Params, path: Path = ()) -> dict[Path, jax.Array]:
  """Returns {its place: a projection}.

  A projection is a leaf `kernel` of two axes, or of three with layers in front, except in a head.
  """
  found = {}
  for name, part in params.items():
    if name == KERNEL and jnp.ndim(part) > 1:
      found[path] = part
    elif isinstance(part, dict) and name != HEAD:
      found |= _kernels(part, (*path, name))
  return found


def _rank(kernel_LIO: jax.Array, unfreeze_ratio: float) -> int:
  """Returns k, the number of directions of a projection that are kept; one at least is free."""
  full = min(kernel_LIO.shape[-2:])
  return full - max(round(unfreeze_ratio * full), 1)


def _at(tree: Tree, path: Path) -> Tree:
  """Returns what stands at a place."""
  return functools.reduce(lambda part, name: part[name], path, tree)


def _put(tree: Tree, path: Path, value: Tree) -> Tree:
  """Returns a tree with another value at a place."""
  if not path:
    return value
  first, *rest = path
  return {**tree, first: _put(tree.get(first, {}), tuple(rest), value)}


def _with_layer(kernel_LIO: jax.Array, layer: jax.Array, kept: Tree) -> Tree:
  """Returns U_k and V_k of a projection with those of one layer filled in.

  Args:
    kernel_LIO: the projection.
    layer: index of the layer; not read where there is no axis of layers.
    kept: {'in': [L, I, k], 'out': [L, O, k]}.
  """
  at = layer if kernel_LIO.ndim == 3 else ()
  kernel_IO, k = kernel_LIO[at], kept[IN].shape[-1]
  if kernel_IO.shape[0] >= kernel_IO.shape[1]:
    u_IR, _, v_RO = jnp.linalg.svd(kernel_IO, full_matrices=False)
  else:  # a tall matrix is decomposed faster
    v_OR, _, u_RI = jnp.linalg.svd(kernel_IO.T, full_matrices=False)
    u_IR, v_RO = u_RI.T, v_OR.T
  return {IN: kept[IN].at[at].set(u_IR[:, :k]), OUT: kept[OUT].at[at].set(v_RO[:k].T)}


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
