"""Arrays of a snapshot on the disk: each process writes its own shards, and no shard twice.

The shards that a process has of an array are a part. The folder of a process in a snapshot holds an
Orbax checkpoint for each part of at least `LARGE` bytes, named by the digest of its content, and
one, `small`, for all others. Arrays of equal content are one part. A part that an older snapshot
has already is linked from there, file by file, once its files are found to be whole.
"""

import functools
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import xxhash

from jcl import distributed
from jcl.storage.encoding import Array
from jcl.storage.orbax import load_arrays, save_arrays, system_number
from jcl.storage.sealed_folder import Damaged, read_seal, same_file, seal
from jcl.storage.stored import Spans, Stored, shape_of

# Bytes from which a part has a checkpoint of its own, which is eight files: those of adapters and
# their moments are often a megabyte or two, and all of them change.
LARGE = 2**22
SMALL = 'small'  # name of the checkpoint of all other parts


class Piece(NamedTuple):
  """One shard of an array.

  Attributes:
    start: index of its first entry in each dimension.
    values: of the shard.
  """

  start: list[int]
  values: np.ndarray


class Part(NamedTuple):
  """The shards of an array that one process has written.

  Attributes:
    folder: of the process.
    digest: of their content.
    pieces: [start, shape] of each.
  """

  folder: pathlib.Path
  digest: str
  pieces: list[list[list[int]]]


def still(array: Array) -> Array:
  """Returns an array that stays as it is: a copy of a NumPy array that somebody may write to."""
  found: object = array
  while isinstance(found, np.ndarray):
    if found.flags.writeable:
      return array.copy()
    found = found.base
  return array


def pieces_of(array: Array) -> list[Piece]:
  """Returns what this process writes of an array, on the host: of equal shards the first one."""
  if not array.size:  # Orbax refuses empty arrays
    return []
  if not isinstance(array, jax.Array):
    return [Piece([0] * array.ndim, array)] if distributed.is_first() else []
  own = [shard for shard in array.addressable_shards if shard.replica_id == 0]
  return [Piece([i.start or 0 for i in s.index], np.asarray(s.data)) for s in own]


def digest(pieces: Sequence[Piece]) -> str:
  """Returns the XXH3 hash of shards, with their shapes and types, as 32 hexadecimal digits."""
  found = xxhash.xxh3_128()
  for _, values in pieces:
    found.update(f'{values.dtype}{list(values.shape)}'.encode())
    found.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
  return found.hexdigest()


def write(
  folder: pathlib.Path, arrays: Mapping[str, Array], older: pathlib.Path | None = None
) -> None:
  """Writes this process's part of each array to a new folder and seals it.

  Of arrays on a device one at a time is on the host.

  Args:
    folder: of this process.
    arrays: {path: array}, the same paths in every process.
    older: folder of this process in a snapshot whose parts may be linked.
  """
  links = _Links(older)
  small: dict[str, np.ndarray] = {}
  folder.mkdir(parents=True)
  leaves = {path: _write_part(folder, array, links, small) for path, array in arrays.items()}
  if small:
    save_arrays(folder / SMALL, small, compressed=True)
  seal(folder, {'leaves': leaves}, links.taken)


def _write_part(
  folder: pathlib.Path, array: Array, links: '_Links', small: dict[str, np.ndarray]
) -> list:
  """Writes this process's part of an array, or adds it to the small ones.

  Returns:
    What the seal says of the array: its shape and type; the digest of the part and [start, shape]
    of its shards.
  """
  pieces = pieces_of(array)
  name = digest(pieces) if pieces else ''
  values = {_key(name, i): piece.values for i, piece in enumerate(pieces)}
  if sum(x.nbytes for x in values.values()) < LARGE:
    small |= values
  elif not (folder / name).exists() and not links.take(name, folder):
    save_arrays(folder / name, values, compressed=False)
  kept = [[start, list(x.shape)] for start, x in pieces]
  return [list(array.shape), str(array.dtype), name, kept]


class _Links:
  """Links parts of an older snapshot.

  Args:
    older: folder of this process in that snapshot; None: there is none.

  Attributes:
    taken: {name: [bytes, CRC-32]} of the files that were linked.
  """

  def __init__(self, older: pathlib.Path | None):
    self._older, self._files = older, {}
    self.taken: dict[str, list[int]] = {}
    if older is not None:
      try:
        self._files = read_seal(older)['files']
      except (OSError, Damaged):  # nothing can be taken from there
        self._older = None

  def take(self, name: str, folder: pathlib.Path) -> bool:
    """Links a part, if it is there and whole and the file system has links.

    Args:
      name: of the part.
      folder: that takes it.

    Returns:
      Whether the part is in `folder` now.
    """
    wanted = {f: was for f, was in self._files.items() if f.split('/')[0] == name}
    if self._older is None or not wanted:
      return False
    try:
      for file, was in wanted.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        os.link(self._older / file, folder / file)
        if not same_file(folder / file, was):
          raise Damaged(file)
    except (OSError, Damaged):
      shutil.rmtree(folder / name)
      return False
    self.taken |= wanted
    return True


