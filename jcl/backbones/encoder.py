"""One encoder for BERT, RoBERTa, DistilBERT and MiniLM: Linen inside, plain dicts outside.

The tree of parameters (float32; the L layers are stacked on a leading axis and scanned):

    embed/embedding [R, D]        positions/embedding [P, D]        types/embedding [N, D]
    embed_norm                    layers/attention_norm, mlp_norm: scale, bias
    layers/q, k, v, o, up, down: kernel [L, in, out], bias [L, out]
    head: see heads.py, classifiers alone

Norms stand after the sums (post-norm), attention sees the whole row. B rows, T tokens, M targets,
D width, H heads, R >= V rows of the embedding, P of the positions, N token types.
"""

import dataclasses

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
from jcl.errors import UserError


def encoder(config: EncoderConfig) -> Backbone:
  """The encoder as a record of pure functions; it has classes or is read through `hidden` alone.

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

  def hidden(params, batch: Batch, train: bool = False):
    key_B = row_keys(config, batch, train)
    hidden_BTD = states(config, params, batch.tokens, batch.length, key_B, batch.embedding_delta)
    return heads.pooled(hidden_BTD, batch, config.pooling).astype(config.wide)

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
  """Final states [B, T, D] of right-padded rows; those of padding mean nothing.

  Args:
    config: whose depth is replaced by that of `params`.
    params: of the encoder.
    tokens_BT: int32 token ids.
    length_B: int32, real tokens in each row.
    key_B: keys of dropout; None: no dropout.
    delta_BTD: added to the embeddings of the tokens; None: nothing.
  """
  deep = dataclasses.replace(config, layers=depth(params))
  model = Encoder(deep, is_boxed(params))
  return model.apply(variables(params), tokens_BT, length_B, key_B, delta_BTD)


def sentence_vectors(
  config: EncoderConfig, params: Params, tokens_BT: jax.Array, length_B: jax.Array
) -> jax.Array:
  """A vector of length 1 for each row: the mean of its states, special tokens included.

  This is what sentence-transformers calls mean pooling and normalising (Reimers and Gurevych,
  2019), for which MiniLM was trained: the product of two vectors is the similarity of the texts.

  Args:
    config: the shape of the encoder.
    params: its parameters.
    tokens_BT: int32 token ids as the tokenizer frames them ([CLS] x [SEP]), right-padded.
    length_B: int32, real tokens in each row.

  Returns:
    [B, D] in float32; zeros for an empty row.
  """
  hidden_BTD = states(config, params, tokens_BT, length_B)
  return heads.unit(heads.row_mean(hidden_BTD, length_B))


class Encoder(nn.Module):
  """Tokens to final hidden states."""

  config: EncoderConfig
  boxed: bool = False  # the leaves of the layers

  @nn.compact
  def __call__(self, tokens_BT, length_B, key_B=None, delta_BTD=None):
    """-> hidden [B, T, D]."""
    config = self.config
    x_BTD = moved(Table(config.rows, config.width, config, name='embed')(tokens_BT), delta_BTD)
    position_1T = config.first_position + jnp.arange(tokens_BT.shape[1])[None]
    x_BTD += Table(config.position_rows, config.width, config, name='positions')(position_1T)
    if config.types:
      first_11 = jnp.zeros((1, 1), jnp.int32)
      x_BTD += Table(config.types, config.width, config, name='types')(first_11)
    x_BTD = Norm(config, name='embed_norm')(x_BTD)
    x_BTD = dropout(x_BTD, fold(key_B, 0), config.dropout)
    scanned = nn.scan(
      rematerialised(Block, config.remat, self.boxed),
      variable_axes={'params': 0, 'lora': 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast, nn.broadcast),
      length=config.layers,
    )(config, name='layers')
    return scanned(x_BTD, jnp.arange(config.layers), length_B, key_B)[0]


class Block(nn.Module):
  """One layer."""

  config: EncoderConfig

  @nn.compact
  def __call__(self, x_BTD, layer, length_B, key_B):
    """-> hidden [B, T, D], None."""
    config = self.config
    key_B = fold(key_B, layer + 1)
    attended_BTD = dropout(
      attention(config, x_BTD, length_B, key_B), fold(key_B, 0), config.dropout
    )
    x_BTD = Norm(config, name='attention_norm')(x_BTD + attended_BTD)
    fed_BTD = dropout(feed_forward(config, x_BTD, key_B), fold(key_B, 1), config.dropout)
    return Norm(config, name='mlp_norm')(x_BTD + fed_BTD), None


def attention(
  config: EncoderConfig, x_BTD: jax.Array, length_B: jax.Array, key_B: jax.Array | None
) -> jax.Array:
  """Every token attends to its row's real ones; for the compact body of a Block -> [B, T, D]."""
  rows, length, width = x_BTD.shape
  split = (rows, length, config.heads, width // config.heads)
  dense = lambda name, y_BTD: Dense(width, True, config, name=name)(y_BTD, key_B)
  out_BTHd = jax.nn.dot_product_attention(
    *(dense(name, x_BTD).reshape(split) for name in 'qkv'),
    # An empty row attends to its first place: no implementation meets a softmax over nothing.
    key_value_seq_lengths=jnp.maximum(length_B, 1),
    implementation=config.attention,
  )
  return dense('o', out_BTHd.reshape(x_BTD.shape))


def feed_forward(config: EncoderConfig, x_BTD: jax.Array, key_B: jax.Array | None) -> jax.Array:
  """The feed-forward part, for the compact body of a Block -> [B, T, D]."""
  up_BTF = Dense(config.feed_forward, True, config, name='up')(x_BTD, key_B)
  act_BTF = ACTIVATIONS[config.activation](up_BTF)
  return Dense(config.width, True, config, name='down')(act_BTF, key_B)
