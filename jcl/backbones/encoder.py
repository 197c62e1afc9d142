"""One encoder for all families of files/families.py: a Linen module, plain dicts.

The tree of parameters (float32; the L layers are stacked on a leading axis and scanned):

    embed/embedding [R, D]        types/embedding [N, D]        relative/embedding [K, H]
    positions/embedding [P, D], learned positions alone
    embed_norm: scale [D], bias [D]
    layers/attention_norm, mlp_norm: scale [L, D], bias [L, D]
    layers/q, k, v, o, gate, up, down: kernel [L, in, out], bias [L, out]
    final_norm: scale [D], bias [D], with norms before the parts alone
    head: see heads.py, classifiers alone

Norms stand after the sums or before the parts, and a token attends to its whole row or, in layers
with a window, to its neighbours. Letters in shapes: B rows, T tokens, M targets, D width, H
attention heads, d width of a head, R >= V rows of the embedding, P positions, N token types, K
distances.
"""

import functools
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jcl.backbones import heads
from jcl.backbones.attention import near
from jcl.backbones.backbone import Backbone, Params
from jcl.backbones.encoder_config import EncoderConfig
from jcl.backbones.layers import (
  ACTIVATIONS,
  BLOCKS,
  Dense,
  Norm,
  RowKeys,
  Table,
  add_delta,
  attended,
  depth,
  dropout,
  dropout_keys,
  every_state,
  fold_in_rows,
  linen_variables,
  with_remat,
)
from jcl.backbones.rotary import rotate
from jcl.batching.batch import Batch
from jcl.errors import UserError


@functools.lru_cache(64)
def encoder(config: EncoderConfig) -> Backbone:
  """Returns the encoder as a record of pure functions; without classes only `hidden` can be used.

  Equal configs give the same record: what is compiled for one is compiled for all.

  Raises:
    UserError: by `project` and `unembedding`, without classes.
  """

  @jax.jit  # layer by layer it would take seconds
  def init(key):
    tokens_BT, place = jnp.zeros((1, 2), jnp.int32), Place(jnp.ones(1, jnp.int32))
    params = dict(Encoder(config).init(key, tokens_BT, place)['params'])
    if config.classes:
      params['head'] = heads.init(jax.random.fold_in(key, 1), config)
    return params

  def hidden(params: Params, batch: Batch, train: bool = False) -> jax.Array:
    place = Place(batch.length, batch.segment, batch.position)
    keys, delta_BTD = dropout_keys(config, batch, train), batch.embedding_delta
    if config.mixed:
      return heads.mixed(params['head'], pooled(params, batch, keys, delta_BTD)).astype(config.wide)
    hidden_BTD = states(config, params, batch.tokens, place, keys, delta_BTD)
    return heads.pool(hidden_BTD, batch, config.pooling).astype(config.wide)

  def pooled(params: Params, batch: Batch, *given: Any) -> jax.Array:
    place = Place(batch.length, batch.segment, batch.position)
    _, found = _apply(config, params, batch.tokens, place, *given, mutable=[BLOCKS])
    return heads.pooled(every_state(params, config, found), batch)

  def head(params):
    if not config.classes:
      raise UserError(
        f'a {config.family} encoder predicts classes and has none here; generation and free '
        'answers need a decoder'
      )
    return params['head']

  return Backbone(
    init=init,
    hidden=hidden,
    project=lambda params, hidden_MD: heads.project(head(params), hidden_MD, config),
    unembedding=lambda params: {'head': head(params)},
    decode=None,
    cache=None,
    width=config.width,
    classes=config.classes,
    vocabulary=0,
    packs=config.attention == 'xla',
    dtype=config.dtype,
    states=pooled,
  )


class Place(NamedTuple):
  """Where the tokens of a call stand.

  Attributes:
    length_R: int32, number of real tokens of each row.
    segment_BT: int32, row of each token, -1 for padding; None: line r is row r, right-padded.
    position_BT: int32, place of each token in its row; None: its place in the line.
  """

  length_R: jax.Array
  segment_BT: jax.Array | None = None
  position_BT: jax.Array | None = None

  def positions(self, tokens: int) -> jax.Array:
    """Place in its row of each of `tokens` tokens of a line, [B, T] or, the same in all, [1, T]."""
    return jnp.arange(tokens)[None] if self.position_BT is None else self.position_BT


