"""Records, rows of any table by column, and how their columns become the row of a task."""

import json
import math
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jcl.errors import UserError
from jcl.streams.raw import RawRow
from jcl.streams.stream import Lazy

SHOWN = 60  # letters of a value that an error message quotes


class Record(NamedTuple):
  """One row of a table.

  Attributes:
    where: place of the row as error messages name it, such as `train.csv:12`.
    fields: value of each column.
    noun: what error messages call a column.
  """

  where: str
  fields: Mapping[str, object]
  noun: str = 'column'


def rows_of(records: Sequence[Record], columns: Mapping[str, str]) -> Sequence[RawRow]:
  """Returns records as rows of a task; lazily if the records are lazy.

  Args:
    records: rows of one table.
    columns: maps `text` and any of `label`, `answer` and `id` to a column.

  Raises:
    UserError: a record has no such column, or its value is neither text nor a number.
  """
  if isinstance(records, Lazy):
    return Lazy(records, lambda _, record: row_of(record, columns))
  return [row_of(record, columns) for record in records]


def row_of(record: Record, columns: Mapping[str, str]) -> RawRow:
  """Returns a record as the row of a task; arguments and errors as in `rows_of`."""
  label = value(record, columns['label']).strip() if 'label' in columns else None
  answer = value(record, columns['answer']) if 'answer' in columns else ''
  name = value(record, columns['id']).strip() if 'id' in columns else ''
  if 'id' in columns and not name:
    raise UserError(f'{record.where}: {record.noun} {columns["id"]!r} is empty: give the row an id')
  return RawRow(record.where, filled(record, columns['text']), answer, label, name)


def filled(record: Record, text: str) -> str:
  """Returns the text of a record.

  Args:
    record: one row of a table.
    text: a column, or a template with several columns in braces.
  """
  if '{' not in text:
    return value(record, text)
  try:
    pieces = list(string.Formatter().parse(text))
    plain = not any(spec or conversion for *_, spec, conversion in pieces)
  except ValueError:
    plain = False
  if not plain:
    raise UserError(f'{record.where}: text {text!r} is no template: write columns as {{column}}')
  return ''.join(
    piece + ('' if column is None else value(record, column)) for piece, column, *_ in pieces
  )


def value(record: Record, column: str) -> str:
  """Returns the value of a column as text; numbers become the text that Python writes."""
  if column not in record.fields:
    names = ', '.join(map(shown, record.fields))
    raise UserError(
      f'{record.where}: no {record.noun} {column!r}: the row has {names}: rename one, or add it'
    )
  field = record.fields[column]
  if isinstance(field, str):
    return str(field)
  if isinstance(field, int | float | np.integer | np.floating) and not isinstance(field, bool):
    try:
      if math.isfinite(field):
        return str(field)
    except (OverflowError, ValueError):  # an integer of more digits than a float or a text has
      pass
  raise UserError(
    f'{record.where}: {record.noun} {column!r} is {shown(field, record.noun)}: '
    'give text or a number'
  )


def shown(field: object, noun: str = '') -> str:
  """Returns a value as error messages quote it: JSON for the value of a column, else Python."""
  try:
    written = json.dumps(field, default=repr) if noun == 'column' else repr(field)
  except Exception:  # a cycle, a huge integer, or a broken __repr__
    written = f'a {type(field).__name__}'
  return written if len(written) <= SHOWN else f'{written[:SHOWN]}…'
