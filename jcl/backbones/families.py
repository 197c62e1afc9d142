"""The decoder families: what their config.json says, and one table of tensor names for each.

A table is data and is read both ways, so that import and export cannot drift apart. An entry counts
where our tree has its leaves, so one table serves Llama, Mistral, Qwen2 and Qwen3 alike.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jcl.backbones.decoder_config import DecoderConfig, RopeScaling
from jcl.errors import UserError


class Rule(NamedTuple):
  """How one of their tensors becomes some of ours, and back.

  Attributes:
    read: (their array, config) -> our arrays, one a path of the entry.
    write: (our arrays, config) -> their array.
  """

  read: Callable[[np.ndarray, DecoderConfig], list[np.ndarray]]
  write: Callable[[list[np.ndarray], DecoderConfig], np.ndarray]


class Entry(NamedTuple):
  """Paths of ours, a name of theirs (`{}` is the layer), and the rule between them."""

  ours: tuple[str, ...]
  theirs: str
  rule: Rule


class Family(NamedTuple):
  """One architecture.

  Attributes:
    read: fields of a config.json -> a DecoderConfig whose vocabulary is all rows.
    table: names.
    prefix: what checkpoints of the bare model leave out of the names.
    ignored: pattern of tensors that are constants of the code, not weights.
  """

  read: Callable[['Fields'], DecoderConfig]
  table: tuple[Entry, ...]
  prefix: str
  ignored: str


def _split_heads(x: np.ndarray, config: DecoderConfig) -> list[np.ndarray]:
  """[heads · 3 · head, …] of GPT-NeoX -> three of [heads · head, …]."""
  parts = x.reshape(config.heads, 3, config.head_dim, *x.shape[1:])
  return [parts[:, i].reshape(-1, *x.shape[1:]) for i in range(3)]


def _join_heads(parts: list[np.ndarray], config: DecoderConfig) -> np.ndarray:
  rows = [x.reshape(config.heads, config.head_dim, *x.shape[1:]) for x in parts]
  return np.stack(rows, 1).reshape(-1, *parts[0].shape[1:])


SAME = Rule(lambda x, c: [x], lambda xs, c: xs[0])
TRANSPOSED = Rule(lambda x, c: [x.T], lambda xs, c: xs[0].T)
FUSED = Rule(lambda x, c: np.split(x, 3, -1), lambda xs, c: np.concatenate(xs, -1))
FUSED_HEADS = Rule(_split_heads, _join_heads)
FUSED_HEADS_TRANSPOSED = Rule(
  lambda x, c: [part.T for part in _split_heads(x, c)],
  lambda xs, c: _join_heads([x.T for x in xs], c),
)


def table(names: Mapping[str, str], kernel: Rule = TRANSPOSED) -> tuple[Entry, ...]:
  """A table from {our module: their module}.

  Modules named `…norm` have scale and bias, tables an embedding, all others kernel and bias.

  Args:
    names: with `{}` for the layer on their side.
    kernel: how a kernel is laid out.
  """
  entries = []
  for ours, theirs in names.items():
    if ours in ('embed', 'unembed', 'positions'):
      entries.append(Entry((f'{ours}/embedding',), f'{theirs}.weight', SAME))
      continue
    norm = ours.endswith('norm')
    weight = ('scale', SAME) if norm else ('kernel', kernel)
    for (leaf, rule), suffix in zip((weight, ('bias', SAME)), ('weight', 'bias'), strict=True):
      entries.append(Entry((f'{ours}/{leaf}',), f'{theirs}.{suffix}', rule))
  return tuple(entries)


def fused(theirs: str, kernel: Rule, bias: Rule) -> tuple[Entry, ...]:
  """The entries of queries, keys and values in one tensor."""
  paths = lambda leaf: tuple(f'layers/{name}/{leaf}' for name in 'qkv')
  return (
    Entry(paths('kernel'), f'{theirs}.weight', kernel),
    Entry(paths('bias'), f'{theirs}.bias', bias),
  )


LLAMA_TABLE = table(
  {
    'embed': 'model.embed_tokens',
    'layers/attention_norm': 'model.layers.{}.input_layernorm',
    'layers/q': 'model.layers.{}.self_attn.q_proj',
    'layers/k': 'model.layers.{}.self_attn.k_proj',
    'layers/v': 'model.layers.{}.self_attn.v_proj',
    'layers/o': 'model.layers.{}.self_attn.o_proj',
    'layers/q_norm': 'model.layers.{}.self_attn.q_norm',
    'layers/k_norm': 'model.layers.{}.self_attn.k_norm',
    'layers/mlp_norm': 'model.layers.{}.post_attention_layernorm',
    'layers/gate': 'model.layers.{}.mlp.gate_proj',
    'layers/up': 'model.layers.{}.mlp.up_proj',
    'layers/down': 'model.layers.{}.mlp.down_proj',
    'final_norm': 'model.norm',
    'unembed': 'lm_head',
  }
)
GPT2_TABLE = (
  *fused('transformer.h.{}.attn.c_attn', FUSED, FUSED),
  *table(
    {
      'embed': 'transformer.wte',
      'positions': 'transformer.wpe',
      'layers/attention_norm': 'transformer.h.{}.ln_1',
      'layers/o': 'transformer.h.{}.attn.c_proj',
      'layers/mlp_norm': 'transformer.h.{}.ln_2',
      'layers/up': 'transformer.h.{}.mlp.c_fc',
      'layers/down': 'transformer.h.{}.mlp.c_proj',
      'final_norm': 'transformer.ln_f',
      'unembed': 'lm_head',
    },
    kernel=SAME,  # its Conv1D is (in, out)
  ),
)
NEOX_TABLE = (
  *fused('gpt_neox.layers.{}.attention.query_key_value', FUSED_HEADS_TRANSPOSED, FUSED_HEADS),
  *table(
    {
      'embed': 'gpt_neox.embed_in',
      'layers/attention_norm': 'gpt_neox.layers.{}.input_layernorm',
      'layers/o': 'gpt_neox.layers.{}.attention.dense',
      'layers/mlp_norm': 'gpt_neox.layers.{}.post_attention_layernorm',
      'layers/up': 'gpt_neox.layers.{}.mlp.dense_h_to_4h',
      'layers/down': 'gpt_neox.layers.{}.mlp.dense_4h_to_h',
      'final_norm': 'gpt_neox.final_layer_norm',
      'unembed': 'embed_out',
    }
  ),
)

ACTIVATION_NAMES = {
  'silu': 'silu', 'swish': 'silu', 'relu': 'relu', 'gelu': 'gelu', 'gelu_new': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh', 'gelu_fast': 'gelu_tanh',
}  # fmt: skip


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
    if kind is int and value < 1:
      raise UserError(f'{self.where}: field {name!r} is {value}, not positive')
    return value

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
    old, new = (self.values.get(n) or {} for n in ('rope_scaling', 'rope_parameters'))
    merged = Fields({**self.values, **old, **new}, self.where)
    kind = merged.get('rope_type', str, merged.values.get('type') or 'default')
    out = {'rope_theta': float(merged.get('rope_theta', float, 1e4))}
    if kind == 'linear':
      out['rope_scaling'] = RopeScaling('linear', merged.get('factor', float))
    elif kind == 'llama3':
      out['rope_scaling'] = RopeScaling(
        'llama3',
        merged.get('factor', float),
        merged.get('low_freq_factor', float),
        merged.get('high_freq_factor', float),
        merged.get('original_max_position_embeddings', int),
      )
    elif kind != 'default':
      raise UserError(f'{self.where}: rope type {kind!r} is not supported; known: linear, llama3')
    return out


def _llama_like(fields: Fields, **kwargs: Any) -> DecoderConfig:
  heads = fields.get('num_attention_heads', int)
  return DecoderConfig(
    vocabulary=fields.get('vocab_size', int),
    width=fields.get('hidden_size', int),
    layers=fields.get('num_hidden_layers', int),
    heads=heads,
    kv_heads=fields.get('num_key_value_heads', int, heads),
    feed_forward=fields.get('intermediate_size', int),
    max_positions=fields.get('max_position_embeddings', int, 2048),
    norm_epsilon=fields.get('rms_norm_eps', float, 1e-6),
    activation=fields.activation('hidden_act', 'silu'),
    tied=fields.get('tie_word_embeddings', bool, False),
    **fields.rope(),
    **kwargs,
  )


def _llama(fields: Fields) -> DecoderConfig:
  bias = fields.get('attention_bias', bool, False)
  return _llama_like(
    fields,
    head_dim=fields.get('head_dim', int, 0),
    qkv_bias=bias,
    o_bias=bias,
    mlp_bias=fields.get('mlp_bias', bool, False),
  )


def _mistral(fields: Fields) -> DecoderConfig:
  # The class's default, where the field is absent, is a window of 4096.
  if fields.values.get('sliding_window', 4096) is not None:
    raise UserError(
      f'{fields.where}: sliding_window attention is not supported; known: sliding_window null'
    )
  return _llama_like(fields, head_dim=fields.get('head_dim', int, 0))


def _qwen2(fields: Fields) -> DecoderConfig:
  _refuse_windows(fields)
  return _llama_like(fields, qkv_bias=True)


def _qwen3(fields: Fields) -> DecoderConfig:
  _refuse_windows(fields)
  bias = fields.get('attention_bias', bool, False)
  head_dim = fields.get('head_dim', int, 128)
  return _llama_like(fields, head_dim=head_dim, qk_norm=True, qkv_bias=bias, o_bias=bias)


def _refuse_windows(fields: Fields) -> None:
  fields.refuse('use_sliding_window', False)
  if set(fields.values.get('layer_types') or ['full_attention']) != {'full_attention'}:
    raise UserError(f'{fields.where}: layer_types other than full_attention are not supported')


def _gpt2(fields: Fields) -> DecoderConfig:
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
    norm='layer',
    norm_epsilon=fields.get('layer_norm_epsilon', float, 1e-5),
    positions='learned',
    activation=fields.activation('activation_function', 'gelu_new'),
    gated=False,
    qkv_bias=True,
    o_bias=True,
    mlp_bias=True,
    tied=fields.get('tie_word_embeddings', bool, True),
  )


def _neox(fields: Fields) -> DecoderConfig:
  rope = {**fields.values, **(fields.values.get('rope_parameters') or {})}
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
    norm='layer',
    norm_epsilon=fields.get('layer_norm_eps', float, 1e-5),
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


_ROTARY = r'\.rotary_emb\.inv_freq$'
_MASKS = r'\.(attn|attention)\.(bias|masked_bias)$|' + _ROTARY
FAMILIES = {
  'gpt2': Family(_gpt2, GPT2_TABLE, 'transformer.', _MASKS),
  'gpt_neox': Family(_neox, NEOX_TABLE, 'gpt_neox.', _MASKS),
  'llama': Family(_llama, LLAMA_TABLE, 'model.', _ROTARY),
  'mistral': Family(_mistral, LLAMA_TABLE, 'model.', _ROTARY),
  'qwen2': Family(_qwen2, LLAMA_TABLE, 'model.', _ROTARY),
  'qwen3': Family(_qwen3, LLAMA_TABLE, 'model.', _ROTARY),
}
