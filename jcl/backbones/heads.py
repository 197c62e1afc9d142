"""Heads over the classes of a stream, and the state of a row that they read: pure functions.

A head is a projection like the vocabulary's: hidden states [M, D] at the targets in, logits [M, C]
over all classes out. B rows, T tokens, M targets, D width, C classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jcl.backbones.backbone import Params
from jcl.backbones.model_config import ModelConfig
from jcl.batching.batch import Batch

SCALE = 10.0  # of a fresh cosine head: softmax over cosines in [-1, 1] alone could not be sure


class Head(NamedTuple):
  """One kind of head.

  Attributes:
    init: (key, config) -> its parameters, in `config.wide`.
    project: (head, hidden_MD, config) -> logits_MC in `config.wide`.
  """

  init: Callable[[jax.Array, ModelConfig], Params]
  project: Callable[[Params, jax.Array, ModelConfig], jax.Array]


def init(key: jax.Array, config: ModelConfig) -> Params:
  """A fresh `params['head']` of the config's kind over its classes."""
  return HEADS[config.head].init(key, config)


def project(head: Params, hidden_MD: jax.Array, config: ModelConfig) -> jax.Array:
  """Logits [M, C] in `config.wide` of the config's kind of head."""
  return HEADS[config.head].project(head, hidden_MD, config)


def pooled(hidden_BTD: jax.Array, batch: Batch, pooling: str) -> jax.Array:
  """The states [M, D] that targets are predicted from.

  Args:
    hidden_BTD: final states of the whole rows.
    batch: whose `target_position` and `length` are read.
    pooling: `last` and `first` take the state at the target's position, which the text format has
      put there; `mean` takes the mean over the real tokens of the target's row.
  """
  if pooling == 'mean':
    return row_mean(hidden_BTD, batch.length)[batch.target_row]
  return hidden_BTD.reshape(-1, hidden_BTD.shape[-1])[batch.target_position]


def row_mean(hidden_BTD: jax.Array, length_B: Any) -> jax.Array:
  """The mean [B, D] of each row's first `length` states, at least float32; 0 for an empty row."""
  length_B1 = jnp.asarray(length_B)[:, None]
  real_BT = jnp.arange(hidden_BTD.shape[1])[None] < length_B1
  wide = jnp.promote_types(hidden_BTD.dtype, jnp.float32)
  sum_BD = jnp.where(real_BT[..., None], hidden_BTD.astype(wide), 0).sum(1)
  return sum_BD / jnp.maximum(length_B1, 1)


def unit(x: jax.Array, axis: int = -1) -> jax.Array:
  """x / ‖x‖ along an axis; shorter than 1e-6 it is x / 1e-6, whose gradient at 0 is finite."""
  square = jnp.square(x).sum(axis, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def _linear_init(key: jax.Array, config: ModelConfig) -> Params:
  """Zeros: every class starts equally likely, and an unseen one pulls at no hidden state."""
  zeros = lambda *shape: jnp.zeros(shape, config.wide)
  return {'kernel': zeros(config.width, config.classes), 'bias': zeros(config.classes)}


def _linear_project(head: Params, hidden_MD: jax.Array, config: ModelConfig) -> jax.Array:
  """h W + b."""
  hidden_MD, kernel_DC = (x.astype(config.dtype) for x in (hidden_MD, head['kernel']))
  logits_MC = jnp.einsum('md,dc->mc', hidden_MD, kernel_DC, preferred_element_type=config.wide)
  return logits_MC + head['bias'][None]


def _cosine_init(key: jax.Array, config: ModelConfig) -> Params:
  shape = (config.width, config.classes)
  kernel_DC = config.width**-0.5 * jax.random.normal(key, shape, config.wide)
  return {'kernel': kernel_DC, 'scale': jnp.asarray(SCALE, config.wide)}


def _cosine_project(head: Params, hidden_MD: jax.Array, config: ModelConfig) -> jax.Array:
  """s · cos(h, w), wide throughout: the scale would magnify the rounding of a narrow cosine."""
  unit_MD, unit_DC = unit(hidden_MD.astype(config.wide)), unit(head['kernel'], axis=0)
  cosine_MC = jnp.einsum('md,dc->mc', unit_MD, unit_DC)
  return jnp.broadcast_to(head['scale'], cosine_MC.shape) * cosine_MC


HEADS = {
  'linear': Head(_linear_init, _linear_project),
  'cosine': Head(_cosine_init, _cosine_project),
}
