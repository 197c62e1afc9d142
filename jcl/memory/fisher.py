"""Importance of each parameter for earlier tasks, and the quadratic penalty that it weighs.

    value(θ) = Σ_p F_p (θ_p − a_p)² + c

F is the importance: the Fisher diagonal (EWC), the size of the output's gradient (MAS) or 1 (L2).
a is the anchor. c is a constant that is left where quadratics around several anchors become one.
All leaves are kept: a frozen leaf stays at its anchor and adds nothing, and it counts again where a
later plan trains it.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jcl.backbones import Backbone
from jcl.batching.batch import Batch
from jcl.step import losses
from jcl.types import Params, Tree

Past = dict[str, Tree]
"""{'fisher': tree like the parameters, 'anchor': likewise, 'constant': scalar}, all float32."""


def nothing(params: Params) -> Past:
  """Returns the penalty before the first task: its value and its gradient are 0 everywhere."""
  fisher, anchor = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
  return {'fisher': fisher, 'anchor': anchor, 'constant': jnp.float32(0)}


def quadratic(params: Params, past: Past) -> jax.Array:
  """Σ_p F_p (θ_p − a_p)² + c -> scalar; a leaf of F may be one number for all its entries."""
  each = jax.tree.map(
    lambda p, f, a: jnp.sum(f * jnp.square(p - a)), params, past['fisher'], past['anchor']
  )
  return jax.tree.reduce(jnp.add, each) + past['constant']


# Importance for one example: the function that is differentiated, and what its gradient becomes.


def sample(logits_MV: jax.Array, key_M2: jax.Array) -> jax.Array:
  """Draws a class or token for each target from softmax(logits) -> [M] int32.

  Args:
    logits_MV: of the targets.
    key_M2: uint32 key data of the targets.
  """
  draw = lambda logits_V, key: jax.random.categorical(jax.random.wrap_key_data(key), logits_V)
  return jax.vmap(draw)(logits_MV, key_M2)


def target_keys(batch: Batch) -> jax.Array:
  """Returns key data [M, 2] of every target: its row's key folded with the target's number."""
  fold = lambda key, m: jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(key), m))
  row_M = batch.target_row
  return jax.vmap(fold)(batch.key[row_M], jnp.arange(len(row_M)))


def answer_nats(
  backbone: Backbone, labels: str = 'empirical', reduction: str = 'mean'
) -> Callable[[Params, Batch], jax.Array]:
  """Returns (params, batch) -> −log p of the targets of a batch in nats, a scalar; no dropout.

  Args:
    backbone: the model that gives p.
    labels: `empirical`: the given labels; `sampled`: labels drawn from p, with keys from
      `batch.key`.
    reduction: `mean` or `sum` over the targets.
  """

  def of_targets(logits_MV, token_M, allowed_MV, key_M2):
    if labels == 'sampled':
      token_M = sample(losses.restrict(logits_MV, allowed_MV), key_M2)
    return losses.cross_entropy(logits_MV, token_M, allowed_MV)

  def nats(params: Params, batch: Batch) -> jax.Array:
    hidden_MD = backbone.hidden(params, batch)
    rest = batch.target_token, batch.allowed, target_keys(batch)
    value_M = losses.per_target(of_targets, backbone, params, hidden_MD, *rest)
    total, count = losses.total(value_M, True, batch)
    return total / count if reduction == 'mean' else total

  return nats


def output_size(backbone: Backbone) -> Callable[[Params, Batch], jax.Array]:
  """Returns (params, batch) -> Σ_m ‖z[m]‖² / Σ_m w[m] over allowed classes, a scalar; no dropout.

  z[m] are the logits at target m, w[m] its weight (Aljundi et al. 2018).
  """

  def of_targets(logits_MV, allowed_MV):
    if allowed_MV is not None:
      logits_MV = jnp.where(allowed_MV, logits_MV, 0)
    return jnp.square(logits_MV).sum(-1)

  def size(params: Params, batch: Batch) -> jax.Array:
    hidden_MD = backbone.hidden(params, batch)
    value_M = losses.per_target(of_targets, backbone, params, hidden_MD, batch.allowed)
    total, count = losses.total(value_M, True, batch)
    return total / count

  return size


@dataclasses.dataclass(frozen=True)
class OfGradient:
  """(params, batch) -> becomes(∇fn), entry by entry: the importance that one example gives.

  Where parameters are sharded, `Tools.mean_examples` takes the two apart, so that no device holds
  the gradient of the whole model.

  Attributes:
    fn: (params, batch) -> scalar.
    becomes: function of the entries of the gradient.
  """

  fn: Callable[[Params, Batch], jax.Array]
  becomes: Callable[[jax.Array], jax.Array]

  def __call__(self, params: Params, batch: Batch) -> Params:
    """Returns a tree like the parameters."""
    return jax.tree.map(self.becomes, jax.grad(self.fn)(params, batch))


def squared_gradient(fn: Callable[[Params, Batch], jax.Array]) -> OfGradient:
  """Returns (params, batch) -> (∇fn)²: the Fisher diagonal of a batch of one example."""
  return OfGradient(fn, jnp.square)


def absolute_gradient(fn: Callable[[Params, Batch], jax.Array]) -> OfGradient:
  """Returns (params, batch) -> |∇fn| (Aljundi et al. 2018)."""
  return OfGradient(fn, jnp.abs)


# Merging over tasks: the importance of the task that ended at `params` joins that of earlier tasks.


@jax.jit
def separate(past: Past, new: Params, params: Params) -> Past:
  """Merges a quadratic around each task's own end into one of equal value and gradient.

  With F = F_old + F_new and s = F_new / F: the anchor is (1 − s) a_old + s θ_new, and the constant
  grows by Σ_p F_old s (a_old − θ_new)². Where F is 0 the anchor is θ_new.
  """
  share = jax.tree.map(
    lambda f, g: jnp.where(f + g > 0, g / jnp.where(f + g > 0, f + g, 1), 1), past['fisher'], new
  )
  anchor = jax.tree.map(lambda a, p, s: (1 - s) * a + s * p, past['anchor'], params, share)
  between = jax.tree.map(jnp.multiply, past['fisher'], share)
  rest = quadratic(params, {**past, 'fisher': between})
  return {
    'fisher': jax.tree.map(jnp.add, past['fisher'], new), 'anchor': anchor, 'constant': rest,
  }  # fmt: skip


def _around(params: Params, fisher: Params) -> Past:
  """Returns one quadratic around the last model."""
  return {'fisher': fisher, 'anchor': params, 'constant': jnp.float32(0)}


@jax.jit
def online(past: Past, new: Params, params: Params, decay: float = 1.0) -> Past:
  """F ← decay · F + F_new around the last model alone (Schwarz et al. 2018)."""
  return _around(params, jax.tree.map(lambda f, g: decay * f + g, past['fisher'], new))


@jax.jit
def running_mean(past: Past, new: Params, params: Params, tasks: int) -> Past:
  """F ← (F_new + t · F) / (t + 1) around the last model alone, after t earlier tasks."""
  mean = lambda f, g: (g + tasks * f) / (tasks + 1)
  return _around(params, jax.tree.map(mean, past['fisher'], new))


MERGES = ('separate', 'online', 'running_mean')


def merge(past: Past, new: Params, params: Params, how: str, tasks: int, decay: float) -> Past:
  """Merges by the function of `MERGES` that is called `how`.

  Args:
    past: the penalty of earlier tasks.
    new: importance for the task that ended, a tree like `params`.
    params: at the end of the task.
    how: name of the function.
    tasks: number of earlier tasks, for `running_mean`.
    decay: factor of the earlier importance, for `online`.
  """
  if how == 'online':
    return online(past, new, params, decay)
  if how == 'running_mean':
    return running_mean(past, new, params, tasks)
  return separate(past, new, params)
