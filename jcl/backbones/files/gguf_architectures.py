"""The architectures that are read from GGUF: names of tensors and keys of the metadata, as data.

The converter of llama.cpp writes these names and keys. Some facts stand in no key, only in the code
of llama.cpp: that every fourth layer of SmolLM3 has no rotary positions, which layers of Gemma have
a window, how scores are scaled. Sources: `conversion/` and `src/models/` of llama.cpp.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jcl.backbones.decoder_config import DecoderConfig, RopeScaling
from jcl.backbones.files.family import (
  FUSED_GATE,
  FUSED_GATE_TRANSPOSED,
  FUSED_QKV,
  FUSED_QKV_TRANSPOSED,
  TRANSPOSED,
  Entry,
  Rule,
  fused_table,
  name_table,
)
from jcl.backbones.files.fields import Fields
from jcl.backbones.files.tensors import TensorSource
from jcl.backbones.rotary import frequencies
from jcl.errors import UserError

ROPE_FACTORS = 'rope_freqs.weight'
LONG_FACTORS = {'short': 'rope_factors_short.weight', 'long': 'rope_factors_long.weight'}
Sources = Mapping[str, TensorSource]


def _interleave(x: np.ndarray, config: DecoderConfig) -> np.ndarray:
  """Returns rows [heads · head_dim, …] in the order of llama.cpp.

  There the two rows that are rotated together are neighbours; in jcl they are half a head apart.
  """
  return x.reshape(-1, 2, config.head_dim // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def _halve(x: np.ndarray, config: DecoderConfig) -> np.ndarray:
  """Returns the rows that `_interleave` was given."""
  return x.reshape(-1, config.head_dim // 2, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


PAIRS_TRANSPOSED = Rule(
  lambda x, c: [_halve(x, c).T], lambda xs, c: _interleave(np.ascontiguousarray(xs[0].T), c)
)
PAIRS = Rule(lambda x, c: [_halve(x, c)], lambda xs, c: _interleave(xs[0], c))
LESS_ONE = Rule(lambda x, c: [x - np.float32(1)], lambda xs, c: xs[0] + np.float32(1))
"""A scale of Gemma's norms: the file holds the whole scale, jcl's parameters hold the scale - 1."""

NAMES = {
  'embed': 'token_embd',
  'layers/attention_norm': 'blk.{}.attn_norm',
  'layers/q': 'blk.{}.attn_q',
  'layers/k': 'blk.{}.attn_k',
  'layers/v': 'blk.{}.attn_v',
  'layers/o': 'blk.{}.attn_output',
  'layers/q_norm': 'blk.{}.attn_q_norm',
  'layers/k_norm': 'blk.{}.attn_k_norm',
  'layers/attention_post_norm': 'blk.{}.post_attention_norm',
  'layers/mlp_norm': 'blk.{}.ffn_norm',
  'layers/mlp_post_norm': 'blk.{}.post_ffw_norm',
  'layers/gate': 'blk.{}.ffn_gate',
  'layers/up': 'blk.{}.ffn_up',
  'layers/down': 'blk.{}.ffn_down',
  'final_norm': 'output_norm',
  'unembed': 'output',
}
PLAIN_TABLE = name_table(NAMES)
_FUSED = ('layers/q', 'layers/k', 'layers/v', 'layers/gate', 'layers/up')
PHI3_TABLE = (
  *fused_table('blk.{}.attn_qkv', FUSED_QKV_TRANSPOSED, FUSED_QKV),
  *fused_table('blk.{}.ffn_up', FUSED_GATE_TRANSPOSED, FUSED_GATE, ('gate', 'up')),
  *name_table({module: name for module, name in NAMES.items() if module not in _FUSED}),
)


def _paired(entry: Entry) -> Entry:
  """Returns an entry of queries or keys with rows in the order of llama.cpp; others as they are."""
  if not entry.paths[0].startswith(('layers/q/', 'layers/k/')):
    return entry
  return entry._replace(rule=PAIRS_TRANSPOSED if entry.rule is TRANSPOSED else PAIRS)


LLAMA_TABLE = tuple(map(_paired, PLAIN_TABLE))
GEMMA_TABLE = tuple(
  entry._replace(rule=LESS_ONE) if entry.paths[0].endswith('norm/scale') else entry
  for entry in PLAIN_TABLE
)


class Sizes(NamedTuple):
  """The sizes of a model that `Architecture.read` needs.

  Attributes:
    layers: number of layers.
    heads: number of attention heads.
    width: of the hidden states.
    head_dim: width of an attention head.
  """

  layers: int
  heads: int
  width: int
  head_dim: int


class Architecture(NamedTuple):
  """One architecture, as GGUF files have it.

  Attributes:
    family: model_type of the Family as which such a model is exported.
    table: one entry for each tensor.
    read: (fields, sizes) -> those fields of a DecoderConfig that not all architectures share.
    epsilon: key of the number that norms add to the variance.
  """

  family: str
  table: tuple[Entry, ...] = PLAIN_TABLE
  read: Callable[[Fields, Sizes], dict[str, Any]] = lambda fields, sizes: {}
  epsilon: str = 'attention.layer_norm_rms_epsilon'


def _llama(fields: Fields, sizes: Sizes) -> dict[str, Any]:
  """Llama, and Mistral where there is a window."""
  if not fields.values.get('attention.sliding_window'):
    return {}
  return {'family': 'mistral', 'window': fields.get('attention.sliding_window', int)}


def _gemma(fields: Fields, sizes: Sizes) -> dict[str, Any]:
  """Fields that Gemma 1, 2 and 3 share."""
  return {'norm_offset': 1.0, 'embedding_scale': sizes.width**0.5, 'activation': 'gelu_tanh'}


def _windows(fields: Fields, sizes: Sizes, period: int, default: int) -> dict[str, Any]:
  """Returns the fields of the window; without a key every `period`-th layer has none.

  Args:
    fields: keys of the metadata.
    sizes: of the model.
    period: see above.
    default: tokens of the window where no key says it; 0: none.
  """
  key = 'attention.sliding_window_pattern'
  if isinstance(fields.values.get(key), list):
    windowed = fields.kinds(key, {True: True, False: False}, sizes.layers)
  else:
    period = fields.get(key, int, period)
    windowed = tuple((i + 1) % period > 0 for i in range(sizes.layers))
  name = 'attention.sliding_window'
  window = 0 if fields.values.get(name, default) == 0 else fields.get(name, int, default)
  return {'window': window, 'windowed': windowed} if window and any(windowed) else {}


def _scores(sizes: Sizes, largest: int) -> dict[str, Any]:
  """Returns the factor of Gemma's scores: 1/√head_dim, in the largest model 1/√(width / heads).

  Args:
    sizes: of the model.
    largest: number of layers of the largest model, by which it is known.
  """
  width = sizes.width / sizes.heads if sizes.layers == largest else sizes.head_dim
  return {'query_scale': width**-0.5}


def _gemma2(fields: Fields, sizes: Sizes) -> dict[str, Any]:
  theta = fields.get('rope.freq_base', float, 1e4)
  fields.allow_only('rope.freq_base_swa', theta)
  return {
    **_gemma(fields, sizes),
    **_windows(fields, sizes, 2, 4096),
    **_scores(sizes, 46),
    'norms': 'both',
    'attention_cap': fields.positive('attn_logit_softcapping', 50.0),
    'logit_cap': fields.positive('final_logit_softcapping', 30.0),
  }


def _gemma3(fields: Fields, sizes: Sizes) -> dict[str, Any]:
  cap = 'final_logit_softcapping'
  return {
    **_gemma(fields, sizes),
    **_windows(fields, sizes, 6, 0),
    **_scores(sizes, 62),
    'norms': 'both',
    'local_theta': fields.positive('rope.freq_base_swa', 1e4),
    'logit_cap': fields.positive(cap) if fields.values.get(cap) else 0.0,
  }


def _phi3(fields: Fields, sizes: Sizes) -> dict[str, Any]:
  """Phi-3: some dimensions of a head are rotated; a window of 0 means no window."""
  rotated = fields.get('rope.dimension_count', int, sizes.head_dim)
  fraction = rotated / sizes.head_dim
  fraction = fraction if int(sizes.head_dim * fraction) == rotated else math.nextafter(fraction, 1)
  name = 'attention.sliding_window'
  window = fields.get(name, int) if fields.values.get(name) else 0
  return {'rope_fraction': fraction, 'window': window}


def _starcoder2(fields: Fields, sizes: Sizes) -> dict[str, Any]:
  return {'norm': 'layer', 'gated': False, 'activation': 'gelu_tanh'}


def _olmo2(fields: Fields, sizes: Sizes) -> dict[str, Any]:
  return {'norms': 'post', 'qk_norm_over': 'all'}


def _smollm3(fields: Fields, sizes: Sizes) -> dict[str, Any]:
  unrotated = tuple((i + 1) % 4 == 0 for i in range(sizes.layers))
  return {'unrotated': unrotated if any(unrotated) else ()}


def _granite(fields: Fields, sizes: Sizes) -> dict[str, Any]:
  """Granite: for a factor that is absent or 0 the one of Llama is taken."""
  fields.allow_only('rope.scaling.finetuned', True)
  given = lambda key, default: fields.positive(key) if fields.values.get(key) else default
  return {
    'embedding_scale': given('embedding_scale', 1.0),
    'query_scale': given('attention.scale', 0.0),
    'residual_scale': given('residual_scale', 1.0),
    'logit_divisor': fields.positive('logit_scale'),
  }


ARCHITECTURES = {
  'llama': Architecture('llama', LLAMA_TABLE, _llama),
  'qwen2': Architecture('qwen2'),
  'qwen3': Architecture('qwen3'),
  'gemma': Architecture('gemma', GEMMA_TABLE, _gemma),
  'gemma2': Architecture('gemma2', GEMMA_TABLE, _gemma2),
  'gemma3': Architecture('gemma3_text', GEMMA_TABLE, _gemma3),
  'phi3': Architecture('phi3', PHI3_TABLE, _phi3),
  'olmo2': Architecture('olmo2', PLAIN_TABLE, _olmo2),
  'smollm3': Architecture('smollm3', LLAMA_TABLE, _smollm3),
  'granite': Architecture('granite', LLAMA_TABLE, _granite),
  'starcoder2': Architecture(
    'starcoder2', PLAIN_TABLE, _starcoder2, 'attention.layer_norm_epsilon'
  ),
}
"""{general.architecture: how it is read}."""

# Keys that change what a model computes, for the architectures that do not read them:
# {key: values that change nothing}.
CHANGES = {
  'expert_count': (0,), 'expert_used_count': (0,), 'attention.sliding_window': (0,),
  'attention.causal': (True,), 'attention.clamp_kqv': (0,), 'attention.max_alibi_bias': (0,),
  'attention.scale': (0,), 'logit_scale': (0, 1), 'residual_scale': (0, 1),
  'embedding_scale': (0, 1), 'attn_logit_softcapping': (0,), 'final_logit_softcapping': (0,),
  'use_parallel_residual': (False,), 'rope.scaling.attn_factor': (1,),
  'rope.scaling.yarn_attn_factor': (1,), 'rope.scaling.yarn_ext_factor': (1, -1),
  'rope.scaling.yarn_log_multiplier': (0,), 'rope.scaling.finetuned': (True, False),
  'attention.temperature_scale': (0,), 'rope.dimension_sections': (),
}  # fmt: skip


def read_config(fields: Fields, sources: Sources, name: str) -> DecoderConfig:
  """Returns the shape of a model, as its metadata and the names of its tensors say it.

  Args:
    fields: keys of the metadata; the architecture's own lack its name (`llama.`).
    sources: tensors of the files.
    name: of the architecture.

  Raises:
    UserError: a key is missing or malformed, or says what jcl does not compute.
  """
  kind = ARCHITECTURES[name]
  if 'token_embd.weight' not in sources:
    raise UserError(f"{fields.where}: tensor 'token_embd.weight' is missing")
  width, heads = fields.get('embedding_length', int), fields.get('attention.head_count', int)
  head_dim = fields.get('attention.key_length', int, width // heads)
  sizes = Sizes(fields.get('block_count', int), heads, width, head_dim)
  first = {path: entry.tensor.format(0) for entry in kind.table for path in entry.paths}
  has = lambda path: first[path] in sources
  values: dict[str, Any] = {
    'vocabulary': sources['token_embd.weight'].shape[0],
    'width': width,
    'family': kind.family,
    'layers': sizes.layers,
    'heads': heads,
    'kv_heads': fields.get('attention.head_count_kv', int, heads),
    'head_dim': head_dim,
    'feed_forward': fields.get('feed_forward_length', int),
    'max_positions': fields.get('context_length', int, 2048),
    'norm_epsilon': fields.positive(kind.epsilon),
    'rope_theta': fields.positive('rope.freq_base', 1e4),
    'rope_scaling': _scaling(fields, sources),
    'qkv_bias': has('layers/q/bias'),
    'o_bias': has('layers/o/bias'),
    'mlp_bias': has('layers/up/bias'),
    'qk_norm': has('layers/q_norm/scale'),
    'tied': not has('unembed/embedding'),
  }
  config = DecoderConfig(**values | kind.read(fields, sizes))
  for key, allowed in CHANGES.items():
    if key not in fields.values.asked:
      fields.allow_only(key, *allowed)
  _check_heads(fields, config)
  if ROPE_FACTORS not in sources:
    return config
  return _with_divisors(config, sources[ROPE_FACTORS].read().reshape(-1), fields)


def _check_heads(fields: Fields, config: DecoderConfig) -> None:
  """Refuses a model whose keys or values have another width than its queries."""
  wanted = {'rope.dimension_count': config.rotated, 'attention.value_length': config.head_dim}
  for key, right in wanted.items():
    if fields.get(key, int, right) != right:
      raise UserError(
        f'{fields.where}: {key} is {fields.values[key]}, a head has {config.head_dim} numbers; a '
        'model where they differ is not supported'
      )


def _scaling(fields: Fields, sources: Sources) -> RopeScaling | None:
  """Returns the scaling of rotary frequencies, as keys and tensors say it; None: there is none.

  As in llama.cpp a factor without a type is linear, and older files call it rope.scale_linear.
  """
  keys = ('rope.scaling.factor', 'rope.scale_linear')
  given = [key for key in keys if fields.values.get(key)]
  key = given[0] if given else keys[0]
  kind = fields.get('rope.scaling.type', str, 'linear' if given else 'none')
  longest = fields.get('context_length', int, 2048)
  original = fields.get('rope.scaling.original_context_length', int, longest)
  if kind == 'longrope' or any(name in sources for name in LONG_FACTORS.values()):
    return _longrope(fields, sources, longest, original)
  if kind == 'none':
    return None
  if kind not in ('linear', 'yarn'):
    known = 'linear, yarn, longrope'
    raise UserError(f'{fields.where}: rope scaling {kind!r} is not supported; known: {known}')
  factor = fields.positive(key)
  if kind == 'linear':
    return RopeScaling('linear', factor) if factor != 1 else None
  slow, fast = (
    fields.positive(f'rope.scaling.yarn_beta_{x}', y) for x, y in (('slow', 1.0), ('fast', 32.0))
  )
  magnitude = 1 + 0.1 * math.log(factor) if factor > 1 else 1.0
  return RopeScaling('yarn', factor, slow, fast, original, magnitude)


def _longrope(fields: Fields, sources: Sources, longest: int, original: int) -> RopeScaling:
  """Returns the scaling of Phi-3, whose divisors are tensors."""
  for name in LONG_FACTORS.values():
    if name not in sources:
      raise UserError(f'{fields.where}: tensor {name!r} of rope scaling longrope is missing')
  factors = {k: sources[name].read().reshape(-1).tolist() for k, name in LONG_FACTORS.items()}
  values = Fields(factors, fields.where)
  short, long = values.positives('short'), values.positives('long')
  factor = longest / original
  grown = 1 + math.log(factor) / math.log(max(original, 2)) if factor > 1 else 1.0
  magnitude = fields.positive('rope.scaling.attn_factor', math.sqrt(grown))
  return RopeScaling(
    'longrope', factor, original=original, magnitude=magnitude, short=short, long=long
  )


def _with_divisors(config: DecoderConfig, divisors: np.ndarray, fields: Fields) -> DecoderConfig:
  """Returns the config with Llama 3's scaling, of which GGUF keeps only the divisors.

  Those of Llama 3.1 and later are recognised; others are kept as they are, as a longrope whose
  divisors are the same for short and long rows.
  """
  if config.rope_scaling is not None:
    kind = config.rope_scaling.kind
    raise UserError(f'{fields.where}: rope scaling {kind} and tensor {ROPE_FACTORS!r}; give one')
  values = Fields({ROPE_FACTORS: divisors.tolist()}, fields.where).positives(ROPE_FACTORS)
  longest = config.max_positions
  kept = RopeScaling('longrope', 1.0, original=longest, short=values, long=values)
  scaled = dataclasses.replace(config, rope_scaling=kept)
  llama3 = dataclasses.replace(config, rope_scaling=RopeScaling('llama3', round(max(values), 3)))
  alike = np.allclose(frequencies(llama3), frequencies(scaled), rtol=1e-4)
  return llama3 if alike else scaled
