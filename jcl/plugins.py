"""Names of methods, stream readers and model families, from this package or from another one.

A name is looked up in the package's own table, then read as `package.module:name`, then looked up
among the entry points of a group (`jcl.methods`, `jcl.streams`, `jcl.families`).
"""

import functools
import importlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import jcl
from jcl.errors import UserError, nearest


def _entry_points(group: str) -> importlib.metadata.EntryPoints:
  """Returns the entry points of a group, looked up anew where a folder of `sys.path` changed."""

  def changed(folder: str) -> int:
    try:
      return os.stat(folder or '.').st_mtime_ns
    except OSError:
      return 0

  return _read_entry_points(group, tuple((folder, changed(folder)) for folder in sys.path))


@functools.lru_cache(8)
def _read_entry_points(
  group: str, _: tuple[tuple[str, int], ...]
) -> importlib.metadata.EntryPoints:
  """Returns the entry points of a group; reading those of all packages takes tens of ms."""
  return importlib.metadata.entry_points(group=group)


def find(argument: str, name: str, built_in: Mapping[str, str], group: str) -> Any:
  """Returns the object that a name stands for.

  Args:
    argument: what the user set, such as `method`; it opens every message.
    name: of a built-in object or an entry point, or `package.module:name`.
    built_in: {name: `package.module:name`} of this package's own.
    group: of the entry points.

  Raises:
    UserError: nothing has the name, or more than one thing has it, or loading it fails.
  """
  if ':' in name:
    return load(argument, name)
  points = [point for point in _entry_points(group) if point.name == name]
  places = list(dict.fromkeys([*([built_in[name]] if name in built_in else []),
                               *(point.value for point in points)]))  # fmt: skip
  if not places:
    known = ', '.join(names(built_in, group))
    raise UserError(
      f'{argument}: nothing is called {name!r}; {nearest(name, names(built_in, group))}there are '
      f'{known}, and package.module:name for one of your own'
    )
  if len(places) > 1:
    raise UserError(
      f'{argument}: {name!r} is the name of {" and of ".join(places)}; give one of these instead'
    )
  return load(argument, places[0])


def names(built_in: Mapping[str, str], group: str) -> list[str]:
  """Returns every name that `find` knows: the built-in ones, then those of entry points."""
  points = _entry_points(group)
  return list(dict.fromkeys([*built_in, *(point.name for point in points)]))


def load(argument: str, place: str) -> Any:
  """Returns the object at `package.module:name`.

  Raises:
    UserError: there is no such module or name, or the module raises at import.
  """
  module_name, _, name = place.partition(':')
  if not re.fullmatch(r'[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*', place):
    raise UserError(f'{argument}: {place!r} is not of the form package.module:name')
  try:
    found = importlib.import_module(module_name)
  except ModuleNotFoundError as error:
    if error.name and (module_name == error.name or module_name.startswith(f'{error.name}.')):
      raise UserError(
        f'{argument}: {place}: there is no module {error.name!r}; install its package, or put its '
        'folder on PYTHONPATH'
      ) from None
    raise UserError(f'{argument}: {place}: importing it fails: {error}') from error
  except (Exception, SystemExit) as error:
    raise UserError(
      f'{argument}: {place}: importing it raises {type(error).__name__}: {error}'
    ) from error
  for part in name.split('.'):
    if not hasattr(found, part):
      raise UserError(f'{argument}: {place}: {module_name} has no {name!r}')
    found = getattr(found, part)
  return found


def name_of(found: Any, built_in: Mapping[str, str], group: str) -> str:
  """Returns the name by which `find` finds a class or function again."""
  place = f'{found.__module__}:{found.__qualname__}'
  for name, where in built_in.items():
    if where == place:
      return name
  named = [point.name for point in _entry_points(group) if point.value == place]
  return named[0] if named else place


def check_version(argument: str, needed: str, who: str) -> None:
  """Refuses what was written for a newer jcl.

  Args:
    argument: what the user set.
    needed: the least version, such as `0.3`; empty: any.
    who: what needs it.

  Raises:
    UserError: this jcl is older, or `needed` is not a version.
  """
  numbers = lambda version: tuple(int(part) for part in re.findall(r'\d+', version)[:3])
  if not isinstance(needed, str) or (needed and not re.fullmatch(r'\d+(\.\d+)*', needed)):
    raise UserError(f"{argument}: {who} needs jcl {needed!r}; give a version such as '0.3'")
  if needed and numbers(needed) > numbers(jcl.__version__):
    raise UserError(
      f'{argument}: {who} needs jcl {needed} or newer, this is jcl {jcl.__version__}; '
      'pip install -U jcl'
    )
