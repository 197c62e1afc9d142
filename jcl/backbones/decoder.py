"""One decoder for GPT-2, GPT-NeoX, Llama, Qwen2/3 and Mistral: Linen inside, plain dicts outside.

The tree of parameters (float32; the L layers are stacked on a leading axis and scanned):

    embed/embedding [R, D]        positions/embedding [P, D], learned positions alone
    layers/attention_norm, mlp_norm, q_norm, k_norm: scale, bias
    layers/q, k, v, o, gate, up, down: kernel [L, in, out], bias [L, out]
    final_norm                    unembed/embedding [R, D], untied alone
    head: see heads.py, classifiers alone

B rows, T tokens, M targets, D width, H heads, K key and value heads, S cache positions, R >= V rows
of the embedding, of which the first V are real tokens and the others padding.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jcl.backbones import heads
from jcl.backbones.backbone import Backbone
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.layers import (
  ACTIVATIONS,
  Dense,
  Norm,
  Table,
  depth,
  dropout,
  fold,
  is_boxed,
  moved,
  rematerialised,
  row_keys,
  variables,
)
from jcl.batching.batch import Batch


def decoder(config: DecoderConfig) -> Backbone:
  """The decoder as a record of pure functions.

  Leaves of `params['layers']` may be boxed (`parallel.Shard`): each layer then unboxes its own,
  inside the scan, and again in the backward pass.
  """

  def apply(params, tokens, **kwargs):
    deep = dataclasses.replace(config, layers=depth(params))
    return Decoder(deep, is_boxed(params)).apply(variables(params), tokens, **kwargs)

  @jax.jit  # layer by layer it would take seconds
  def init(key):
    params = dict(Decoder(config).init(key, jnp.zeros((1, 2), jnp.int32))['params'])
    if config.classes:
      params['head'] = heads.init(jax.random.fold_in(key, 1), config)
    elif not config.tied:
      shape = (config.rows, config.width)
      draw = jax.random.normal(jax.random.fold_in(key, 1), shape, config.wide)
      params['unembed'] = {'embedding': config.width**-0.5 * draw}
    return params

  def hidden(params, batch: Batch, train: bool = False):
    delta_BTD, key_B = batch.embedding_delta, row_keys(config, batch, train)
    hidden_BTD, _ = apply(params, batch.tokens, key_B=key_B, delta_BTD=delta_BTD)
    return heads.pooled(hidden_BTD, batch, config.pooling).astype(config.wide)

  def project(params, hidden_MD):
    if config.classes:
      return heads.project(params['head'], hidden_MD, config)
    table_RD = params['embed' if config.tied else 'unembed']['embedding'].astype(config.dtype)
    into = {'preferred_element_type': config.wide}
    logits_MR = jnp.einsum('md,rd->mr', hidden_MD.astype(config.dtype), table_RD, **into)
    return logits_MR[:, : config.vocabulary]

  def decode(params, tokens, valid, cache, index):
    hidden_BTD, cache = apply(params, tokens, valid_BS=valid, cache=cache, index=index)
    return project(params, hidden_BTD[:, -1]), cache

  def cache(params, rows, length):
    shape = (depth(params), rows, length, config.kv_heads, config.head_dim)
    return jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)

  read = 'head' if config.classes else 'embed' if config.tied else 'unembed'
  return Backbone(
    init=init,
    hidden=hidden,
    project=project,
    unembedding=lambda params: {read: params[read]},
    decode=decode,
    cache=cache,
    width=config.width,
    classes=config.classes,
    vocabulary=config.vocabulary,
  )


class Decoder(nn.Module):
  """Tokens to final hidden states."""

  config: DecoderConfig
  boxed: bool = False  # the leaves of the layers

  @nn.compact
  def __call__(self, tokens_BT, valid_BS=None, cache=None, index=0, key_B=None, delta_BTD=None):
    """-> hidden [B, T, D], cache.

    Without a cache rows are right-padded and causal, so there is no mask at all; with one they are
    left-padded and `valid_BS` says which cache positions hold real tokens. `delta_BTD` is added to
    the embeddings.
    """
    config = self.config
    rows, length = tokens_BT.shape
    position_BT, mask_B1TS = jnp.broadcast_to(jnp.arange(length), (rows, length)), None
    if cache is not None:
      count_BS = jnp.maximum(jnp.cumsum(valid_BS, -1) - 1, 0)
      position_BT = jax.lax.dynamic_slice_in_dim(count_BS, index, length, 1)
      past_TS = jnp.arange(valid_BS.shape[1])[None] <= (index + jnp.arange(length))[:, None]
      mask_B1TS = past_TS[None, None] & valid_BS[:, None, None]
    x_BTD = moved(Table(config.rows, config.width, config, name='embed')(tokens_BT), delta_BTD)
    if config.positions == 'learned':
      x_BTD += Table(config.max_positions, config.width, config, name='positions')(position_BT)
    x_BTD = dropout(x_BTD, fold(key_B, 0), config.dropout)
    scanned = nn.scan(
      rematerialised(Block, config.remat, self.boxed),
      variable_axes={'params': 0, 'lora': 0},
      split_rngs={'params': True},
      in_axes=(0, *[nn.broadcast] * 4),
      length=config.layers,
    )(config, name='layers')
    layer_L = jnp.arange(config.layers)
    (x_BTD, cache), _ = scanned((x_BTD, cache), layer_L, position_BT, mask_B1TS, index, key_B)
    return Norm(config, name='final_norm')(x_BTD), cache


class Block(nn.Module):
  """One layer. The carry is the hidden state and the caches of all layers, [L, B, S, K, head]."""

  config: DecoderConfig

  @nn.compact
  def __call__(self, carry, layer, position_BT, mask_B1TS, index, key_B):
    """-> (hidden [B, T, D], caches), None."""
    config, (x_BTD, cache) = self.config, carry
    key_B = fold(key_B, layer + 1)
    normed_BTD = Norm(config, name='attention_norm')(x_BTD)
    attended_BTD, cache = attention(
      config, normed_BTD, cache, layer, position_BT, mask_B1TS, index, key_B
    )
    attended_BTD = dropout(attended_BTD, fold(key_B, 0), config.dropout)
    middle_BTD = x_BTD + attended_BTD
    normed_BTD = Norm(config, name='mlp_norm')(x_BTD if config.parallel else middle_BTD)
    fed_BTD = dropout(feed_forward(config, normed_BTD, key_B), fold(key_B, 1), config.dropout)
    return (middle_BTD + fed_BTD, cache), None


def attention(config, x_BTD, cache, layer, position_BT, mask_B1TS, index, key_B):
  """Grouped-query attention, for the compact body of a Block -> [B, T, D], cache."""

  def project(name, heads):
    y = Dense(heads * config.head_dim, config.qkv_bias, config, name=name)(x_BTD, key_B)
    y = y.reshape(*y.shape[:2], heads, config.head_dim)
    if name == 'v':
      return y
    if config.qk_norm:
      y = Norm(config, name=f'{name}_norm')(y)
    return rotate(config, y, position_BT) if config.positions == 'rotary' else y

  q_BTHd = project('q', config.heads)
  k_BSKd, v_BSKd = project('k', config.kv_heads), project('v', config.kv_heads)
  if cache is not None:
    # Written in place into the carried caches: scanned caches would be copied for every token.
    write = lambda old, new: jax.lax.dynamic_update_slice(old, new[None], (layer, 0, index, 0, 0))
    cache = write(cache[0], k_BSKd), write(cache[1], v_BSKd)
    k_BSKd, v_BSKd = (jax.lax.dynamic_index_in_dim(c, layer, keepdims=False) for c in cache)
  out_BTHd = jax.nn.dot_product_attention(
    q_BTHd,
    k_BSKd,
    v_BSKd,
    mask=mask_B1TS,
    is_causal=mask_B1TS is None,
    implementation=config.attention if mask_B1TS is None else 'xla',
  )
  out = Dense(config.width, config.o_bias, config, output=True, name='o')
  return out(out_BTHd.reshape(*out_BTHd.shape[:2], -1), key_B), cache


def feed_forward(config, x_BTD, key_B):
  """The feed-forward part, for the compact body of a Block."""
  into = lambda name: Dense(config.feed_forward, config.mlp_bias, config, name=name)(x_BTD, key_B)
  act = ACTIVATIONS[config.activation]
  inner_BTF = act(into('gate')) * into('up') if config.gated else act(into('up'))
  return Dense(config.width, config.mlp_bias, config, output=True, name='down')(inner_BTF, key_B)


def frequencies(config: DecoderConfig) -> np.ndarray:
  """[rotated / 2] radians a token (RoPE; Llama-3's stretching is the blend of the two ends)."""
  exponent = np.arange(0, config.rotated, 2, dtype=np.float32) / np.float32(config.rotated)
  turn = 1 / np.float32(config.rope_theta) ** exponent
  scaling = config.rope_scaling
  if scaling is None:
    return turn
  if scaling.kind == 'linear':
    return turn / np.float32(scaling.factor)
  turns = scaling.original * turn / (2 * np.pi)  # in the original context
  keep = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
  return ((1 - keep) * turn / scaling.factor + keep * turn).astype(np.float32)


def rotate(config: DecoderConfig, x_BTHd: jax.Array, position_BT: jax.Array) -> jax.Array:
  """Rotary positions: the first half of the rotated dimensions pairs with the second."""
  angle = (
    position_BT[..., None, None].astype(jnp.float32)
    * jnp.asarray(frequencies(config))[None, None, None]
  )
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  rotated = x_BTHd[..., : config.rotated].astype(config.wide)
  one, two = jnp.split(rotated, 2, -1)
  turned = jnp.concatenate([one * cos - two * sin, two * cos + one * sin], -1).astype(x_BTHd.dtype)
  return jnp.concatenate([turned, x_BTHd[..., config.rotated :]], -1)
