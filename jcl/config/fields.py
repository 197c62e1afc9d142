"""Fields of settings classes: choices, bounds, and the conditions under which one is read."""

import dataclasses
from collections.abc import Mapping
from typing import Any


class Given:
  """The condition that a setting is given; it equals every value but 0, '' and false."""

  def __eq__(self, value: object) -> bool:
    return bool(value)

  def __hash__(self) -> int:
    return 0

  def __repr__(self) -> str:
    return 'given (not 0, empty or false)'


GIVEN = Given()


class Other:
  """The condition that a setting has none of some values; it equals every other value."""

  def __init__(self, *values: object):
    self.values = values

  def __eq__(self, value: object) -> bool:
    return value not in self.values

  def __hash__(self) -> int:
    return 0

  def __repr__(self) -> str:
    return f'other than {" and ".join(map(repr, self.values))}'


def only_with(field: Any, *ways: Mapping[str, Any], says: str = '') -> Any:
  """Returns a field of a settings class that is read only if one of some conditions holds.

      density: float = only_with(number(0.2, above=0), {'merge': ('ties', 'dare')})

  Args:
    field: what `number`, `choice` or `dataclasses.field` gives, or a default.
    *ways: the conditions. Each is {setting: the value, or the tuple of values, that it must have},
      and holds if all its settings have such a value. A name with a dot, such as `backbone.head`,
      is looked up in the whole `Config` (its own fields as `config.scenario`), any other in the
      settings that the field belongs to. `GIVEN` is any value but 0, '' and false; `Other('a')` is
      any value but 'a'.
    says: what reads the field, in words that complete "it is read with"; empty: made of `ways`.
  """
  if not isinstance(field, dataclasses.Field):
    field = dataclasses.field(default=field)
  metadata = {**field.metadata, 'read_with': ways, 'read_by': says}
  return dataclasses.field(default=field.default, metadata=metadata)


def choice(default: str, *others: str) -> Any:
  """Returns a field that is one of a few words; `check_values` refuses all others."""
  return dataclasses.field(default=default, metadata={'choices': (default, *others)})


def number(
  default: float | None, *, least: float | None = None, above: float | None = None,
  most: float | None = None, below: float | None = None,
) -> Any:  # fmt: skip
  """Returns a field that is a number within bounds; `check_values` refuses all others.

  Args:
    default: an int or a float, as the field's type says; None if that type allows it.
    least: smallest value.
    above: largest value that is too small.
    most: largest value.
    below: smallest value that is too large.
  """
  bounds = {'at least': least, 'above': above, 'at most': most, 'below': below}
  given = {words: bound for words, bound in bounds.items() if bound is not None}
  return dataclasses.field(default=default, metadata={'bounds': given})
