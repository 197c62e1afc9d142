"""Files and folders that are written whole or not at all."""

import contextlib
import errno
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from jcl.errors import UserError


def write_atomically(path: str | pathlib.Path, content: bytes) -> None:
  """Writes a file whole or not at all."""
  path = pathlib.Path(path)
  with _renamed(path.with_name(f'.{path.name}.part'), path) as file:
    file.write(content)


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[BinaryIO]:
  """A file to fill, which takes its name when all went well, else goes away.

  Several processes may write the same file at once: the last one's stays.
  """
  with _renamed(path.with_name(f'.{path.name}.{uuid.uuid4().hex}.part'), path) as file:
    yield file


@contextlib.contextmanager
def _renamed(part: pathlib.Path, path: pathlib.Path) -> Iterator[BinaryIO]:
  try:
    with named(path):
      with open(part, 'wb') as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)


@contextlib.contextmanager
def named(path: pathlib.Path) -> Iterator[None]:
  """Errors of the system say which file they are about; a failed write does not by itself."""
  try:
    yield
  except OSError as error:
    error.filename = error.filename or str(path)
    raise


HINTS = {
  errno.ENOENT: 'give a path that is there',
  errno.EACCES: 'give a path that this user may use',
  errno.EROFS: 'give a path that can be written',
  errno.ENOSPC: 'free some space, and the same command goes on',
  errno.EDQUOT: 'free some space, and the same command goes on',
  errno.EFBIG: 'free some space, and the same command goes on',
  errno.EISDIR: 'a file is wanted there',
  errno.ENOTDIR: 'give a path whose folders are no files',
  errno.EEXIST: 'a file or a broken link is in the way; give another path',
  errno.ENAMETOOLONG: 'give a shorter path',
  errno.ELOOP: 'its links lead in a circle; give another path',
}


def describe_error(error: OSError) -> str:
  """An error of the system as one line, with what would be right."""
  hint = HINTS.get(error.errno, 'give a path that can be used')
  return f'{error.filename or "file"}: {error.strerror or error}; {hint}'


def check_new(folder: pathlib.Path) -> None:
  """Refuses a folder that something would be lost in.

  Raises:
    UserError: it is a file, or not empty.
  """
  if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
    raise UserError(f'{folder} is there already and not empty; name a new folder')


@contextlib.contextmanager
def new_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder to fill, which takes the name of `folder` when all went well, else goes away.

  Raises:
    UserError: `folder` is in use.
  """
  check_new(folder)
  part = folder.with_name(f'.{folder.name}.part')
  shutil.rmtree(part, ignore_errors=True)
  try:
    part.mkdir(parents=True)
    yield part
    os.replace(part, folder)
  finally:
    shutil.rmtree(part, ignore_errors=True)
