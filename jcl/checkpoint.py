"""Snapshots of a run: Orbax underneath, atomic, with a checksum a leaf, the last two kept.

A snapshot is a flat dict of arrays and, beside it, readable without them, the structure they stand
in (plain data with references to arrays) and a description of every leaf. No pickle.
"""

import io
import json
import logging
import os
import pathlib
import shutil
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jcl.atomic import write_atomically
from jcl.errors import UserError
from jcl.parallel import fetch
from jcl.processes import is_first

Arrays = dict[str, np.ndarray]


def encode(value: Any, arrays: Arrays, path: str = '') -> Any:
  """Plain data as JSON can hold it; arrays go to `arrays` by path and leave a reference.

  Dicts (with str or int keys), lists, tuples, None, bool, int, float, str and arrays are kept as
  they are; anything else is a mistake of the method that put it into its memory.
  """
  if value is None or isinstance(value, bool | int | float | str):
    return value
  if isinstance(value, np.generic | np.ndarray | jax.Array):
    if path in arrays:
      raise TypeError(f'two arrays of the memory have the path {path}')
    arrays[path] = np.asarray(value) if isinstance(value, np.generic) else value
    return {'array': path}
  if isinstance(value, Mapping):
    items = [[k, encode(v, arrays, f'{path}/{k}')] for k, v in value.items()]
    if not all(isinstance(k, str | int) for k, _ in items):
      raise TypeError(f'memory{path} has a key that is neither a string nor a number')
    return {'dict': items}
  if isinstance(value, list | tuple):
    items = [encode(v, arrays, f'{path}/{i}') for i, v in enumerate(value)]
    return items if isinstance(value, list) else {'tuple': items}
  raise TypeError(f'memory{path} holds a {type(value).__name__}; only plain data can be kept')


def decode(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
  """What `encode` was given."""
  if isinstance(value, list):
    return [decode(v, arrays) for v in value]
  if not isinstance(value, dict):
    return value
  if 'array' in value:
    return arrays[value['array']]
  if 'tuple' in value:
    return tuple(decode(v, arrays) for v in value['tuple'])
  return {k: decode(v, arrays) for k, v in value['dict']}


def checksum(array: np.ndarray) -> int:
  """CRC-32 of an array's bytes."""
  return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def by_path(tree: Any) -> dict[str, Any]:
  """The leaves of any pytree by their path, as plain data."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


class Snapshots:
  """The snapshots of one workdir.

  Attributes:
    folder: of the rolling snapshots, `checkpoints/`.
    number: of the newest snapshot, -1 before the first.
    said: warnings about snapshots that could not be used.
    loaded: number of the snapshot that `latest` gave.
  """

  def __init__(self, workdir: pathlib.Path, write: bool = True, announce=lambda event: None):
    from orbax.checkpoint import v1 as ocp  # 2 s of imports that a refusal need not wait for

    self.workdir, self.folder = workdir, workdir / 'checkpoints'
    self._checkpointer = ocp.training.Checkpointer(
      self.folder.absolute(),
      preservation_policy=ocp.training.preservation_policies.LatestN(2),
      cleanup_tmp_directories=write,  # a reader must not touch what a run is writing
    )
    self._pending: Any = None
    self._announce = announce
    self.said: list[str] = []
    self.loaded = -1
    self.number = max(self._numbers(), default=-1)

  def _numbers(self) -> list[int]:
    return [c.step for c in self._checkpointer.checkpoints]

  def save(self, content: Mapping[str, Any]) -> int:
    """Starts to write a snapshot and returns its number; the one before is finished first."""
    self.wait()
    self._announce('snapshot begun')
    arrays: Arrays = {}
    structure = encode(content, arrays)
    on_host = {path: fetch(a) for path, a in arrays.items()}
    leaves = {p: [list(a.shape), str(a.dtype), checksum(a)] for p, a in on_host.items()}
    stored = {path: a for path, a in on_host.items() if a.size}  # Orbax refuses empty arrays
    stored['/structure'] = np.frombuffer(json.dumps(structure).encode(), np.uint8)
    leaves['/structure'] = [[stored['/structure'].size], 'uint8', checksum(stored['/structure'])]
    self.number += 1
    self._pending = self._checkpointer.save_checkpointables_async(
      self.number, {'run': stored}, custom_metadata={'leaves': leaves}
    )
    return self.number

  def wait(self) -> None:
    """Waits until the snapshot under way is on the disk."""
    if self._pending is not None:
      self._pending.result()
      self._pending = None
      self._announce('snapshot renamed')
      self._announce('snapshot committed')

  def keep(self, name: str) -> None:
    """Copies the newest snapshot to `tasks/NAME`."""
    self.wait()
    if not is_first():
      return
    target = self.workdir / 'tasks' / name
    half = target.with_name(f'.{name}.part')
    for folder in (half, target):
      shutil.rmtree(folder, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    shutil.copytree(self.folder / str(self.number), half)
    os.replace(half, target)

  def latest(self) -> dict[str, Any] | None:
    """The newest snapshot that is whole; None where there is none.

    Raises:
      UserError: there are snapshots and none of them can be read.
    """
    numbers = sorted(self._numbers(), reverse=True)
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)  # Orbax leaves futures unread
    for number in numbers:
      try:
        found = self._load(number)
        self.loaded = number
        return found
      except Exception as error:  # whatever a damaged file makes Orbax raise
        reason = ' '.join(str(error).split())[:120]
        self.said.append(
          f'snapshot {number} cannot be used ({reason}): going back to the one before'
        )
    if numbers:
      raise UserError(
        f'{self.folder}: no snapshot can be read; {self.said[-1]}; start a new workdir'
      )
    return None

  def _load(self, number: int) -> dict[str, Any]:
    metadata = self._checkpointer.checkpointables_metadata(number)
    leaves = metadata.custom_metadata['leaves']
    blank = {p: np.zeros(shape, np.dtype(dtype)) for p, (shape, dtype, _) in leaves.items()}
    stored = {p: a for p, a in blank.items() if a.size}
    arrays = {**blank, **self._checkpointer.load_checkpointables(number, {'run': stored})['run']}
    for path, (_, _, wanted) in leaves.items():
      if checksum(arrays[path]) != wanted:
        raise ValueError(f'the checksum of {path} is wrong')
    return decode(json.loads(arrays.pop('/structure').tobytes()), arrays)

  def close(self) -> None:
    """Finishes what is under way."""
    self.wait()
    self._checkpointer.close()


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON atomically: never half a file, whatever happens."""
  write_text(path, [json.dumps(value, indent=1, ensure_ascii=False) + '\n'])


def write_text(path: pathlib.Path, parts: Iterable[str]) -> None:
  """Writes text atomically."""
  write_atomically(path, ''.join(parts).encode())


class MetricsLog:
  """`metrics.jsonl`: a line a logged step, cut back to a known length on resume.

  The first process writes it; the others count what they would have written.
  """

  def __init__(self, path: pathlib.Path, length: int = 0):
    self._file = open(path, 'a+b') if is_first() else io.BytesIO()  # noqa: SIM115, it lives on
    self._file.truncate(min(length, self._file.seek(0, os.SEEK_END)))

  def write(self, line: Mapping[str, Any]) -> None:
    """Appends one line."""
    self._file.write((json.dumps(line) + '\n').encode())

  def length(self) -> int:
    """Bytes so far, all of them handed to the system."""
    self._file.flush()
    return self._file.seek(0, os.SEEK_END)

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
