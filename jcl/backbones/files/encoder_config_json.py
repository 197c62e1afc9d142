"""The config.json of encoders, read and written: a pair of functions for each family.

A written config names the bare model (BertModel): jcl's final states are its own, while poolers and
heads for masked words are neither read nor kept.
"""

from typing import Any

from jcl.backbones.encoder_config import EncoderConfig
from jcl.backbones.files.config_json import (
  FULL,
  KINDS,
  SLIDING,
  activation_name,
  written_kinds,
  written_sizes,
)
from jcl.backbones.files.fields import Fields
from jcl.backbones.files.gemma_config_json import local_rope
from jcl.errors import UserError


def _read_bert_like(fields: Fields, first_position: int, **kwargs: Any) -> EncoderConfig:
  """Reads the fields that BERT and RoBERTa share; see EncoderConfig for `first_position`.

  `kwargs` are fields that replace those of the file.
  """
  fields.allow_only('position_embedding_type', 'absolute')
  for name in ('is_decoder', 'add_cross_attention'):
    fields.allow_only(name, False)
  types = fields.get('type_vocab_size', int, 2) if 'types' not in kwargs else 0
  return EncoderConfig(
    vocabulary=fields.get('vocab_size', int),
    width=fields.get('hidden_size', int),
    layers=fields.get('num_hidden_layers', int),
    heads=fields.get('num_attention_heads', int),
    feed_forward=fields.get('intermediate_size', int),
    max_positions=fields.get('max_position_embeddings', int, 512) - first_position,
    first_position=first_position,
    norm_epsilon=fields.positive('layer_norm_eps', 1e-12),
    activation=fields.activation('hidden_act', 'gelu'),
    **{'types': types, **kwargs},
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


def read_mpnet(fields: Fields) -> EncoderConfig:
  """Reads the fields of MPNet: no token types, and a bias of scores by distance in 32 buckets."""
  fields.allow_only('relative_attention_num_buckets', 32)
  return _read_bert_like(fields, 2, types=0, relative=32)


def read_modernbert(fields: Fields) -> EncoderConfig:
  """Reads the fields of ModernBERT, whose local attention spans half its width on either side."""
  layers, every = (
    fields.get('num_hidden_layers', int),
    fields.values.get('global_attn_every_n_layers'),
  )
  every = 3 if every is None else fields.get('global_attn_every_n_layers', int)
  windowed = fields.kinds('layer_types', KINDS, layers)
  windowed = windowed or tuple(i % every > 0 for i in range(layers))
  thetas = ('global_rope_theta', 160000.0), ('local_rope_theta', 1e4)
  rope = {} if fields.get('rope_scaling', dict, {}) else local_rope(fields, *thetas)
  if rope.pop('rope_scaling', None) is not None or not rope:
    raise UserError(f'{fields.where}: scaled rotary frequencies of ModernBERT are not supported')
  window = fields.get('local_attention', int, 128) // 2 + 1
  return EncoderConfig(
    vocabulary=fields.get('vocab_size', int),
    width=fields.get('hidden_size', int),
    layers=layers,
    heads=fields.get('num_attention_heads', int),
    feed_forward=fields.get('intermediate_size', int),
    max_positions=fields.get('max_position_embeddings', int, 8192),
    norms='pre',
    first_norm=False,
    positions='rotary',
    types=0,
    attention_bias=fields.get('attention_bias', bool, False),
    mlp_bias=fields.get('mlp_bias', bool, False),
    norm_bias=fields.get('norm_bias', bool, False),
    norm_epsilon=fields.positive('norm_eps', 1e-5),
    gated=True,
    activation=fields.activation('hidden_activation', 'gelu'),
    window=window if any(windowed) else 0,
    windowed=windowed if any(windowed) else (),
    **rope,
  )


def _write_like_bert(config: EncoderConfig, architecture: str) -> dict[str, Any]:
  return {
    'architectures': [architecture],
    **written_sizes(config),
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


def write_xlm_roberta(config: EncoderConfig) -> dict[str, Any]:
  """Writes the fields of XLM-RoBERTa, which are RoBERTa's."""
  return write_roberta(config) | {'architectures': ['XLMRobertaModel']}


def write_camembert(config: EncoderConfig) -> dict[str, Any]:
  """Writes the fields of CamemBERT, which are RoBERTa's."""
  return write_roberta(config) | {'architectures': ['CamembertModel']}


def write_mpnet(config: EncoderConfig) -> dict[str, Any]:
  """Writes the fields of MPNet."""
  values = _write_like_bert(config, 'MPNetModel')
  del values['type_vocab_size'], values['position_embedding_type']
  return values | {'relative_attention_num_buckets': config.relative}


def write_modernbert(config: EncoderConfig) -> dict[str, Any]:
  """Writes the fields of ModernBERT."""
  theta = lambda x: {'rope_type': 'default', 'rope_theta': x}
  return {
    'architectures': ['ModernBertModel'],
    **written_sizes(config),
    'max_position_embeddings': config.max_positions,
    'norm_eps': config.norm_epsilon,
    'norm_bias': config.norm_bias,
    'attention_bias': config.attention_bias,
    'mlp_bias': config.mlp_bias,
    'hidden_activation': activation_name(config.activation, 'gelu_pytorch_tanh'),
    'local_attention': 2 * (config.window - 1) if config.window else 128,
    'layer_types': written_kinds(config),
    'rope_parameters': {FULL: theta(config.rope_theta), SLIDING: theta(config.local_theta)},
    'global_rope_theta': config.rope_theta,
    'local_rope_theta': config.local_theta,
  }
