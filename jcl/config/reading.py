"""Settings that are given and that nothing reads in a run: found, and refused."""

import dataclasses
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from jcl.errors import UserError


class Unread(NamedTuple):
  """A setting that is given and that nothing reads, as data and model of a run show.

  Attributes:
    name: of the setting, such as `train.learning_rate`.
    value: of the setting.
    why: the reason, in words that follow "nothing reads it here:".
  """

  name: str
  value: object
  why: str

  def __str__(self) -> str:
    return f'{self.name} is {self.value!r}, but nothing reads it here: {self.why}'


def refused(found: Iterable[Unread], from_file: Iterable[str] = ()) -> list[str]:
  """Refuses settings that nothing reads.

  Args:
    found: these settings.
    from_file: names of settings that a config file sets; they are not refused, since such a file
      serves several runs.

  Returns:
    A line for each setting of `found` that a config file sets.

  Raises:
    UserError: `found` holds a setting that no config file sets; names the first.
  """
  notes = []
  for setting in found:
    if setting.name not in from_file:
      raise UserError(str(setting))
    notes.append(f'the config file says {setting}')
  return notes


def check_read(settings: Any, path: str = '', whole: Any = None) -> None:
  """Refuses values that nothing reads.

  Args:
    settings: a settings dataclass; the dataclasses in its fields are checked too.
    path: what stands before a field's name in a message, such as `train.`.
    whole: the `Config`; None: conditions on settings of other groups are taken to hold.

  Raises:
    UserError: a field is not at its default, and no condition under which it is read holds; names
      the field and these conditions.
  """
  for name, field, value in unread(settings, path, whole):
    if value != field.default:
      raise UserError(
        f'{name} is {value!r}, but nothing reads it here; it is read with {readers(field)}'
      )


def readers(field: dataclasses.Field) -> str:
  """Returns what reads a field, in words that complete "it is read with"; '': every run."""
  ways = field.metadata.get('read_with', ())
  return field.metadata.get('read_by') or ', or with '.join(map(_words, ways))


def unread(
  settings: Any, path: str = '', whole: Any = None
) -> Iterator[tuple[str, dataclasses.Field, Any]]:
  """Yields (dotted name, field, value) of each field that nothing reads, at its default or not.

  Arguments are those of `check_read`.
  """
  for field in dataclasses.fields(settings):
    ways = field.metadata.get('read_with')
    value, name = getattr(settings, field.name), f'{path}{field.name}'
    if dataclasses.is_dataclass(value):
      yield from unread(value, f'{name}.', whole)
    elif ways and not any(_holds(way, settings, whole) for way in ways):
      yield name, field, value


def _holds(way: Mapping[str, Any], settings: Any, whole: Any) -> bool:
  """Whether all settings of a condition have one of the values that it names."""
  for name, wanted in way.items():
    if '.' in name and whole is None:
      continue
    where = whole if '.' in name else settings
    value = operator.attrgetter(name.removeprefix('config.'))(where)
    if not any(one == value for one in _values(wanted)):
      return False
  return True


def _words(way: Mapping[str, Any]) -> str:
  """Returns a condition in words: `merge 'ties' or 'dare' and stack False`."""
  return ' and '.join(f'{n} {" or ".join(map(repr, _values(wanted)))}' for n, wanted in way.items())


def _values(wanted: Any) -> tuple[Any, ...]:
  """Returns the values that a condition allows a setting, as a tuple."""
  return wanted if isinstance(wanted, tuple) else (wanted,)
