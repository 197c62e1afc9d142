"""GGUF files: weights (quantised ones made float32), the tokenizer and the chat template. No torch.

A model may be split into files NAME-00001-of-00003.gguf, …, which are read as one whichever of them
is named. The extra `gguf` brings the package that reads the format and its quantisations.
"""

import dataclasses
import functools
import pathlib
import re
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from jcl.backbones.backbone import Params
from jcl.backbones.decoder_config import DecoderConfig, RopeScaling
from jcl.backbones.files import tensors
from jcl.backbones.files.companions import DEFAULT, Companions
from jcl.backbones.files.contradictions import check_layers
from jcl.backbones.files.family import TRANSPOSED, Entry, Rule, name_table
from jcl.backbones.files.fields import Fields, naming_file
from jcl.backbones.files.gguf_tokenizer import TEMPLATE, read_tokenizer
from jcl.backbones.files.tensors import TensorSource
from jcl.backbones.rotary import frequencies
from jcl.backbones.tokenizers import SpecialIds, with_vocabulary
from jcl.errors import UserError

ROPE_FACTORS = 'rope_freqs.weight'
SHARD = re.compile(r'(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf')


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


NEAREST = (('qwen3', 'qwen3'), ('qwen', 'qwen2'), ('', 'llama'))  # by how a name begins
# Keys on which nothing that is computed depends: names, sources, and what the package itself adds.
HARMLESS = r'^(general|GGUF|quantize)\.|^split\.|\.(vocab_size|context_length)$'
# Settings of other models under the name of one that is read: {key: values that change nothing}.
CHANGES = {
  'expert_count': (0,), 'expert_used_count': (0,), 'attention.sliding_window': (0,),
  'attention.causal': (True,), 'attention.clamp_kqv': (0,), 'attention.max_alibi_bias': (0,),
  'attention.scale': (0,), 'logit_scale': (0, 1), 'residual_scale': (0, 1),
  'embedding_scale': (0, 1), 'attn_logit_softcapping': (0,), 'final_logit_softcapping': (0,),
  'use_parallel_residual': (False,), 'rope.scale_linear': (0, 1), 'rope.scaling.attn_factor': (1,),
  'attention.temperature_scale': (0,), 'rope.dimension_sections': (),
}  # fmt: skip


class Read(NamedTuple):
  """A GGUF model as its files hold it.

  Attributes:
    config: shape, every row of the embedding counted as a token.
    fields: keys of the metadata, which knows those that were asked for.
    sources: {name: tensor, not read yet} of all files.
    where: the file, for messages.
  """

  config: DecoderConfig
  fields: Fields
  sources: dict[str, TensorSource]
  where: str


def load(
  file: pathlib.Path, weights: bool = True
) -> tuple[DecoderConfig, Params | None, Tokenizer, SpecialIds, Companions, tuple[str, ...]]:
  """Reads a GGUF model; without `weights` no tensor, and the parameters are None.

  Args:
    file: the file, or one of the files that the model is split into.
    weights: read the tensors too.

  Raises:
    UserError: the package is absent; a file is missing, truncated, malformed or of unknown kind; or
      the files contradict each other.
  """
  config, fields, sources, where = _described(file)
  tokenizer, special, named = read_tokenizer(fields, where)
  companions = Companions(_chat_templates(fields), tokenizer=named)
  config = with_vocabulary(config, tokenizer, where)
  params = None
  if weights:
    ignored = f'^{ROPE_FACTORS}$'
    params = tensors.read(config, TABLES[config.family], sources, where, ignored)
  return config, params, tokenizer, special, companions, _notes(fields, where)


def load_config(file: pathlib.Path) -> DecoderConfig:
  """Reads the shape alone; every row of the embedding counts as a token."""
  return _described(file).config


def shards(file: pathlib.Path, count: int) -> list[pathlib.Path]:
  """Returns the files that a model is split into, in their order.

  Args:
    file: one of them.
    count: how many the metadata says there are.

  Raises:
    UserError: the name of `file` is not that of one of several, or one of them is missing.
  """
  if count <= 1:
    return [file]
  parts = SHARD.fullmatch(file.name)
  if parts is None or int(parts['count']) != count:
    raise UserError(
      f'{file}: split.count says that the model is in {count} files; they must be called '
      f'NAME-00001-of-{count:05}.gguf and so on, as llama-gguf-split calls them'
    )
  found = [file.with_name(f'{parts["name"]}-{i + 1:05}-of-{count:05}.gguf') for i in range(count)]
  missing = [path.name for path in found if not path.is_file()]
  if missing:
    more = f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''
    raise UserError(
      f'{file}: the model is in {count} files, of which {missing[0]}{more} is missing; put it '
      'beside the others'
    )
  return found


def _described(file: pathlib.Path) -> Read:
  """Reads shape, metadata and tensors of all files of a model; no tensor is read yet."""
  package = _package(file)
  meta, sources = _opened(package, file)
  count = meta.get('split.count', 1)
  count = count if isinstance(count, int) else 1
  files = shards(file, count)
  if count > 1:
    meta, sources = _joined(package, files)
  where = str(files[0])
  kind, name = meta.get('general.type', 'model'), meta.get('general.architecture')
  if kind != 'model':
    raise UserError(f'{where}: general.type is {kind!r}, not a model; give the file of the model')
  if not isinstance(name, str) or name not in TABLES:
    nearest = next(near for start, near in NEAREST if str(name).startswith(start))
    raise UserError(
      f'{where}: architecture {name!r} is not read from GGUF; known: {", ".join(TABLES)} (nearest: '
      f'{nearest}); give the folder of the same model as safetensors, if jcl reads that'
    )
  _check_quantisations(package, sources)
  fields = Fields({k.removeprefix(f'{name}.'): v for k, v in meta.items()}, where)
  with naming_file(where):
    config = _config(fields, sources, name, where)
  check_layers(TABLES[name], sources, config.layers, f'{where}: block_count')
  return Read(config, fields, sources, where)


