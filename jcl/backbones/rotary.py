"""Rotary positions of queries and keys.

Source: Su et al., RoFormer, 2021. Letters in shapes: B rows, T tokens, H heads, d width of a head,
F frequencies, half as many as rotated dimensions.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jcl.backbones.decoder_config import DecoderConfig, RopeScaling
from jcl.backbones.encoder_config import EncoderConfig

Config = DecoderConfig | EncoderConfig


def frequencies(config: Config) -> np.ndarray:
  """Returns the frequencies [F] in radians a token, scaled as the config says.

  Those that depend on the length of a row (`RopeScaling.by_length`) are those of a row within the
  original context. Sources: Llama 3's scaling, Dubey et al., 2024; yarn, Peng et al., 2023;
  longrope, Ding et al., 2024.
  """
  turn, scaling = _plain(config.rope_theta, config.rotated), config.rope_scaling
  if scaling is None or scaling.kind == 'dynamic':
    return turn
  if scaling.kind == 'linear':
    return turn / np.float32(scaling.factor)
  if scaling.kind == 'longrope':
    return turn / np.asarray(scaling.short, np.float32)
  if scaling.kind == 'yarn':
    keep = 1 - _yarn_ramp(config, scaling)
    return (turn / np.float32(scaling.factor) * (1 - keep) + turn * keep).astype(np.float32)
  turns = scaling.original * turn / (2 * np.pi)  # full turns in the original context
  keep = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
  return ((1 - keep) * turn / scaling.factor + keep * turn).astype(np.float32)


def _plain(theta: float, rotated: int) -> np.ndarray:
  """Returns theta^(-2i / rotated), [F]."""
  exponent = np.arange(0, rotated, 2, dtype=np.float32) / np.float32(rotated)
  return 1 / np.float32(theta) ** exponent


def _yarn_ramp(config: Config, scaling: RopeScaling) -> np.ndarray:
  """Returns [F], 0 where a frequency is kept and 1 where it is divided by the factor."""

  def dimension(turns: float) -> float:
    """Number of the frequency that turns so often in the original context."""
    ratio = math.log(scaling.original / (turns * 2 * math.pi)) / math.log(config.rope_theta)
    return config.rotated * ratio / 2

  first, last = dimension(scaling.high), dimension(scaling.low)
  if scaling.truncate:
    first, last = math.floor(first), math.ceil(last)
  first, last = max(first, 0), min(last, config.rotated - 1)
  width = (last - first) or 0.001
  number_F = np.arange(config.rotated // 2, dtype=np.float32)
  return np.clip((number_F - np.float32(first)) / np.float32(width), 0, 1)


def _of_length(config: Config, scaling: RopeScaling, length_BT: jax.Array) -> jax.Array:
  """Returns the frequencies [B, T, F] of texts of so many tokens, where they depend on that."""
  length_BT1 = length_BT[..., None]
  if scaling.kind == 'longrope':
    short_F, long_F = (jnp.asarray(d, jnp.float32) for d in (scaling.short, scaling.long))
    turn_F = jnp.asarray(_plain(config.rope_theta, config.rotated))
    return jnp.where(
      length_BT1 > scaling.original, (turn_F / long_F)[None, None], (turn_F / short_F)[None, None]
    )
  # theta grows by (factor · length / original - (factor - 1)) ^ (rotated / (rotated - 2)).
  ratio_BT1 = jnp.maximum(length_BT1.astype(jnp.float32) / scaling.original, 1)
  growth_BT1 = scaling.factor * ratio_BT1 - (scaling.factor - 1)
  exponent_F = np.arange(0, config.rotated, 2, dtype=np.float32) / np.float32(config.rotated - 2)
  plain_F = jnp.asarray(_plain(config.rope_theta, config.rotated))
  return plain_F[None, None] * growth_BT1 ** jnp.asarray(-exponent_F)[None, None]


def rotate(
  config: Config,
  x_BTHd: jax.Array,
  position_BT: jax.Array,
  layer: jax.Array | int = 0,
  length_BT: jax.Array | None = None,
) -> jax.Array:
  """Applies rotary positions to queries or keys.

  Dimension i of the first half of the rotated ones is paired with dimension i of the second half.

  Args:
    config: of the model; the dimensions after the first `rotated` of each head stay as they are.
    x_BTHd: queries or keys.
    position_BT: position of each token in its text.
    layer: number of the layer.
    length_BT: tokens of each token's text, on which some scalings depend, or [B, 1] where a line is
      one text; None: within the original context.

  Returns:
    An array of the shape and dtype of x.
  """
  scaling = config.rope_scaling
  turn_BTF = jnp.asarray(frequencies(config))[None, None]
  if scaling is not None and scaling.by_length and length_BT is not None:
    turn_BTF = _of_length(config, scaling, length_BT)
  magnitude: jax.Array | float = scaling.magnitude if scaling is not None else 1.0
  if config.local_theta and any(config.windowed_layers):
    is_local = jnp.asarray(config.windowed_layers)[layer]
    local_F = jnp.asarray(_plain(config.local_theta, config.rotated))
    turn_BTF = jnp.where(is_local, local_F[None, None], turn_BTF)
    magnitude = jnp.where(is_local, 1.0, magnitude) if magnitude != 1 else 1.0
  angle = position_BT[..., None, None].astype(jnp.float32) * turn_BTF[:, :, None]
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  if not isinstance(magnitude, float) or magnitude != 1:
    sin, cos = sin * magnitude, cos * magnitude
  rotated = x_BTHd[..., : config.rotated].astype(config.wide)
  one, two = jnp.split(rotated, 2, -1)
  turned = jnp.concatenate([one * cos - two * sin, two * cos + one * sin], -1).astype(x_BTHd.dtype)
  turned = jnp.concatenate([turned, x_BTHd[..., config.rotated :]], -1)
  if not any(config.unrotated):
    return turned
  return jnp.where(jnp.asarray(config.unrotated)[layer], x_BTHd, turned)
