"""Adversarial training: a method's objective plus the same one at perturbed input embeddings.

Source: Miyato et al., Adversarial Training Methods for Semi-Supervised Text Classification, 2017.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jcl.batching.batch import Batch
from jcl.step.shapes import check_array, check_batch

TERM = 'adversarial'


def adversarial(objective: Callable, width: int, epsilon: float, weight: float) -> Callable:
  """objective(embeddings) + weight · objective(embeddings + δ), with δ = epsilon · g / ‖g‖ a row.

  g [T, D] is the gradient of the clean objective for a row's embeddings at its real tokens; δ is 0
  where ‖g‖ is 0, and has no gradient. A step costs about two steps of the clean objective.

  Args:
    objective: a method's own, which wraps f(params, batch) -> value, (means, terms).
    width: D of the embeddings.
    epsilon: length of δ.
    weight: of the perturbed objective; its value is the mean `adversarial`.

  Returns:
    A wrapper of the same kind as `objective`.
  """

  def outer(plain):
    inner = objective(plain)

    def wrapped(params, batch):
      check_batch(batch)
      none_BTD = jnp.zeros((*batch.tokens.shape, width)) + 0 * batch.tokens[..., None]
      moved = lambda delta_BTD: inner(params, batch.replace(embedding_delta=delta_BTD))
      (value, (means, terms)), grad_BTD = jax.value_and_grad(moved, has_aux=True)(none_BTD)
      worse, _ = moved(_steps(jax.lax.stop_gradient(grad_BTD), batch, epsilon))
      check_array('objective', value, (), jnp.floating)
      return value + weight * worse, ({**means, TERM: worse}, terms)

    return wrapped

  return outer


def _steps(grad_BTD: jax.Array, batch: Batch, epsilon: float) -> jax.Array:
  """Returns epsilon · g / ‖g‖ of each row, [B, T, D]."""
  grad_BTD = jnp.where(batch.real_BT[..., None], grad_BTD, 0)
  if batch.segment is None:
    square_BT1 = jnp.square(grad_BTD).sum((1, 2), keepdims=True)
  else:
    row_BT, squares_BT = jnp.maximum(batch.segment, 0), jnp.square(grad_BTD).sum(2)
    rows = batch.length.shape[0]
    square_R = jax.ops.segment_sum(squares_BT.reshape(-1), row_BT.reshape(-1), rows)
    square_BT1 = square_R[row_BT][..., None]
  return jnp.where(square_BT1 > 0, grad_BTD * epsilon * jax.lax.rsqrt(square_BT1), 0)
