"""Safetensors files of weights, in one file or in shards with an index. No pickle is read."""

import contextlib
import functools
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from jcl.backbones.files.fields import existing_file, read_json
from jcl.backbones.files.tensors import TensorSource, save_tensors
from jcl.errors import UserError
from jcl.streams.files import refuse_pointer

PICKLES = ('*.bin', '*.pt', '*.pth', '*.ckpt', '*.pkl')
FOREIGN = ('*.h5', '*.msgpack', '*.onnx', '*.npz')
FLOATS = {'F16': np.float16, 'BF16': ml_dtypes.bfloat16, 'F32': np.float32, 'F64': np.float64}
SHARD_BYTES = 5 * 10**9  # bytes of weights that a file holds at most


def open_folder(folder: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, TensorSource]:
  """Opens a folder's safetensors, in one file or in shards with an index.

  Args:
    folder: of a model.
    stack: closes the files.

  Returns:
    {name of the tensor: tensor, not read yet}.

  Raises:
    UserError: there are none, or the index and the shards contradict each other.
  """
  index = folder / 'model.safetensors.index.json'
  if (folder / 'model.safetensors').is_file():
    return open_file(folder / 'model.safetensors', stack)
  if not index.is_file():
    _refuse_other_formats(folder)
    if parts := sorted(file.name for file in folder.glob('model-*-of-*.safetensors')):
      raise UserError(
        f'{index}: no such file, beside {parts[0]}: fetch it, for it says which tensors there are'
      )
    raise UserError(f'{folder}: no model.safetensors; give a folder that has one, or a .gguf file')
  placed = read_json(index).get('weight_map')
  if not isinstance(placed, dict) or not all(isinstance(v, str) for v in placed.values()):
    raise UserError(f"{index}: field 'weight_map' must map tensors to files")
  shards = {
    name: open_file(existing_file(folder / pathlib.Path(name).name), stack)
    for name in sorted(set(placed.values()))
  }
  for tensor, name in placed.items():
    if tensor not in shards[name]:
      raise UserError(f'{folder / name}: tensor {tensor!r} of the index is missing')
  return {tensor: source for shard in shards.values() for tensor, source in shard.items()}


def _refuse_other_formats(folder: pathlib.Path) -> None:
  """Names a file of weights that is there and cannot be read."""
  pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
  if pickles:
    raise UserError(
      f'{folder / pickles[0]}: pickled weights can run code and are not read; save them with '
      'save_pretrained (safetensors) in transformers'
    )
  others = sorted(file.name for pattern in FOREIGN for file in folder.glob(pattern))
  if others:
    raise UserError(
      f'{folder / others[0]}: weights are read from safetensors and GGUF alone; load them in '
      'transformers and save them with save_pretrained (safetensors)'
    )


def open_file(file: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, TensorSource]:
  """Opens one safetensors file.

  Args:
    file: to open.
    stack: closes it.

  Returns:
    {name of the tensor: tensor, not read yet}; reading one that holds no floats is a UserError.

  Raises:
    UserError: the file is truncated or no safetensors file.
  """
  try:
    opened = stack.enter_context(safetensors.safe_open(str(file), framework='numpy'))
  except (safetensors.SafetensorError, OSError) as error:
    refuse_pointer(file, str(file))
    raise UserError(f'{file}: truncated or no safetensors file ({error})') from None
  sources, places = {}, _places(file)
  for name in opened.keys():  # noqa: SIM118  # not a dict
    part = opened.get_slice(name)
    shape, kind = tuple(part.get_shape()), part.get_dtype()
    view = None
    if kind in FLOATS and math.prod(shape):
      view = functools.partial(np.memmap, file, FLOATS[kind], 'r', places[name], shape)
    read = functools.partial(_read_tensor, file, kind, name, shape, view)
    sources[name] = TensorSource(str(file), shape, read, kind, view)
  return sources


def _places(file: pathlib.Path) -> dict[str, int]:
  """Returns {name of a tensor: place of its first byte} in a safetensors file that was opened."""
  with open(file, 'rb') as opened:
    size = int.from_bytes(opened.read(8), 'little')
    header = json.loads(opened.read(size))
  return {
    name: 8 + size + entry['data_offsets'][0]
    for name, entry in header.items()
    if name != '__metadata__'
  }


def _read_tensor(
  file: pathlib.Path, kind: str, name: str, shape: tuple[int, ...], view: Callable | None
) -> np.ndarray:  # fmt: skip
  """Reads a tensor as float32; its type is checked here, for tensors that are ignored have any."""
  if kind not in FLOATS:
    raise UserError(f'{file}: tensor {name!r} is {kind}, not one of {tuple(FLOATS)}')
  return np.zeros(shape, np.float32) if view is None else np.array(view(), np.float32)


def write_folder(folder: pathlib.Path, named: Iterator[tuple[str, np.ndarray]], dtype: Any) -> None:
  """Writes one safetensors file, or several of at most `SHARD_BYTES` each and an index.

  Args:
    folder: that exists.
    named: (name of the tensor, array), held one shard at a time.
    dtype: of the weights in the file.
  """
  shards: list[list[str]] = []
  shard: dict[str, np.ndarray] = {}

  def flush() -> None:
    file = folder / f'{len(shards)}.part'
    save_tensors(shard, file)
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
  write_json(folder / 'model.safetensors.index.json', index)


def write_json(file: pathlib.Path, values: Mapping[str, Any]) -> None:
  """Writes an object as indented JSON."""
  file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + '\n', 'utf-8')
