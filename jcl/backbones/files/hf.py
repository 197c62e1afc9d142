"""Pretrained models in and out: Hugging Face folders, and GGUF files in. No code of theirs runs.

config, params, tokenizer, special = load('../models/SmolLM2-135M')
save(pathlib.Path('mine'), Loaded(config, params, tokenizer, special))
"""

import contextlib
import dataclasses
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
from tokenizers import Tokenizer

from jcl.backbones.backbone import Params
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import tensors
from jcl.backbones.files.families import find_family, known_model_types, written_fields
from jcl.backbones.files.family import Family
from jcl.backbones.files.fields import Fields, existing_file, naming_file, read_json
from jcl.backbones.files.head_files import read_head, with_head, write_head
from jcl.backbones.files.tensors import TensorSource
from jcl.backbones.files.tokenizer_files import read_tokenizer
from jcl.backbones.files.tokenizer_files import written_fields as tokenizer_fields
from jcl.backbones.files.weights import open_folder, write_folder, write_json
from jcl.backbones.model_config import ModelConfig
from jcl.backbones.tokenizers import SpecialIds, with_vocabulary
from jcl.errors import UserError
from jcl.storage import paths
from jcl.storage.atomic import new_folder
from jcl.streams import hub

DOWNLOADED = ('*.json', '*.txt', 'tokenizer.model')
WEIGHTS = ('*.safetensors',)
WRITTEN = {'float32': np.float32, 'bfloat16': ml_dtypes.bfloat16}
KEPT = ('chat_template.jinja', 'generation_config.json')  # of the folder a model came from


class Loaded(NamedTuple):
  """A model as files hold it.

  Attributes:
    config: shape of the model.
    params: float32 numpy arrays; None where the weights were not read.
    tokenizer: of the model.
    special: ids that begin, end and fill up a text.
  """

  config: ModelConfig
  params: Params | None
  tokenizer: Tokenizer
  special: SpecialIds


def load(path: str, weights: bool = True, family: str = '') -> Loaded:
  """Reads a model.

  Args:
    path: a folder with config.json, safetensors and tokenizer.json; a .gguf file; or the name of a
      model on the Hugging Face hub, which is downloaded.
    weights: read the tensors too; otherwise `params` is None and no safetensors need be there.
    family: `package.module:name` of a Family, for a model_type that jcl does not know; empty: by
      the model_type in config.json.

  Raises:
    UserError: anything is missing, malformed or unknown; the message names file and tensor.
  """
  place = paths.local(path, 'backbone.path')
  if place.suffix == '.gguf':
    from jcl.backbones.files import gguf

    _refuse_family(path, family)
    return Loaded(*gguf.load(existing_file(place), weights))
  return load_folder(_folder(path, weights), weights, family)


def load_config(path: str, family: str = '') -> ModelConfig:
  """Reads the shape of a model from config.json or GGUF metadata alone.

  The tokenizer is not read, so every row of the embedding counts as a token.

  Args:
    path, family: as in `load`.

  Raises:
    UserError: anything is missing, malformed or unknown.
  """
  place = paths.local(path, 'backbone.path')
  if place.suffix == '.gguf':
    from jcl.backbones.files import gguf

    _refuse_family(path, family)
    return gguf.load_config(existing_file(place))
  return _described(_folder(path, weights=False), family)[2]


def load_folder(folder: pathlib.Path, weights: bool = True, family: str = '') -> Loaded:
  """Reads a model folder; arguments and errors as in `load`."""
  values, record, config = _described(folder, family)
  tokenizer, special = read_tokenizer(folder, values)
  config = with_vocabulary(config, tokenizer, str(folder))
  if not weights:
    return Loaded(config, None, tokenizer, special)
  with contextlib.ExitStack() as stack:
    sources = _prefixed(open_folder(folder, stack), record)
    if isinstance(config, DecoderConfig) and config.tied:
      # An output projection in the file repeats the embedding.
      sources = {n: x for n, x in sources.items() if not n.startswith(record.output_names)}
    params = tensors.read(config, record.table, sources, str(folder), record.ignored)
  if config.classes:
    params['head'] = read_head(folder, config)
  return Loaded(config, params, tokenizer, special)


