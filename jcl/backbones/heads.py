"""Heads over the classes of a stream, and the state of a row that they read: pure functions.

A head is a projection like the vocabulary's: hidden states [M, D] at the targets in, logits [M, C]
over all classes out. The parameters stand in `params['head']`:

    linear: kernel [D, C], bias [C]
    cosine: kernel [D, C], scale []

Letters in shapes: R rows, B lines of T tokens, M targets, D width, C classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jcl.backbones.backbone import Params
from jcl.backbones.model_config import ModelConfig
from jcl.batching.batch import Batch

SCALE = 10.0  # of a fresh cosine head: cosines alone, in [-1, 1], give a nearly uniform softmax


class Head(NamedTuple):
  """One kind of head.

  Attributes:
    init: (key, config) -> parameters of the head, in `config.wide`.
    project: (head, hidden_MD, config) -> logits [M, C] in `config.wide`.
  """

  init: Callable[[jax.Array, ModelConfig], dict[str, jax.Array]]
  project: Callable[[Params, jax.Array, ModelConfig], jax.Array]


def init(key: jax.Array, config: ModelConfig) -> dict[str, jax.Array]:
  """Returns the parameters of a fresh head.

  Args:
    key: of the draws; a linear head starts at zero and draws nothing.
    config: of the model: kind of head, width, classes.

  Raises:
    ValueError: the config has no classes.
  """
  if config.classes < 1:
    raise ValueError(f'config.classes is {config.classes}; a head needs at least 1')
  return HEADS[config.head].init(key, config)


def project(head: Params, hidden_MD: jax.Array, config: ModelConfig) -> jax.Array:
  """Returns logits [M, C] in `config.wide`.

  Args:
    head: parameters of the head.
    hidden_MD: states that the classes are predicted from.
    config: of the model.

  Raises:
    AssertionError: an array is not of the shape that the config gives.
  """
  chex.assert_shape(
    hidden_MD, (None, config.width), custom_message='hidden_MD: [M, D], D being config.width'
  )
  kernel = (config.width, config.classes)
  chex.assert_shape(
    head['kernel'], kernel, custom_message="head['kernel']: [D, C], C being config.classes"
  )
  return HEADS[config.head].project(head, hidden_MD, config)


def pool(hidden_BTD: jax.Array, batch: Batch, pooling: str) -> jax.Array:
  """Returns the states [M, D] that the targets are predicted from.

  Args:
    hidden_BTD: final states of whole lines.
    batch: whose targets, `tokens`, `length` and `segment` are read.
    pooling: `last` and `first` take the state at the target's position, which the text format has
      put there; `mean` takes the mean over the real tokens of the target's row.

  Raises:
    AssertionError: the states are not those of the batch's rows.
  """
  chex.assert_shape(
    hidden_BTD, (*batch.tokens.shape, None), custom_message='hidden_BTD: [B, T, D] of batch.tokens'
  )
  chex.assert_rank(batch.target_position, 1, custom_message='batch.target_position: [M]')
  chex.assert_type(batch.target_position, int, custom_message='batch.target_position: integers')
  if pooling == 'mean':
    return row_mean(hidden_BTD, batch.length, batch.segment)[batch.target_row]
  return hidden_BTD.reshape(-1, hidden_BTD.shape[-1])[batch.target_position]


def row_mean(
  hidden_BTD: jax.Array, length_R: jax.Array, segment_BT: jax.Array | None = None
) -> jax.Array:
  """Returns the mean [R, D] of the states of each row's real tokens, at least in float32.

  Args:
    hidden_BTD: states of whole lines.
    length_R: integers, number of real tokens of each row; the mean of an empty row is 0.
    segment_BT: row of each token, -1 for padding; None: line r starts with row r.

  Raises:
    AssertionError: there is not one length for each row.
  """
  rows = (hidden_BTD.shape[0] if segment_BT is None else None,)
  chex.assert_shape(length_R, rows, custom_message='length_R: [R], one length for each row')
  length_R1 = jnp.asarray(length_R)[:, None]
  wide = hidden_BTD.astype(jnp.promote_types(hidden_BTD.dtype, jnp.float32))
  if segment_BT is None:
    real_BT = jnp.arange(hidden_BTD.shape[1])[None] < length_R1
    sum_RD = jnp.where(real_BT[..., None], wide, 0).sum(1)
  else:
    real_BTD = jnp.where(segment_BT[..., None] >= 0, wide, 0)
    row_N = jnp.maximum(segment_BT, 0).reshape(-1)
    sum_RD = jax.ops.segment_sum(real_BTD.reshape(-1, wide.shape[-1]), row_N, len(length_R))
  return sum_RD / jnp.maximum(length_R1, 1)


def normalize(x: jax.Array, axis: int = -1) -> jax.Array:
  """Returns x / max(‖x‖, 1e-6) along an axis; its gradient at x = 0 is finite."""
  square = jnp.square(x).sum(axis, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def _linear_init(key: jax.Array, config: ModelConfig) -> dict[str, jax.Array]:
  """Zeros: every class starts equally likely, and one that no target has moves no hidden state."""
  zeros = lambda *shape: jnp.zeros(shape, config.wide)
  return {'kernel': zeros(config.width, config.classes), 'bias': zeros(config.classes)}


def _linear_project(head: Params, hidden_MD: jax.Array, config: ModelConfig) -> jax.Array:
  """h W + b."""
  classes = (config.classes,)
  chex.assert_shape(head['bias'], classes, custom_message="head['bias']: [C]")
  hidden_MD, kernel_DC = (x.astype(config.dtype) for x in (hidden_MD, head['kernel']))
  logits_MC = jnp.einsum('md,dc->mc', hidden_MD, kernel_DC, preferred_element_type=config.wide)
  return logits_MC + head['bias'][None]


def _cosine_init(key: jax.Array, config: ModelConfig) -> dict[str, jax.Array]:
  """Normal draws, columns of expected length 1, and the scale `SCALE`."""
  shape = (config.width, config.classes)
  kernel_DC = config.width**-0.5 * jax.random.normal(key, shape, config.wide)
  return {'kernel': kernel_DC, 'scale': jnp.asarray(SCALE, config.wide)}


def _cosine_project(head: Params, hidden_MD: jax.Array, config: ModelConfig) -> jax.Array:
  """s · cos(h, w), in `config.wide` throughout: the scale magnifies the rounding of the cosine."""
  chex.assert_rank(head['scale'], 0, custom_message="head['scale']: one number")
  unit_MD, unit_DC = normalize(hidden_MD.astype(config.wide)), normalize(head['kernel'], axis=0)
  cosine_MC = jnp.einsum('md,dc->mc', unit_MD, unit_DC)
  return jnp.broadcast_to(head['scale'], cosine_MC.shape) * cosine_MC


HEADS = {
  'linear': Head(_linear_init, _linear_project),
  'cosine': Head(_cosine_init, _cosine_project),
}
