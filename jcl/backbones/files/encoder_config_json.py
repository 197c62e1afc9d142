"""The config.json of encoders, read and written: a pair of functions for each family.

A written config names the bare model (BertModel): jcl's final states are its own, while poolers and
heads for masked words are neither read nor kept.
"""

from typing import Any

from jcl.backbones.encoder_config import EncoderConfig
from jcl.backbones.files.config_json import activation_name
from jcl.backbones.files.fields import Fields


def _read_bert_like(fields: Fields, first_position: int) -> EncoderConfig:
  """Reads the fields that BERT and RoBERTa share; see EncoderConfig for `first_position`."""
  fields.allow_only('position_embedding_type', 'absolute')
  for name in ('is_decoder', 'add_cross_attention'):
    fields.allow_only(name, False)
  return EncoderConfig(
    vocabulary=fields.get('vocab_size', int),
    width=fields.get('hidden_size', int),
    layers=fields.get('num_hidden_layers', int),
    heads=fields.get('num_attention_heads', int),
    feed_forward=fields.get('intermediate_size', int),
    max_positions=fields.get('max_position_embeddings', int, 512) - first_position,
    first_position=first_position,
    types=fields.get('type_vocab_size', int, 2),
    norm_epsilon=fields.positive('layer_norm_eps', 1e-12),
    activation=fields.activation('hidden_act', 'gelu'),
  )


def read_bert(fields: Fields) -> EncoderConfig:
  """Reads the fields of BERT; MiniLM has the same."""
  return _read_bert_like(fields, 0)


def read_roberta(fields: Fields) -> EncoderConfig:
  """Reads the fields of RoBERTa: its first token stands at position `pad_token_id` + 1."""
  padding = 0 if fields.values.get('pad_token_id') == 0 else fields.get('pad_token_id', int, 1)
  return _read_bert_like(fields, padding + 1)


def read_distilbert(fields: Fields) -> EncoderConfig:
  """Reads the fields of DistilBERT.

  Its positions may have been initialised as sines; in the file they are a table all the same.
  """
  return EncoderConfig(
    vocabulary=fields.get('vocab_size', int),
    width=fields.get('dim', int),
    layers=fields.get('n_layers', int),
    heads=fields.get('n_heads', int),
    feed_forward=fields.get('hidden_dim', int),
    max_positions=fields.get('max_position_embeddings', int, 512),
    types=0,
    activation=fields.activation('activation', 'gelu'),
  )


def _write_like_bert(config: EncoderConfig, architecture: str) -> dict[str, Any]:
  return {
    'architectures': [architecture],
    'vocab_size': config.kept_rows,
    'hidden_size': config.width,
    'num_hidden_layers': config.layers,
    'num_attention_heads': config.heads,
    'intermediate_size': config.feed_forward,
    'max_position_embeddings': config.position_rows,
    'type_vocab_size': config.types,
    'layer_norm_eps': config.norm_epsilon,
    'hidden_act': activation_name(config.activation, 'gelu_new'),
    'position_embedding_type': 'absolute',
  }


def write_bert(config: EncoderConfig) -> dict[str, Any]:
  """Writes the fields of BERT."""
  return _write_like_bert(config, 'BertModel')


def write_roberta(config: EncoderConfig) -> dict[str, Any]:
  """Writes the fields of RoBERTa; `pad_token_id` says at which position texts begin."""
  padding = {'pad_token_id': config.first_position - 1}
  return _write_like_bert(config, 'RobertaModel') | padding


def write_distilbert(config: EncoderConfig) -> dict[str, Any]:
  """Writes the fields of DistilBERT."""
  return {
    'architectures': ['DistilBertModel'],
    'vocab_size': config.kept_rows,
    'dim': config.width,
    'n_layers': config.layers,
    'n_heads': config.heads,
    'hidden_dim': config.feed_forward,
    'max_position_embeddings': config.position_rows,
    'activation': activation_name(config.activation, 'gelu_new'),
    'sinusoidal_pos_embds': False,
  }
