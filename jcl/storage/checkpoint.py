"""Snapshots of a run: written by Orbax, sealed, verified; the newest two are kept.

A snapshot `checkpoints/N` is a flat dict of arrays. One of them holds the structure of the others
as JSON: plain data with references to arrays, no pickle. Each process writes its own shards to
`checkpoints/N/PROCESS` (see `parts`) and seals that folder (see `sealed_folder`): the seal holds
shape, dtype, shards and digest of every array, and size and checksum of every file. When all
processes have done so, the first one seals the snapshot with `snapshot.json`, which lists their
seals, the format and the versions that made the snapshot. Only a sealed snapshot counts. A folder
without a seal was never finished: the next run that writes deletes it. A folder that differs from
its seal is damaged and moved to `checkpoints/damaged/N`.

Parts that did not change are not written again: a snapshot links them from the one before the last,
which goes when it is sealed. So the two that are kept share no file, and a flipped bit damages one
of them at most.

`FORMAT` goes up with every change after which an older jcl would misread a new snapshot or a newer
jcl an old one: in the meaning of `encode`'s structure, in the content of the seals, in the fields
of the run, or in what a method keeps in its memory. A new field of the run whose default is right
for old runs is no such change. A snapshot of another format is refused.
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

import jax
import numpy as np

import jcl
from jcl import distributed
from jcl.errors import UserError
from jcl.failures import explain_oom
from jcl.storage import parts, paths
from jcl.storage.encoding import Array, Place, decode, encode, on_host
from jcl.storage.in_all import in_all, reason_of
from jcl.storage.orbax import failure_reason, load_orbax, system_number
from jcl.storage.sealed_folder import (
  Damaged,
  check_files,
  delete,
  is_sealed,
  link,
  newest,
  numbered,
  read_seal,
  seal,
)
from jcl.types import Json

FORMAT = 3  # of snapshots; see above when it goes up
KEPT = 2  # snapshots at a time
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
      written` when the arrays of all processes are on the disk and `snapshot committed` when the
      snapshot is sealed. The last two come from the writing thread of the first process.

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
    self._write, self._announce = write, announce
    load_orbax()
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

    The arrays are fetched, hashed and written in a thread. Arrays on a device may not be donated
    meanwhile; of NumPy arrays that somebody may write to the thread has copies.

    Args:
      content: plain data and arrays.

    Raises:
      UserError: this snapshot cannot be begun, or the one before could not be written.
    """
    self.wait()
    arrays: dict[str, Array] = {}
    structure = encode(content, arrays)
    arrays = {path: parts.still(array) for path, array in arrays.items()}
    arrays[STRUCTURE] = np.frombuffer(json.dumps(structure).encode(), np.uint8)
    self._announce('snapshot begun')
    self.number += 1
    path = self.folder / str(self.number)
    with self._one_line(path):
      if distributed.is_first():
        self._sweep(spared=self.number)  # another process may be writing it already
      self.folder.mkdir(exist_ok=True)
    self._thread = threading.Thread(target=self._finish, args=(self.number, arrays))
    self._thread.start()
    return self.number

  def check(self) -> None:
    """Raises what has kept the snapshot under way from being written, if it has failed already.

    Raises:
      UserError: the snapshot could not be written.
    """
    if self._error is not None:
      self.wait()

  def _finish(self, number: int, arrays: dict[str, Array]) -> None:
    """Writes a snapshot, seals it and deletes the oldest, in a thread of its own.

    Args:
      number: of the snapshot.
      arrays: {path: array}, given up to this call.
    """
    path, own, first = self.folder / str(number), str(jax.process_index()), distributed.is_first()
    # The newest one stays when this snapshot is sealed, the one before it goes.
    older = [self.folder / str(old) / own for old in sorted(self._sealed())[:-1]]
    try:
      with self._one_line(path):
        in_all(lambda: parts.write(path / own, arrays, older[-1] if older else None))
      arrays.clear()
      if first:
        self._announce('snapshot written')
      content = {'format': FORMAT, 'processes': jax.process_count(), **versions()}
      with self._one_line(path):
        in_all(lambda: seal(path, content) if first else None)
      self.committed = number
      if first:
        self._announce('snapshot committed')
        for old in sorted(self._sealed())[:-KEPT]:
          delete(self.folder / str(old))
    except BaseException as error:  # `wait` and `check` raise it
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
        f'{path} cannot be written: {reason_of(error)}; {good}; free some space or mend the '
        'folder, and the same command goes on'
      ) from error

  def _unfinished(self, spared: int) -> list[pathlib.Path]:
    """Returns the folders of snapshots that were never sealed, except that of a number."""
    found = [path for number, path in numbered(self.folder).items() if number != spared]
    unsealed = [path for path in found if path.is_dir() and not is_sealed(path)]
    return [path for path in unsealed if not _is_of_format_1(path)]

  def _sweep(self, times: int = 1, spared: int = -1) -> None:
    """Deletes unfinished snapshots.

    Args:
      times: how often at most; more than once if writes that are under way may still end.
      spared: number of a snapshot that stays.
    """
    for _ in range(times):
      for path in self._unfinished(spared):
        delete(path)
      time.sleep(0.05 if times > 1 else 0)
      if not self._unfinished(spared):
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
    """Copies the newest snapshot to `tasks/NAME`, by links where the file system has them."""
    self.wait()
    if not distributed.is_first():
      return
    target = self.workdir / 'tasks' / paths.nameable(name)
    half = target.with_name(f'.{target.name}.part')
    with self._one_line(target):
      delete(half)
      try:
        shutil.copytree(self.folder / str(self.committed), half, copy_function=link)
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
        saved = self._read(number)
        content = self._decoded(number, saved, place)
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
        return content
    for path in numbered(self.folder).values():
      if _is_of_format_1(path):
        raise _other_format(path, 1, 'an earlier jcl')
    if unusable:
      reasons = '; '.join(f'snapshot {n}: {reason}' for n, reason in unusable.items())
      raise UserError(f'{self.folder}: no snapshot can be read ({reasons}); start a new workdir')
    return None

  def _read(self, number: int) -> parts.Saved:
    """Returns the arrays of a snapshot, whose files are those of its seals.

    Each process reads the files of some of those that wrote it; all come to the same verdict.

    Raises:
      Damaged: a file is not what was sealed.
      UserError: the snapshot has another format.
    """
    path = self.folder / str(number)
    content = _seal_of_format(path)
    reads = lambda name: int(name) % jax.process_count() == jax.process_index()
    more: list[str] = []
    in_all(lambda: more.extend(check_files(path, content, reads)))
    if more:
      self.messages.append(f'{path} holds what is not of the snapshot: {", ".join(more)[:200]}')
    if content['jcl'] != jcl.__version__:
      self.messages.append(
        f'snapshot {number} was made by jcl {content["jcl"]}, this is jcl {jcl.__version__}'
      )
    return parts.Saved([path / str(process) for process in range(content['processes'])])

  def _decoded(self, number: int, saved: parts.Saved, place: Place) -> Json:
    """Returns the content of a snapshot, its arrays read and placed.

    Raises:
      Damaged: an array is not that of the run.
      UserError: a device has no room.
    """
    found: list[Json] = []

    def work() -> None:
      structure = json.loads(np.asarray(saved.leaves[STRUCTURE]).tobytes())
      found.append(decode(structure, saved.leaves, place))

    with explain_oom(lambda: f'reading snapshot {number} of {self.folder}', REMEDY):
      in_all(work)
    return found[0]

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


def check_format(folder: pathlib.Path) -> None:
  """Checks that the newest snapshot in a folder has the format that is read; damage is no matter.

  Raises:
    UserError: it has another one.
  """
  with contextlib.suppress(Damaged, OSError):  # `Snapshots.latest` says what is wrong
    if (number := newest(folder)) >= 0:
      _seal_of_format(folder / str(number))


def _seal_of_format(path: pathlib.Path) -> Json:
  """Returns the content of a snapshot's seal.

  Raises:
    Damaged: the seal is not as it was written.
    UserError: the snapshot has another format.
  """
  content = read_seal(path)
  if content['format'] != FORMAT:
    raise _other_format(path, content['format'], f'jcl {content["jcl"]}')
  return content


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
