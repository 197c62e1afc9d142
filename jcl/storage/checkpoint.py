"""Snapshots of a run: Orbax underneath, sealed, verified, the last two good ones kept.

A snapshot `checkpoints/N` is a flat dict of arrays, one of which is the structure that the others
stand in: plain data with references to arrays, no pickle. Orbax writes it beside its place and
renames it; then it is sealed with `snapshot.json` (`sealed_folder`), which says, readable without
the arrays: its format, the versions that made it, shape, dtype and checksum of every leaf, size and
checksum of every file. Only a sealed snapshot counts. What has no seal was never finished, and the
next run that writes deletes it; what is not as it was sealed goes to `checkpoints/damaged/N`.

`FORMAT` has to go up with every change after which an older jcl would misread a new snapshot or a
newer jcl an old one: another meaning of `encode`'s structure, of the seal's content, of the run's
fields or of what a method keeps in its memory; a new field of the run with a default that is right
for old runs is none. A snapshot of another format is refused.
"""

import contextlib
import io
import json
import os
import pathlib
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np

import jcl
from jcl import distributed
from jcl.distributed import fetch
from jcl.errors import UserError
from jcl.storage.atomic import named, write_atomically
from jcl.storage.orbax import orbax, reason
from jcl.storage.sealed_folder import (
  Damaged,
  check_files,
  delete,
  is_sealed,
  newest,
  numbered,
  read_seal,
  seal,
)

Arrays = dict[str, np.ndarray]
Place = Callable[[str, np.ndarray], Any]
FORMAT = 2  # of snapshots; see above when it has to go up
KEPT = 2  # snapshots at a time
UNFINISHED = '.orbax-checkpoint-tmp'  # the end of Orbax's names for what it is writing


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
    return {'on_device' if isinstance(value, jax.Array) else 'array': path}
  if isinstance(value, Mapping):
    items = [[k, encode(v, arrays, f'{path}/{k}')] for k, v in value.items()]
    if not all(isinstance(k, str | int) for k, _ in items):
      raise TypeError(f'memory{path} has a key that is neither a string nor a number')
    return {'dict': items}
  if isinstance(value, list | tuple):
    items = [encode(v, arrays, f'{path}/{i}') for i, v in enumerate(value)]
    return items if isinstance(value, list) else {'tuple': items}
  raise TypeError(f'memory{path} holds a {type(value).__name__}; only plain data can be kept')


def decode(
  value: Any, arrays: Mapping[str, np.ndarray], place: Place = lambda path, array: array
) -> Any:
  """What `encode` was given; `place` makes what it will of an array that was on a device."""
  if isinstance(value, list):
    return [decode(v, arrays, place) for v in value]
  if not isinstance(value, dict):
    return value
  if 'array' in value:
    return arrays[value['array']]
  if 'on_device' in value:
    return place(value['on_device'], arrays[value['on_device']])
  if 'tuple' in value:
    return tuple(decode(v, arrays, place) for v in value['tuple'])
  return {k: decode(v, arrays, place) for k, v in value['dict']}