def states(
  config: EncoderConfig,
  params: Params,
  tokens_BT: jax.Array,
  place: Place,
  keys: RowKeys | None = None,
  delta_BTD: jax.Array | None = None,
) -> jax.Array:
  """Returns the final states [B, T, D] of rows; those of padding are meaningless.

  Args:
    config: of the model; `layers` is read off `params` instead.
    params: of the model.
    tokens_BT: int32 token ids.
    place: where the tokens stand.
    keys: a key for each row, for dropout; None: no dropout.
    delta_BTD: added to the embeddings of the tokens; None: nothing.
  """
  return cast(jax.Array, _apply(config, params, tokens_BT, place, keys, delta_BTD))


def _apply(config: EncoderConfig, params: Params, *args: Any, **kwargs: Any) -> Any:
  """Applies the module, whose depth is read off `params`."""
  model = Encoder(config.with_depth(depth(params)))
  return model.apply(linen_variables(params, config), *args, **kwargs)


def sentence_vectors(
  config: EncoderConfig, params: Params, tokens_BT: jax.Array, length_B: jax.Array
) -> jax.Array:
  """Returns a vector of length 1 for each row: the normalised mean of its states.

  This is sentence-transformers' mean pooling with normalisation (Reimers and Gurevych, 2019), for
  which MiniLM was trained; the dot product of two vectors is the similarity of the texts. The mean
  is over all real tokens, special ones included.

  Args:
    config: of the model.
    params: of the model.
    tokens_BT: int32 token ids as the tokenizer frames them ([CLS] x [SEP]), right-padded.
    length_B: int32, number of real tokens of each row.

  Returns:
    [B, D] in float32; zeros for an empty row.
  """
  hidden_BTD = states(config, params, tokens_BT, Place(length_B))
  return heads.normalize(heads.row_mean(hidden_BTD, length_B))


