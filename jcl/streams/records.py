"""Records, rows of any table by column, and how their columns become the row of a task."""

import json
import re
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jcl.errors import UserError, count_of
from jcl.streams.chat import Conversation, as_messages, conversation, is_list
from jcl.streams.escaping import shortened
from jcl.streams.raw import RawRow, written
from jcl.streams.stream import Lazy

BESIDE = ('system', 'tools')  # columns that belong to the messages beside them
MISSING = ('nan', 'np.float32(nan)', 'np.float64(nan)', '<NA>', 'NaT')  # as Python writes them
SHOWN = 60  # letters of a value that an error message quotes


class Record(NamedTuple):
  """One row of a table.

  Attributes:
    where: place of the row as error messages name it, such as `train.csv:12`.
    fields: value of each column.
    noun: what error messages call a column.
    frame_index: index of the row in the user's DataFrame; None where the row is of no DataFrame.
  """

  where: str
  fields: Mapping[str, object]
  noun: str = 'column'
  frame_index: object = None


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


def notes_on(records: Sequence[Record], columns: Mapping[str, str], where: str) -> list[str]:
  """Returns lines on what is read of answers that are lists, and not read beside messages."""
  if 'answer' not in columns or isinstance(records, Lazy):
    return []
  several = sum(
    is_list(field) and len(field) > 1 and as_messages(field) is None
    for field in (found(record, columns['answer']) for record in records)
  )
  lines = []
  if several:
    answer = columns['answer']
    rows = count_of(several, 'row')
    lines.append(f'{where}: {rows} with several answers in {answer!r}: the first counts')
  first = '{' not in columns['text'] and as_messages(found(records[0], columns['text']))
  beside = [name for name in BESIDE if any(filled_in(r.fields.get(name)) for r in records)]
  if first and beside:
    names = ' and '.join(map(repr, beside))
    lines.append(f'{where}: {names} beside the messages: not read; put it into the messages')
  return lines


def filled_in(field: object) -> bool:
  """Whether a value of a table is a text, a list or a dict that is not empty."""
  return (isinstance(field, str | Mapping) or is_list(field)) and len(field) > 0


def row_of(record: Record, columns: Mapping[str, str]) -> RawRow:
  """Returns a record as the row of a task; arguments and errors as in `rows_of`."""
  if 'answer' in columns and '{' not in columns['text']:
    talk = talk_of(record, columns)
    if talk is not None:
      name = id_of(record, columns)
      messages = talk.to_json()
      return RawRow(record.where, talk.text, talk.answer, None, name, messages=messages)
  label = value(record, columns['label']).strip() if 'label' in columns else None
  answer = value(record, columns['answer'], first=True) if 'answer' in columns else ''
  return RawRow(
    record.where, filled(record, columns['text']), answer, label, id_of(record, columns)
  )


def id_of(record: Record, columns: Mapping[str, str]) -> str:
  """Returns the user's own id of a record; '' where the table has none."""
  name = value(record, columns['id']).strip() if 'id' in columns else ''
  if 'id' in columns and not name:
    raise UserError(f'{record.where}: {record.noun} {columns["id"]!r} is empty: give the row an id')
  return name


def talk_of(record: Record, columns: Mapping[str, str]) -> Conversation | None:
  """Returns the conversation of a record whose text is a list of messages; None: it is text."""
  prompt = as_messages(found(record, columns['text']))
  if columns['answer'] == columns['text']:
    if prompt is None:
      raise UserError(
        f'{record.where}: {record.noun} {columns["text"]!r} is '
        f'{shown(found(record, columns["text"]), record.noun)}: give a list of messages, '
        '[{"role": "user", "content": …}, {"role": "assistant", "content": …}]'
      )
    return conversation(prompt, None, record.where)
  completion = as_messages(found(record, columns['answer']))
  if prompt is None and completion is None:
    return None
  if prompt is None:  # a text that the user says
    prompt = [{'role': 'user', 'content': value(record, columns['text'])}]
  return conversation(
    prompt, value(record, columns['answer']) if completion is None else completion, record.where
  )


def columns_in(text: str) -> list[str] | None:
  """Returns the columns that `text` reads: those in its braces, or without braces `text` itself.

  Returns:
    Names of columns; None where `text` has braces and is no valid template.
  """
  if '{' not in text:
    return [text]
  try:
    pieces = list(string.Formatter().parse(text))
  except ValueError:
    return None
  plain = not any(spec or conversion for *_, spec, conversion in pieces)
  return [column for _, column, *_ in pieces if column is not None] if plain else None