def checksum(array: np.ndarray) -> int:
  """CRC-32 of an array's bytes."""
  return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def by_path(tree: Any) -> dict[str, Any]:
  """The leaves of any pytree by their path, as plain data."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


class Snapshots:
  """The snapshots of one workdir.

  Args:
    workdir: of the run.
    write: whether this run may write; a reader leaves the folder as it is.
    announce: called with `snapshot begun` before anything of a snapshot is written, `snapshot
      renamed` when Orbax is done and `snapshot committed` when the snapshot is sealed; the last two
      in the thread that writes, of the first process.

  Attributes:
    folder: of the rolling snapshots, `checkpoints/`.
    number: of the newest snapshot, finished or not, -1 before the first.
    committed: of the newest snapshot that is known to be sealed, -1 before the first.
    loaded: of the snapshot that `latest` gave.
    messages: what the user must know about the snapshots that `latest` found, lines.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    write: bool = True,
    announce: Callable[[str], None] = lambda event: None,
  ):
    self.workdir, self.folder = workdir, workdir / 'checkpoints'
    self._write, self._announce, self._orbax = write, announce, orbax()
    self._thread: threading.Thread | None = None
    self._error: BaseException | None = None
    self.messages: list[str] = []
    self.loaded = -1
    self.committed = newest(self.folder)
    self.number = max([*numbered(self.folder), *numbered(self.folder / 'damaged')], default=-1)
    distributed.meet('snapshots counted')

  def _sealed(self) -> list[int]:
    return [number for number, path in numbered(self.folder).items() if is_sealed(path)]

  @property
  def pending(self) -> bool:
    """Whether a snapshot is being written."""
    return self._thread is not None and self._thread.is_alive()

  def save(self, content: Mapping[str, Any]) -> int:
    """Starts to write a snapshot and returns its number; the one before is finished first.

    Raises:
      UserError: this one cannot be begun, or the one before could not be written.
    """
    self.wait()
    arrays: Arrays = {}
    structure = encode(content, arrays)
    on_host = {path: fetch(a) for path, a in arrays.items()}
    on_host['/structure'] = np.frombuffer(json.dumps(structure).encode(), np.uint8)
    leaves = {p: [list(a.shape), str(a.dtype), checksum(a)] for p, a in on_host.items()}
    stored = {path: a for path, a in on_host.items() if a.size}  # Orbax refuses empty arrays
    self._announce('snapshot begun')
    self.number += 1
    path = self.folder / str(self.number)
    with self._one_line(path):
      if distributed.is_first():
        self._sweep()
        self.folder.mkdir(exist_ok=True)
      written = self._orbax.save_checkpointables_async(path.absolute(), {'run': stored})
    content = {'format': FORMAT, **versions(), 'leaves': leaves}
    self._thread = threading.Thread(target=self._finish, args=(self.number, written, content))
    self._thread.start()
    return self.number

  def _finish(self, number: int, written: Any, content: dict) -> None:
    """The part of `save` that nobody waits for: Orbax's end, the seal, the oldest one's end."""
    path = self.folder / str(number)
    try:
      with self._one_line(path):
        written.result()
      if distributed.is_first():
        self._announce('snapshot renamed')
        with self._one_line(path):
          seal(path, content)
      self.committed = number
      if distributed.is_first():
        self._announce('snapshot committed')
        for old in sorted(self._sealed())[:-KEPT]:
          delete(self.folder / str(old))
    except BaseException as error:  # for whoever waits
      self._error = error

  @contextlib.contextmanager
  def _one_line(self, path: pathlib.Path) -> Iterator[None]:
    """Whatever goes wrong in writing `path` is one line, and nothing is left of it."""
    try:
      yield
    except Exception as error:
      if distributed.is_first():
        self._sweep(times=20)
      there = self.committed >= 0
      good = (
        f'snapshot {self.committed} is the last good one' if there else 'there is none before it'
      )
      raise UserError(
        f'{path} cannot be written: {reason(error)}; {good}; free some space or mend the folder, '
        'and the same command goes on'
      ) from error

  def _unfinished(self) -> list[pathlib.Path]:
    """What is left of snapshots that were never sealed."""
    found = numbered(self.folder).values()
    unsealed = [path for path in found if path.is_dir() and not is_sealed(path)]
    bare = [path for path in unsealed if not _is_of_format_1(path)]
    return [*bare, *self.folder.glob('*' + UNFINISHED)]

  def _sweep(self, times: int = 1) -> None:
    """Deletes what is unfinished; more than once where writes may end that are still under way."""
    for _ in range(times):
      for path in self._unfinished():
        delete(path)
      time.sleep(0.05 if times > 1 else 0)
      if not self._unfinished():
        return

  def wait(self) -> None:
    """Waits until the snapshot under way is on the disk.

    Raises:
      UserError: it could not be written.
    """
    if self._thread is not None:
      self._thread.join()
      self._thread = None
    error, self._error = self._error, None
    if error is not None:
      raise error

  def keep(self, name: str) -> None:
    """Copies the newest snapshot to `tasks/NAME`."""
    self.wait()
    if not distributed.is_first():
      return
    target = self.workdir / 'tasks' / name
    half = target.with_name(f'.{name}.part')
    with self._one_line(target):
      delete(half)
      try:
        shutil.copytree(self.folder / str(self.committed), half)
        delete(target)
        os.replace(half, target)
      finally:
        delete(half)

  def latest(self, place: Place = lambda path, array: array) -> dict[str, Any] | None:
    """The newest snapshot that is whole; None where there is none.

    A run that may write puts the damaged ones away, to `damaged/`: they are no longer among those
    that are kept.

    Args:
      place: makes what it will of an array that was on a device, by its path.

    Raises:
      UserError: there are snapshots and none of them can be read.
    """
    unusable: dict[int, str] = {}
    # Anew each time, for a run that goes on meanwhile deletes old ones and makes new ones.
    while numbers := [n for n in self._sealed() if n not in unusable]:
      number = max(numbers)
      try:
        found = self._load(number, place)
      except (MemoryError, UserError):
        raise
      except Exception as error:  # whatever a damaged file makes Orbax raise
        unusable[number] = ' '.join(str(error).split())[:120]
      else:
        self._put_away(unusable)
        self.loaded = self.committed = number
        return found
    for path in numbered(self.folder).values():
      if _is_of_format_1(path):
        raise _other_format(path, 1, 'an earlier jcl')
    if unusable:
      reasons = '; '.join(f'snapshot {n}: {reason}' for n, reason in unusable.items())
      raise UserError(f'{self.folder}: no snapshot can be read ({reasons}); start a new workdir')
    return None

  def _load(self, number: int, place: Place) -> dict[str, Any]:
    path = self.folder / str(number)
    content = read_seal(path)
    if content['format'] != FORMAT:
      raise _other_format(path, content['format'], f'jcl {content["jcl"]}')
    more = check_files(path, content)
    leaves = content['leaves']
    blank = {p: np.zeros(shape, np.dtype(dtype)) for p, (shape, dtype, _) in leaves.items()}
    stored = {p: a for p, a in blank.items() if a.size}
    found = self._orbax.load_checkpointables(path.absolute(), {'run': stored})['run']
    arrays = {**blank, **found}
    for name, (_, _, wanted) in leaves.items():
      if checksum(arrays[name]) != wanted:
        raise Damaged(f'the checksum of {name} is wrong')
    if more:
      self.messages.append(f'{path} holds what is not of the snapshot: {", ".join(more)[:200]}')
    if content['jcl'] != jcl.__version__:
      self.messages.append(
        f'snapshot {number} was made by jcl {content["jcl"]}, this is jcl {jcl.__version__}'
      )
    return decode(json.loads(arrays.pop('/structure').tobytes()), arrays, place)

  def _put_away(self, unusable: Mapping[int, str]) -> None:
    """Says which snapshots were passed over, and takes them out of the way."""
    distributed.meet('a snapshot is read')
    for number, why in unusable.items():
      path, away = self.folder / str(number), self.folder / 'damaged' / str(number)
      if not path.exists():  # deleted meanwhile, by the run that goes on
        continue
      where = ''
      if self._write:
        where = f' and put away as {away}'
        if distributed.is_first():
          away.parent.mkdir(exist_ok=True)
          os.replace(path, away)
      self.messages.append(
        f'snapshot {number} cannot be used ({why}){where}: going back to the one before'
      )

  def close(self) -> None:
    """Finishes what is under way."""
    self.wait()


