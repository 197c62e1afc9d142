"""Snapshots of a run: written by Orbax, sealed, verified; the newest two are kept.

A snapshot `checkpoints/N` is a flat dict of arrays. One of them holds the structure of the others
as JSON: plain data with references to arrays, no pickle. Orbax writes the folder under another name
and renames it. Then it is sealed with `snapshot.json` (see `sealed_folder`), which can be read
without the arrays and holds the format, the versions that made the snapshot, shape, dtype and
checksum of every leaf, and size and checksum of every file. Only a sealed snapshot counts. A
folder without a seal was never finished: the next run that writes deletes it. A folder that differs
from its seal is damaged and moved to `checkpoints/damaged/N`.

`FORMAT` goes up with every change after which an older jcl would misread a new snapshot or a newer
jcl an old one: in the meaning of `encode`'s structure, in the content of the seal, in the fields of
the run, or in what a method keeps in its memory. A new field of the run whose default is right for
old runs is no such change. A snapshot of another format is refused.
"""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata

import numpy as np

import jcl
from jcl import distributed
from jcl.errors import UserError
from jcl.failures import explain_oom
from jcl.storage import paths
from jcl.storage.encoding import Array, Place, checksum, decode, encode, on_host
from jcl.storage.orbax import failure_reason, load_orbax, system_number
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
from jcl.types import Json

FORMAT = 2  # of snapshots; see above when it goes up
KEPT = 2  # snapshots at a time
UNFINISHED = '.orbax-checkpoint-tmp'  # ending of the folders that Orbax has not finished
STRUCTURE = '/structure'  # path of the array that holds the structure
SURROUNDINGS = (  # errors of the operating system that say nothing about a file's content
  errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE,
  errno.ETIMEDOUT,
)  # fmt: skip
REMEDY = 'what else the device holds'  # what to lower where a snapshot has no room on a device


