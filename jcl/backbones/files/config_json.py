"""What a decoder's config.json says, read and written: one pair of functions a family."""

import contextlib
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from jcl.backbones.decoder_config import DecoderConfig, RopeScaling
from jcl.errors import UserError

ACTIVATION_NAMES = {
  'silu': 'silu', 'swish': 'silu', 'relu': 'relu', 'gelu': 'gelu', 'gelu_new': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh', 'gelu_fast': 'gelu_tanh',
}  # fmt: skip


MOST = 2**24  # that any count can be: above every width, vocabulary and context there is


def existing(file: pathlib.Path) -> pathlib.Path:
  """The file, if it is there.

  Raises:
    UserError: it is not.
  """
  if not file.is_file():
    raise UserError(f'{file}: no such file; correct the path, or put it there')
  return file


def read_json(file: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file.

  Raises:
    UserError: it is missing, malformed or no object.
  """
  try:
    values = json.loads(existing(file).read_text('utf-8'))
  except UserError:
    raise
  except (ValueError, RecursionError) as error:
    raise UserError(f'{file}: not valid JSON ({error}); fetch it again') from None
  if not isinstance(values, dict):
    raise UserError(f'{file}: a JSON object is wanted, not {type(values).__name__}')
  return values


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
  """Puts the file before errors that do not name it: of fields that contradict each other."""
  try:
    yield
  except UserError as error:
    words = str(error)
    raise UserError(words if words.startswith(where) else f'{where}: {words}') from None


class Fields:
  """The fields of a config.json, with errors that name file and field."""

  def __init__(self, values: Mapping[str, Any], where: str):
    self.values, self.where = values, where

  def get(self, name: str, kind: type, default: Any = None) -> Any:
    """A field of the given type; without a default it must be there.

    Raises:
      UserError: it is missing or of another type.
    """
    value = self.values.get(name)
    if value is None:
      if default is None:
        raise UserError(f'{self.where}: field {name!r} is missing')
      return default
    right = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not right or (isinstance(value, bool) and kind is not bool):
      raise UserError(f'{self.where}: field {name!r} is {value!r}, not of type {kind.__name__}')
    if kind is int and not 1 <= value <= MOST:
      what = 'not positive' if value < 1 else f'which is too many; it must be at most {MOST}'
      raise UserError(f'{self.where}: field {name!r} is {value}, {what}')
    if kind is float and not (abs(value) < 1e38 and math.isfinite(value)):
      raise UserError(f'{self.where}: field {name!r} is {value}; it must be finite, below 1e38')
    return value

  def positive(self, name: str, default: float | None = None) -> float:
    """A number above 0.

    Raises:
      UserError: it is missing, no number, or not above 0.
    """
    value = self.get(name, float, default)
    if value <= 0:
      raise UserError(f'{self.where}: field {name!r} is {value}, not positive')
    return float(value)

  def refuse(self, name: str, *allowed: Any) -> None:
    """Refuses a field whose value is none of those `allowed` (or absent)."""
    value = self.values.get(name)
    if value is not None and value not in allowed:
      raise UserError(f'{self.where}: {name} {value!r} is not supported')

  def activation(self, name: str, default: str) -> str:
    """The activation that a field names."""
    value = self.get(name, str, default)
    if value not in ACTIVATION_NAMES:
      raise UserError(
        f'{self.where}: {name} {value!r} is not supported; known: {", ".join(ACTIVATION_NAMES)}'
      )
    return ACTIVATION_NAMES[value]

  def rope(self) -> dict[str, Any]:
    """Rotary settings, wherever transformers 4 (two fields) or 5 (one) has put them."""
    old, new = (self.get(n, dict, {}) for n in ('rope_scaling', 'rope_parameters'))
    merged = Fields({**self.values, **old, **new}, self.where)
    kind = merged.get('rope_type', str, merged.values.get('type') or 'default')
    out: dict[str, Any] = {'rope_theta': merged.positive('rope_theta', 1e4)}
    if kind == 'linear':
      out['rope_scaling'] = RopeScaling('linear', merged.positive('factor'))
    elif kind == 'llama3':
      out['rope_scaling'] = RopeScaling(
        'llama3',
        merged.positive('factor'),
        merged.positive('low_freq_factor'),
        merged.positive('high_freq_factor'),
        merged.get('original_max_position_embeddings', int),
      )
    elif kind != 'default':
      raise UserError(f'{self.where}: rope type {kind!r} is not supported; known: linear, llama3')
    return out


def _llama_like(fields: Fields, family: str, **kwargs: Any) -> DecoderConfig:
  heads = fields.get('num_attention_heads', int)
  return DecoderConfig(
    vocabulary=fields.get('vocab_size', int),
    width=fields.get('hidden_size', int),
    layers=fields.get('num_hidden_layers', int),
    heads=heads,
    family=family,
    kv_heads=fields.get('num_key_value_heads', int, heads),
    feed_forward=fields.get('intermediate_size', int),
    max_positions=fields.get('max_position_embeddings', int, 2048),
    norm_epsilon=fields.positive('rms_norm_eps', 1e-6),
    activation=fields.activation('hidden_act', 'silu'),
    tied=fields.get('tie_word_embeddings', bool, False),
    **fields.rope(),
    **kwargs,
  )


def read_llama(fields: Fields) -> DecoderConfig:
  """Llama."""
  bias = fields.get('attention_bias', bool, False)
  return _llama_like(
    fields,
    'llama',
    head_dim=fields.get('head_dim', int, 0),
    qkv_bias=bias,
    o_bias=bias,
    mlp_bias=fields.get('mlp_bias', bool, False),
  )


def read_mistral(fields: Fields) -> DecoderConfig:
  """Mistral."""
  # The class's default, where the field is absent, is a window of 4096.
  if fields.values.get('sliding_window', 4096) is not None:
    raise UserError(
      f'{fields.where}: sliding_window attention is not supported; known: sliding_window null'
    )
  return _llama_like(fields, 'mistral', head_dim=fields.get('head_dim', int, 0))


def read_qwen2(fields: Fields) -> DecoderConfig:
  """Qwen2."""
  _refuse_windows(fields)
  return _llama_like(fields, 'qwen2', qkv_bias=True)


def read_qwen3(fields: Fields) -> DecoderConfig:
  """Qwen3."""
  _refuse_windows(fields)
  bias = fields.get('attention_bias', bool, False)
  head_dim = fields.get('head_dim', int, 128)
  return _llama_like(fields, 'qwen3', head_dim=head_dim, qk_norm=True, qkv_bias=bias, o_bias=bias)


def _refuse_windows(fields: Fields) -> None:
  fields.refuse('use_sliding_window', False)
  if any(kind != 'full_attention' for kind in fields.get('layer_types', list, [])):
    raise UserError(f'{fields.where}: layer_types other than full_attention are not supported')


def read_gpt2(fields: Fields) -> DecoderConfig:
  """GPT-2."""
  for name, value in (
    ('scale_attn_weights', True),
    ('scale_attn_by_inverse_layer_idx', False),
    ('add_cross_attention', False),
  ):
    fields.refuse(name, value)
  width = fields.get('n_embd', int)
  return DecoderConfig(
    vocabulary=fields.get('vocab_size', int),
    width=width,
    layers=fields.get('n_layer', int),
    heads=fields.get('n_head', int),
    feed_forward=fields.get('n_inner', int, 4 * width),
    max_positions=fields.get('n_positions', int, 1024),
    family='gpt2',
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
  """GPT-NeoX (Pythia)."""
  rope = {**fields.values, **fields.get('rope_parameters', dict, {})}
  rope.setdefault('rope_theta', rope.get('rotary_emb_base'))
  merged = Fields(rope, fields.where)
  bias = fields.get('attention_bias', bool, True)
  fraction = merged.get('rotary_pct', float, 0.25)
  return DecoderConfig(
    vocabulary=fields.get('vocab_size', int),
    width=fields.get('hidden_size', int),
    layers=fields.get('num_hidden_layers', int),
    heads=fields.get('num_attention_heads', int),
    feed_forward=fields.get('intermediate_size', int),
    max_positions=fields.get('max_position_embeddings', int, 2048),
    family='gpt_neox',
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
  """An activation in the words of transformers; `tanh` is the family's own name of that GELU."""
  return {'gelu_tanh': tanh}.get(activation, activation)


def _rope(config: DecoderConfig) -> dict[str, Any]:
  """Rotary settings where transformers 5 reads them, and where transformers 4 does."""
  values: dict[str, Any] = {'rope_type': 'default', 'rope_theta': config.rope_theta}
  scaling = config.rope_scaling
  if scaling is not None:
    values |= {'rope_type': scaling.kind, 'factor': scaling.factor}
    if scaling.kind == 'llama3':
      values |= {
        'low_freq_factor': scaling.low,
        'high_freq_factor': scaling.high,
        'original_max_position_embeddings': scaling.original,
      }
  old = {k: v for k, v in values.items() if k != 'rope_theta'} if scaling is not None else None
  return {'rope_parameters': values, 'rope_theta': config.rope_theta, 'rope_scaling': old}


def write_llama_like(config: DecoderConfig) -> dict[str, Any]:
  """The fields of Llama, Mistral, Qwen2 and Qwen3."""
  kind = {'llama': 'Llama', 'mistral': 'Mistral', 'qwen2': 'Qwen2', 'qwen3': 'Qwen3'}
  values = {
    'architectures': [f'{kind[config.family]}ForCausalLM'],
    'vocab_size': config.kept_rows,
    'hidden_size': config.width,
    'num_hidden_layers': config.layers,
    'num_attention_heads': config.heads,
    'num_key_value_heads': config.kv_heads,
    'head_dim': config.head_dim,
    'intermediate_size': config.feed_forward,
    'max_position_embeddings': config.max_positions,
    'rms_norm_eps': config.norm_epsilon,
    'hidden_act': activation_name(config.activation, 'gelu_pytorch_tanh'),
    'tie_word_embeddings': config.tied,
    **_rope(config),
  }
  if config.family == 'llama':
    values['mlp_bias'] = config.mlp_bias
  if config.family in ('llama', 'qwen3'):
    values['attention_bias'] = config.qkv_bias
  if config.family == 'mistral':
    values['sliding_window'] = None
  if config.family in ('qwen2', 'qwen3'):
    values['use_sliding_window'] = False
  return values


def write_gpt2(config: DecoderConfig) -> dict[str, Any]:
  """The fields of GPT-2."""
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
  """The fields of GPT-NeoX."""
  rope = _rope(config)
  rope['rope_parameters']['partial_rotary_factor'] = config.rope_fraction
  return {
    'architectures': ['GPTNeoXForCausalLM'],
    'vocab_size': config.kept_rows,
    'hidden_size': config.width,
    'num_hidden_layers': config.layers,
    'num_attention_heads': config.heads,
    'intermediate_size': config.feed_forward,
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
