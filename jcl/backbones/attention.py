"""Attention of decoders and encoders: windows of layers, and capped scores.

Letters in shapes: B rows, T tokens, S places that are attended to, H attention heads, K key-value
heads, G attention heads for each of those, d width of a head.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.model_config import ModelConfig


def near(
  config: ModelConfig, layer: jax.Array, place_T: jax.Array, place_S: jax.Array
) -> jax.Array | None:
  """Returns which places [T, S] a layer's window holds; None where no layer has one so short.

  Args:
    config: of the model.
    layer: number of the layer.
    place_T: place of each token that attends.
    place_S: places that are attended to, as many as a row has.
  """
  if not any(config.windowed_layers) or len(place_S) <= config.window:
    return None
  near_TS = jnp.abs(place_T[:, None] - place_S[None]) < config.window
  if all(config.windowed_layers):
    return near_TS
  return near_TS | ~jnp.asarray(config.windowed_layers)[layer]


def causal_attention(
  config: DecoderConfig,
  q_BTHd: jax.Array,
  k_BSKd: jax.Array,
  v_BSKd: jax.Array,
  layer: jax.Array,
  mask_B1TS: jax.Array | None,
  index: jax.Array | int,
) -> jax.Array:
  """Returns the attended values [B, T, H, d].

  Args:
    config: of the model.
    q_BTHd: queries.
    k_BSKd: keys.
    v_BSKd: values.
    layer: number of the layer.
    mask_B1TS: which cache positions each token sees; None: there is no cache, and S = T.
    index: cache position of the first token.
  """
  length = q_BTHd.shape[1]
  place_T = jnp.asarray(index, jnp.int32) + jnp.arange(length, dtype=jnp.int32)
  near_TS = near(config, layer, place_T, jnp.arange(k_BSKd.shape[1], dtype=jnp.int32))
  kwargs: dict[str, Any] = {'scale': config.query_scale or None}
  cached = mask_B1TS is not None
  if mask_B1TS is not None:
    mask_B1TS = mask_B1TS if near_TS is None else mask_B1TS & near_TS[None, None]
  elif near_TS is not None and all(config.windowed_layers) and not config.attention_cap:
    kwargs['local_window_size'] = (config.window - 1, 0)
  elif near_TS is not None:
    mask_B1TS = (near_TS & jnp.tri(length, dtype=bool))[None, None]
  if config.attention_cap:
    return _capped(config, q_BTHd, k_BSKd, v_BSKd, mask_B1TS)
  return jax.nn.dot_product_attention(
    q_BTHd,
    k_BSKd,
    v_BSKd,
    mask=mask_B1TS,
    is_causal=mask_B1TS is None,
    implementation='xla' if cached else config.attention,
    **kwargs,
  )


def _capped(
  config: DecoderConfig,
  q_BTHd: jax.Array,
  k_BSKd: jax.Array,
  v_BSKd: jax.Array,
  mask_B1TS: jax.Array | None,
) -> jax.Array:
  """Returns attended values [B, T, H, d] by scores cap · tanh(q · k · scale / cap)."""
  batch, length, heads, width = q_BTHd.shape
  q_BTKGd = q_BTHd.reshape(batch, length, config.kv_heads, heads // config.kv_heads, width)
  score_BKGTS = jnp.einsum('btkgd,bskd->bkgts', q_BTKGd, k_BSKd, preferred_element_type=config.wide)
  score_BKGTS *= config.query_scale or width**-0.5
  score_BKGTS = cap(score_BKGTS, config.attention_cap)
  mask = jnp.tri(length, dtype=bool)[None, None] if mask_B1TS is None else mask_B1TS
  least = jnp.finfo(score_BKGTS.dtype).min / 2
  weight_BKGTS = jax.nn.softmax(jnp.where(mask[:, :, None], score_BKGTS, least), -1)
  out_BTKGd = jnp.einsum('bkgts,bskd->btkgd', weight_BKGTS.astype(v_BSKd.dtype), v_BSKd)
  return out_BTKGd.reshape(batch, length, heads, width)


def cap(x: jax.Array, most: float) -> jax.Array:
  """Returns most · tanh(x / most), elementwise; x where `most` is 0."""
  return most * jnp.tanh(x / most) if most else x
