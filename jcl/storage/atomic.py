"""Files and folders that are written whole or not at all."""

import contextlib
import errno
import filecmp
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from jcl.errors import UserError


def write_atomically(path: str | pathlib.Path, content: bytes) -> None:
  """Writes a file whole or not at all."""
  path = pathlib.Path(path)
  with _renamed_when_done(path.with_name(f'.{path.name}.part'), path) as file:
    file.write(content)


def write_text(path: pathlib.Path, parts: Iterable[str]) -> None:
  """Writes texts, one after another, to a file, whole or not at all."""
  write_atomically(path, ''.join(parts).encode())


def write_json(path: pathlib.Path, value: object) -> None:
  """Writes a value as JSON, whole or not at all."""
  write_text(path, [json.dumps(value, indent=1, ensure_ascii=False) + '\n'])


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Gives an open file; it takes its name when the block ends well, else it is deleted.

  Several processes may write the same file at once: that of the last to finish stays.
  """
  part = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.part')
  with _renamed_when_done(part, path) as file:
    yield file


@contextlib.contextmanager
def _renamed_when_done(part: pathlib.Path, path: pathlib.Path) -> Iterator[BinaryIO]:
  """Gives the open file `part`, which becomes `path` when the block ends well."""
  try:
    with name_file_in_errors(path):
      with open(part, 'wb') as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)


@contextlib.contextmanager
def name_file_in_errors(path: pathlib.Path) -> Iterator[None]:
  """Adds the file's name to errors of the system; a failed write does not have it by itself."""
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
  errno.EPIPE: 'the program that reads it has ended',
  errno.ELOOP: 'its links lead in a circle; give another path',
}


def describe_error(error: OSError) -> str:
  """Returns an error of the system as one line that says what would be right."""
  hint = HINTS.get(error.errno or 0, 'give a path that can be used')
  return f'{error.filename or "file"}: {error.strerror or error}; {hint}'


def check_new(folder: pathlib.Path) -> None:
  """Checks that nothing is lost when a folder is written.

  Raises:
    UserError: the folder is a file, or it is not empty.
  """
  if folder.is_file():
    raise UserError(f'{folder} is a file; name a new folder')
  if _in_use(folder):
    raise UserError(
      f'{folder} is there already and not empty; name a new folder, or move this one away'
    )


@contextlib.contextmanager
def new_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives an empty folder; it takes its name when the block ends well, else it is deleted.

  A folder that holds the same files already, with the same bytes, stays as it is.

  Raises:
    UserError: `folder` is a file, or it holds something else.
  """
  if folder.is_file():
    check_new(folder)
  part = folder.with_name(f'.{folder.name}.part')
  shutil.rmtree(part, ignore_errors=True)
  try:
    part.mkdir(parents=True)
    yield part
    if _in_use(folder):
      if not _holds(folder, part):
        raise UserError(
          f'{folder} is there already and holds something else; name a new folder, or move '
          'this one away'
        )
      return
    os.replace(part, folder)
  finally:
    shutil.rmtree(part, ignore_errors=True)


def _in_use(folder: pathlib.Path) -> bool:
  """Whether there is a file, or a folder that is not empty."""
  return folder.is_file() or (folder.is_dir() and any(folder.iterdir()))


def _holds(folder: pathlib.Path, part: pathlib.Path) -> bool:
  """Whether a folder holds every file of another, with the same bytes."""
  names = [file.relative_to(part) for file in part.rglob('*') if file.is_file()]
  same = lambda name: filecmp.cmp(folder / name, part / name, shallow=False)
  return all((folder / name).is_file() and same(name) for name in names)
