"""Pretrained weights in and out: Hugging Face folders, GGUF files. No torch, no code run.

config, params, tokenizer, special = load('../models/SmolLM2-135M')
save(pathlib.Path('mine'), Loaded(config, params, tokenizer, special))
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from tokenizers import Tokenizer

from jcl.backbones import Params, heads
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import tensors
from jcl.backbones.files.config_json import Fields, existing, naming, read_json
from jcl.backbones.files.families import FAMILIES, Family
from jcl.backbones.files.tensors import Source
from jcl.backbones.model_config import ModelConfig
from jcl.backbones.tokenizers import SpecialIds, read_tokenizer, with_vocabulary
from jcl.errors import UserError
from jcl.storage.atomic import new_folder
from jcl.streams import hub

DOWNLOADED = ('*.json', '*.txt', 'tokenizer.model')
WEIGHTS = ('*.safetensors',)
PICKLES = ('*.bin', '*.pt', '*.pth', '*.ckpt', '*.pkl')
FOREIGN = ('*.h5', '*.msgpack', '*.onnx', '*.npz')
FLOATS = ('F16', 'BF16', 'F32', 'F64')
SHARD_BYTES = 5 * 10**9  # a file of weights holds at most so many
WRITTEN = {'float32': np.float32, 'bfloat16': ml_dtypes.bfloat16}
KEPT = ('chat_template.jinja', 'generation_config.json')  # of the folder a model came from


class Loaded(NamedTuple):
  """A pretrained model: shape, float32 numpy parameters or None, tokenizer and special ids."""

  config: ModelConfig
  params: Params | None
  tokenizer: Tokenizer
  special: SpecialIds


def load(path: str, weights: bool = True) -> Loaded:
  """Reads a model.

  Args:
    path: a folder with config.json, safetensors and tokenizer.json; a .gguf file; or a name on the
      Hugging Face hub, which is downloaded.
    weights: read the tensors too; otherwise `params` is None and no safetensors need be there.

  Raises:
    UserError: anything is missing, malformed or unknown; the message names file and tensor.
  """
  place = pathlib.Path(path).expanduser()
  if place.suffix == '.gguf':
    from jcl.backbones.files import gguf

    return Loaded(*gguf.load(existing(place), weights))
  return load_folder(_folder(path, weights), weights)


def load_config(path: str) -> DecoderConfig:
  """The shape of the model at `path` (see `load`), from config.json or GGUF metadata alone.

  Without its tokenizer every row of the embedding counts as a token.
  """
  place = pathlib.Path(path).expanduser()
  if place.suffix == '.gguf':
    from jcl.backbones.files import gguf

    return gguf.load_config(existing(place))
  return _described(_folder(path, weights=False))[2]


def load_folder(folder: pathlib.Path, weights: bool = True) -> Loaded:
  """Reads a folder; see `load`."""
  values, family, config = _described(folder)
  tokenizer, special = read_tokenizer(folder, values)
  config = with_vocabulary(config, tokenizer, str(folder))
  if not weights:
    return Loaded(config, None, tokenizer, special)
  with contextlib.ExitStack() as stack:
    sources = _prefixed(_sources(folder, stack), family)
    _drop_tied(config, sources)
    params = tensors.read(config, family.table, sources, str(folder), family.ignored)
  if config.classes:
    params['head'] = _read_head(folder, config)
  return Loaded(config, params, tokenizer, special)


def save(
  folder: pathlib.Path,
  loaded: Loaded,
  *,
  dtype: Literal['float32', 'bfloat16'] = 'float32',
  source: pathlib.Path | None = None,
  beside: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
  """Writes a folder that `transformers` and `load` read; whole or not at all.

  Args:
    folder: must not be there yet, or be empty.
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
  values = {
    'model_type': config.family,
    **{f'{name}_token_id': value for name, value in special._asdict().items()},
    **FAMILIES[config.family].write(config),
    'dtype': dtype,
  }
  with new_folder(folder) as part:
    if params is not None:
      _write_weights(part, _named(config, params), WRITTEN[dtype])
    if config.classes:
      values['architectures'] = [_bare(name) for name in values['architectures']]
      _write_head(part, config, params and params['head'])
    for name, contents in (beside or {}).items():
      _write_json(part / name, contents)
    _write_json(part / 'config.json', values)
    tokenizer.save(str(part / 'tokenizer.json'))
    _write_json(part / 'tokenizer_config.json', _tokenizer_config(tokenizer, special, source))
    for name in KEPT:
      if source is not None and (source / name).is_file():
        shutil.copyfile(source / name, part / name)


