"""The config.json of Gemma, Gemma 2 and Gemma 3 (text), read and written.

Each pair of functions is as in config_json.py. All of them multiply embeddings by the root of the
width and hold the scales of norms less 1.
"""

from typing import Any

from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files.config_json import (
  FULL,
  KINDS,
  SLIDING,
  attention_biases,
  read_llama_like,
  window_of,
  write_llama_like,
  written_kinds,
  written_rope,
)
from jcl.backbones.files.fields import Fields
from jcl.errors import UserError

TANH = 'gelu_pytorch_tanh'


def _read_gemma(fields: Fields, **kwargs: Any) -> DecoderConfig:
  """Reads the fields that the three share; `kwargs` are the others."""
  fields.allow_only('use_bidirectional_attention', False)
  return read_llama_like(
    fields,
    head_dim=fields.get('head_dim', int, 256),
    **attention_biases(fields),
    tied=fields.get('tie_word_embeddings', bool, True),
    norm_offset=1.0,
    embedding_scale=fields.get('hidden_size', int) ** 0.5,
    **kwargs,
  )


def read_gemma(fields: Fields) -> DecoderConfig:
  """Reads the fields of Gemma, whose first files call the tanh approximation of GELU gelu."""
  fields.allow_only('hidden_activation', TANH)
  named = Fields({'act': fields.get('hidden_act', str, TANH)}, fields.where)
  activation = named.activation('act', TANH)
  return _read_gemma(
    fields,
    activation='gelu_tanh' if activation == 'gelu' else activation,
    max_positions=fields.get('max_position_embeddings', int, 8192),
  )


def _windows(fields: Fields, pattern: int) -> dict[str, Any]:
  """Returns norms, score scale and windowed layers of Gemma 2 and 3: all but every `pattern`-th."""
  layers = fields.get('num_hidden_layers', int)
  windowed = fields.kinds('layer_types', KINDS, layers)
  windowed = windowed or tuple((i + 1) % pattern > 0 for i in range(layers))
  window = window_of(fields, 4096)
  if any(windowed) and not window:
    raise UserError(f"{fields.where}: field 'sliding_window' is null, but layers have a window")
  return {
    'norms': 'both',
    'activation': fields.activation('hidden_activation', TANH),
    'query_scale': fields.positive('query_pre_attn_scalar', 256.0) ** -0.5,
    'window': window if any(windowed) else 0,
    'windowed': windowed if any(windowed) else (),
  }


def _cap(fields: Fields, name: str, default: float) -> float:
  """Returns the cap of a field; 0 where it is null."""
  if name in fields.values and fields.values[name] is None:
    return 0.0
  return fields.positive(name, default) if default or name in fields.values else 0.0


def read_gemma2(fields: Fields) -> DecoderConfig:
  """Reads the fields of Gemma 2."""
  return _read_gemma(
    fields,
    max_positions=fields.get('max_position_embeddings', int, 8192),
    attention_cap=_cap(fields, 'attn_logit_softcapping', 50.0),
    logit_cap=_cap(fields, 'final_logit_softcapping', 30.0),
    **_windows(fields, 2),
  )


def read_gemma3(fields: Fields) -> DecoderConfig:
  """Reads the fields of Gemma 3's text model; transformers caps no scores of attention in it."""
  if fields.values.get('layer_types'):
    fields.values.get('_sliding_window_pattern')  # of which transformers made them
  return _read_gemma(
    fields,
    max_positions=fields.get('max_position_embeddings', int, 131072),
    qk_norm=True,
    logit_cap=_cap(fields, 'final_logit_softcapping', 0.0),
    **_windows(fields, fields.get('sliding_window_pattern', int, 6)),
    **local_rope(fields, ('rope_theta', 1e6), ('rope_local_base_freq', 1e4)),
  )


def local_rope(
  fields: Fields, everywhere: tuple[str, float], local: tuple[str, float]
) -> dict[str, Any]:
  """Returns rotary settings that differ in windowed layers: arguments of a config.

  Args:
    fields: of the config; transformers 5 has both kinds in `rope_parameters`.
    everywhere: field of transformers 4, and its default: theta of the other layers.
    local: the same for windowed layers, which are not scaled.

  Raises:
    UserError: frequencies of windowed layers are scaled, the kinds of layers are not named, or a
      setting is read differently by versions of transformers.
  """
  both = fields.get('rope_parameters', dict, {})
  if both and not {FULL, SLIDING} & set(both):
    raise UserError(f'{fields.where}: rope_parameters needs {FULL} and {SLIDING}')
  inner = fields.over(both)
  one, two = (inner.get(kind, dict, {}) for kind in (FULL, SLIDING))
  Fields(two, f'{inner.where}: {SLIDING}').allow_only('rope_type', 'default')
  old = fields.get('rope_scaling', dict, {})
  if 'type' in old and 'rope_type' not in old:  # transformers 4 reads it here, transformers 5 not
    raise UserError(f"{fields.where}: rope_scaling has 'type'; call it 'rope_type'")
  for part in (one, old):
    Fields(part, fields.where).allow_only('truncate', True)  # transformers does not read it here
  theta, near = (
    Fields(part, inner.where).positive('rope_theta', fields.positive(*field))
    for part, field in ((one, everywhere), (two, local))
  )
  scaled = fields.over({**one, 'rope_theta': theta, 'rope_parameters': None})
  return {**scaled.rope(), 'local_theta': near}


def _write_gemma(config: DecoderConfig, architecture: str) -> dict[str, Any]:
  return write_llama_like(config, architecture) | {'attention_bias': config.qkv_bias}


def write_gemma(config: DecoderConfig) -> dict[str, Any]:
  """Writes the fields of Gemma."""
  return _write_gemma(config, 'GemmaForCausalLM')


def _write_windows(config: DecoderConfig, architecture: str) -> dict[str, Any]:
  values = _write_gemma(config, architecture)
  values['hidden_activation'] = values.pop('hidden_act')
  scalar = round(config.query_scale**-2, 6)
  return values | {
    'query_pre_attn_scalar': int(scalar) if scalar == int(scalar) else scalar,
    'sliding_window': config.window or 4096,
    'layer_types': written_kinds(config),
    'final_logit_softcapping': config.logit_cap or None,
  }


def write_gemma2(config: DecoderConfig) -> dict[str, Any]:
  """Writes the fields of Gemma 2."""
  cap = {'attn_logit_softcapping': config.attention_cap or None}
  return _write_windows(config, 'Gemma2ForCausalLM') | cap


def write_gemma3(config: DecoderConfig) -> dict[str, Any]:
  """Writes the fields of Gemma 3's text model."""
  local = {'rope_type': 'default', 'rope_theta': config.local_theta}
  rope = {FULL: written_rope(config)['rope_parameters'], SLIDING: local}
  return _write_windows(config, 'Gemma3ForCausalLM') | {
    'rope_parameters': rope,
    'rope_local_base_freq': config.local_theta,
  }