class Snapshots:
  """The snapshots of one workdir.

  Args:
    workdir: the run's folder.
    write: whether this run may write. A reader changes nothing in the folder.
    announce: called with `snapshot begun` before anything of a snapshot is written, `snapshot
      renamed` when Orbax has finished and `snapshot committed` when the snapshot is sealed. The
      last two come from the writing thread of the first process.

  Attributes:
    folder: `checkpoints/`, which holds the rolling snapshots.
    number: number of the newest snapshot, finished or not; -1 before the first.
    committed: number of the newest snapshot that is known to be sealed; -1 before the first.
    loaded: number of the snapshot that `latest` returned.
    messages: lines for the user about the snapshots that `latest` found.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    write: bool = True,
    announce: Callable[[str], None] = lambda event: None,
  ):
    self.workdir, self.folder = workdir, workdir / 'checkpoints'
    self._write, self._announce, self._orbax = write, announce, load_orbax()
    self._thread: threading.Thread | None = None
    self._error: BaseException | None = None
    self.messages: list[str] = []
    self.loaded = -1
    self.committed = newest(self.folder)
    self.number = max([*numbered(self.folder), *numbered(self.folder / 'damaged')], default=-1)
    distributed.barrier('snapshots counted')

  def _sealed(self) -> list[int]:
    """Returns the numbers of the sealed snapshots."""
    return [number for number, path in numbered(self.folder).items() if is_sealed(path)]

  @property
  def pending(self) -> bool:
    """Whether a snapshot is being written."""
    return self._thread is not None and self._thread.is_alive()

  def save(self, content: Mapping[str, object]) -> int:
    """Begins to write a snapshot and returns its number; the one before is finished first.

    Args:
      content: plain data and arrays. The arrays are copied to the host before the call returns.

    Raises:
      UserError: this snapshot cannot be begun, or the one before could not be written.
    """
    self.wait()
    arrays: dict[str, Array] = {}
    structure = encode(content, arrays)
    fetched = {path: distributed.fetch(a) for path, a in arrays.items()}
    fetched[STRUCTURE] = np.frombuffer(json.dumps(structure).encode(), np.uint8)
    leaves = {p: [list(a.shape), str(a.dtype), checksum(a)] for p, a in fetched.items()}
    stored = {path: a for path, a in fetched.items() if a.size}  # Orbax refuses empty arrays
    self._announce('snapshot begun')
    self.number += 1
    path = self.folder / str(self.number)
    with self._one_line(path):
      if distributed.is_first():
        self._sweep()
        self.folder.mkdir(exist_ok=True)
      written = self._orbax.save_checkpointables_async(path.absolute(), {'run': stored})
    sealed = {'format': FORMAT, **versions(), 'leaves': leaves}
    self._thread = threading.Thread(target=self._finish, args=(self.number, written.result, sealed))
    self._thread.start()
    return self.number

  def _finish(self, number: int, write: Callable[[], object], content: Json) -> None:
    """Waits for Orbax, seals the snapshot and deletes the oldest, in a thread of its own.

    Args:
      number: of the snapshot.
      write: waits for Orbax's write to end.
      content: of the seal.
    """
    path = self.folder / str(number)
    try:
      with self._one_line(path):
        write()
      if distributed.is_first():
        self._announce('snapshot renamed')
        with self._one_line(path):
          seal(path, content)
      self.committed = number
      if distributed.is_first():
        self._announce('snapshot committed')
        for old in sorted(self._sealed())[:-KEPT]:
          delete(self.folder / str(old))
    except BaseException as error:  # `wait` raises it
      self._error = error

  @contextlib.contextmanager
  def _one_line(self, path: pathlib.Path) -> Iterator[None]:
    """Turns any failure to write `path` into a UserError of one line, and deletes what is left."""
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
        f'{path} cannot be written: {failure_reason(error)}; {good}; free some space or mend the '
        'folder, and the same command goes on'
      ) from error

  def _unfinished(self) -> list[pathlib.Path]:
    """Returns the folders of snapshots that were never sealed."""
    found = numbered(self.folder).values()
    unsealed = [path for path in found if path.is_dir() and not is_sealed(path)]
    bare = [path for path in unsealed if not _is_of_format_1(path)]
    return [*bare, *self.folder.glob('*' + UNFINISHED)]

  def _sweep(self, times: int = 1) -> None:
    """Deletes unfinished snapshots.

    Args:
      times: how often at most; more than once if writes that are under way may still end.
    """
    for _ in range(times):
      for path in self._unfinished():
        delete(path)
      time.sleep(0.05 if times > 1 else 0)
      if not self._unfinished():
        return

  def wait(self) -> None:
    """Waits until the snapshot under way is on the disk.

    Raises:
      UserError: the snapshot could not be written.
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
    target = self.workdir / 'tasks' / paths.nameable(name)
    half = target.with_name(f'.{target.name}.part')
    with self._one_line(target):
      delete(half)
      try:
        shutil.copytree(self.folder / str(self.committed), half)
        delete(target)
        os.replace(half, target)
      finally:
        delete(half)

  def latest(self, place: Place = on_host) -> Json | None:
    """Returns the content of the newest snapshot that is whole, or None if there is none.

    A run that may write moves damaged snapshots to `damaged/`, so that they do not count among the
    snapshots that are kept.

    Args:
      place: called for each array that was on a device.

    Raises:
      UserError: there are snapshots and none of them can be read.
    """
    unusable: dict[int, str] = {}
    # The folder is listed each time: a run that goes on meanwhile deletes and makes snapshots.
    while numbers := [n for n in self._sealed() if n not in unusable]:
      number = max(numbers)
      try:
        arrays = self._arrays(number)
      except (MemoryError, UserError):
        raise
      except Exception as error:  # whatever a damaged file makes Orbax raise
        if system_number(error) in SURROUNDINGS:
          raise UserError(
            f'{self.folder / str(number)} cannot be read: {failure_reason(error)}; it may be '
            'whole: mend that, and the same command goes on'
          ) from None
        unusable[number] = ' '.join(str(error).split())[:120]
      else:
        self._put_away(unusable)
        self.loaded = self.committed = number
        structure = json.loads(arrays.pop(STRUCTURE).tobytes())
        with explain_oom(lambda: f'reading snapshot {self.loaded} of {self.folder}', REMEDY):
          return decode(structure, arrays, place)
    for path in numbered(self.folder).values():
      if _is_of_format_1(path):
        raise _other_format(path, 1, 'an earlier jcl')
    if unusable:
      reasons = '; '.join(f'snapshot {n}: {reason}' for n, reason in unusable.items())
      raise UserError(f'{self.folder}: no snapshot can be read ({reasons}); start a new workdir')
    return None

  def _arrays(self, number: int) -> dict[str, np.ndarray]:
    """Reads the arrays of a snapshot, on the host, and compares them with its seal.

    Raises:
      Damaged: a file or an array is not what was sealed.
      UserError: the snapshot has another format.
    """
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
    return arrays

  def _put_away(self, unusable: Mapping[int, str]) -> None:
    """Adds a message for each snapshot that was passed over, and moves it out of the way.

    Args:
      unusable: {number: what is wrong}.
    """
    distributed.barrier('a snapshot is read')
    for number, why in unusable.items():
      path, away = self.folder / str(number), self.folder / 'damaged' / str(number)
      if not path.exists():  # the run that goes on has deleted it meanwhile
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
    """Finishes the snapshot under way."""
    self.wait()


def versions() -> dict[str, str]:
  """Returns the versions that make a snapshot, by package."""
  return {
    'jcl': jcl.__version__,
    **{name: metadata.version(name) for name in ('jax', 'jaxlib', 'orbax-checkpoint')},
  }


def _is_of_format_1(path: pathlib.Path) -> bool:
  """Whether a snapshot is one of format 1, which had no seals."""
  described = path / '_CHECKPOINT_METADATA'
  return not is_sealed(path) and described.is_file() and b'"leaves"' in described.read_bytes()


def _other_format(path: pathlib.Path, number: int, made_by: str) -> UserError:
  """Returns the error about a snapshot of another format.

  Args:
    path: of the snapshot.
    number: its format.
    made_by: which jcl made it.
  """
  return UserError(
    f'{path} has format {number}, of {made_by}; this is jcl {jcl.__version__}, which reads format '
    f'{FORMAT}; go on with the jcl that made it, or start a new workdir'
  )
