"""Folders with a seal: a list of their files, each with its size and checksum, written last.

A folder without a seal is unfinished; one whose files are not those of its seal is damaged. The
seal is JSON, `{"content": …, "crc32": …}`, where the checksum is that of the content as JSON: so
every bit of the folder, the seal's own among them, is covered.
"""

import contextlib
import json
import pathlib
import shutil
import zlib
from collections.abc import Mapping
from typing import Any

from jcl.storage.atomic import write_atomically

NAME = 'snapshot.json'
CHUNK = 2**20  # bytes read at a time


class Damaged(Exception):
  """A folder is not what was sealed; the message says which file is wrong, and how."""


def seal(folder: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Seals a folder.

  Args:
    folder: that nothing is written to any more.
    content: of the seal, beside the list of files: plain data as JSON gives it back.
  """
  files = {name: _size_and_checksum(folder / name) for name in _names(folder)}
  write_atomically(folder / NAME, _text({**content, 'files': files}))


def is_sealed(folder: pathlib.Path) -> bool:
  """Whether a folder has a seal, whole or not."""
  return (folder / NAME).is_file()


def read_seal(folder: pathlib.Path) -> dict[str, Any]:
  """The content of a folder's seal.

  Raises:
    Damaged: it is not as it was written.
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


def check_files(folder: pathlib.Path, content: Mapping[str, Any]) -> list[str]:
  """Compares every file with the seal.

  Returns:
    Names of files that came later, which nothing reads.

  Raises:
    Damaged: a file is missing, or is not the one that was sealed.
  """
  there = _names(folder)
  for name, (size, wanted) in content['files'].items():
    if name not in there:
      raise Damaged(f'{name} is missing')
    found, checksum = _size_and_checksum(folder / name)
    if found != size:
      raise Damaged(f'{name} has {found} bytes and had {size}')
    if checksum != wanted:
      raise Damaged(f'the checksum of {name} is wrong')
  return [name for name in there if name not in content['files']]


def numbered(folder: pathlib.Path) -> dict[int, pathlib.Path]:
  """The folders in a folder that have a number for a name, sealed or not, by number."""
  found = folder.iterdir() if folder.is_dir() else ()
  return {int(path.name): path for path in found if path.name.isdecimal()}


def newest(folder: pathlib.Path) -> int:
  """The highest number of a sealed folder in a folder, -1 where there is none."""
  return max((n for n, path in numbered(folder).items() if is_sealed(path)), default=-1)


def delete(folder: pathlib.Path) -> None:
  """Deletes a folder, its seal first: what a kill leaves of it is unfinished, not damaged."""
  with contextlib.suppress(OSError):
    (folder / NAME).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _names(folder: pathlib.Path) -> list[str]:
  files = (f for f in folder.rglob('*') if f.is_file() and f != folder / NAME)
  return sorted(f.relative_to(folder).as_posix() for f in files)


def _size_and_checksum(path: pathlib.Path) -> list[int]:
  """Bytes and CRC-32 of a file."""
  size = checksum = 0
  with open(path, 'rb') as file:
    while part := file.read(CHUNK):
      size, checksum = size + len(part), zlib.crc32(part, checksum)
  return [size, checksum]


def _text(content: Any) -> bytes:
  checksum = zlib.crc32(json.dumps(content).encode())
  return (json.dumps({'content': content, 'crc32': checksum}) + '\n').encode()