class Saved:
  """The arrays of a snapshot, read one by one.

  Args:
    folders: of the processes that wrote it, whole.

  Attributes:
    leaves: {path: array that is not read yet}.
  """

  def __init__(self, folders: Sequence[pathlib.Path]):
    self._small: dict[pathlib.Path, dict[str, np.ndarray]] = {}
    self._sizes: dict[pathlib.Path, dict[str, np.ndarray]] = {folder: {} for folder in folders}
    shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    parts: dict[str, list[Part]] = {}
    for folder in folders:
      for path, (shape, dtype, name, pieces) in read_seal(folder)['leaves'].items():
        # Plain data may differ between processes; that of the first one, which writes it, counts.
        shapes.setdefault(path, (tuple(shape), np.dtype(dtype)))
        if pieces:
          parts.setdefault(path, []).append(Part(folder, name, pieces))
        blank = _blank(name, [size for _, size in pieces], np.dtype(dtype))
        if not (folder / name).is_dir():  # whatever was large for the jcl that wrote it
          self._sizes[folder] |= blank
    self.leaves = {
      path: Stored(
        shape, functools.partial(self._spans, path, dtype, parts.get(path, [])), False, dtype
      )
      for path, (shape, dtype) in shapes.items()
    }

  def _spans(
    self, path: str, dtype: np.dtype, parts: Sequence[Part], asked: Sequence[Spans]
  ) -> list[np.ndarray]:
    """Returns spans of an array; reads the parts that hold any of them."""
    found: list[np.ndarray | None] = [None] * len(asked)
    for part in parts:
      if all(_overlap(spans, piece) is None for spans in asked for piece in part.pieces):
        continue
      pieces = self._pieces(path, dtype, part)
      for number, spans in enumerate(asked):
        for start, values in pieces:
          if (common := _overlap(spans, [start, list(values.shape)])) is None:
            continue
          if values.shape == shape_of(spans) and start == [s.start for s in spans]:
            found[number] = values
            continue
          out = found[number]
          if out is None:
            out = found[number] = np.zeros(shape_of(spans), dtype)
          to = tuple(
            slice(a - s.start, b - s.start) for (a, b), s in zip(common, spans, strict=True)
          )
          of = tuple(slice(a - s, b - s) for (a, b), s in zip(common, start, strict=True))
          out[to] = values[of]
    blank = lambda spans: np.zeros(shape_of(spans), dtype)  # of an empty array
    return [blank(s) if x is None else x for s, x in zip(asked, found, strict=True)]

  def _pieces(self, path: str, dtype: np.dtype, part: Part) -> list[Piece]:
    """Returns the shards of a part.

    Raises:
      Damaged: they are not those that were written.
    """
    blank = _blank(part.digest, [size for _, size in part.pieces], dtype)
    try:
      if (part.folder / part.digest).is_dir():
        values = load_arrays(part.folder / part.digest, blank)
      else:
        if part.folder not in self._small:
          self._small[part.folder] = load_arrays(part.folder / SMALL, self._sizes[part.folder])
        values = {name: self._small[part.folder][name].copy() for name in blank}
    except Exception as error:  # whatever a damaged file makes Orbax raise
      if system_number(error) is not None or isinstance(error, MemoryError):
        raise
      raise Damaged(f'{path}: {error}') from error
    pieces = [
      Piece(start, values[_key(part.digest, i)]) for i, (start, _) in enumerate(part.pieces)
    ]
    if digest(pieces) != part.digest:
      raise Damaged(f'the checksum of {path} is wrong')
    return pieces


def _overlap(spans: Spans, piece: Sequence[Sequence[int]]) -> list[tuple[int, int]] | None:
  """Returns (first, last + 1) in each dimension of what spans share with a shard; None: nothing."""
  start, size = piece
  common = [
    (max(s.start, a), min(s.stop, a + n)) for s, a, n in zip(spans, start, size, strict=True)
  ]
  return common if all(a < b for a, b in common) else None


def _key(name: str, number: int) -> str:
  """Returns the name of a shard in its checkpoint."""
  return f'{name}.{number}'


def _blank(name: str, sizes: Sequence[Sequence[int]], dtype: np.dtype) -> dict[str, np.ndarray]:
  """Returns arrays that take no room, in place of the shards of a part."""
  zero = np.zeros((), dtype)
  return {_key(name, i): np.broadcast_to(zero, size) for i, size in enumerate(sizes)}