def _opened(
  package: types.ModuleType, file: pathlib.Path
) -> tuple[dict[str, Any], dict[str, TensorSource]]:
  """Opens one file: its metadata, and its tensors, not read yet."""
  try:
    with np.errstate(all='ignore'):
      reader = _bounded(package)(str(file))
      meta = {name: field.contents() for name, field in reader.fields.items()}
      sources = {tensor.name: _source(package, str(file), tensor) for tensor in reader.tensors}
  except Exception as error:  # whatever damaged bytes make the package raise
    if 'GGMLQuantizationType' in str(error):
      raise UserError(
        f'{file}: quantisation number {str(error).split(" ")[0]} is unknown to the package gguf; '
        'take a newer gguf, or the model in another quantisation such as Q8_0'
      ) from None
    raise UserError(f'{file}: truncated or no GGUF file ({error}); fetch it again') from None
  return meta, sources


def _joined(
  package: types.ModuleType, files: list[pathlib.Path]
) -> tuple[dict[str, Any], dict[str, TensorSource]]:
  """Opens all files of a split model; they must be one model's, in their order, and whole."""
  whole: dict[str, Any] = {}
  sources: dict[str, TensorSource] = {}
  for i, file in enumerate(files):
    meta, found = _opened(package, file)
    for name, right in (('split.no', i), ('split.count', len(files))):
      if meta.get(name) != right:
        raise UserError(
          f'{file}: {name} is {meta.get(name)}; this file of the model must say {right}'
        )
    if twice := sorted(set(sources) & set(found)):
      raise UserError(f'{file}: tensor {twice[0]!r} is in an earlier file of the model too')
    sources |= found
    for name, value in meta.items():
      if name.startswith(('split.', 'GGUF.')):
        whole[name] = value
      elif whole.setdefault(name, value) != value:
        raise UserError(f'{file}: {name} is another than in {files[0].name}: not of one model')
  total = whole.get('split.tensors.count')
  if total is not None and total != len(sources):
    raise UserError(
      f'{files[0]}: split.tensors.count is {total}; the {len(files)} files hold {len(sources)} '
      'tensors; fetch them again'
    )
  return whole, sources


def _package(file: pathlib.Path) -> types.ModuleType:
  try:
    import gguf
    import gguf.quants
  except ImportError:
    raise UserError(f"{file}: GGUF needs the package gguf: pip install 'jcl[gguf]'") from None
  return gguf


@functools.cache
def _bounded(package: types.ModuleType) -> type:
  """Returns the package's reader made to end where the file does: its own goes on, however far."""

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
      raise UserError(_unknown(file, tensor.name, tensor.tensor_type.name)) from None

  shape = tuple(int(n) for n in reversed(tensor.shape))
  return TensorSource(file, shape, read, tensor.tensor_type.name)


def _unknown(file: str, tensor: str, kind: str) -> str:
  return (
    f'{file}: tensor {tensor!r} has quantisation {kind}, which the package gguf cannot read; take '
    'the model in another one, such as Q8_0 or Q4_K'
  )


def _check_quantisations(package: types.ModuleType, sources: Mapping[str, TensorSource]) -> None:
  """Refuses a quantisation that cannot be read before any tensor is."""
  for source in {source.kind: source for source in sources.values()}.values():
    kind = package.GGMLQuantizationType[source.kind]
    block = np.zeros((1, package.GGML_QUANT_SIZES[kind][1]), np.uint8)
    try:
      with np.errstate(all='ignore'):
        package.quants.dequantize(block, kind)
    except (NotImplementedError, KeyError):
      name = next(name for name, other in sources.items() if other.kind == source.kind)
      raise UserError(_unknown(source.file, name, source.kind)) from None


def _chat_templates(fields: Fields) -> dict[str, str]:
  """Returns {name: source} of the chat templates in the metadata."""
  found = {
    key.removeprefix(TEMPLATE).removeprefix('.') or DEFAULT: fields.values.get(key)
    for key in [*fields.values]
    if key == TEMPLATE or key.startswith(f'{TEMPLATE}.')
  }
  return {name: source for name, source in found.items() if isinstance(source, str)}


def _notes(fields: Fields, where: str) -> tuple[str, ...]:
  """Returns a line that names the keys that nothing has read."""
  unread = [line for line in fields.unread() if not re.search(HARMLESS, line.split(' ')[0])]
  return (f'{where}: keys that nothing reads: {", ".join(unread)}',) if unread else ()


def _config(
  fields: Fields, sources: Mapping[str, TensorSource], name: str, file: str
) -> DecoderConfig:
  """Returns the config that the metadata and the names of the tensors give."""
  for key, values in CHANGES.items():
    fields.allow_only(key, *values)
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
  for key in ('rope.dimension_count', 'attention.value_length'):
    if fields.get(key, int, config.head_dim) != config.head_dim:
      raise UserError(
        f'{file}: {key} is {fields.values[key]}, a head has {config.head_dim} numbers; a model '
        'where they differ is not supported'
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
