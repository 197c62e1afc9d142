"""Paths that a user gives, in flags, settings, manifests or Python: `~` expanded, URLs refused.

jcl reads and writes the files of this machine alone. A bucket is used by mounting it as a folder.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

from jcl import notation
from jcl.errors import UserError

LONGEST_NAME = 255  # bytes of the name of a file or folder
Given = str | os.PathLike[str]

# What serves in place of a URL, by its scheme.
MOUNTS = {
  **dict.fromkeys(('gs', 'gcs'), 'mount the bucket with gcsfuse'),
  **dict.fromkeys(('s3', 's3a', 's3n', 'r2'), 'mount the bucket with Mountpoint for S3 or s3fs'),
  **dict.fromkeys(('az', 'abfs', 'abfss', 'wasb', 'wasbs', 'adl'), 'mount it with blobfuse2'),
  **dict.fromkeys(('hdfs', 'webhdfs', 'viewfs'), 'mount HDFS by its NFS gateway or fuse-dfs'),
  **dict.fromkeys(('ssh', 'sftp', 'scp'), 'mount it with sshfs'),
  **dict.fromkeys(('http', 'https', 'ftp', 'ftps'), 'download it'),
  'dbfs': 'take its mount, /dbfs',
}
SCHEME = re.compile(r'([A-Za-z][A-Za-z0-9+.-]+):/+(.*)', re.DOTALL)  # C:/ is a drive of Windows


def local(given: Given, argument: str) -> pathlib.Path:
  """Returns a path of this machine, `~` and `~user` expanded.

  A name such as `~draft` of a file that is there stays as it is where no user is called so.

  Args:
    given: the path as the user wrote it.
    argument: flag, field or argument that it was given in, for messages.

  Raises:
    UserError: it is a URL, no path at all, or names the home of somebody who has none.
  """
  text = os.fspath(given) if isinstance(given, str | bytes | os.PathLike) else given
  check(text, argument)
  path = pathlib.Path(text)
  try:
    path = path.expanduser()
    check_parents(path, argument)
    return path
  except RuntimeError:
    if os.path.lexists(path):
      return path
    whose = path.parts[0][1:]
    of = f'the user {whose!r}' if whose else 'this user (HOME is not set)'
    raise UserError(f'{argument} is {text!r}, but {of} has no home; write the path out') from None


def check_parents(path: pathlib.Path, argument: str) -> None:
  """Refuses a path whose folder is a file, and one with a name that no file system holds.

  Raises:
    UserError: naming the argument and the part.
  """
  for part in path.parts:
    if len(part.encode('utf-8', 'surrogatepass')) > LONGEST_NAME:
      raise UserError(
        f'{argument}: {part[:40]}… has more than {LONGEST_NAME} bytes; give a shorter name'
      )
  for parent in path.parents:
    if os.path.isfile(parent):
      raise UserError(f'{argument} is {str(path)!r}, but {parent} is a file; give another folder')


def check(text: str, argument: str) -> None:
  """Refuses a URL, and a path that no system has, without touching the disk.

  Args:
    text: the path.
    argument: as in `local`.

  Raises:
    UserError: naming the argument and what serves in place of the URL.
  """
  if not isinstance(text, str):
    raise UserError(f'{argument} is a {type(text).__name__}; give a path as text')
  if '\0' in text:
    raise UserError(f'{argument} is {text!r}; a path holds no NUL')
  if not notation.encodable(text, 'surrogateescape'):
    raise UserError(f'{argument} is {text!r}; a path holds no half of a surrogate pair')
  found = SCHEME.fullmatch(text)
  if found is None:
    return
  scheme, rest = found[1].lower(), found[2]
  known = scheme in MOUNTS or scheme in ('file', 'hf')
  if '://' not in text and not known:  # pathlib makes gs:/x of gs://x
    return
  if scheme == 'file':
    right = f'give the path alone, /{rest.removeprefix("localhost/")}'
  elif scheme == 'hf':
    right = 'give the name on the hub alone, OWNER/NAME, or a folder'
  elif scheme in MOUNTS:
    right = f'{MOUNTS[scheme]} and give the local path'
  else:
    right = 'give the path of a folder or file on this machine'
  raise UserError(f'{argument} is {text!r}, a URL, which jcl neither reads nor writes; {right}')


def check_fields(settings: Any, prefix: str = '') -> None:
  """Refuses URLs in every field of a settings dataclass, at any depth, that holds a path.

  Such a field is called `path` or `cache`, or its name ends in `_path`.

  Args:
    settings: the dataclass.
    prefix: what stands before a field's name in messages, such as `stream.`.

  Raises:
    UserError: see `check`.
  """
  for name, value in path_fields(settings, prefix):
    check(value, name)


def path_fields(settings: Any, prefix: str = '') -> Iterator[tuple[str, str]]:
  """Yields (dotted name, value) of the fields of a settings dataclass that hold a path."""
  for field in dataclasses.fields(settings):
    value, name = getattr(settings, field.name), f'{prefix}{field.name}'
    if dataclasses.is_dataclass(value):
      yield from path_fields(value, f'{name}.')
    elif isinstance(value, str) and re.fullmatch(r'(.*_)?path|cache|probe|corpus', field.name):
      yield name, value


def user_cache(name: str) -> pathlib.Path:
  """Returns a folder for files that may be made again, which can be written.

  It is `~/.cache/jcl/NAME`, or one of this user in the folder of temporary files where there is no
  home that can be written, or in the current folder where there is no such folder either.
  """
  with contextlib.suppress(RuntimeError):
    home = pathlib.Path.home() / '.cache' / 'jcl' / name
    if _writable(home):
      return home
  user = os.getuid() if hasattr(os, 'getuid') else 'user'
  with contextlib.suppress(OSError):
    return pathlib.Path(tempfile.gettempdir()) / f'jcl-{user}' / name
  return pathlib.Path('.jcl-cache') / name


def nameable(name: str) -> str:
  """Returns a name as the file system can hold it; escaped where its encoding lacks a letter."""
  try:
    os.fsencode(name)
  except UnicodeEncodeError:
    escaped = lambda c: c if c.isascii() and c != '%' else ''.join(f'%{b:02X}' for b in c.encode())
    return ''.join(map(escaped, name))
  return name


def home_within(folder: pathlib.Path) -> bool:
  """Whether the home of this user lies in a folder; False where there is no home."""
  try:
    return pathlib.Path.home().resolve().is_relative_to(folder)
  except (RuntimeError, OSError):
    return False


def _writable(folder: pathlib.Path) -> bool:
  """Whether a folder, or the nearest one above it that is there, can be written."""
  there = next(place for place in (folder, *folder.parents) if place.exists())
  return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
