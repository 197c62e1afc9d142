"""Bytes and text of a file: compressed or not, in UTF-8, or in UTF-16 with a byte-order mark."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, cast

from jcl.errors import UserError
from jcl.streams import hub
from jcl.streams.raw import SPLITS

LARGEST = 2**33  # bytes that a compressed file may have unpacked
PACKED = ('.gz', '.bz2', '.xz', '.zst')
KINDS = {  # the first bytes of a file -> what it is, and what to do
  b'\x1f\x8b': 'gzip: let its name end in .gz',
  b'BZh': 'bzip2: let its name end in .bz2',
  b'\xfd7zXZ': 'xz: let its name end in .xz',
  b'\x28\xb5\x2f\xfd': 'zstd: let its name end in .zst',
  b'PAR1': 'parquet: let its name end in .parquet',
  b'PK\x03\x04': 'a zip archive or an Excel workbook: unpack it, or save it as csv',
  b'ARROW1': 'Arrow: save it as parquet',
}
POINTER = b'version https://git-lfs'  # first bytes of a file that Git LFS stands in for
MARKS = {  # byte-order marks, the longer ones first
  codecs.BOM_UTF32_LE: 'utf-32', codecs.BOM_UTF32_BE: 'utf-32',
  codecs.BOM_UTF16_LE: 'utf-16', codecs.BOM_UTF16_BE: 'utf-16',
}  # fmt: skip


def kind_of(path: pathlib.Path) -> str:
  """Returns the suffix that tells how a file is read, that of its compression left out."""
  suffixes = [suffix.lower() for suffix in path.suffixes]
  if suffixes[-1:] and suffixes[-1] in PACKED:
    suffixes = suffixes[:-1]
  return suffixes[-1] if suffixes else ''


def read_bytes(path: pathlib.Path, called: str) -> bytes:
  """Returns the bytes of a file, unpacked where its name ends as that of a compressed file.

  Args:
    path: `.gz`, `.bz2`, `.xz` and `.zst` are unpacked.
    called: name of the file in error messages.

  Raises:
    UserError: the file is missing, damaged, of another kind than its name says, or too large.
  """
  suffix = path.suffix.lower()
  is_file = os.path.isfile(path) or os.path.isdir(path)
  if os.path.exists(path) and not is_file:  # it may never end
    raise UserError(f'{called}: a pipe or a device, which jcl does not read: give a file')
  refuse_pointer(path, called)
  try:
    if suffix not in PACKED:
      return path.read_bytes()
    with open(path, 'rb') as packed, unpacked(packed, suffix) as file:
      data = file.read(LARGEST + 1)
  except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, ValueError) as error:
    raise damaged(called, suffix, error) from None
  except OSError as error:
    if error.strerror is None:  # of bz2 and of Arrow
      raise damaged(called, suffix, error) from None
    raise UserError(f'{called}: cannot be read ({error.strerror}): correct the path') from None
  if len(data) > LARGEST:
    raise UserError(f'{called}: more than {LARGEST >> 30} GiB unpacked: split it, or use parquet')
  return data


def unpacked(packed: IO[bytes], suffix: str) -> IO[bytes]:
  """Returns the unpacked content of an open file."""
  if suffix == '.gz':
    return cast(IO[bytes], gzip.GzipFile(fileobj=packed))
  if suffix == '.bz2':
    return bz2.BZ2File(packed)
  if suffix == '.xz':
    return lzma.LZMAFile(packed)
  pyarrow = hub.imported('pyarrow')  # comes with `datasets`; Python reads zstd from 3.14 on
  return io.BytesIO(pyarrow.CompressedInputStream(packed, 'zstd').read(LARGEST + 1))


def damaged(called: str, suffix: str, error: Exception) -> UserError:
  """Returns the error for a compressed file that cannot be unpacked."""
  return UserError(f'{called}: no whole {suffix} file ({reason_of(error)}): pack or fetch it again')


def reason_of(error: Exception) -> str:
  """Returns what a library says of a damaged file, in one short line; else the error's kind."""
  return ' '.join(str(error).split())[:160] or type(error).__name__


def read_text(path: pathlib.Path, called: str, least: str = 'give at least one row') -> str:
  """Returns the text of a file without its byte-order mark; refuses NUL and empty files.

  Args:
    path, called: as of `read_bytes`.
    least: what an empty file should have.

  Raises:
    UserError: as `read_bytes`, and for a file that is no text in UTF-8, or in UTF-16 with a mark.
  """
  data = read_bytes(path, called)
  encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), 'utf-8-sig')
  try:
    text = data.decode(encoding)
  except UnicodeDecodeError as error:
    _refuse_other_kinds(data, called)
    line = data.count(b'\n', 0, error.start) + 1
    raise UserError(f'{called}:{line}: not UTF-8: save the file as UTF-8') from None
  if '\0' in text:
    _refuse_other_kinds(data, called)
    line = text.count('\n', 0, text.index('\0')) + 1
    raise UserError(f'{called}:{line}: a NUL character: take it out, or save the file as UTF-8')
  if not text.strip():
    raise UserError(f'{called}: the file is empty: {least}')
  return text


def _refuse_other_kinds(data: bytes, called: str) -> None:
  """Raises a UserError if the first bytes of a file are those of a kind that is no text."""
  for first, what in KINDS.items():
    if data.startswith(first):
      raise UserError(f'{called}: the file is {what}') from None


def refuse_pointer(file: pathlib.Path, called: str) -> None:
  """Raises a UserError for a file of Git LFS that was cloned and never fetched.

  Args:
    file: that could not be read, or may hold any text; missing ones pass.
    called: name of the file in error messages.
  """
  first = b''
  with contextlib.suppress(OSError), open(file, 'rb') as opened:
    first = opened.read(len(POINTER))
  if first == POINTER:
    raise UserError(
      f'{called}: a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`'
    ) from None


@contextlib.contextmanager
def placed(manifest: str, fields: Mapping[str, object]) -> Iterator[None]:
  """Puts the folder of a manifest before the name of its file that opens an error message.

  Rows keep the names that the manifest has: ids of rows are made of them, and do not change where
  the folder moves.

  Args:
    manifest: path of the manifest, or of the data that stands for one, as it was given.
    fields: content of the manifest.
  """
  tasks = fields.get('tasks')
  parts = [fields, *(tasks if isinstance(tasks, list) else [])]
  found = [part.get(split) for part in parts if isinstance(part, Mapping) for split in SPLITS]
  names = tuple(f'{name}{mark}' for name in found if isinstance(name, str) for mark in ':[')
  try:
    yield
  except UserError as error:
    if not str(error).startswith(names):
      raise
    folder = manifest if os.path.isdir(manifest) else os.path.dirname(manifest)
    raise UserError(os.path.join(folder, str(error))) from None
