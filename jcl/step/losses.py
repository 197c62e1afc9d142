"""What a loss is made of: pure functions, one value a target, unreduced.

Shapes: M targets, V vocabulary (or C classes of a head). `where` [M, V] bool names the classes that
count; None: all of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jcl.batching.batch import Batch

FAR = -1e9  # in place of -inf, which would turn a masked difference into NaN
HELD = 2**24  # logits that are held at once, 64 MB of float32: a longer batch goes in chunks


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


def distillation(
  logits_MV: jax.Array,
  teacher_MV: jax.Array,
  temperature: float,
  where: jax.Array | None = None,
) -> jax.Array:
  """T²·KL(softmax(teacher/T) ‖ softmax(logits/T)) -> [M], nats per target (Hinton et al. 2015).

  No gradient goes into the teacher's logits.
  """
  log_MV, teacher_MV = (
    jax.nn.log_softmax(restrict(x, where) / temperature)
    for x in (logits_MV, jax.lax.stop_gradient(teacher_MV))
  )
  return temperature**2 * (jnp.exp(teacher_MV) * (teacher_MV - log_MV)).sum(-1)


def mean_squared_error(
  logits_MV: jax.Array, teacher_MV: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  """mean_v (logits_v − teacher_v)² -> [M], squared logits per target (Buzzega et al. 2020).

  The mean is over the vocabulary, or over the classes in `where`; 0 where there are none. No
  gradient goes into the teacher's logits.
  """
  apart_MV = logits_MV - jax.lax.stop_gradient(teacher_MV)
  if where is None:
    return jnp.square(apart_MV).mean(-1)
  return jnp.square(jnp.where(where, apart_MV, 0)).sum(-1) / jnp.maximum(where.sum(-1), 1)


def per_target(
  fn: Callable[..., Any], backbone: Any, params: Any, hidden_MD: jax.Array, *rest_M: Any
) -> Any:
  """fn(logits_mV, *rest_m) -> a tree of [m, …], over all targets: [M, …].

  Where M·V is more than `HELD` the targets go in chunks, whose logits are computed again in the
  backward pass: no more than one chunk's logits ever stand in memory.

  Args:
    fn: of each target alone; may project a teacher's states, given in `rest_M`, by itself.
    backbone: that projects.
    params: it projects with.
    hidden_MD: final states at the targets.
    *rest_M: trees of [M, …] (or None) that `fn` sees beside the logits.
  """
  part = backbone.unembedding(params)
  call = lambda hidden_mD, *rest_m: fn(backbone.project(part, hidden_mD), *rest_m)
  count, size = len(hidden_MD), max(HELD // backbone.outputs, 1)
  if count <= size:
    return call(hidden_MD, *rest_M)
  size = -(-count // -(-count // size))  # as even as can be
  chunks = -(-count // size)

  def cut(x):
    padded = jnp.pad(x, [(0, chunks * size - count)] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(chunks, size, *x.shape[1:])

  values = jax.lax.map(
    lambda xs: jax.checkpoint(call, prevent_cse=False)(*xs), jax.tree.map(cut, (hidden_MD, *rest_M))
  )
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], values)


def target_cross_entropy(backbone: Any, params: Any, batch: Batch, train: bool = True) -> jax.Array:
  """The cross-entropy of every target -> [M], nats."""
  hidden_MD = backbone.hidden(params, batch, train=train)
  return per_target(cross_entropy, backbone, params, hidden_MD, batch.target_token, batch.allowed)


def plain(backbone: Any) -> Callable:
  """The loss of plain fine-tuning: the cross-entropy of every target, one term `ce`."""

  def loss_fn(params, teacher_params, batch: Batch):
    return {'ce': (target_cross_entropy(backbone, params, batch), True)}

  return loss_fn


def norms(params: Any) -> dict[str, jax.Array]:
  """Σ|θ| and Σθ² over all leaves but norms and biases: {l1_norm, l2_norm}."""
  leaves = [x for path, x in jax.tree_util.tree_leaves_with_path(params) if decays(path)]
  add = lambda each: sum((each(x).sum() for x in leaves), jnp.float32(0))
  return {'l1_norm': add(jnp.abs), 'l2_norm': add(jnp.square)}


def decays(path: tuple) -> bool:
  """Whether a leaf is pulled towards 0 by decay and norms: not one of a norm, and no bias."""
  return str(getattr(path[-1], 'key', path[-1])) not in ('bias', 'scale')


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