def _bare(architecture: str) -> str:
  """The class of a model without its projection to the vocabulary: LlamaModel, GPT2Model."""
  return re.sub('(LMHeadModel|ForCausalLM)$', 'Model', architecture)


def _write_head(folder: pathlib.Path, config: ModelConfig, head: Params | None) -> None:
  """The head's arrays, and what they mean in a small JSON: z = h W + b, or s·cos(h, w)."""
  if head is not None:
    arrays = {name: np.array(x, np.float32, order='C') for name, x in head.items()}
    safetensors.numpy.save_file(arrays, folder / 'head.safetensors', {'format': 'pt'})
  values = {'kind': config.head, 'classes': config.classes, 'pooling': config.pooling}
  _write_json(folder / 'head.json', values)


def _with_head(folder: pathlib.Path, config: ModelConfig) -> ModelConfig:
  """The config with the head that a folder has beside its model, if it has one."""
  file = folder / 'head.json'
  if not file.is_file():
    return config
  fields = Fields(read_json(file), str(file))
  words = {
    'head': ('kind', ('linear', 'cosine')),
    'pooling': ('pooling', ('last', 'first', 'mean')),
  }
  found = {ours: fields.get(name, str) for ours, (name, _) in words.items()}
  for ours, (name, known) in words.items():
    if found[ours] not in known:
      raise UserError(f'{file}: field {name!r} is {found[ours]!r}, not one of {", ".join(known)}')
  return dataclasses.replace(config, classes=fields.get('classes', int), **found)


def _read_head(folder: pathlib.Path, config: ModelConfig) -> Params:
  """The arrays of a folder's head, of the shapes that its JSON gives."""
  file = existing(folder / 'head.safetensors')
  wanted = jax.eval_shape(functools.partial(heads.init, config=config), jax.random.key(0))
  with contextlib.ExitStack() as stack:
    sources = shard(file, stack)
    tensors.check_names(set(wanted), set(sources), str(file))
    for name, source in sources.items():
      if source.shape != wanted[name].shape:
        raise UserError(
          f'{file}: tensor {name!r} has shape {source.shape}; head.json wants {wanted[name].shape}'
        )
    return {name: source.read() for name, source in sources.items()}


def _named(config: DecoderConfig, params: Params) -> Iterator[tuple[str, np.ndarray]]:
  """Their (name, array), the tables of tokens without the rows that only pad them."""
  params = dict(params)
  for name in ('embed', 'unembed'):
    if name in params:
      params[name] = {'embedding': np.asarray(params[name]['embedding'])[: config.kept_rows]}
  return tensors.write(config, FAMILIES[config.family].table, params)


def _write_weights(
  folder: pathlib.Path, named: Iterator[tuple[str, np.ndarray]], dtype: Any
) -> None:
  """One safetensors file, or several and an index."""
  shards: list[list[str]] = []
  shard: dict[str, np.ndarray] = {}

  def flush():
    file = folder / f'{len(shards)}.part'
    safetensors.numpy.save_file(shard, file, metadata={'format': 'pt'})
    shards.append(list(shard))
    shard.clear()

  for name, array in named:
    array = np.ascontiguousarray(array, dtype)
    if shard and sum(x.nbytes for x in shard.values()) + array.nbytes > SHARD_BYTES:
      flush()
    shard[name] = array
  flush()
  if len(shards) == 1:
    os.replace(folder / '0.part', folder / 'model.safetensors')
    return
  files = [f'model-{i + 1:05}-of-{len(shards):05}.safetensors' for i in range(len(shards))]
  for i, file in enumerate(files):
    os.replace(folder / f'{i}.part', folder / file)
  placed = {name: file for file, names in zip(files, shards, strict=True) for name in names}
  total = sum((folder / file).stat().st_size for file in files)
  index = {'metadata': {'total_size': total}, 'weight_map': placed}
  _write_json(folder / 'model.safetensors.index.json', index)


def _tokenizer_config(
  tokenizer: Tokenizer, special: SpecialIds, source: pathlib.Path | None
) -> dict[str, Any]:
  """What a tokenizer_config.json says: the source's words, and the special tokens."""
  file = None if source is None else source / 'tokenizer_config.json'
  values = read_json(file) if file is not None and file.is_file() else {}
  values.pop('added_tokens_decoder', None)  # tokenizer.json has them, the new ones too
  values.setdefault('clean_up_tokenization_spaces', False)
  for name, number in special._asdict().items():
    values[f'{name}_token'] = None if number is None else tokenizer.id_to_token(number)
  return {**values, 'tokenizer_class': 'PreTrainedTokenizerFast'}


