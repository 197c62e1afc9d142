"""Streams by name: readers of this package, and readers of other packages.

A stream reader is a function `(StreamConfig) -> RawStream`. If it has a parameter `targets` as
well, it is told whether rows need labels or answers, and may leave them unread where they do not.
"""

import dataclasses
import inspect
import os
import pathlib
import shlex
from collections.abc import Callable

from jcl import plugins
from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams.build import build
from jcl.streams.checks import check_raw
from jcl.streams.files import kind_of
from jcl.streams.many_objects import uncollected
from jcl.streams.raw import RawStream
from jcl.streams.stream import Stream
from jcl.streams.tables import SUFFIXES

GROUP = 'jcl.streams'
BUILT_IN: dict[str, str] = {
  'synthetic': 'jcl.streams.synthetic:read',
  'files': 'jcl.streams.manifest:read',
  'classes': 'jcl.streams.class_data:read',
  'clinc150': 'jcl.streams.benchmarks:read',
  'banking77': 'jcl.streams.benchmarks:read',
  'hwu64': 'jcl.streams.benchmarks:read',
  'snips': 'jcl.streams.benchmarks:read',
  'fewrel': 'jcl.streams.benchmarks:read',
  'concept1k': 'jcl.streams.benchmarks:read',
  'long_sequence': 'jcl.streams.published_tasks:read',
  'standard_cl': 'jcl.streams.published_tasks:read',
  'trace': 'jcl.streams.published_tasks:read',
  'superni': 'jcl.streams.published_tasks:read',
  'rows': 'jcl.streams.rows:read',
}
READ = tuple(name for name in BUILT_IN if name != 'rows')  # rows of Python are stored nowhere


def find_reader(name: str) -> Callable[..., RawStream]:
  """Returns the stream reader of a name.

  Args:
    name: name of a built-in reader, `package.module:function`, or the name of an entry point of the
      group `jcl.streams`.

  Raises:
    UserError: there is no such reader, or it needs a newer jcl (its attribute `needs_jcl`).
  """
  path = pathlib.Path(os.path.expanduser(name))
  if name and os.path.exists(path) and name not in plugins.names(BUILT_IN, GROUP):
    raise UserError(f'stream.name: {name!r} is {_what_reads(path, name)}')
  known = {one: place for one, place in BUILT_IN.items() if one in (name, *READ)}
  found = plugins.find('stream.name', name, known, GROUP)
  if not callable(found):
    raise UserError(
      f'stream.name: {name} is a {type(found).__name__}: give a function from StreamConfig to '
      'RawStream'
    )
  plugins.check_version('stream.name', getattr(found, 'needs_jcl', ''), name)
  return found


def _what_reads(path: pathlib.Path, name: str) -> str:
  """Says of what kind a path of data is, and which call and settings read it.

  Args:
    path: a file or folder that is there.
    name: the path as the user wrote it.
  """
  parts = [path / f'manifest.{kind}' for kind in ('json', 'py')] if path.is_dir() else [path]
  carve = ''
  if any(part.suffix in ('.json', '.py') and part.is_file() for part in parts):
    what, reader = 'a manifest', 'files'
  elif path.is_dir():
    what, reader = 'a folder without a manifest', 'classes'
  elif kind_of(path) in SUFFIXES:
    what, reader, carve = 'a table', 'classes', 'test_fraction=0.2'
  else:
    return (
      f'a file of another kind: give a manifest (docs/data.md), or one of {", ".join(SUFFIXES)}'
    )
  call = ', '.join(filter(None, (repr(reader), f'path={name!r}', carve)))
  flags = ' '.join(
    f'--config.stream.{part}'
    for part in (f'name={reader}', f'path={shlex.quote(name)}', carve)
    if part
  )
  return f'{what}: give jcl.load_stream({call}), as flags {flags}'


def load(config: StreamConfig, need_dev: bool = False, targets: bool = True) -> Stream:
  """Reads, checks and assembles the stream that the settings name.

  Args:
    config: settings of the stream; `name` names its reader, see `find_reader`.
    need_dev: whether every task must have a dev split; a missing one is carved from train.
    targets: whether texts have labels or answers; False for raw text.

  Returns:
    The stream.

  Raises:
    UserError: the name is unknown, or data or settings cannot be used.
  """
  return built(find_reader(config.name), config, need_dev, targets)


def rebuild(
  stream: Stream, config: StreamConfig, need_dev: bool = False, targets: bool = True
) -> Stream:
  """Builds a stream once more, under other settings.

  Args:
    stream: a stream that was loaded, or made by `Stream.from_rows` or `Stream.from_datasets`.
    config: settings of the stream; `name` and `path` are those of `stream.settings`.
    need_dev, targets: as in `load`.

  Returns:
    A stream of the same data; made of rows, or read again, as the first one was.

  Raises:
    UserError: the stream was put together by hand, `config` names another stream, or its settings
      cannot be used.
  """
  if stream.reader is None or stream.settings is None:
    raise UserError(
      f'stream {stream.name!r} was put together by hand: make it with jcl.Stream.from_rows'
    )
  for field in ('name', 'path'):
    wanted, own = getattr(config, field), getattr(stream.settings, field)
    if wanted != own:
      raise UserError(
        f'stream.{field} is {wanted!r}, but a stream was given whose {field} is {own!r}: '
        'give one stream'
      )
  return built(stream.reader, config, need_dev, targets)


@uncollected()
def built(
  reader: Callable[..., RawStream], config: StreamConfig, need_dev: bool, targets: bool
) -> Stream:
  """Builds the stream of a reader; the stream keeps reader and settings. Errors as in `load`."""
  made = build(_read(reader, config, targets), config, need_dev, targets)
  return dataclasses.replace(made, reader=reader, settings=dataclasses.replace(config))


def _read(reader: Callable[..., RawStream], config: StreamConfig, targets: bool) -> RawStream:
  """Returns what a reader reads, if it is a raw stream.

  Raises:
    UserError: the reader raises, or returns something else.
  """
  try:
    wants_targets = 'targets' in inspect.signature(reader).parameters
  except (TypeError, ValueError):  # a function in C may have no signature
    wants_targets = False
  try:
    raw = reader(config, targets=targets) if wants_targets else reader(config)
  except (MemoryError, UserError):
    raise
  except Exception as error:  # of any kind: it may be a stranger's program
    if config.name in BUILT_IN:
      raise
    raise UserError(
      f'stream.name: the reader {config.name} raises {type(error).__name__}: {error}'
    ) from error
  return check_raw(raw, config.name)
