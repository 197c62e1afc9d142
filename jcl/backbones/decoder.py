"""One decoder for all families of files/families.py: a Linen module, plain dicts.

The tree of parameters (float32; the L layers are stacked on a leading axis and scanned):

    embed/embedding [R, D]        positions/embedding [P, D], learned positions alone
    layers/attention_norm, mlp_norm: scale [L, D], bias likewise; before a part of the layer
    layers/attention_post_norm, mlp_post_norm: likewise; of what a part adds
    layers/q_norm, k_norm: scale [L, d], or [L, H·d] and [L, K·d]
    layers/q, k, v, o, gate, up, down: kernel [L, in, out], bias [L, out]
    final_norm: scale [D], bias [D]
    unembed/embedding [R, D], untied alone
    head: see heads.py, classifiers alone

Letters in shapes: B rows, T tokens, M targets, D width, H attention heads, K key-value heads, d
width of a head, S positions of the cache, V token ids, R >= V rows of the embedding, of which the
first V belong to tokens and the others are padding.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jcl.backbones import heads
from jcl.backbones.attention import Place, cap, causal_attention
from jcl.backbones.backbone import Backbone, Cache, Params
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.layers import (
  ACTIVATIONS,
  BLOCKS,
  Dense,
  Norm,
  RowKeys,
  Table,
  add_delta,
  depth,
  dropout,
  dropout_keys,
  every_state,
  fold_in_rows,
  linen_variables,
  with_remat,
)
from jcl.backbones.rotary import rotate
from jcl.backbones.split import ALONE, Split
from jcl.batching.batch import Batch


@functools.lru_cache(64)
def decoder(config: DecoderConfig, split: Split = ALONE) -> Backbone:
  """Returns the decoder as a record of pure functions.

  With a `split` all of them but `init` are called inside a shard_map, with a device's parts of the
  parameters. Equal configs give the same record: what is compiled for one is compiled for all.
  Leaves of `params['layers']` may be boxed (`shards.Shard`): each layer unboxes its own inside
  the scan, and again in the backward pass.
  """

  def apply(params: Params, tokens: jax.Array, place: Place, **kwargs: Any) -> Any:
    module = Decoder(config.with_depth(depth(params)), split)
    return module.apply(linen_variables(params, config), tokens, place, **kwargs)

  def hidden(params: Params, batch: Batch, train: bool = False) -> jax.Array:
    given = {'keys': dropout_keys(config, batch, train), 'delta_BTD': batch.embedding_delta}
    if config.mixed:
      return heads.mixed(params['head'], pooled(params, batch, **given)).astype(config.wide)
    hidden_BTD, _ = apply(params, batch.tokens, _place(batch), **given)
    return heads.pool(hidden_BTD, batch, config.pooling).astype(config.wide)

  def pooled(params: Params, batch: Batch, **given: Any) -> jax.Array:
    _, found = apply(params, batch.tokens, _place(batch), mutable=[BLOCKS], **given)
    return heads.pooled(every_state(params, config, found), batch)

  def project(params, hidden_MD):
    if config.classes:
      return heads.project(params['head'], hidden_MD, config)
    table_RD = params['embed' if config.tied else 'unembed']['embedding'].astype(config.dtype)
    hidden_MD = split.enter(hidden_MD.astype(config.dtype))
    logits_MR = jnp.einsum('md,rd->mr', hidden_MD, table_RD, preferred_element_type=config.wide)
    logits_MV = split.joined(logits_MR)[:, : config.vocabulary]
    if config.logit_divisor != 1:
      logits_MV /= config.logit_divisor
    return cap(logits_MV, config.logit_cap)

  def decode(params, tokens, valid, cache, index):
    place = _cached_place(tokens.shape[1], valid, index)
    hidden_BTD, cache = apply(params, tokens, place, cache=cache)
    return project(params, hidden_BTD[:, -1]), cache

  def cache(params, rows, length):
    shape = (depth(params), rows, length, config.kv_heads // split.parts, config.head_dim)
    return jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)

  read = 'head' if config.classes else 'embed' if config.tied else 'unembed'
  return Backbone(
    init=jax.jit(functools.partial(_init, config)),  # layer by layer it would take seconds
    hidden=hidden,
    project=project,
    unembedding=lambda params: {read: params[read]},
    decode=decode,
    cache=cache,
    width=config.width,
    classes=config.classes,
    vocabulary=config.vocabulary,
    packs=config.attention == 'xla',
    shares=not (config.rope_scaling and config.rope_scaling.by_length),
    dtype=config.dtype,
    states=pooled,
  )


def _init(config: DecoderConfig, key: jax.Array) -> dict[str, Any]:
  """Returns fresh parameters."""
  tokens_BT = jnp.zeros((1, 2), jnp.int32)
  place = Place(tokens_BT, jnp.ones((1, 1), jnp.int32), None, 0)
  params = dict(Decoder(config).init(key, tokens_BT, place)['params'])
  if config.classes:
    params['head'] = heads.init(jax.random.fold_in(key, 1), config)
  elif not config.tied:
    shape = (config.rows, config.width)
    draw = jax.random.normal(jax.random.fold_in(key, 1), shape, config.wide)
    params['unembed'] = {'embedding': config.width**-0.5 * draw}
  return params


class Decoder(nn.Module):
  """Computes the final hidden states of tokens.

  Attributes:
    config: of the model.
    split: of the model.
  """

  config: DecoderConfig
  split: Split = ALONE

  @nn.compact
  def __call__(
    self,
    tokens_BT: jax.Array,
    place: Place,
    cache: Cache | None = None,
    keys: RowKeys | None = None,
    delta_BTD: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache | None]:
    """Returns hidden states [B, T, D] and the cache.

    Args:
      tokens_BT: int32 token ids.
      place: where the tokens stand.
      cache: keys and values of the tokens before; None: there are none.
      keys: a key for each row, for dropout; None: no dropout.
      delta_BTD: added to the embeddings; None: nothing.
    """
    config = self.config
    table = Table(config.rows, config.width, config, self.split, name='embed')
    embedded_BTD = table(tokens_BT)
    if config.embedding_scale != 1:
      embedded_BTD *= jnp.asarray(config.embedding_scale, embedded_BTD.dtype)
    x_BTD = add_delta(embedded_BTD, delta_BTD)
    if config.positions == 'learned':
      x_BTD += Table(config.max_positions, config.width, config, name='positions')(
        place.position_BT
      )
    x_BTD = dropout(x_BTD, fold_in_rows(keys, 0), config.dropout)
    self.sow(BLOCKS, 'state', x_BTD)
    scanned = nn.scan(
      with_remat(Block, config.remat),
      variable_axes={'params': 0, 'lora': 0, BLOCKS: 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast, nn.broadcast),
      length=config.layers,
    )(config, self.split, name='layers')
    layer_L = jnp.arange(config.layers)
    (x_BTD, cache), _ = scanned((x_BTD, cache), layer_L, place, keys)
    return Norm(config, name='final_norm')(x_BTD), cache


def _place(batch: Batch) -> Place:
  """Returns where the tokens of a batch stand.

  Lines that hold one row each are right-padded, and causal attention needs no other mask.
  """
  lines, length = batch.tokens.shape
  if batch.segment is None or batch.position is None:
    position_BT = jnp.broadcast_to(jnp.arange(length), (lines, length))
    return Place(position_BT, batch.length[:, None], None, 0)
  same_BTS = batch.segment[:, :, None] == batch.segment[:, None]
  mask_B1TS = (same_BTS & jnp.tri(length, dtype=bool)[None])[:, None]
  length_BT = batch.length[jnp.maximum(batch.segment, 0)]
  return Place(batch.position, length_BT, mask_B1TS, 0)


def _cached_place(length: int, valid_BS: jax.Array, index: jax.Array | int) -> Place:
  """Returns where the tokens of left-padded rows stand that are added to a cache.

  Args:
    length: number of tokens of each row.
    valid_BS: bool, cache positions that hold, or will hold, real tokens.
    index: cache position of the first token.
  """
  count_BS = jnp.maximum(jnp.cumsum(valid_BS, -1) - 1, 0)
  position_BT = jax.lax.dynamic_slice_in_dim(count_BS, index, length, 1)
  past_TS = jnp.arange(valid_BS.shape[1])[None] <= (index + jnp.arange(length))[:, None]
  mask_B1TS = past_TS[None, None] & valid_BS[:, None, None]
  return Place(position_BT, valid_BS.sum(-1, keepdims=True), mask_B1TS, index, count_BS)


class Block(nn.Module):
  """One layer: attention and feed-forward part, each added to the residual stream."""

  config: DecoderConfig
  split: Split = ALONE

  @nn.compact
  def __call__(self, carry, layer, place, keys):
    """Returns (hidden states [B, T, D], caches of all layers), and None: a step of `nn.scan`.

    Args:
      carry: (hidden states [B, T, D], caches of all layers, each [L, B, S, K, d], or None).
      layer: int32 number of the layer.
      place: where the tokens stand.
      keys: a key for each row, for dropout; None: no dropout.
    """
    config, (x_BTD, cache) = self.config, carry
    keys = fold_in_rows(keys, layer + 1)

    def before(name: str, x_BTD: jax.Array) -> jax.Array:
      return x_BTD if config.norms == 'post' else Norm(config, name=f'{name}_norm')(x_BTD)

    def added(name: str, x_BTD: jax.Array, number: int) -> jax.Array:
      """Returns the output of a part, normed and dropped out, for the residual stream."""
      x_BTD = x_BTD if config.norms == 'pre' else Norm(config, name=f'{name}_post_norm')(x_BTD)
      x_BTD = dropout(x_BTD, fold_in_rows(keys, number), config.dropout)
      return x_BTD if config.residual_scale == 1 else x_BTD * config.residual_scale

    normed_BTD = before('attention', x_BTD)
    attended_BTD, cache = attention(config, self.split, normed_BTD, cache, layer, place, keys)
    middle_BTD = x_BTD + added('attention', attended_BTD, 0)
    normed_BTD = before('mlp', x_BTD if config.parallel else middle_BTD)
    x_BTD = middle_BTD + added('mlp', feed_forward(config, self.split, normed_BTD, keys), 1)
    self.sow(BLOCKS, 'state', x_BTD)
    return (x_BTD, cache), None


def attention(
  config: DecoderConfig,
  split: Split,
  x_BTD: jax.Array,
  cache: Cache | None,
  layer: jax.Array,
  place: Place,
  keys: RowKeys | None,
) -> tuple[jax.Array, Cache | None]:
  """Grouped-query attention -> [B, T, D] and the caches of all layers.

  Called inside the compact method of `Block`, whose arguments these are.
  """

  x_BTD = split.enter(x_BTD)

  def project(name: str, heads: int) -> jax.Array:
    heads //= split.parts
    y = Dense(heads * config.head_dim, config.qkv_bias, config, name=name)(x_BTD, keys)
    normed = config.qk_norm and name != 'v'
    if normed and config.qk_norm_over == 'all':
      y = Norm(config, name=f'{name}_norm')(y)
    y = y.reshape(*y.shape[:2], heads, config.head_dim)
    if normed and config.qk_norm_over == 'head':
      y = Norm(config, name=f'{name}_norm')(y)
    if name == 'v' or config.positions != 'rotary':
      return y
    return rotate(config, y, place.position_BT, layer, place.length_BT)

  q_BTHd = project('q', config.heads)
  k_BSKd, v_BSKd = project('k', config.kv_heads), project('v', config.kv_heads)
  if cache is not None:
    # Written in place into the carried caches: scanned caches would be copied for every token.
    start = tuple(jnp.asarray(i, jnp.int32) for i in (layer, 0, place.first, 0, 0))
    write = lambda old, new: jax.lax.dynamic_update_slice(old, new[None], start)
    cache = write(cache[0], k_BSKd), write(cache[1], v_BSKd)
    k_BSKd, v_BSKd = (jax.lax.dynamic_index_in_dim(c, layer, keepdims=False) for c in cache)
  out_BTHd = causal_attention(config, q_BTHd, k_BSKd, v_BSKd, layer, place)
  out = Dense(config.width, config.o_bias, config, output=True, split=split, name='o')
  return out(out_BTHd.reshape(*out_BTHd.shape[:2], -1), keys), cache


def feed_forward(
  config: DecoderConfig, split: Split, x_BTD: jax.Array, keys: RowKeys | None
) -> jax.Array:
  """Feed-forward part, gated or not -> [B, T, D]; called inside the compact method of `Block`."""
  x_BTD, width = split.enter(x_BTD), config.feed_forward // split.parts
  into = lambda name: Dense(width, config.mlp_bias, config, name=name)(x_BTD, keys)
  act = ACTIVATIONS[config.activation]
  inner_BTF = act(into('gate')) * into('up') if config.gated else act(into('up'))
  out = Dense(config.width, config.mlp_bias, config, output=True, split=split, name='down')
  return out(inner_BTF, keys)