def save(
  folder: pathlib.Path,
  loaded: Loaded,
  *,
  dtype: Literal['float32', 'bfloat16'] = 'float32',
  source: pathlib.Path | None = None,
  beside: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
  """Writes a folder that transformers and `load` read; it appears whole or not at all.

  Args:
    folder: must not exist, or be empty.
    loaded: the model; rows that only pad its vocabulary are left out. Without parameters only its
      shape and its tokenizer are written.
    dtype: of the weights on disk; only float32 gives back the same bits.
    source: the folder that the model came from, whose chat template and other words about the
      tokenizer and about generation are kept.
    beside: {file name: contents} of more JSON files.

  Raises:
    UserError: the folder is in use, or the model has an adapter that is not merged.
  """
  config, params, tokenizer, special = loaded
  if params is not None and 'lora' in params:
    raise UserError('the parameters hold an adapter; merge it, or export it as one')
  ids = {f'{name}_token_id': value for name, value in special._asdict().items()}
  written = written_fields(config)
  values = {'model_type': written['model_type'], **ids, **written, 'dtype': dtype}
  with new_folder(folder) as part:
    if params is not None:
      write_folder(part, _named(config, params), WRITTEN[dtype])
    if config.classes:
      values['architectures'] = [_bare(name) for name in values['architectures']]
      write_head(part, config, None if params is None else params['head'])
    for name, contents in (beside or {}).items():
      write_json(part / name, contents)
    write_json(part / 'config.json', values)
    tokenizer.save(str(part / 'tokenizer.json'))
    write_json(part / 'tokenizer_config.json', tokenizer_fields(tokenizer, special, source))
    for name in KEPT:
      if source is not None and (source / name).is_file():
        shutil.copyfile(source / name, part / name)


def _bare(architecture: str) -> str:
  """The class of a model without its projection to the vocabulary: LlamaModel, GPT2Model."""
  return re.sub('(LMHeadModel|ForCausalLM)$', 'Model', architecture)


def _named(config: ModelConfig, params: Params) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (name of the tensor, array), the tables of tokens without the rows that only pad."""
  params = dict(params)
  for name in ('embed', 'unembed'):
    if name in params:
      params[name] = {'embedding': np.asarray(params[name]['embedding'])[: config.kept_rows]}
  return tensors.write(config, find_family(config.family).table, params)


def _folder(path: str, weights: bool) -> pathlib.Path:
  """The folder at `path`, or the one that the hub's model of that name is downloaded to."""
  place = paths.local(path, 'backbone.path')
  if place.is_file():
    raise UserError(f'{path}: neither a model folder nor a .gguf file')
  return place if place.is_dir() else _download(path, DOWNLOADED + WEIGHTS * weights)


def _refuse_family(path: str, family: str) -> None:
  if family:
    raise UserError(
      f'backbone.family is {family!r}, but {path} is a GGUF file, which says itself what it is; '
      'leave backbone.family empty'
    )


def _described(folder: pathlib.Path, family: str) -> tuple[dict[str, Any], Family, ModelConfig]:
  """Reads config.json: its fields, the family, and the shape that it describes."""
  file = folder / 'config.json'
  values = read_json(file)
  fields = Fields(values, str(file))
  name = family or _model_type(values, file)
  record = find_family(name, 'backbone.family' if family else f'{file}: model_type')
  if values.get('quantization_config') is not None:
    raise UserError(f'{file}: quantised safetensors are not supported; take the float weights')
  with naming_file(str(file)):
    config = record.read(fields)
  if not isinstance(config, ModelConfig) or type(config) is ModelConfig:
    raise UserError(
      f'backbone.family: {name}: read gives {type(config).__name__}; it must give a '
      'jcl.backbones.DecoderConfig or EncoderConfig'
    )
  model_type = fields.get('model_type', str) if family else ''
  return (
    values,
    record,
    with_head(folder, dataclasses.replace(config, family=name, model_type=model_type)),
  )


def _model_type(values: dict[str, Any], file: pathlib.Path) -> str:
  """The model_type of a config.json, which must be known; its code (`auto_map`) is never run."""
  name = values.get('model_type')
  known = known_model_types()
  if not isinstance(name, str) or name not in known:
    raise UserError(
      f'{file}: model_type {name!r} is unknown; known: {", ".join(known)}; for another one give '
      'backbone.family'
    )
  return name


def _download(name: str, patterns: tuple[str, ...]) -> pathlib.Path:
  """Fetches the files of a hub repository that match one of `patterns`."""
  if not re.fullmatch(hub.NAME, name):
    raise UserError(f'{name}: no such folder; name an existing one, or a model of the hub')
  huggingface_hub = hub.imported('huggingface_hub')
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


def _prefixed(sources: dict[str, TensorSource], family: Family) -> dict[str, TensorSource]:
  """Returns the tensors with the family's prefix, which a bare model's checkpoint leaves out.

  The first BERT files call the scale and bias of a norm gamma and beta.
  """
  renamed = {'LayerNorm.gamma': 'LayerNorm.weight', 'LayerNorm.beta': 'LayerNorm.bias'}
  for name in list(sources):
    for old, new in renamed.items():
      if name.endswith(old):
        sources[name.removesuffix(old) + new] = sources.pop(name)
  if any(name.startswith(family.prefix) for name in sources):
    return sources
  whole = lambda name: name.startswith(family.output_names)
  return {n if whole(n) else family.prefix + n: source for n, source in sources.items()}
