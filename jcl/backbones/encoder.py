"""One encoder for BERT, RoBERTa, DistilBERT and MiniLM: a Linen module, plain dicts.

The tree of parameters (float32; the L layers are stacked on a leading axis and scanned):

    embed/embedding [R, D]        positions/embedding [P, D]        types/embedding [N, D]
    embed_norm: scale [D], bias [D]
    layers/attention_norm, mlp_norm: scale [L, D], bias [L, D]
    layers/q, k, v, o, up, down: kernel [L, in, out], bias [L, out]
    head: see heads.py, classifiers alone

Norms stand after the sums (post-norm), and a token attends to its whole row. Letters in shapes: B
rows, T tokens, M targets, D width, H attention heads, d width of a head, R >= V rows of the
embedding, P positions, N token types.
"""

import dataclasses
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jcl.backbones import heads
from jcl.backbones.backbone import Backbone, Params
from jcl.backbones.encoder_config import EncoderConfig
from jcl.backbones.layers import (
  ACTIVATIONS,
  Dense,
  Norm,
  Table,
  add_delta,
  depth,
  dropout,
  dropout_keys,
  fold_in_rows,
  is_boxed,
  linen_variables,
  with_remat,
)
from jcl.batching.batch import Batch
from jcl.errors import UserError


def encoder(config: EncoderConfig) -> Backbone:
  """Returns the encoder as a record of pure functions; without classes only `hidden` can be used.

  Raises:
    UserError: by `project` and `unembedding`, without classes.
  """

  @jax.jit  # layer by layer it would take seconds
  def init(key):
    tokens_BT, length_B = jnp.zeros((1, 2), jnp.int32), jnp.ones(1, jnp.int32)
    params = dict(Encoder(config).init(key, tokens_BT, length_B)['params'])
    if config.classes:
      params['head'] = heads.init(jax.random.fold_in(key, 1), config)
    return params

  def hidden(params: Params, batch: Batch, train: bool = False) -> jax.Array:
    key_B = dropout_keys(config, batch, train)
    hidden_BTD = states(config, params, batch.tokens, batch.length, key_B, batch.embedding_delta)
    return heads.pool(hidden_BTD, batch, config.pooling).astype(config.wide)

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
  )


def states(
  config: EncoderConfig,
  params: Params,
  tokens_BT: jax.Array,
  length_B: jax.Array,
  key_B: jax.Array | None = None,
  delta_BTD: jax.Array | None = None,
) -> jax.Array:
  """Returns the final states [B, T, D] of right-padded rows; those of padding are meaningless.

  Args:
    config: of the model; `layers` is read off `params` instead.
    params: of the model.
    tokens_BT: int32 token ids.
    length_B: int32, number of real tokens of each row.
    key_B: a key for each row, for dropout; None: no dropout.
    delta_BTD: added to the embeddings of the tokens; None: nothing.
  """
  deep = dataclasses.replace(config, layers=depth(params))
  model = Encoder(deep, is_boxed(params))
  out = model.apply(linen_variables(params), tokens_BT, length_B, key_B, delta_BTD)
  return cast(jax.Array, out)


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
  hidden_BTD = states(config, params, tokens_BT, length_B)
  return heads.normalize(heads.row_mean(hidden_BTD, length_B))


class Encoder(nn.Module):
  """Computes the final hidden states of tokens.

  Attributes:
    config: of the model.
    boxed: whether the leaves of the layers are boxed.
  """

  config: EncoderConfig
  boxed: bool = False

  @nn.compact
  def __call__(
    self,
    tokens_BT: jax.Array,
    length_B: jax.Array,
    key_B: jax.Array | None = None,
    delta_BTD: jax.Array | None = None,
  ) -> jax.Array:
    """Returns hidden states [B, T, D]; the arguments are those of `states`."""
    config = self.config
    embedded_BTD = Table(config.rows, config.width, config, name='embed')(tokens_BT)
    x_BTD = add_delta(embedded_BTD, delta_BTD)
    position_1T = config.first_position + jnp.arange(tokens_BT.shape[1])[None]
    x_BTD += Table(config.position_rows, config.width, config, name='positions')(position_1T)
    if config.types:
      first_11 = jnp.zeros((1, 1), jnp.int32)
      x_BTD += Table(config.types, config.width, config, name='types')(first_11)
    x_BTD = Norm(config, name='embed_norm')(x_BTD)
    x_BTD = dropout(x_BTD, fold_in_rows(key_B, 0), config.dropout)
    scanned = nn.scan(
      with_remat(Block, config.remat, self.boxed),
      variable_axes={'params': 0, 'lora': 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast, nn.broadcast),
      length=config.layers,
    )(config, name='layers')
    return scanned(x_BTD, jnp.arange(config.layers), length_B, key_B)[0]


class Block(nn.Module):
  """One layer: attention and feed-forward part, each added to its input and normed."""

  config: EncoderConfig

  @nn.compact
  def __call__(self, x_BTD, layer, length_B, key_B):
    """Returns hidden states [B, T, D], and None: a step of `nn.scan`.

    Args:
      x_BTD: hidden states.
      layer: int32 number of the layer.
      length_B: number of real tokens of each row.
      key_B: a key for each row, for dropout; None: no dropout.
    """
    config = self.config
    key_B = fold_in_rows(key_B, layer + 1)
    attended_BTD = attention(config, x_BTD, length_B, key_B)
    attended_BTD = dropout(attended_BTD, fold_in_rows(key_B, 0), config.dropout)
    x_BTD = Norm(config, name='attention_norm')(x_BTD + attended_BTD)
    fed_BTD = dropout(feed_forward(config, x_BTD, key_B), fold_in_rows(key_B, 1), config.dropout)
    return Norm(config, name='mlp_norm')(x_BTD + fed_BTD), None


def attention(
  config: EncoderConfig, x_BTD: jax.Array, length_B: jax.Array, key_B: jax.Array | None
) -> jax.Array:
  """Attention of every token to its row's real tokens -> [B, T, D].

  Called inside the compact method of `Block`, whose arguments these are.
  """
  rows, length, width = x_BTD.shape
  split = (rows, length, config.heads, width // config.heads)
  dense = lambda name, y_BTD: Dense(width, True, config, name=name)(y_BTD, key_B)
  out_BTHd = jax.nn.dot_product_attention(
    *(dense(name, x_BTD).reshape(split) for name in 'qkv'),
    # An empty row attends to its first token: a softmax over nothing is NaN.
    key_value_seq_lengths=jnp.maximum(length_B, 1),
    implementation=config.attention,
  )
  return dense('o', out_BTHd.reshape(x_BTD.shape))


def feed_forward(config: EncoderConfig, x_BTD: jax.Array, key_B: jax.Array | None) -> jax.Array:
  """Feed-forward part -> [B, T, D]; called inside the compact method of `Block`."""
  up_BTF = Dense(config.feed_forward, True, config, name='up')(x_BTD, key_B)
  act_BTF = ACTIVATIONS[config.activation](up_BTF)
  return Dense(config.width, True, config, name='down')(act_BTF, key_B)