def check_columns(columns: Mapping[str, str], where: str) -> None:
  """Refuses a template of the input that reads no column, or reads the column of the label.

  Args:
    columns: as in `rows_of`.
    where: what names the columns, for error messages.

  Raises:
    UserError: `columns["text"]` is such a template.
  """
  named = columns_in(columns['text'])
  if named == []:
    raise UserError(f'{where}: text {columns["text"]!r} names no column: write one as {{column}}')
  if 'label' in columns and columns['label'] in (named or ()):
    raise UserError(
      f'{where}: text {columns["text"]!r} reads {columns["label"]!r}, which is the label: an input '
      'must not hold its answer'
    )


def filled(record: Record, text: str) -> str:
  """Returns the text of a record.

  Args:
    record: one row of a table.
    text: a column, or a template with several columns in braces.
  """
  if '{' not in text:
    return value(record, text)
  if columns_in(text) is None:
    raise UserError(f'{record.where}: text {text!r} is no template: write columns as {{column}}')
  return ''.join(
    piece + ('' if column is None else value(record, column))
    for piece, column, *_ in string.Formatter().parse(text)
  )


def value(record: Record, column: str, first: bool = False) -> str:
  """Returns the value of a column as text.

  Numbers, dates and times become the text that Python writes, booleans `true` and `false`.

  Args:
    record: one row of a table.
    column: name of a column, or a path into a nested one, as in `found`.
    first: whether a list counts as its first entry.

  Raises:
    UserError: there is no such column, or it holds neither text nor a number.
  """
  field = found(record, column)
  if first and is_list(field) and len(field):
    field = field[0]
  text = written(field)
  if text is not None:
    return text
  own = '' if record.frame_index is None else shown(record.frame_index)
  index = f' (index {own})' if own and not record.where.endswith(f'[{own}]') else ''
  raise UserError(
    f'{record.where}{index}: {record.noun} {column!r} is {shown(field, record.noun)}: '
    f'{wanted(field, column)}'
  )


def wanted(field: object, column: str) -> str:
  """Returns what would be right where a column holds neither text nor a number."""
  if isinstance(field, Mapping) and field:
    return f'give text or a number, or name what is in it: {f"{column}.{next(iter(field))}"!r}'
  if is_list(field) and len(field):
    return f'give text or a number, or name one of its entries: {f"{column}.0"!r}'
  if field is None or shown(field) in MISSING:
    return 'give text or a number, or leave the row out'
  return 'give text or a number'


def found(record: Record, column: str) -> object:
  """Returns the value of a column as its source has it.

  Args:
    record: one row of a table.
    column: name of a column, or a path into a nested one: keys of dicts and places in lists, as in
      `answers.text.0`. A name with dots goes before a path.

  Raises:
    UserError: the record has no such column, or no such place in it.
  """
  if column in record.fields:
    return record.fields[column]
  field: object = record.fields
  parts = column.split('.')
  passed = 0
  while passed < len(parts):
    step, taken = stepped(field, parts[passed:])
    if not taken:
      break
    field, passed = step, passed + taken
  if passed == len(parts):
    return field
  if not passed:
    names = ', '.join(map(shown, record.fields))
    raise UserError(
      f'{record.where}: no {record.noun} {column!r}: the row has {names}; name one of '
      'these, or add it'
    )
  raise UserError(
    f'{record.where}: {record.noun} {column!r}: {".".join(parts[:passed])!r} is '
    f'{shown(field, record.noun)}, which has no {parts[passed]!r}'
  )


def stepped(field: object, parts: Sequence[str]) -> tuple[object, int]:
  """Returns what the first parts of a path name in a value, and how many parts: 0, it has none."""
  if isinstance(field, Mapping):
    for taken in range(len(parts), 0, -1):  # keys may have dots
      if (key := '.'.join(parts[:taken])) in field:
        return field[key], taken
  elif is_list(field):
    place = int(parts[0]) if re.fullmatch('[0-9]{1,9}', parts[0]) else len(field)
    if place < len(field):
      return field[place], 1
  return None, 0


def shown(field: object, noun: str = '') -> str:
  """Returns a value as error messages quote it: JSON for the value of a column, else Python."""
  try:
    written = (
      json.dumps(field, default=repr, ensure_ascii=False) if noun == 'column' else repr(field)
    )
  except Exception:  # a cycle, a huge integer, or a broken __repr__
    written = f'a {type(field).__name__}'
  return shortened(written, SHOWN + 1)
