"""Values of settings: their types, bounds and choices, and lists that are given as text."""

import dataclasses
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jcl import notation
from jcl.errors import UserError


def check_values(settings: Any, path: str = '') -> None:
  """Refuses values of the wrong type, outside their bounds or not among their choices.

  Args:
    settings: a settings dataclass; the dataclasses in its fields are checked too.
    path: what stands before a field's name in a message, such as `train.`.

  Raises:
    UserError: the first such value; names the field and what would be right.
  """
  types_of_fields = typing.get_type_hints(type(settings))  # annotations may be strings
  for field in dataclasses.fields(settings):
    value, name = getattr(settings, field.name), f'{path}{field.name}'
    if dataclasses.is_dataclass(value):
      check_values(value, f'{name}.')
      continue
    choices = field.metadata.get('choices')
    right = _misfit(value, types_of_fields[field.name])
    if not right and choices and value not in choices:
      right = f'one of {", ".join(map(repr, choices))}'
    if not right:
      right = _out_of_bounds(value, field.metadata.get('bounds', {}))
    if right:
      raise UserError(f'{name} is {_short(value)}; it must be {right}')


def set_sequences(settings: Any, path: str = '') -> None:
  """Turns values that stand for a list into lists, in a settings dataclass and all its groups.

  A field of type `tuple[X, ...]` or `list[X]` may be given as `'a,b'`, as one entry, or as a list.

  Args:
    settings: the dataclass; it is changed in place.
    path: what stands before a field's name in a message, such as `train.`.

  Raises:
    UserError: a text is no list of the field's kind; names the field and what would be right.
  """
  types_of_fields = typing.get_type_hints(type(settings))
  for field in dataclasses.fields(settings):
    value = getattr(settings, field.name)
    if dataclasses.is_dataclass(value):
      set_sequences(value, f'{path}{field.name}.')
    elif entry := entry_type(types_of_fields[field.name]):
      try:
        made = notation.convert(value, entry)
      except ValueError as error:
        raise UserError(f'{path}{field.name} is {_short(value)}: {error}') from None
      if typing.get_origin(types_of_fields[field.name]) is list and isinstance(made, tuple):
        made = list(made)
      if made != value:
        setattr(settings, field.name, made)


def entry_type(kind: Any) -> type | None:
  """Returns X for a field of type `tuple[X, ...]`, `list[X]` or `Sequence[X]`, else None.

  X is `str`, `int` or `float`.
  """
  entries = [x for x in typing.get_args(kind) if x is not Ellipsis]
  if typing.get_origin(kind) not in (tuple, list, Sequence) or len(set(entries)) != 1:
    return None
  return entries[0] if entries[0] in notation.KINDS else None


HOLDS: dict[str, Callable[[float, float], bool]] = {  # of the bounds that `number` writes
  'at least': operator.ge,
  'above': operator.gt,
  'at most': operator.le,
  'below': operator.lt,
}


def _out_of_bounds(value: Any, bounds: Mapping[str, float]) -> str:
  """Returns the bounds that a number breaks, in words; empty where it is within them."""
  if value is None or all(HOLDS[words](value, bound) for words, bound in bounds.items()):
    return ''
  return ' and '.join(f'{words} {bound}' for words, bound in bounds.items())


def _misfit(value: Any, kind: Any) -> str:
  """Returns the type that a value should have, in words; empty where it has it."""
  if typing.get_origin(kind) in (types.UnionType, typing.Union):
    wrong = [_misfit(value, k) for k in typing.get_args(kind)]
    return '' if '' in wrong else ' or '.join(wrong)
  if kind is types.NoneType and value is not None:
    return 'None'
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if kind is bool and not isinstance(value, bool):
    return 'true or false'
  if kind is int and not (number and isinstance(value, int) and abs(value) < 2**31):
    return 'a whole number below 2147483648'
  if kind is float and not (number and _fits_float32(value)):
    return 'a number in the range of float32'
  if kind is str and not _is_text(value):
    return 'text'
  if (entry := entry_type(kind)) and not (
    isinstance(value, tuple | list) and not any(_misfit(x, entry) for x in value)
  ):
    return f'a {typing.get_origin(kind).__name__.lower()} of {notation.KINDS[entry]}s'
  if dataclasses.is_dataclass(kind):
    return 'a group of settings'
  return ''


def _fits_float32(value: float) -> bool:
  """Whether a number stays finite as float32, and not zero unless it is 0."""
  try:
    with np.errstate(over='ignore', under='ignore'):
      rounded = np.float32(float(value))
  except OverflowError:
    return False
  return bool(np.isfinite(rounded) and (rounded != 0 or value == 0))


def _is_text(value: object) -> bool:
  """Whether a value is text that a file can hold: no NUL and no half of a surrogate pair."""
  return isinstance(value, str) and '\0' not in value and notation.encodable(value)


def _short(value: object) -> str:
  """Returns a value as a message shows it, at most 61 characters."""
  try:
    shown = repr(value)
  except ValueError:  # an integer of more digits than Python writes
    return 'a huge number'
  return shown if len(shown) <= 60 else f'{shown[:60]}…'
