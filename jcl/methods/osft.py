"""OSFT, orthogonal subspace fine-tuning (Nayak et al. 2025, "Sculpting Subspaces").

    before a task    W = U S Vᵀ,  U_k and V_k the first k columns of U and V
    in each step     ΔW ← (I − U_k U_kᵀ) ΔW (I − V_k V_kᵀ)     k = (1 − unfreeze_ratio) · full rank

W [in, out] is a projection as it stands before the task. The k directions of the largest singular
values hold what the model knows, of the tasks before too, and stay as they are. The gradient is
projected before the optimiser sees it, so that its moments hold nothing else than the free
directions, and so is the update, for Adam divides each entry by another number.
"""

import dataclasses
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
  directions = jax.jit(lambda params: _directions(params, settings.unfreeze_ratio))

  def init(params, stream, tools):
    shapes = jax.eval_shape(directions, params)
    return {'teacher': jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)}

  def before_task(memory, params, task, tools):
    return memory | {'teacher': directions(params)}, params

  def project_gradient(gradient, params, teacher_params):
    return _free(gradient, teacher_params)

  def project(updates, params, teacher_params, step):
    return _free(updates, teacher_params)

  return Method(init, before_task, project_gradient=project_gradient, project=project)


def _directions(params: Params, unfreeze_ratio: float) -> Tree:
  """Returns U_k and V_k of each projection, in a tree like the parameters.

  Args:
    params: all parameters. A leaf `kernel` of two axes, or of three with layers in front, is a
      projection, except in a head.
    unfreeze_ratio: share of the directions that are free, one at least.

  Returns:
    {'in': [L, in, k], 'out': [L, out, k]} in place of each projection that keeps a direction.
  """
  found: Tree = {}
  for name, part in params.items():
    if name == HEAD or not isinstance(part, dict):
      continue
    if kept := _directions(part, unfreeze_ratio):
      found[name] = kept
    kernel_LIO = part.get(KERNEL)
    if kernel_LIO is not None and jnp.ndim(kernel_LIO) > 1:
      full = min(kernel_LIO.shape[-2:])
      k = full - max(round(unfreeze_ratio * full), 1)
      if k:
        u_LIR, _, v_LRO = jnp.linalg.svd(kernel_LIO, full_matrices=False)
        found[name] = {IN: u_LIR[..., :k], OUT: jnp.swapaxes(v_LRO[..., :k, :], -1, -2)}
  return found


def _free(tree: Tree, kept: Tree) -> Tree:
  """Returns a gradient or updates without what would change the kept directions.

  Args:
    tree: a tree like the parameters, None in place of a leaf that is frozen.
    kept: directions, from `_directions`.
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
