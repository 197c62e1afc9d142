"""Pretrained weights in: a Hugging Face folder or hub name, or a GGUF file. No torch, no code run.

config, params, tokenizer, special = load('../models/SmolLM2-135M')
"""

import contextlib
import json
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np
import safetensors
from tokenizers import Tokenizer

from jcl.backbones import Params, tensors
from jcl.backbones.config_json import Fields
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.families import FAMILIES, Family
from jcl.backbones.tensors import Source
from jcl.backbones.tokenizer import SpecialIds, read_tokenizer, with_vocabulary
from jcl.errors import UserError

DOWNLOADED = ('*.json', '*.safetensors', '*.txt', 'tokenizer.model')
FLOATS = ('F16', 'BF16', 'F32', 'F64')


class Loaded(NamedTuple):
  """A pretrained model: its shape, float32 numpy parameters, tokenizer and special ids."""

  config: DecoderConfig
  params: Params
  tokenizer: Tokenizer
  special: SpecialIds


def load(path: str) -> Loaded:
  """Reads a model.

  Args:
    path: a folder with config.json, safetensors and tokenizer.json; a .gguf file; or a name on the
      Hugging Face hub, which is downloaded.

  Raises:
    UserError: anything is missing, malformed or unknown; the message names file and tensor.
  """
  place = pathlib.Path(path).expanduser()
  if place.suffix == '.gguf':
    from jcl.backbones import gguf

    return Loaded(*gguf.load(_existing(place)))
  if place.is_file():
    raise UserError(f'{path}: neither a model folder nor a .gguf file')
  return load_folder(place if place.is_dir() else _download(path))


def read_config(path: str) -> DecoderConfig:
  """The shape of a pretrained model, named as for `load`; of a folder its config.json suffices.

  Raises:
    UserError: it is missing, malformed or unknown.
  """
  place = pathlib.Path(path).expanduser()
  if place.is_file():
    return load(path).config
  file = (place if place.is_dir() else _download(path, ('config.json',))) / 'config.json'
  values = read_json(file)
  return _family(values, file).read(Fields(values, str(file)))


def load_folder(folder: pathlib.Path) -> Loaded:
  """Reads a folder; see `load`."""
  values = read_json(folder / 'config.json')
  family = _family(values, folder / 'config.json')
  config = family.read(Fields(values, str(folder / 'config.json')))
  tokenizer, special = read_tokenizer(folder, values)
  config = with_vocabulary(config, tokenizer, str(folder))
  with contextlib.ExitStack() as stack:
    sources = _prefixed(_sources(folder, stack), family)
    _drop_tied(config, sources)
    return Loaded(
      config,
      tensors.read(config, family.table, sources, str(folder), family.ignored),
      tokenizer,
      special,
    )


def read_json(file: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file.

  Raises:
    UserError: it is missing, malformed or no object.
  """
  try:
    values = json.loads(_existing(file).read_text('utf-8'))
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise UserError(f'{file}: not valid JSON ({error})') from None
  if not isinstance(values, dict):
    raise UserError(f'{file}: a JSON object is wanted, not {type(values).__name__}')
  return values


def _existing(file: pathlib.Path) -> pathlib.Path:
  if not file.is_file():
    raise UserError(f'{file}: no such file')
  return file


def _family(values: dict[str, Any], file: pathlib.Path) -> Family:
  """The architecture that the config names; its code (`auto_map`) is never run."""
  name = values.get('model_type')
  if name not in FAMILIES:
    raise UserError(f'{file}: model_type {name!r} is unknown; known: {", ".join(FAMILIES)}')
  if values.get('quantization_config') is not None:
    raise UserError(f'{file}: quantised safetensors are not supported; take the float weights')
  return FAMILIES[name]


def _download(name: str, patterns: tuple[str, ...] = DOWNLOADED) -> pathlib.Path:
  """Fetches files of a hub repository: JSON files, safetensors and tokenizer."""
  if not re.fullmatch(r'[\w][\w.-]*(/[\w][\w.-]*)?', name):
    raise UserError(f'{name}: no such folder')
  import huggingface_hub

  try:
    folder = huggingface_hub.snapshot_download(
      name, allow_patterns=list(patterns), ignore_patterns=['*/*']
    )
  except (OSError, ValueError, RuntimeError) as error:
    raise UserError(
      f'{name}: no such folder, and the hub gave nothing ({type(error).__name__}); '
      'name an existing folder, or be online'
    ) from None
  return pathlib.Path(folder)


def _sources(folder: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, Source]:
  """Every tensor of the folder's safetensors, in one file or in shards with an index."""
  index = folder / 'model.safetensors.index.json'
  if (folder / 'model.safetensors').is_file():
    return shard(folder / 'model.safetensors', stack)
  if not index.is_file():
    pickles = sorted(f.name for p in ('*.bin', '*.pt', '*.pth') for f in folder.glob(p))
    if pickles:
      raise UserError(
        f'{folder / pickles[0]}: pickled weights can run code and are not read; save them with '
        'save_pretrained (safetensors) in transformers'
      )
    raise UserError(f'{folder}: no model.safetensors')
  placed = read_json(index).get('weight_map')
  if not isinstance(placed, dict) or not all(isinstance(v, str) for v in placed.values()):
    raise UserError(f"{index}: field 'weight_map' must map tensors to files")
  shards = {
    name: shard(_existing(folder / pathlib.Path(name).name), stack)
    for name in sorted(set(placed.values()))
  }
  for tensor, name in placed.items():
    if tensor not in shards[name]:
      raise UserError(f'{folder / name}: tensor {tensor!r} of the index is missing')
  return {tensor: source for shard in shards.values() for tensor, source in shard.items()}


def shard(file: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, Source]:
  """The tensors of one safetensors file, open as long as the stack.

  Raises:
    UserError: it is truncated, or a tensor holds no floats.
  """
  try:
    opened = stack.enter_context(safetensors.safe_open(str(file), framework='numpy'))
  except (safetensors.SafetensorError, OSError) as error:
    raise UserError(f'{file}: truncated or no safetensors file ({error})') from None
  sources = {}
  for name in opened.keys():  # noqa: SIM118  # not a dict
    part = opened.get_slice(name)
    if part.get_dtype() not in FLOATS:
      raise UserError(f'{file}: tensor {name!r} is {part.get_dtype()}, not one of {FLOATS}')
    read = lambda name=name: np.asarray(opened.get_tensor(name), np.float32)
    sources[name] = Source(str(file), tuple(part.get_shape()), read)
  return sources


def _prefixed(sources: dict[str, Source], family: Family) -> dict[str, Source]:
  """Names with the family's prefix, which checkpoints of the bare model leave out."""
  if any(name.startswith(family.prefix) for name in sources):
    return sources
  heads = ('lm_head.', 'embed_out.')
  return {n if n.startswith(heads) else family.prefix + n: s for n, s in sources.items()}


def _drop_tied(config: DecoderConfig, sources: dict[str, Source]) -> None:
  """Leaves out an output projection that repeats the embedding."""
  if config.tied:
    for name in ('lm_head.weight', 'embed_out.weight'):
      sources.pop(name, None)
