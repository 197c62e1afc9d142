"""The config.json of decoders, read and written: a pair of functions for each family.

A `read` turns the fields into a DecoderConfig, whose `family` the caller sets; a `write` is its
inverse and gives the fields of transformers, `model_type` aside.
"""

from typing import Any

from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files.fields import Fields
from jcl.backbones.model_config import ModelConfig
from jcl.errors import UserError

FULL, SLIDING = 'full_attention', 'sliding_attention'
KINDS = {FULL: False, SLIDING: True}


def read_llama_like(fields: Fields, **kwargs: Any) -> DecoderConfig:
  """Reads the fields that Llama and its likes share; `kwargs` are the others, or replace some."""
  heads = fields.get('num_attention_heads', int)
  rope = {} if 'rope_theta' in kwargs else fields.rope()
  values: dict[str, Any] = {
    'vocabulary': fields.get('vocab_size', int),
    'width': fields.get('hidden_size', int),
    'layers': fields.get('num_hidden_layers', int),
    'heads': heads,
    'head_dim': fields.get('head_dim', int, 0),
    'kv_heads': fields.get('num_key_value_heads', int, heads),
    'feed_forward': fields.get('intermediate_size', int),
    'max_positions': fields.get('max_position_embeddings', int, 2048),
    'norm_epsilon': fields.positive('rms_norm_eps', 1e-6),
    'tied': fields.get('tie_word_embeddings', bool, False),
    **rope,
    **kwargs,
  }
  if 'activation' not in values:
    values['activation'] = fields.activation('hidden_act', 'silu')
  scaling = values.get('rope_scaling')
  if scaling is not None and scaling.kind == 'dynamic':
    values['max_positions'] = int(scaling.original * max(scaling.factor, 1))
  if 'rope_fraction' not in values:
    for part in (fields.values, fields.rotary()):
      Fields(part, fields.where).allow_only('partial_rotary_factor', 1)
  return DecoderConfig(**values)


def window_of(fields: Fields, default: int = 0) -> int:
  """Returns the window of windowed layers: tokens, itself among them; 0 where it is null."""
  if 'sliding_window' in fields.values and fields.values['sliding_window'] is None:
    return 0
  if 'sliding_window' not in fields.values and not default:
    return 0
  return fields.get('sliding_window', int, default)


def attention_biases(fields: Fields) -> dict[str, bool]:
  """Returns whether the projections of attention have biases: all of them, or none."""
  bias = fields.get('attention_bias', bool, False)
  return {'qkv_bias': bias, 'o_bias': bias}


def read_llama(fields: Fields, **kwargs: Any) -> DecoderConfig:
  """Reads the fields of Llama; `kwargs` are those that a family has besides."""
  return read_llama_like(
    fields,
    mlp_bias=fields.get('mlp_bias', bool, False),
    **attention_biases(fields),
    **kwargs,
  )


def read_mistral(fields: Fields) -> DecoderConfig:
  """Reads the fields of Mistral: where that of the window is absent, transformers takes 4096.

  Raises:
    UserError: layer_types differ from each other, or from what the window says.
  """
  window = window_of(fields, 4096)
  windowed = fields.kinds('layer_types', KINDS, fields.get('num_hidden_layers', int))
  if windowed and set(windowed) != {window > 0}:
    kind = SLIDING if window else FULL
    raise UserError(f'{fields.where}: layer_types: with this sliding_window all must be {kind}')
  return read_llama_like(fields, window=window)


def read_qwen2(fields: Fields) -> DecoderConfig:
  """Reads the fields of Qwen2."""
  return read_llama_like(fields, qkv_bias=True, **_qwen_windows(fields))


def read_qwen3(fields: Fields) -> DecoderConfig:
  """Reads the fields of Qwen3."""
  return read_llama_like(
    fields,
    head_dim=fields.get('head_dim', int, 128),
    qk_norm=True,
    **attention_biases(fields),
    **_qwen_windows(fields),
  )


