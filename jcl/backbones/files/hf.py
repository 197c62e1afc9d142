"""Pretrained models in and out: Hugging Face folders, and GGUF files in. No code of theirs runs.

loaded = load('../models/SmolLM2-135M')
save(pathlib.Path('mine'), loaded)
"""

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
from tokenizers import Tokenizer

from jcl.backbones.backbone import Params
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import contradictions, tensors
from jcl.backbones.files.companions import Companions, read_companions, write_companions
from jcl.backbones.files.contradictions import is_untied
from jcl.backbones.files.families import find_family, known_model_types, written_fields
from jcl.backbones.files.family import Family
from jcl.backbones.files.fields import Fields, existing_file, naming_file, read_json
from jcl.backbones.files.head_files import read_head, with_head, write_head
from jcl.backbones.files.nearest import nearest
from jcl.backbones.files.tensors import TensorSource
from jcl.backbones.files.tokenizer_files import read_tokenizer
from jcl.backbones.files.weights import open_folder, write_folder, write_json
from jcl.backbones.model_config import ModelConfig
from jcl.backbones.tokenizers import SpecialIds, with_vocabulary
from jcl.errors import UserError
from jcl.storage import paths
from jcl.storage.atomic import new_folder
from jcl.storage.progress import has_bars
from jcl.streams import hub
from jcl.streams.files import reason_of

HUB_ERRORS = {  # what an error of huggingface_hub means, by its class or the nearest one above
  'GatedRepoError': 'its licence must be accepted there, and a token given (`hf auth login`)',
  'RepositoryNotFoundError': 'it has no such model, or a private one; correct the name',
  'LocalEntryNotFoundError': 'it was not reached, and this machine has no copy; be online, or name '
  'an existing folder',
  'ConnectionError': 'it was not reached; be online, or name an existing folder',
}

DOWNLOADED = ('*.json', '*.txt', '*.jinja', 'tokenizer.model')
NOT_DOWNLOADED = ('[!a]*/*', 'a[!d]*/*')  # all folders but additional_chat_templates
WEIGHTS = ('*.safetensors',)
WRITTEN = {'float32': np.float32, 'bfloat16': ml_dtypes.bfloat16}


class Loaded(NamedTuple):
  """A model as files hold it.

  Attributes:
    config: shape of the model.
    params: float32 numpy arrays, or leaves that are still in the files (`Stored`); None where the
      weights were not read.
    tokenizer: of the model.
    special: ids that begin, end and fill up a text.
    companions: what goes with the model, such as its chat template.
    notes: a line for each contradiction that was resolved, and for what is in the files and unused.
  """

  config: ModelConfig
  params: Params | None
  tokenizer: Tokenizer
  special: SpecialIds
  companions: Companions = Companions()
  notes: tuple[str, ...] = ()


def load(path: str, weights: bool = True, family: str = '', stored: bool = False) -> Loaded:
  """Reads a model.

  Args:
    path: a folder with config.json, safetensors and tokenizer.json; a .gguf file; or the name of a
      model on the Hugging Face hub, which is downloaded.
    weights: read the tensors too; otherwise `params` is None and no safetensors need be there.
    family: `package.module:name` of a Family, for a model_type that jcl does not know; empty: by
      the model_type in config.json.
    stored: leave the tensors in the files until a part of them is asked for; the files must stay as
      they are until then.

  Raises:
    UserError: anything is missing, malformed or unknown; the message names file and tensor.
  """
  place = paths.local(path, 'backbone.path')
  if place.suffix == '.gguf':
    from jcl.backbones.files import gguf

    _refuse_family(path, family)
    return Loaded(*gguf.load(existing_file(place), weights, stored))
  return load_folder(_folder(path, weights), weights, family, stored)


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
  folder = _folder(path, weights=False)
  fields, record, config = _described(folder, family)
  if not any(folder.glob('model*.safetensors')):
    return config
  with contextlib.ExitStack() as stack:
    sources = _prefixed(open_folder(folder, stack), record)
    return _held(config, record, sources, folder, fields.values)[0]


def load_folder(
  folder: pathlib.Path, weights: bool = True, family: str = '', stored: bool = False
) -> Loaded:  # fmt: skip
  """Reads a model folder; arguments and errors as in `load`."""
  fields, record, config = _described(folder, family)
  tokenizer, special, resolved = read_tokenizer(folder, fields.values)
  config = with_vocabulary(config, tokenizer, str(folder))
  companions = read_companions(folder, fields.values)
  notes = contradictions.of_config(fields, folder / 'config.json', config)
  notes += contradictions.of_files(folder)
  notes += contradictions.of_special_ids(
    folder, fields.values, companions.generation, tokenizer, special
  )
  notes += resolved + contradictions.of_tokenizer(folder, companions.tokenizer, tokenizer, special)
  with contextlib.ExitStack() as stack:
    there = weights or any(folder.glob('model*.safetensors'))
    sources = _prefixed(open_folder(folder, stack), record) if there else {}
    config, found = _held(config, record, sources, folder, fields.values)
    notes += found
    if not weights:
      return Loaded(config, None, tokenizer, special, companions, tuple(notes))
    used = {n: x for n, x in sources.items() if not _unused(n, config, record)}
    of_files = tensors.stored if stored else tensors.read
    params = of_files(config, record.table, used, str(folder))
  if config.classes:
    params['head'] = read_head(folder, config)
  return Loaded(config, params, tokenizer, special, companions, tuple(notes))