def _write_json(file: pathlib.Path, values: Mapping[str, Any]) -> None:
  file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + '\n', 'utf-8')


def _folder(path: str, weights: bool) -> pathlib.Path:
  """The folder at `path`, or the one that the hub's model of that name is downloaded to."""
  place = pathlib.Path(path).expanduser()
  if place.is_file():
    raise UserError(f'{path}: neither a model folder nor a .gguf file')
  return place if place.is_dir() else _download(path, DOWNLOADED + WEIGHTS * weights)


def _described(folder: pathlib.Path) -> tuple[dict[str, Any], Family, DecoderConfig]:
  """-> config.json, the family that it names, and the shape that it describes."""
  file = folder / 'config.json'
  values = read_json(file)
  family = _family(values, file)
  with naming(str(file)):
    config = family.read(Fields(values, str(file)))
  return values, family, _with_head(folder, config)


def _family(values: dict[str, Any], file: pathlib.Path) -> Family:
  """The architecture that the config names; its code (`auto_map`) is never run."""
  name = values.get('model_type')
  if not isinstance(name, str) or name not in FAMILIES:
    raise UserError(f'{file}: model_type {name!r} is unknown; known: {", ".join(FAMILIES)}')
  if values.get('quantization_config') is not None:
    raise UserError(f'{file}: quantised safetensors are not supported; take the float weights')
  return FAMILIES[name]


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


def _sources(folder: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, Source]:
  """Every tensor of the folder's safetensors, in one file or in shards with an index."""
  index = folder / 'model.safetensors.index.json'
  if (folder / 'model.safetensors').is_file():
    return shard(folder / 'model.safetensors', stack)
  if not index.is_file():
    pickles = sorted(f.name for p in PICKLES for f in folder.glob(p))
    if pickles:
      raise UserError(
        f'{folder / pickles[0]}: pickled weights can run code and are not read; save them with '
        'save_pretrained (safetensors) in transformers'
      )
    others = sorted(f.name for p in FOREIGN for f in folder.glob(p))
    if others:
      raise UserError(
        f'{folder / others[0]}: weights are read from safetensors and GGUF alone; load them in '
        'transformers and save them with save_pretrained (safetensors)'
      )
    raise UserError(f'{folder}: no model.safetensors; give a folder that has one, or a .gguf file')
  placed = read_json(index).get('weight_map')
  if not isinstance(placed, dict) or not all(isinstance(v, str) for v in placed.values()):
    raise UserError(f"{index}: field 'weight_map' must map tensors to files")
  shards = {
    name: shard(existing(folder / pathlib.Path(name).name), stack)
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
    read = functools.partial(_tensor, file, opened, name)
    sources[name] = Source(str(file), tuple(opened.get_slice(name).get_shape()), read)
  return sources


def _tensor(file: pathlib.Path, opened: Any, name: str) -> np.ndarray:
  """A tensor in float32; its type is looked at here, because a constant that is ignored has any."""
  kind = opened.get_slice(name).get_dtype()
  if kind not in FLOATS:
    raise UserError(f'{file}: tensor {name!r} is {kind}, not one of {FLOATS}')
  return np.asarray(opened.get_tensor(name), np.float32)


def _prefixed(sources: dict[str, Source], family: Family) -> dict[str, Source]:
  """Names with the family's prefix, which checkpoints of the bare model leave out.

  The first BERT files call the scale and bias of a norm gamma and beta.
  """
  renamed = {'LayerNorm.gamma': 'LayerNorm.weight', 'LayerNorm.beta': 'LayerNorm.bias'}
  for name in list(sources):
    for old, new in renamed.items():
      if name.endswith(old):
        sources[name.removesuffix(old) + new] = sources.pop(name)
  if any(name.startswith(family.prefix) for name in sources):
    return sources
  heads = ('lm_head.', 'embed_out.')
  return {n if n.startswith(heads) else family.prefix + n: s for n, s in sources.items()}


def _drop_tied(config: ModelConfig, sources: dict[str, Source]) -> None:
  """Leaves out an output projection that repeats the embedding."""
  if isinstance(config, DecoderConfig) and config.tied:
    for name in ('lm_head.weight', 'embed_out.weight'):
      sources.pop(name, None)