def _qwen_windows(fields: Fields) -> dict[str, Any]:
  """Returns the windowed layers of Qwen: those behind the first `max_window_layers`."""
  layers = fields.get('num_hidden_layers', int)
  windowed = fields.kinds('layer_types', KINDS, layers)
  if not fields.get('use_sliding_window', bool, False):
    if any(windowed):
      raise UserError(f'{fields.where}: layer_types has windows, but use_sliding_window is not set')
    return {}
  first = 0 if fields.values.get('max_window_layers') == 0 else fields.get(
    'max_window_layers', int, 28
  )  # fmt: skip
  windowed = windowed or tuple(i >= first for i in range(layers))
  window = window_of(fields, 4096)
  return {'window': window, 'windowed': windowed} if window and any(windowed) else {}


def read_gpt2(fields: Fields) -> DecoderConfig:
  """Reads the fields of GPT-2."""
  for name, value in (
    ('scale_attn_weights', True),
    ('scale_attn_by_inverse_layer_idx', False),
    ('add_cross_attention', False),
  ):
    fields.allow_only(name, value)
  width = fields.get('n_embd', int)
  return DecoderConfig(
    vocabulary=fields.get('vocab_size', int),
    width=width,
    layers=fields.get('n_layer', int),
    heads=fields.get('n_head', int),
    feed_forward=fields.get('n_inner', int, 4 * width),
    max_positions=fields.get('n_positions', int, 1024),
    norm='layer',
    norm_epsilon=fields.positive('layer_norm_epsilon', 1e-5),
    positions='learned',
    activation=fields.activation('activation_function', 'gelu_new'),
    gated=False,
    qkv_bias=True,
    o_bias=True,
    mlp_bias=True,
    tied=fields.get('tie_word_embeddings', bool, True),
  )


def read_neox(fields: Fields) -> DecoderConfig:
  """Reads the fields of GPT-NeoX (Pythia)."""
  older = {'rope_theta': fields.values.get('rotary_emb_base')}
  merged = fields.over({**older, **fields.values, **fields.rotary()})
  bias = fields.get('attention_bias', bool, True)
  fraction = merged.get('rotary_pct', float, 0.25)
  return DecoderConfig(
    vocabulary=fields.get('vocab_size', int),
    width=fields.get('hidden_size', int),
    layers=fields.get('num_hidden_layers', int),
    heads=fields.get('num_attention_heads', int),
    feed_forward=fields.get('intermediate_size', int),
    max_positions=fields.get('max_position_embeddings', int, 2048),
    norm='layer',
    norm_epsilon=fields.positive('layer_norm_eps', 1e-5),
    rope_fraction=merged.get('partial_rotary_factor', float, fraction),
    activation=fields.activation('hidden_act', 'gelu'),
    gated=False,
    parallel=fields.get('use_parallel_residual', bool, True),
    qkv_bias=bias,
    o_bias=bias,
    mlp_bias=True,
    tied=fields.get('tie_word_embeddings', bool, False),
    **merged.rope(),
  )


def activation_name(activation: str, tanh: str) -> str:
  """Returns the name that transformers gives an activation of `layers.ACTIVATIONS`.

  Args:
    activation: of a config.
    tanh: what the family calls the tanh approximation of GELU.
  """
  return {'gelu_tanh': tanh}.get(activation, activation)


def written_rope(config: DecoderConfig) -> dict[str, Any]:
  """Writes the rotary settings twice: where transformers 5 reads them, and transformers 4."""
  values: dict[str, Any] = {'rope_type': 'default', 'rope_theta': config.rope_theta}
  scaling = config.rope_scaling
  if scaling is not None:
    values |= {'rope_type': scaling.kind, 'factor': scaling.factor}
    if scaling.kind in ('llama3', 'yarn', 'longrope'):
      values['original_max_position_embeddings'] = scaling.original
    if scaling.kind == 'llama3':
      values |= {'low_freq_factor': scaling.low, 'high_freq_factor': scaling.high}
    if scaling.kind in ('yarn', 'longrope'):
      values['attention_factor'] = scaling.magnitude
    if scaling.kind == 'yarn':
      values |= {'beta_slow': scaling.low, 'beta_fast': scaling.high, 'truncate': scaling.truncate}
    if scaling.kind == 'longrope':
      values |= {'short_factor': [*scaling.short], 'long_factor': [*scaling.long]}
  old = {k: v for k, v in values.items() if k != 'rope_theta'} if scaling is not None else None
  return {'rope_parameters': values, 'rope_theta': config.rope_theta, 'rope_scaling': old}


