"""Heads over the classes of a stream, and the state of a row that they read: pure functions.

A head is a projection like the vocabulary's: hidden states [M, D] at the targets in, logits [M, C]
over all classes out. The parameters stand in `params['head']`:

    linear: kernel [D, C], bias [C]
    cosine: kernel [D, C], scale []

A linear head may read P random features in place of the state. They are drawn when the head is made
and never trained. x is the state after subtraction of the mean of its D entries and division by
their standard deviation:

    relu     max(x · projection, 0)                                        projection [D, P]
    fourier  √(2 / P) cos(x · projection / bandwidth + phase)              projection, phase [P]

A head may read a weighted sum of the states after 0 … L blocks, each with every pooling:

    Σ_lq mix[l, q] · state[l, q]                                           mix [L + 1, Q]

The entries of `projection` are normal with variance 1 / D, those of `phase` uniform in [0, 2π).
Sources: McDonnell et al. 2023 (RanPAC); Rahimi and Recht 2007 (Fourier features); Momeni et al.
2024 (KLDA).

Letters in shapes: R rows, B lines of T tokens, M targets, D width, P random features, C classes, L
blocks of the model, Q poolings.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jcl.backbones.backbone import Params
from jcl.backbones.model_config import ModelConfig
from jcl.batching.batch import Batch

POOLINGS = ('last', 'first', 'mean')  # of the axis Q
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
    key: of the draws; a linear head starts at zero and draws its random features alone.
    config: of the model: kind of head, width, classes.

  Raises:
    ValueError: the config has no classes.
  """
  if config.classes < 1:
    raise ValueError(f'config.classes is {config.classes}; a head needs at least 1')
  head = HEADS[config.head].init(key, config)
  if config.mixed:  # at first the mean state after all blocks
    mix_LQ = jnp.zeros((config.layers + 1, len(POOLINGS)), config.wide)
    head['mix'] = mix_LQ.at[-1, POOLINGS.index('mean')].set(1)
  return head


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
  kernel = (inputs(config), config.classes)
  chex.assert_shape(
    head['kernel'], kernel, custom_message="head['kernel']: [D or P, C], C being config.classes"
  )
  return HEADS[config.head].project(head, hidden_MD, config)


def inputs(config: ModelConfig) -> int:
  """Returns the number of inputs of a head's kernel: P with random features, else D."""
  return config.random_features.count if config.random_features else config.width


def features(head: Params, hidden_MD: jax.Array) -> jax.Array:
  """Returns the inputs of a linear head's kernel: random features [M, P] float32, or the states.

  The arrays of the head tell the kind of the random features.

  Args:
    head: parameters of the head.
    hidden_MD: states that the classes are predicted from.
  """
  if 'projection' not in head:
    return hidden_MD
  wide_MD = hidden_MD.astype(head['projection'].dtype)
  centred_MD = wide_MD - wide_MD.mean(-1, keepdims=True)
  spread_M1 = jnp.sqrt(jnp.square(centred_MD).mean(-1, keepdims=True))
  x_MD = centred_MD / jnp.maximum(spread_M1, 1e-6)
  # By default TPUs and GPUs round the factors of a float32 product.
  projected_MP = jnp.matmul(x_MD, head['projection'], precision=jax.lax.Precision.HIGHEST)
  if 'phase' not in head:
    return jax.nn.relu(projected_MP)
  scale = jnp.sqrt(jnp.asarray(2 / projected_MP.shape[-1], projected_MP.dtype))
  return scale * jnp.cos(projected_MP + head['phase'][None])


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


def pooled(states_LBTD: jax.Array, batch: Batch) -> jax.Array:
  """Returns states [M, L, Q, D] of the rows of targets, with each of `POOLINGS`.

  Args:
    states_LBTD: states of whole lines, after several numbers of blocks.
    batch: whose targets stand at the last tokens of their rows.
  """
  first_M = batch.target_position - batch.length[batch.target_row] + 1
  at_first = batch.replace(target_position=jnp.maximum(first_M, 0))
  given = ((batch, 'last'), (at_first, 'first'), (batch, 'mean'))
  every = lambda x_BTD: jnp.stack([pool(x_BTD, *one) for one in given], 1)
  return jnp.moveaxis(jax.vmap(every)(states_LBTD), 0, 1)


def mixed(head: Params, states_MLQD: jax.Array) -> jax.Array:
  """Returns the weighted sum [M, D] of states that the array `mix` of a head describes."""
  mix_LQ, highest = head['mix'].astype(states_MLQD.dtype), jax.lax.Precision.HIGHEST
  return jnp.einsum('lq,mlqd->md', mix_LQ, states_MLQD, precision=highest)


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
  """Zeros: every class starts equally likely, and one that no target has moves no hidden state.

  Random features, where there are any, are drawn.
  """
  zeros = lambda *shape: jnp.zeros(shape, config.wide)
  head = {'kernel': zeros(inputs(config), config.classes), 'bias': zeros(config.classes)}
  if (random := config.random_features) is None:
    return head
  shape = config.width, random.count
  factor = config.width**-0.5 / (random.bandwidth if random.kind == 'fourier' else 1)
  head['projection'] = factor * jax.random.normal(jax.random.fold_in(key, 0), shape, config.wide)
  if random.kind == 'fourier':
    phase = jax.random.uniform(jax.random.fold_in(key, 1), (random.count,), config.wide)
    head['phase'] = 2 * jnp.pi * phase
  return head


def _linear_project(head: Params, hidden_MD: jax.Array, config: ModelConfig) -> jax.Array:
  """h W + b, where h is the state or its random features, computed in `config.wide`."""
  classes = (config.classes,)
  chex.assert_shape(head['bias'], classes, custom_message="head['bias']: [C]")
  if 'projection' in head:
    kernel_PC, highest = head['kernel'], jax.lax.Precision.HIGHEST
    logits_MC = jnp.matmul(features(head, hidden_MD), kernel_PC, precision=highest)
    return logits_MC + head['bias'][None]
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
