"""GGUF files: weights (quantised ones made float32) and the tokenizer of the metadata. No torch.

The extra `gguf` brings the package that reads the format.
"""

import dataclasses
import functools
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from tokenizers import pre_tokenizers as pre

from jcl.backbones.backbone import Params
from jcl.backbones.decoder import frequencies
from jcl.backbones.decoder_config import DecoderConfig, RopeScaling
from jcl.backbones.files import tensors
from jcl.backbones.files.family import TRANSPOSED, Entry, Rule, name_table
from jcl.backbones.files.fields import Fields, naming_file
from jcl.backbones.files.tensors import TensorSource
from jcl.backbones.tokenizers import SpecialIds, with_vocabulary
from jcl.errors import UserError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # kinds of tokens
ROPE_FACTORS = 'rope_freqs.weight'


def _interleave(x: np.ndarray, config: DecoderConfig) -> np.ndarray:
  """Rows [heads · head, …] from halves of each head to llama.cpp's pairs."""
  return x.reshape(-1, 2, config.head_dim // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def _halve(x: np.ndarray, config: DecoderConfig) -> np.ndarray:
  """The inverse of `_interleave`."""
  return x.reshape(-1, config.head_dim // 2, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


PAIRS_TRANSPOSED = Rule(
  lambda x, c: [_halve(x, c).T], lambda xs, c: _interleave(np.ascontiguousarray(xs[0].T), c)
)
PAIRS = Rule(lambda x, c: [_halve(x, c)], lambda xs, c: _interleave(xs[0], c))
_NAMES = {
  'embed': 'token_embd',
  'layers/attention_norm': 'blk.{}.attn_norm',
  'layers/q': 'blk.{}.attn_q',
  'layers/k': 'blk.{}.attn_k',
  'layers/v': 'blk.{}.attn_v',
  'layers/o': 'blk.{}.attn_output',
  'layers/q_norm': 'blk.{}.attn_q_norm',
  'layers/k_norm': 'blk.{}.attn_k_norm',
  'layers/mlp_norm': 'blk.{}.ffn_norm',
  'layers/gate': 'blk.{}.ffn_gate',
  'layers/up': 'blk.{}.ffn_up',
  'layers/down': 'blk.{}.ffn_down',
  'final_norm': 'output_norm',
  'unembed': 'output',
}


def _paired(entry: Entry) -> Entry:
  """Queries and keys as llama.cpp's own Llama has them."""
  if not entry.paths[0].startswith(('layers/q/', 'layers/k/')):
    return entry
  return entry._replace(rule=PAIRS_TRANSPOSED if entry.rule is TRANSPOSED else PAIRS)


QWEN_TABLE = name_table(_NAMES)
TABLES = {
  'llama': tuple(map(_paired, QWEN_TABLE)),
  'qwen2': QWEN_TABLE,
  'qwen3': QWEN_TABLE,
}


def load(
  file: pathlib.Path, weights: bool = True
) -> tuple[DecoderConfig, Params | None, Tokenizer, SpecialIds]:
  """Reads a GGUF file; without `weights` no tensor, and the parameters are None.

  Raises:
    UserError: the package is absent, or the file is truncated, malformed or of unknown kind.
  """
  config, meta, sources = _described(file)
  try:
    tokenizer, special = _tokenizer(meta, str(file))
  except UserError:
    raise
  except Exception as error:  # of any kind, out of the library of tokenizers
    raise UserError(f'{file}: no valid tokenizer ({error}); fetch it again') from None
  config = with_vocabulary(config, tokenizer, str(file))
  if not weights:
    return config, None, tokenizer, special
  ignored = f'^{ROPE_FACTORS}$'
  params = tensors.read(config, TABLES[config.family], sources, str(file), ignored)
  return config, params, tokenizer, special


def load_config(file: pathlib.Path) -> DecoderConfig:
  """The shape alone; every row of the embedding counts as a token."""
  return _described(file)[0]


def _described(file: pathlib.Path) -> tuple[DecoderConfig, dict[str, Any], dict[str, TensorSource]]:
  """-> shape, metadata and tensors, not read yet."""
  package = _package(file)
  try:
    with np.errstate(all='ignore'):
      reader = _bounded(package)(str(file))
      meta = {name: field.contents() for name, field in reader.fields.items()}
      sources = {tensor.name: _source(package, str(file), tensor) for tensor in reader.tensors}
  except Exception as error:  # whatever damaged bytes make the package raise
    raise UserError(f'{file}: truncated or no GGUF file ({error}); fetch it again') from None
  name = meta.get('general.architecture')
  if not isinstance(name, str) or name not in TABLES:
    raise UserError(f'{file}: architecture {name!r} is unknown; known: {", ".join(TABLES)}')
  with naming_file(str(file)):
    return _config(meta, sources, name, str(file)), meta, sources


def _package(file: pathlib.Path) -> types.ModuleType:
  try:
    import gguf
    import gguf.quants
  except ImportError:
    raise UserError(f"{file}: GGUF needs the package gguf: pip install 'jcl[gguf]'") from None
  return gguf


@functools.cache
def _bounded(package: types.ModuleType) -> type:
  """The package's reader, which ends where the file does: its own goes on, however far."""

  reader: Any = package.GGUFReader

  class Bounded(reader):
    def _get(self, offset: int, dtype: Any, count: int = 1, *order: Any, **named: Any) -> Any:
      found = super()._get(offset, dtype, int(count), *order, **named)
      if len(found) < count:
        raise ValueError(f'it ends before byte {offset + int(count)}')
      return found

  return Bounded


def _source(package: types.ModuleType, file: str, tensor: Any) -> TensorSource:
  def read():
    try:
      return package.quants.dequantize(tensor.data, tensor.tensor_type)
    except (NotImplementedError, KeyError, ValueError):
      kind = tensor.tensor_type.name
      raise UserError(f'{file}: tensor {tensor.name!r} has unknown quantisation {kind}') from None

  return TensorSource(file, tuple(int(n) for n in reversed(tensor.shape)), read)


def _config(
  meta: Mapping[str, Any], sources: Mapping[str, TensorSource], name: str, file: str
) -> DecoderConfig:
  """Returns the config that the metadata and the names of the tensors give."""
  fields = Fields({k.removeprefix(f'{name}.'): v for k, v in meta.items()}, file)
  fields.allow_only('expert_count', 0)
  fields.allow_only('attention.sliding_window', 0)
  if 'token_embd.weight' not in sources:
    raise UserError(f"{file}: tensor 'token_embd.weight' is missing")
  width, heads = fields.get('embedding_length', int), fields.get('attention.head_count', int)
  config = DecoderConfig(
    vocabulary=sources['token_embd.weight'].shape[0],
    width=width,
    family=name,
    layers=fields.get('block_count', int),
    heads=heads,
    kv_heads=fields.get('attention.head_count_kv', int, heads),
    head_dim=fields.get('attention.key_length', int, width // heads),
    feed_forward=fields.get('feed_forward_length', int),
    max_positions=fields.get('context_length', int, 2048),
    norm_epsilon=fields.positive('attention.layer_norm_rms_epsilon'),
    rope_theta=fields.positive('rope.freq_base', 1e4),
    rope_scaling=_linear_scaling(fields),
    qkv_bias='blk.0.attn_q.bias' in sources,
    o_bias='blk.0.attn_output.bias' in sources,
    mlp_bias='blk.0.ffn_up.bias' in sources,
    qk_norm='blk.0.attn_q_norm.weight' in sources,
    tied='output.weight' not in sources,
  )
  if ROPE_FACTORS not in sources:
    return config
  return _with_llama3_scaling(config, sources[ROPE_FACTORS].read(), file)


def _linear_scaling(fields: Fields) -> RopeScaling | None:
  kind = fields.get('rope.scaling.type', str, 'none')
  if kind == 'linear':
    return RopeScaling('linear', fields.positive('rope.scaling.factor'))
  if kind != 'none':
    raise UserError(f'{fields.where}: rope scaling {kind!r} is not supported; known: linear')
  return None


def _with_llama3_scaling(config: DecoderConfig, factors: np.ndarray, file: str) -> DecoderConfig:
  """Llama 3's scaling, of which GGUF keeps only the divisors that it comes to."""
  scaled = dataclasses.replace(
    config, rope_scaling=RopeScaling('llama3', round(float(factors.max()), 3))
  )
  wanted = frequencies(config) / factors.reshape(-1)
  if not np.allclose(frequencies(scaled), wanted, rtol=1e-4):
    raise UserError(f'{file}: tensor {ROPE_FACTORS!r} is not the scaling of Llama 3')
  return scaled


def _tokenizer(meta: Mapping[str, Any], file: str) -> tuple[Tokenizer, SpecialIds]:
  """The tokenizer of the metadata: byte-level BPE, or SentencePiece's BPE."""
  fields = Fields({k.removeprefix('tokenizer.ggml.'): v for k, v in meta.items()}, file)
  tokens, kind = fields.get('tokens', list), fields.get('model', str)
  kinds = fields.get('token_type', list, [NORMAL] * len(tokens))
  if kind == 'gpt2':
    tokenizer = _byte_level(fields, tokens, file)
  elif kind == 'llama':
    tokenizer = _sentence_piece(fields, tokens, kinds)
  else:
    raise UserError(f'{file}: tokenizer {kind!r} is unknown; known: gpt2, llama')
  marks = {CONTROL: True, UNKNOWN: True, USER_DEFINED: False}
  for token, mark in zip(tokens, kinds, strict=True):
    if mark in marks:
      added = AddedToken(token, special=marks[mark], normalized=False)
      tokenizer.add_special_tokens([added]) if marks[mark] else tokenizer.add_tokens([added])
  ids = {n: fields.values.get(f'{m}_token_id') for n, m in
         (('bos', 'bos'), ('eos', 'eos'), ('pad', 'padding'))}  # fmt: skip
  special = SpecialIds(ids['bos'], fields.get('eos_token_id', int), ids['pad'])
  if fields.get('add_bos_token', bool, kind == 'llama') and special.bos is not None:
    bos = tokens[special.bos]
    tokenizer.post_processor = processors.TemplateProcessing(
      single=[bos, '$A'], pair=[bos, '$A', '$B'], special_tokens=[(bos, special.bos)]
    )
  return tokenizer, special


_SPLITS = {  # the words of Llama 3 and Qwen 2, from their tokenizer.json
  'llama-bpe': r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+',
  'qwen2': r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+',
}


def _byte_level(fields: Fields, tokens: list[str], file: str) -> Tokenizer:
  merges = [tuple(merge.split(' ', 1)) for merge in fields.get('merges', list)]
  kind = fields.get('pre', str, 'default')
  vocabulary = {token: i for i, token in enumerate(tokens)}
  tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=kind == 'llama-bpe'))
  if kind in ('default', 'gpt-2'):
    tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
  elif kind == 'smollm':
    tokenizer.pre_tokenizer = pre.Sequence(
      [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]
    )
  elif kind in _SPLITS:
    tokenizer.pre_tokenizer = pre.Sequence(
      [
        pre.Split(Regex(_SPLITS[kind]), 'isolated'),
        pre.ByteLevel(add_prefix_space=False, use_regex=False),
      ]
    )
  else:
    known = ', '.join(('default', 'gpt-2', 'smollm', *_SPLITS))
    raise UserError(f'{file}: pre-tokenizer {kind!r} is unknown; known: {known}')
  if kind == 'qwen2':
    tokenizer.normalizer = normalizers.NFC()
  tokenizer.decoder = decoders.ByteLevel()
  return tokenizer


def _sentence_piece(fields: Fields, tokens: list[str], kinds: list[int]) -> Tokenizer:
  """SentencePiece's BPE: the pair that makes the piece of the best score is merged first."""
  scores, vocabulary = fields.get('scores', list), {token: i for i, token in enumerate(tokens)}
  merges: list[tuple[float, tuple[str, str]]] = []
  for piece, score, kind in zip(tokens, scores, kinds, strict=True):
    if kind != NORMAL:
      continue
    pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
    pairs = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
    pairs.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    merges.extend((-score, pair) for pair in pairs)
  merges.sort(key=lambda merge: merge[0])
  unknown = next((t for t, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None)
  tokenizer = Tokenizer(
    models.BPE(
      vocabulary,
      [pair for _, pair in merges],
      unk_token=unknown,
      fuse_unk=True,
      byte_fallback=BYTE in kinds,
    )
  )
  prefix = fields.get('add_space_prefix', bool, True)
  steps = [normalizers.Prepend('▁')] * prefix + [normalizers.Replace(' ', '▁')]
  tokenizer.normalizer = normalizers.Sequence(steps)
  strip = [decoders.Strip(' ', 1, 0)] * prefix
  tokenizer.decoder = decoders.Sequence(
    [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(), *strip]
  )
  return tokenizer
