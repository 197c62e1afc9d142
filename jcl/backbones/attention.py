"""Attention of decoders and encoders: windows of layers, and capped scores.

Letters in shapes: B rows, T tokens, S places that are attended to, H attention heads, K key-value
heads, G attention heads for each of those, d width of a head.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jcl.backbones import blocked_attention
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.layers import ATTENDED, attended
from jcl.backbones.model_config import ModelConfig


class Place(NamedTuple):
  """Where the tokens of a call stand.

  Attributes:
    position_BT: position of each token in its text.
    length_BT: tokens that each token's text has or, with a cache, may come to have; [B, 1] where a
      line is one text.
    mask_B1TS: which places each token sees; None: all up to its own.
    first: cache position of the first token.
    position_BS: position in its text of the token at each cache position; None: there is no cache.
  """

  position_BT: jax.Array
  length_BT: jax.Array
  mask_B1TS: jax.Array | None
  first: jax.Array | int
  position_BS: jax.Array | None = None


def near(
  config: ModelConfig, layer: jax.Array, place_T: jax.Array, place_S: jax.Array
) -> jax.Array | None:
  """Returns which places [T, S] a layer's window holds; None where no layer has one so short.

  Args:
    config: of the model.
    layer: number of the layer.
    place_T: place of each token that attends, [T], or [B, T] where rows differ.
    place_S: places that are attended to, as many as a row has, [S] or [B, S].

  Returns:
    [T, S] or [B, T, S] bool.
  """
  if not any(config.windowed_layers) or place_S.shape[-1] <= config.window:
    return None
  near_TS = jnp.abs(place_T[..., None] - place_S[..., None, :]) < config.window
  if all(config.windowed_layers):
    return near_TS
  return near_TS | ~jnp.asarray(config.windowed_layers)[layer]


def causal_attention(
  config: DecoderConfig,
  q_BTHd: jax.Array,
  k_BSKd: jax.Array,
  v_BSKd: jax.Array,
  layer: jax.Array,
  place: Place,
) -> jax.Array:
  """Returns the attended values [B, T, H, d], under the name that `with_remat` keeps.

  Args:
    config: of the model.
    q_BTHd: queries.
    k_BSKd: keys.
    v_BSKd: values.
    layer: number of the layer.
    place: where the tokens stand; without a cache S = T.
  """
  length, mask_B1TS = q_BTHd.shape[1], place.mask_B1TS
  place_T = place_S = jnp.arange(length, dtype=jnp.int32)
  if place.position_BS is not None:
    place_T, place_S = place.position_BT, place.position_BS
  near_TS = near(config, layer, place_T, place_S)
  window = 0  # of all layers, where no mask says it
  cached = mask_B1TS is not None
  if mask_B1TS is not None:
    near_1TS = None if near_TS is None else near_TS.reshape(-1, *near_TS.shape[-2:])
    mask_B1TS = mask_B1TS if near_1TS is None else mask_B1TS & near_1TS[:, None]
  elif near_TS is not None and all(config.windowed_layers) and not config.attention_cap:
    window = config.window
  elif near_TS is not None:
    mask_B1TS = (near_TS & jnp.tri(length, dtype=bool))[None, None]
  if config.attention_cap:
    return attended(_capped(config, q_BTHd, k_BSKd, v_BSKd, mask_B1TS))
  in_xla = cached or config.attention == 'xla'
  if in_xla and place.position_BS is None and length >= blocked_attention.LONG:
    scale = config.query_scale or q_BTHd.shape[-1] ** -0.5
    options = blocked_attention.Options(scale, window, ATTENDED)
    return blocked_attention.attention(q_BTHd, k_BSKd, v_BSKd, mask_B1TS, options)
  out_BTHd = jax.nn.dot_product_attention(
    q_BTHd,
    k_BSKd,
    v_BSKd,
    mask=mask_B1TS,
    is_causal=mask_B1TS is None,
    implementation='xla' if cached else config.attention,
    scale=config.query_scale or None,
    local_window_size=(window - 1, 0) if window else None,
  )
  return attended(out_BTHd)


def _capped(
  config: DecoderConfig,
  q_BTHd: jax.Array,
  k_BSKd: jax.Array,
  v_BSKd: jax.Array,
  mask_B1TS: jax.Array | None,
) -> jax.Array:
  """Returns attended values [B, T, H, d] by scores cap · tanh(q · k · scale / cap)."""
  batch, length, heads, width = q_BTHd.shape
  kv_heads = k_BSKd.shape[2]
  q_BTKGd = q_BTHd.reshape(batch, length, kv_heads, heads // kv_heads, width)
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
