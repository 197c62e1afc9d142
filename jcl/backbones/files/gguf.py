"""GGUF files: weights (quantised ones made float32), the tokenizer and the chat template. No torch.

A model may be split into files NAME-00001-of-00003.gguf, …, which are read as one whichever of them
is named. The extra `gguf` brings the package that reads the format and its quantisations.
"""

import difflib
import functools
import pathlib
import re
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from jcl.backbones.backbone import Params
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import tensors
from jcl.backbones.files.companions import DEFAULT, Companions
from jcl.backbones.files.contradictions import check_layers
from jcl.backbones.files.family import Entry
from jcl.backbones.files.fields import Fields, naming_file
from jcl.backbones.files.gguf_architectures import (
  ARCHITECTURES,
  LONG_FACTORS,
  ROPE_FACTORS,
  read_config,
)
from jcl.backbones.files.gguf_tokenizer import TEMPLATE, read_tokenizer, split_notes
from jcl.backbones.files.tensors import TensorSource
from jcl.backbones.tokenizers import SpecialIds, with_vocabulary
from jcl.errors import UserError, count_of
from jcl.streams.files import refuse_pointer

SHARD = re.compile(r'(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf')
# Keys that change nothing that jcl computes: names, sources, and keys that the package gguf adds.
HARMLESS = r'^(general|GGUF|quantize|split)\.|^(vocab_size|context_length)$'


class Read(NamedTuple):
  """A GGUF model as its files hold it; no tensor is read yet.

  Attributes:
    config: shape of the model; every row of the embedding counts as a token.
    fields: keys and values of the metadata; it records which keys were asked for.
    sources: {name: tensor} of all files.
    where: the first file, for messages.
    table: the names of the architecture's tensors.
  """

  config: DecoderConfig
  fields: Fields
  sources: dict[str, TensorSource]
  where: str
  table: tuple[Entry, ...]


def load(
  file: pathlib.Path, weights: bool = True, stored: bool = False
) -> tuple[DecoderConfig, Params | None, Tokenizer, SpecialIds, Companions, tuple[str, ...]]:
  """Reads a GGUF model.

  Args:
    file: the file, or one of the files that the model is split into.
    weights: read the tensors too; without them the parameters are None.
    stored: as in `hf.load`.

  Returns:
    The fields of `hf.Loaded`, in their order.

  Raises:
    UserError: the package gguf is absent; a file is missing, truncated, malformed or of unknown
      kind; or the files contradict each other.
  """
  config, fields, sources, where, table = _described(file)
  tokenizer, special, named = read_tokenizer(fields, where)
  companions = Companions(_chat_templates(fields), tokenizer=named)
  config = with_vocabulary(config, tokenizer, where)
  params = None
  if weights:
    used = {n: x for n, x in sources.items() if n not in (ROPE_FACTORS, *LONG_FACTORS.values())}
    params = (tensors.stored if stored else tensors.read)(config, table, used, where)
  return config, params, tokenizer, special, companions, _notes(fields, where)


def load_config(file: pathlib.Path) -> DecoderConfig:
  """Reads the shape of a model alone; every row of the embedding counts as a token."""
  return _described(file).config