def versions() -> dict[str, str]:
  """What made a snapshot."""
  return {
    'jcl': jcl.__version__,
    **{name: metadata.version(name) for name in ('jax', 'jaxlib', 'orbax-checkpoint')},
  }


def _is_of_format_1(path: pathlib.Path) -> bool:
  """Whether a snapshot without a seal is one of the time before there were seals."""
  described = path / '_CHECKPOINT_METADATA'
  return not is_sealed(path) and described.is_file() and b'"leaves"' in described.read_bytes()


def _other_format(path: pathlib.Path, number: int, made_by: str) -> UserError:
  return UserError(
    f'{path} has format {number}, of {made_by}; this is jcl {jcl.__version__}, which reads format '
    f'{FORMAT}; go on with the jcl that made it, or start a new workdir'
  )


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON atomically: never half a file, whatever happens."""
  write_text(path, [json.dumps(value, indent=1, ensure_ascii=False) + '\n'])


def write_text(path: pathlib.Path, parts: Iterable[str]) -> None:
  """Writes text atomically."""
  write_atomically(path, ''.join(parts).encode())


class MetricsLog:
  """`metrics.jsonl`: a line a logged step, cut back to a known length on resume.

  The first process writes it; the others count what they would have written.

  Attributes:
    lost: bytes that the file lacks of that length.
  """

  def __init__(self, path: pathlib.Path, length: int = 0):
    self._path = path
    with named(path):
      # Without a buffer: what is written is the system's, and no failed write is tried again.
      self._file = open(path, 'a+b', 0) if distributed.is_first() else io.BytesIO()  # noqa: SIM115
      there = self._file.seek(0, os.SEEK_END)
      self._file.truncate(min(length, there))
    self.lost = max(length - there, 0) if distributed.is_first() else 0

  def write(self, line: Mapping[str, Any]) -> None:
    """Appends one line."""
    left = memoryview((json.dumps(line) + '\n').encode())
    with named(self._path):
      while left:
        left = left[self._file.write(left) :]

  def length(self) -> int:
    """Bytes so far, all of them handed to the system."""
    return self._file.seek(0, os.SEEK_END)

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