class Encoder(nn.Module):
  """Computes the final hidden states of tokens.

  Attributes:
    config: of the model.
  """

  config: EncoderConfig

  @nn.compact
  def __call__(
    self,
    tokens_BT: jax.Array,
    place: Place,
    keys: RowKeys | None = None,
    delta_BTD: jax.Array | None = None,
  ) -> jax.Array:
    """Returns hidden states [B, T, D]; the arguments are those of `states`."""
    config = self.config
    embedded_BTD = Table(config.rows, config.width, config, name='embed')(tokens_BT)
    x_BTD = add_delta(embedded_BTD, delta_BTD)
    if config.positions == 'learned':
      position_BT = config.first_position + place.positions(tokens_BT.shape[1])
      x_BTD += Table(config.position_rows, config.width, config, name='positions')(position_BT)
    if config.types:
      first_11 = jnp.zeros((1, 1), jnp.int32)
      x_BTD += Table(config.types, config.width, config, name='types')(first_11)
    x_BTD = Norm(config, name='embed_norm')(x_BTD)
    x_BTD = dropout(x_BTD, fold_in_rows(keys, 0), config.dropout)
    self.sow(BLOCKS, 'state', x_BTD)
    bias_1HTT = None
    if config.relative:
      bias_TTH = Table(config.relative, config.heads, config, name='relative')(
        jnp.asarray(relative_buckets(tokens_BT.shape[1]))
      )
      bias_1HTT = jnp.moveaxis(bias_TTH, -1, 0)[None]
    scanned = nn.scan(
      with_remat(Block, config.remat),
      variable_axes={'params': 0, 'lora': 0, BLOCKS: 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
      length=config.layers,
    )(config, name='layers')
    x_BTD, _ = scanned(x_BTD, jnp.arange(config.layers), place, bias_1HTT, keys)
    return x_BTD if config.norms == 'post' else Norm(config, name='final_norm')(x_BTD)


def relative_buckets(length: int) -> np.ndarray:
  """Returns the row [T, T] of the table of relative positions for each token and attended token.

  Of 32 rows the first 16 are for tokens at or before the one that attends: a row for each of the 8
  least distances, then rows for distances that grow geometrically up to 128. Source: Raffel et al.,
  T5, 2020; Song et al., MPNet, 2020.
  """
  offset_TT = np.arange(length)[None] - np.arange(length)[:, None]
  distance_TT = np.abs(offset_TT)
  share_TT = np.log(np.maximum(distance_TT, 1).astype(np.float32) / 8) / np.float32(np.log(128 / 8))
  far_TT = np.minimum(8 + (share_TT * 8).astype(np.int32), 15)
  return np.where(distance_TT < 8, distance_TT, far_TT) + 16 * (offset_TT > 0)


class Block(nn.Module):
  """One layer: attention and feed-forward part, each added to its input."""

  config: EncoderConfig

  @nn.compact
  def __call__(self, x_BTD, layer, place, bias_1HTT, keys):
    """Returns hidden states [B, T, D], and None: a step of `nn.scan`.

    Args:
      x_BTD: hidden states.
      layer: int32 number of the layer.
      place: where the tokens stand.
      bias_1HTT: added to the scores of attention; None: nothing.
      keys: a key for each row, for dropout; None: no dropout.
    """
    config = self.config
    keys = fold_in_rows(keys, layer + 1)

    def before(name: str, x_BTD: jax.Array) -> jax.Array:
      if config.norms == 'post':
        return x_BTD
      normed_BTD = Norm(config, name=f'{name}_norm')(x_BTD)
      if name == 'attention' and not config.first_norm:
        return jnp.where(layer == 0, x_BTD, normed_BTD)
      return normed_BTD

    def after(name: str, x_BTD: jax.Array) -> jax.Array:
      return x_BTD if config.norms == 'pre' else Norm(config, name=f'{name}_norm')(x_BTD)

    normed_BTD = before('attention', x_BTD)
    attended_BTD = attention(config, normed_BTD, layer, place, bias_1HTT, keys)
    attended_BTD = dropout(attended_BTD, fold_in_rows(keys, 0), config.dropout)
    x_BTD = after('attention', x_BTD + attended_BTD)
    fed_BTD = feed_forward(config, before('mlp', x_BTD), keys)
    fed_BTD = dropout(fed_BTD, fold_in_rows(keys, 1), config.dropout)
    x_BTD = after('mlp', x_BTD + fed_BTD)
    self.sow(BLOCKS, 'state', x_BTD)
    return x_BTD, None


def attention(
  config: EncoderConfig,
  x_BTD: jax.Array,
  layer: jax.Array,
  place: Place,
  bias_1HTT: jax.Array | None,
  keys: RowKeys | None,
) -> jax.Array:
  """Attention of every token to its row's real tokens -> [B, T, D].

  Called inside the compact method of `Block`, whose arguments these are.
  """
  lines, length, width = x_BTD.shape
  split = (lines, length, config.heads, width // config.heads)

  def dense(name: str, y_BTD: jax.Array) -> jax.Array:
    return Dense(width, config.attention_bias, config, name=name)(y_BTD, keys)

  q_BTHd, k_BTHd, v_BTHd = (dense(name, x_BTD).reshape(split) for name in 'qkv')
  place_T = jnp.arange(length)
  if config.positions == 'rotary':
    position_BT = jnp.broadcast_to(place.positions(length), (lines, length))
    q_BTHd, k_BTHd = (rotate(config, x, position_BT, layer) for x in (q_BTHd, k_BTHd))
  near_TT, mask_BTT = near(config, layer, place_T, place_T), None
  if place.segment_BT is not None:
    mask_BTT = place.segment_BT[:, :, None] == place.segment_BT[:, None]
    mask_BTT = mask_BTT if near_TT is None else mask_BTT & near_TT[None]
  elif near_TT is not None:  # padding may be near no real token: a softmax over nothing is NaN
    real_BT = place_T[None] < place.length_R[:, None]
    mask_BTT = near_TT[None] | ~real_BT[:, :, None]
  out_BTHd = jax.nn.dot_product_attention(
    q_BTHd,
    k_BTHd,
    v_BTHd,
    bias=bias_1HTT,
    mask=None if mask_BTT is None else mask_BTT[:, None],
    # An empty row attends to its first token: a softmax over nothing is NaN.
    key_value_seq_lengths=jnp.maximum(place.length_R, 1) if place.segment_BT is None else None,
    implementation=config.attention,
  )
  return dense('o', attended(out_BTHd).reshape(x_BTD.shape))


def feed_forward(config: EncoderConfig, x_BTD: jax.Array, keys: RowKeys | None) -> jax.Array:
  """Feed-forward part, gated or not -> [B, T, D]; called inside the compact method of `Block`."""
  into = lambda name: Dense(config.feed_forward, config.mlp_bias, config, name=name)(x_BTD, keys)
  act = ACTIVATIONS[config.activation]
  inner_BTF = act(into('gate')) * into('up') if config.gated else act(into('up'))
  return Dense(config.width, config.mlp_bias, config, name='down')(inner_BTF, keys)