def shards(file: pathlib.Path, count: int) -> list[pathlib.Path]:
  """Returns the files that a model is split into, in their order.

  Args:
    file: one of them.
    count: number of files, as the metadata of `file` says.

  Raises:
    UserError: the name of `file` is not NAME-00001-of-00003.gguf or alike, or a file is missing.
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
  """Opens all files of a model and reads its shape and metadata."""
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
  if not isinstance(name, str) or name not in ARCHITECTURES:
    nearest = [*difflib.get_close_matches(str(name), ARCHITECTURES, 1), 'llama'][0]
    raise UserError(
      f'{where}: architecture {name!r} is not read from GGUF; known: {", ".join(ARCHITECTURES)} '
      f'(nearest: {nearest}); give the folder of the same model as safetensors, if jcl reads that'
    )
  _check_quantisations(package, sources)
  fields = Fields({k.removeprefix(f'{name}.'): v for k, v in meta.items()}, where)
  with naming_file(where):
    config = read_config(fields, sources, name)
  table = ARCHITECTURES[name].table
  check_layers(table, sources, config.layers, f'{where}: block_count')
  return Read(config, fields, sources, where, table)


def _opened(
  package: types.ModuleType, file: pathlib.Path
) -> tuple[dict[str, Any], dict[str, TensorSource]]:
  """Returns the metadata of one file, and its tensors, which are not read yet."""
  try:
    with np.errstate(all='ignore'):
      reader = _bounded(package)(str(file))
      meta = {name: field.contents() for name, field in reader.fields.items()}
      sources = {tensor.name: _source(package, str(file), tensor) for tensor in reader.tensors}
  except MemoryError:
    raise
  except Exception as error:  # whatever damaged bytes make the package raise
    if 'GGMLQuantizationType' in str(error):
      raise UserError(
        f'{file}: quantisation number {str(error).split(" ")[0]} is unknown to the package gguf; '
        'take a newer gguf, or the model in another quantisation such as Q8_0'
      ) from None
    refuse_pointer(file, str(file))
    raise UserError(f'{file}: truncated or no GGUF file ({error}); fetch it again') from None
  return meta, sources


def _joined(
  package: types.ModuleType, files: list[pathlib.Path]
) -> tuple[dict[str, Any], dict[str, TensorSource]]:
  """Opens all files of a split model and returns what `_opened` returns, of all together.

  Raises:
    UserError: a file is out of order or of another model, or a tensor is missing.
  """
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
      f'{files[0]}: split.tensors.count is {total}; {count_of(len(sources), "tensor")} in '
      f'{count_of(len(files), "file")}; fetch them again'
    )
  return whole, sources


def _package(file: pathlib.Path) -> types.ModuleType:
  """Returns the package gguf, which is imported only for GGUF files."""
  try:
    import gguf
    import gguf.quants
  except ImportError:
    raise UserError(f"{file}: GGUF needs the package gguf: pip install 'jcl[gguf]'") from None
  return gguf


@functools.cache
def _bounded(package: types.ModuleType) -> type:
  """Returns the package's class of readers, made to refuse a place beyond the end of the file.

  The package's own reader returns fewer values there and goes on. It cuts each of the hundred
  thousand texts of a vocabulary from a memmap, which takes three times as long as from an array.
  """

  reader: Any = package.GGUFReader

  class Bounded(reader):
    data: Any

    def _get(self, offset: int, dtype: Any, count: int = 1, *order: Any, **named: Any) -> Any:
      if isinstance(self.data, np.memmap):
        self.data = self.data.view(np.ndarray)  # of the same mapped file
      found = super()._get(offset, dtype, int(count), *order, **named)
      if len(found) < count:
        raise ValueError(f'it ends before byte {offset + int(count)}')
      return found

  return Bounded


def _source(package: types.ModuleType, file: str, tensor: Any) -> TensorSource:
  """Returns a tensor of the package's reader as a source; it becomes float32 when it is read."""

  def read():
    try:
      return package.quants.dequantize(tensor.data, tensor.tensor_type)
    except (NotImplementedError, KeyError, ValueError):
      raise UserError(_unknown(file, tensor.name, tensor.tensor_type.name)) from None

  shape = tuple(int(n) for n in reversed(tensor.shape))
  kind = tensor.tensor_type.name
  plain = kind in ('F32', 'F16') and tensor.data.shape == shape
  return TensorSource(file, shape, read, kind, (lambda: tensor.data) if plain else None)


def _unknown(file: str, tensor: str, kind: str) -> str:
  """Returns the message about a quantisation that the package gguf cannot read."""
  return (
    f'{file}: tensor {tensor!r} has quantisation {kind}, which the package gguf cannot read; take '
    'the model in another quantisation, such as Q8_0 or Q4_K'
  )


def _check_quantisations(package: types.ModuleType, sources: Mapping[str, TensorSource]) -> None:
  """Refuses a quantisation that the package gguf cannot read, before any tensor is read."""
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
  """Returns a line about keys that nothing has read, and one if `tokenizer.ggml.pre` is absent."""
  unread = [line for line in fields.unread() if not re.search(HARMLESS, line.split(' ')[0])]
  unused = (f'{where}: keys that nothing reads: {", ".join(unread)}',) if unread else ()
  return split_notes(fields, where) + unused
