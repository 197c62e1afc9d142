"""The norm of the gradient of each term of a loss, computed apart from the train step."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jcl.step.train_step import StepFunctions, make_gradient
from jcl.types import Tree


class _Record(StepFunctions, Protocol):
  def _replace(self, **fields: object) -> StepFunctions: ...


def make_term_norms(
  method: StepFunctions, loss_fn: Callable, mesh: Mesh, **how: Any
) -> Callable[..., dict[str, jax.Array]] | None:
  """Returns what measures the gradient of each term, or None where terms have none of their own.

  An objective that wraps the loss (MAML's inner step, adversarial training) has a gradient that is
  no sum over terms.

  The weight of a term is an argument of the compiled program, so one program serves all terms: it
  is called once for each, with 0 as the weight of the others. Each call is a forward and a backward
  pass, and holds one gradient and no optimiser state, which is less than a step does.

  Args:
    method: the record of the method; its `combine` and `project_gradient` are left out.
    loss_fn: (params, teacher_params, batch) -> {term: (value_M, where_M)}.
    mesh: of devices.
    **how: as `train_step.make_gradient`.

  Returns:
    f(params, fixed, teacher_params, weights, batch) -> {term: ‖weight · its gradient‖}, scalars.
    `params` and `fixed` are those of the train step, and `weights` names every term to be measured;
    a term that is left out counts with weight 1 in all of them, so none may be.
  """
  if method.objective is not method._field_defaults['objective']:
    return None
  plain = cast(_Record, method)._replace(combine=None, project_gradient=None)
  gradient = make_gradient(plain, loss_fn, mesh, **how)

  @jax.jit
  def norm(
    params: Tree, fixed: Tree, teacher_params: Tree, weights: Tree, batch: Tree
  ) -> jax.Array:
    frozen, masks, _ = fixed
    _, grads = gradient(params, frozen, teacher_params, weights, batch, masks=masks)
    return optax.tree.norm(grads)

  def norms(
    params: Tree, fixed: Tree, teacher_params: Tree, weights: Mapping[str, np.float32], batch: Tree
  ) -> dict[str, jax.Array]:
    nothing = dict.fromkeys(weights, np.float32(0))
    alone = lambda term: {**nothing, term: weights[term]}
    return {
      term: norm(params, fixed, teacher_params, alone(term), batch)
      for term, weight in weights.items() if weight
    }  # fmt: skip

  return norms
