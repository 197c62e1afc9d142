"""The config.json of Phi-3, OLMo-2, SmolLM3, Granite and StarCoder2, read and written.

Each pair of functions is as in config_json.py.
"""

from typing import Any

from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files.config_json import (
  KINDS,
  activation_name,
  attention_biases,
  read_llama,
  read_llama_like,
  window_of,
  write_llama_like,
  written_kinds,
)
from jcl.backbones.files.fields import Fields
from jcl.errors import UserError


def read_phi3(fields: Fields) -> DecoderConfig:
  """Reads the fields of Phi-3, which calls longrope su or yarn."""
  merged = fields.over(fields.rotary())
  longest = {'original_max_position_embeddings': 4096, 'max_position_embeddings': 4096}
  rope = fields.over({k: v for k, v in longest.items() if fields.values.get(k) is None})
  return read_llama_like(
    fields,
    max_positions=fields.get('max_position_embeddings', int, 4096),
    norm_epsilon=fields.positive('rms_norm_eps', 1e-5),
    rope_fraction=merged.get('partial_rotary_factor', float, 1.0),
    window=window_of(fields),
    **rope.rope(aliases={'su': 'longrope', 'yarn': 'longrope'}),
  )


def write_phi3(config: DecoderConfig) -> dict[str, Any]:
  """Writes the fields of Phi-3."""
  values = write_llama_like(config, 'Phi3ForCausalLM')
  values['rope_parameters']['partial_rotary_factor'] = config.rope_fraction
  scaling = config.rope_scaling
  return values | {
    'original_max_position_embeddings': scaling.original if scaling else config.max_positions,
    'partial_rotary_factor': config.rope_fraction,
    'sliding_window': config.window or None,
  }


def read_olmo2(fields: Fields) -> DecoderConfig:
  """Reads the fields of OLMo-2: norms of what is added, and of all heads' queries together."""
  return read_llama_like(
    fields,
    norms='post',
    norm_epsilon=fields.positive('rms_norm_eps', 1e-5),
    qk_norm=True,
    qk_norm_over='all',
    **attention_biases(fields),
  )


def write_olmo2(config: DecoderConfig) -> dict[str, Any]:
  """Writes the fields of OLMo-2."""
  return write_llama_like(config, 'Olmo2ForCausalLM') | {'attention_bias': config.qkv_bias}


def read_smollm3(fields: Fields) -> DecoderConfig:
  """Reads the fields of SmolLM3: every fourth layer has no rotary positions."""
  layers, heads = (fields.get(f'num_{x}', int) for x in ('hidden_layers', 'attention_heads'))
  every = fields.get('no_rope_layer_interval', int, 4)
  unrotated = fields.kinds('no_rope_layers', {1: False, 0: True}, layers)
  unrotated = unrotated or tuple((i + 1) % every == 0 for i in range(layers))
  windows = fields.get('use_sliding_window', bool, False)
  window = window_of(fields) if windows else 0
  windowed = fields.kinds('layer_types', KINDS, layers)
  if any(windowed) and not window:
    raise UserError(
      f'{fields.where}: layer_types has windows, but use_sliding_window or sliding_window is not '
      'set'
    )
  windowed = windowed or unrotated
  null = 'num_key_value_heads' in fields.values
  return read_llama_like(
    fields,
    kv_heads=fields.get('num_key_value_heads', int, heads if null else 4),
    max_positions=fields.get('max_position_embeddings', int, 32768),
    tied=fields.get('tie_word_embeddings', bool, True),
    mlp_bias=fields.get('mlp_bias', bool, False),
    unrotated=unrotated if any(unrotated) else (),
    window=window if any(windowed) else 0,
    windowed=windowed if window and any(windowed) else (),
    **attention_biases(fields),
    **fields.rope(2e6),
  )


def write_smollm3(config: DecoderConfig) -> dict[str, Any]:
  """Writes the fields of SmolLM3."""
  unrotated = config.unrotated or (False,) * config.layers
  return write_llama_like(config, 'SmolLM3ForCausalLM') | {
    'attention_bias': config.qkv_bias,
    'mlp_bias': config.mlp_bias,
    'no_rope_layers': [int(not x) for x in unrotated],
    'use_sliding_window': config.window > 0,
    'sliding_window': config.window or None,
    'layer_types': written_kinds(config),
  }


def read_granite(fields: Fields) -> DecoderConfig:
  """Reads the fields of Granite: factors of embeddings, scores, residuals and logits."""
  return read_llama(
    fields,
    embedding_scale=fields.positive('embedding_multiplier', 1.0),
    query_scale=fields.positive('attention_multiplier', 1.0),
    residual_scale=fields.positive('residual_multiplier', 1.0),
    logit_divisor=fields.positive('logits_scaling', 1.0),
  )


def write_granite(config: DecoderConfig) -> dict[str, Any]:
  """Writes the fields of Granite."""
  return write_llama_like(config, 'GraniteForCausalLM') | {
    'attention_bias': config.qkv_bias,
    'mlp_bias': config.mlp_bias,
    'embedding_multiplier': config.embedding_scale,
    'attention_multiplier': config.query_scale,
    'residual_multiplier': config.residual_scale,
    'logits_scaling': config.logit_divisor,
  }


def read_starcoder2(fields: Fields) -> DecoderConfig:
  """Reads the fields of StarCoder2: layer norms, biases and a plain feed-forward part."""
  bias, heads = fields.get('use_bias', bool, True), fields.get('num_attention_heads', int)
  null = 'num_key_value_heads' in fields.values
  return read_llama_like(
    fields,
    kv_heads=fields.get('num_key_value_heads', int, heads if null else 2),
    max_positions=fields.get('max_position_embeddings', int, 4096),
    norm='layer',
    norm_epsilon=fields.positive('norm_epsilon', 1e-5),
    activation=fields.activation('hidden_act', 'gelu_pytorch_tanh'),
    gated=False,
    qkv_bias=bias,
    o_bias=bias,
    mlp_bias=bias,
    tied=fields.get('tie_word_embeddings', bool, True),
    window=window_of(fields),
  )


def write_starcoder2(config: DecoderConfig) -> dict[str, Any]:
  """Writes the fields of StarCoder2."""
  values = write_llama_like(config, 'Starcoder2ForCausalLM')
  values['norm_epsilon'] = values.pop('rms_norm_eps')
  return values | {
    'hidden_act': activation_name(config.activation, 'gelu_pytorch_tanh'),
    'use_bias': config.mlp_bias,
    'sliding_window': config.window or None,
  }
