"""What a loss is made of: pure functions, one value a target, unreduced.

Shapes: M targets, V vocabulary (or C classes of a head). `where` [M, V] bool names the classes that
count; None: all of them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jcl.batch import Batch

FAR = -1e9  # in place of -inf, which would turn a masked difference into NaN


def restrict(logits_MV: jax.Array, where: jax.Array | None) -> jax.Array:
  """`logits_MV` with a large finite negative number where a class is not allowed."""
  return logits_MV if where is None else jnp.where(where, logits_MV, FAR)


def cross_entropy(
  logits_MV: jax.Array, token_M: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  """-log softmax(logits)[token] -> [M], nats per target."""
  logits_MV = restrict(logits_MV, where)
  wanted_M = jnp.take_along_axis(logits_MV, token_M[:, None], 1)[:, 0]
  return jax.nn.logsumexp(logits_MV, -1) - wanted_M


def plain(backbone) -> Callable:
  """The loss of plain fine-tuning: the cross-entropy of every target, one term `ce`."""

  def loss_fn(params, teacher_params, batch: Batch):
    logits_MV = backbone.logits(params, batch, train=True)
    return {'ce': (cross_entropy(logits_MV, batch.target_token, batch.allowed), True)}

  return loss_fn


def total(
  value_M: jax.Array, where_M: jax.Array | bool, batch: Batch, tasks: int = 0
) -> tuple[jax.Array, jax.Array]:
  """Sum and count over the targets that count.

  Args:
    value_M: one value a target.
    where_M: the targets it is the mean of; depends on the batch alone.
    batch: whose weights apply.
    tasks: 0: scalars; else vectors [tasks], a sum and a count for each task.
  """
  weight_M = jnp.where(where_M, batch.target_weight, 0)
  value_M = jnp.where(weight_M > 0, value_M, 0) * weight_M
  if not tasks:
    return value_M.sum(), weight_M.sum()
  task_MK = jax.nn.one_hot(batch.task_M, tasks)
  return value_M @ task_MK, weight_M @ task_MK
