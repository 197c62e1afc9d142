"""Folders with a seal: a file, written last, that lists all others with sizes and checksums.

A folder without a seal is unfinished. A folder whose files differ from its seal is damaged. Of a
folder within that is sealed itself, the seal alone is listed. The seal is JSON,
`{"content": …, "crc32": …}`, with the checksum of the content as JSON. Together the checksums cover
every bit of the folder, those of the seals included.
"""

import contextlib
import json
import os
import pathlib
import shutil
import types
import zlib
from collections.abc import Callable, Mapping

from jcl.errors import count_of
from jcl.storage.atomic import write_atomically
from jcl.types import Json

NAME = 'snapshot.json'
CHUNK = 2**20  # bytes read at a time
NOTHING: Mapping[str, list[int]] = types.MappingProxyType({})


class Damaged(Exception):
  """A folder is not what was sealed; the message says which file is wrong, and how."""


def seal(
  folder: pathlib.Path, content: Mapping[str, object], known: Mapping[str, list[int]] = NOTHING
) -> None:
  """Seals a folder.

  Args:
    folder: nothing is written to it any more.
    content: what the seal holds beside the list of files; plain data that JSON gives back equal.
    known: {name: [bytes, CRC-32]} of files that have just been read.
  """
  files = {name: known.get(name) or _size_and_checksum(folder / name) for name in _names(folder)}
  write_atomically(folder / NAME, _text({**content, 'files': files}))


def is_sealed(folder: pathlib.Path) -> bool:
  """Whether a folder has a seal, even a damaged one."""
  return (folder / NAME).is_file()


def read_seal(folder: pathlib.Path) -> Json:
  """Returns the content of a folder's seal.

  Raises:
    Damaged: the seal is not as it was written.
  """
  raw = (folder / NAME).read_bytes()
  try:
    content = json.loads(raw)['content']
    whole = _text(content) == raw
  except (ValueError, KeyError, TypeError):
    whole = False
  if not whole:
    raise Damaged(f'{NAME} is damaged')
  return content


def check_files(
  folder: pathlib.Path, content: Json, reads: Callable[[str], bool] = lambda name: True
) -> list[str]:
  """Compares every file of a folder, and of the sealed folders within, with the seals.

  Args:
    folder: the folder.
    content: of its seal.
    reads: whether the files of a sealed folder within, given by its name, are to be read.

  Returns:
    Names of files that no seal lists; nothing reads them.

  Raises:
    Damaged: a file is missing, or it is not the one that was sealed.
  """
  return _check(folder, content, reads, '')


def _check(
  folder: pathlib.Path, content: Json, reads: Callable[[str], bool], before: str
) -> list[str]:
  """Does the work of `check_files`; `before` is what stands before the names of files."""
  there, more = _names(folder), []
  for name, (size, wanted) in content['files'].items():
    if name not in there:
      raise Damaged(f'{before}{name} is missing')
    found, checksum = _size_and_checksum(folder / name)
    if found != size:
      raise Damaged(f'{before}{name} has {count_of(found, "byte")} and had {size:,}')
    if checksum != wanted:
      raise Damaged(f'the checksum of {before}{name} is wrong')
    within, _, last = name.rpartition('/')
    if last == NAME and reads(within):
      more += _check(folder / within, read_seal(folder / within), reads, f'{before}{within}/')
  return [*more, *(before + name for name in there if name not in content['files'])]


def same_file(path: pathlib.Path, was: list[int]) -> bool:
  """Whether a file has the size and the CRC-32 that a seal lists."""
  return path.stat().st_size == was[0] and _size_and_checksum(path) == was


def numbered(folder: pathlib.Path) -> dict[int, pathlib.Path]:
  """Returns {number: path} of the entries of a folder whose names are numbers, sealed or not."""
  found = folder.iterdir() if folder.is_dir() else ()
  return {int(path.name): path for path in found if path.name.isdecimal()}


def newest(folder: pathlib.Path) -> int:
  """Returns the highest number of a sealed folder in a folder, or -1 if there is none."""
  return max((n for n, path in numbered(folder).items() if is_sealed(path)), default=-1)


def delete(folder: pathlib.Path) -> None:
  """Deletes a folder, its seal first: a kill then leaves an unfinished folder, no damaged one."""
  with contextlib.suppress(OSError):
    (folder / NAME).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def link(source: str, target: str) -> str:
  """Links a file, or copies it where the file system has no links."""
  try:
    os.link(source, target)
  except OSError:
    shutil.copy2(source, target)
  return target


def _names(folder: pathlib.Path) -> list[str]:
  """Returns the paths of all files in a folder, relative to it, as its seal lists them."""
  found = []
  for path in folder.iterdir():
    if path.is_dir():
      within = [NAME] if is_sealed(path) else _names(path)
      found += [f'{path.name}/{name}' for name in within]
    elif path.is_file() and path.name != NAME:
      found.append(path.name)
  return sorted(found)


def _size_and_checksum(path: pathlib.Path) -> list[int]:
  """Returns [bytes, CRC-32] of a file."""
  size = checksum = 0
  with open(path, 'rb') as file:
    while part := file.read(CHUNK):
      size, checksum = size + len(part), zlib.crc32(part, checksum)
  return [size, checksum]


def _text(content: Mapping[str, object]) -> bytes:
  """Returns a seal as its file holds it."""
  checksum = zlib.crc32(json.dumps(content).encode())
  return (json.dumps({'content': content, 'crc32': checksum}) + '\n').encode()