def write_llama_like(config: DecoderConfig, architecture: str) -> dict[str, Any]:
  """Writes the fields that Llama and its likes share."""
  scaling = config.rope_scaling
  dynamic = scaling is not None and scaling.kind == 'dynamic'
  return {
    'architectures': [architecture],
    'vocab_size': config.kept_rows,
    'hidden_size': config.width,
    'num_hidden_layers': config.layers,
    'num_attention_heads': config.heads,
    'num_key_value_heads': config.kv_heads,
    'head_dim': config.head_dim,
    'intermediate_size': config.feed_forward,
    'max_position_embeddings': scaling.original if scaling and dynamic else config.max_positions,
    'rms_norm_eps': config.norm_epsilon,
    'hidden_act': activation_name(config.activation, 'gelu_pytorch_tanh'),
    'tie_word_embeddings': config.tied,
    **written_rope(config),
  }


def written_sizes(config: ModelConfig) -> dict[str, int]:
  """Writes the sizes that most families call alike."""
  return {
    'vocab_size': config.kept_rows,
    'hidden_size': config.width,
    'num_hidden_layers': config.layers,
    'num_attention_heads': config.heads,
    'intermediate_size': config.feed_forward,
  }


def written_kinds(config: ModelConfig) -> list[str]:
  """Returns the kind of attention of each layer, as transformers calls it."""
  return [SLIDING if x else FULL for x in config.windowed_layers]


def write_llama(config: DecoderConfig) -> dict[str, Any]:
  """Writes the fields of Llama."""
  return write_llama_like(config, 'LlamaForCausalLM') | {
    'mlp_bias': config.mlp_bias,
    'attention_bias': config.qkv_bias,
  }


def write_mistral(config: DecoderConfig) -> dict[str, Any]:
  """Writes the fields of Mistral."""
  window = {'sliding_window': config.window or None}
  return write_llama_like(config, 'MistralForCausalLM') | window


def _written_qwen_windows(config: DecoderConfig) -> dict[str, Any]:
  if not config.window:
    return {'use_sliding_window': False}
  kinds = {'layer_types': written_kinds(config)}
  return {'use_sliding_window': True, 'sliding_window': config.window, **kinds}


def write_qwen2(config: DecoderConfig) -> dict[str, Any]:
  """Writes the fields of Qwen2."""
  return write_llama_like(config, 'Qwen2ForCausalLM') | _written_qwen_windows(config)


def write_qwen3(config: DecoderConfig) -> dict[str, Any]:
  """Writes the fields of Qwen3."""
  return write_llama_like(config, 'Qwen3ForCausalLM') | {
    'attention_bias': config.qkv_bias,
    **_written_qwen_windows(config),
  }


def write_gpt2(config: DecoderConfig) -> dict[str, Any]:
  """Writes the fields of GPT-2."""
  return {
    'architectures': ['GPT2LMHeadModel'],
    'vocab_size': config.kept_rows,
    'n_embd': config.width,
    'n_layer': config.layers,
    'n_head': config.heads,
    'n_inner': config.feed_forward,
    'n_positions': config.max_positions,
    'layer_norm_epsilon': config.norm_epsilon,
    'activation_function': activation_name(config.activation, 'gelu_new'),
    'tie_word_embeddings': config.tied,
  }


def write_neox(config: DecoderConfig) -> dict[str, Any]:
  """Writes the fields of GPT-NeoX."""
  rope = written_rope(config)
  rope['rope_parameters']['partial_rotary_factor'] = config.rope_fraction
  return {
    'architectures': ['GPTNeoXForCausalLM'],
    **written_sizes(config),
    'max_position_embeddings': config.max_positions,
    'layer_norm_eps': config.norm_epsilon,
    'hidden_act': activation_name(config.activation, 'gelu_new'),
    'use_parallel_residual': config.parallel,
    'attention_bias': config.qkv_bias,
    'tie_word_embeddings': config.tied,
    'rotary_pct': config.rope_fraction,
    'rotary_emb_base': config.rope_theta,
    **rope,
  }