def _held(
  config: ModelConfig, record: Family, sources: dict[str, TensorSource], folder: pathlib.Path,
  values: Mapping[str, Any],
) -> tuple[ModelConfig, list[str]]:  # fmt: skip
  """Compares the config with the tensors; returns the config as they have it, and notes.

  A model that is tied by its config and not by its tensors is kept untied, as transformers does.
  """
  notes = []
  if isinstance(config, DecoderConfig) and config.tied and is_untied(sources, record):
    config = dataclasses.replace(config, tied=False)
    notes.append(
      f'{folder / "config.json"}: tie_word_embeddings is true, but the output projection in the '
      'file is another than the embedding; both are kept, untied'
    )
  unread = [n for n in sources if _unused(n, config, record)]
  repeated = [n for n in unread if n.startswith(record.output_names)]
  if isinstance(config, DecoderConfig) and config.tied:
    unread = [n for n in unread if n not in repeated]  # they are the embedding
  used = set(sources) - set(unread) - set(repeated)
  notes += contradictions.of_tensors(sources, unread, values, folder)
  said = f'{folder / "config.json"}: the number of layers'
  contradictions.check_layers(record.table, used, config.layers, said)
  outputs = [e.tensor for e in record.table if e.paths[0] == 'unembed/embedding']
  untied = isinstance(config, DecoderConfig) and not config.tied and not config.classes
  if sources and untied and outputs and outputs[0] not in sources:
    raise UserError(
      f'{folder}: tensor {outputs[0]!r} is missing, and the config does not tie it to the '
      'embedding (tie_word_embeddings): the model was saved without its output projection'
    )
  return config, notes


def _unused(name: str, config: ModelConfig, record: Family) -> bool:
  """Whether a tensor is known and not read: constants, heads, a repeated output projection."""
  tied = isinstance(config, DecoderConfig) and config.tied
  repeats = tied and name.startswith(record.output_names) and name.endswith('weight')
  return repeats or bool(re.search(f'{record.ignored}|{contradictions.HEADS}', name))


def save(
  folder: pathlib.Path,
  loaded: Loaded,
  *,
  dtype: Literal['float32', 'bfloat16'] = 'float32',
) -> None:
  """Writes a folder that transformers and `load` read; it appears whole or not at all.

  Args:
    folder: new or empty; one that holds the same files already stays as it is.
    loaded: the model; rows that only pad its vocabulary are left out. Without parameters only its
      shape and its tokenizer are written.
    dtype: of the weights on disk; only float32 gives back the same bits.

  Raises:
    UserError: the folder holds something else, or the model has an adapter that is not merged.
  """
  config, params, tokenizer, special, companions, _ = loaded
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
      if len(labels := companions.labels) == config.classes:
        values['id2label'] = {str(i): label for i, label in enumerate(labels)}
        values['label2id'] = {label: i for i, label in enumerate(labels)}
    write_json(part / 'config.json', values)
    tokenizer.save(str(part / 'tokenizer.json'))
    generates = isinstance(config, DecoderConfig) and not config.classes
    write_companions(part, companions, tokenizer, special, generates)


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


def _described(folder: pathlib.Path, family: str) -> tuple[Fields, Family, ModelConfig]:
  """Reads config.json: its fields, the family, and the shape that it describes."""
  file = folder / 'config.json'
  if (folder / 'adapter_config.json').is_file() and not file.is_file():
    raise UserError(
      f'{folder}: an adapter, not a model; merge it into its base model and give the result: '
      f'jcl merge --adapters={folder} --weights=1 --into=weights --out=NEW'
    )
  values = read_json(file)
  fields = Fields(values, str(file))
  name = family or _model_type(values, file)
  record = find_family(name, 'backbone.family' if family else f'{file}: model_type')
  if (quantised := values.get('quantization_config')) is not None:
    method = quantised.get('quant_method') if isinstance(quantised, dict) else quantised
    raise UserError(
      f'{file}: quantization_config: weights quantised by {method} are not supported; take the '
      'float weights of the model, or a GGUF file of it'
    )
  with naming_file(str(file)):
    config = record.read(fields)
    fields.allow_only('is_causal', isinstance(config, DecoderConfig))
  if not isinstance(config, ModelConfig) or type(config) is ModelConfig:
    kind = 'dict' if isinstance(config, dict) else type(config).__name__
    raise UserError(
      f'backbone.family: {name}: read gives {kind}; it must give a '
      'jcl.backbones.DecoderConfig or EncoderConfig'
    )
  model_type = fields.get('model_type', str) if family else ''
  return (
    fields,
    record,
    with_head(folder, dataclasses.replace(config, family=name, model_type=model_type)),
  )


def _model_type(values: dict[str, Any], file: pathlib.Path) -> str:
  """The model_type of a config.json, which must be known; its code (`auto_map`) is never run."""
  name = values.get('model_type')
  known = known_model_types()
  if not isinstance(name, str) or name not in known:
    close = f'{nearest(name, values, known)}; ' if isinstance(name, str) and name else ''
    raise UserError(
      f'{file}: model_type {name!r} is unknown; {close}known: {", ".join(known)}; for another one '
      'give backbone.family'
    )
  return name


def _download(name: str, patterns: tuple[str, ...]) -> pathlib.Path:
  """Fetches the files of a hub repository that match one of `patterns`."""
  if not re.fullmatch(hub.NAME, name):
    raise UserError(f'{name}: no such folder; name an existing one, or a model of the hub')
  huggingface_hub, utils = map(hub.imported, ('huggingface_hub', 'huggingface_hub.utils'))
  try:
    with hub.library_bars(utils, shown=has_bars()):
      folder = huggingface_hub.snapshot_download(
        name, allow_patterns=list(patterns), ignore_patterns=list(NOT_DOWNLOADED)
      )
  except (OSError, ValueError, RuntimeError) as error:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    why = next((HUB_ERRORS[kind] for kind in kinds if kind in HUB_ERRORS), reason_of(error))
    raise UserError(f'{name}: no such folder, and the hub gave nothing: {why}') from None
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
