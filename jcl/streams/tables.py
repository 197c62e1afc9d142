"""Text files as records, checked line by line: jsonl, csv, tsv, and plain lines.

Every error names the file and the line. Files are UTF-8, with or without a byte-order mark.
"""

import collections
import csv
import io
import json
import pathlib
from collections.abc import Iterator
from typing import Literal

from jcl.errors import UserError
from jcl.streams.records import Record

csv.field_size_limit(2**31 - 1)  # a field may be a document
SUFFIXES = ('.jsonl', '.csv', '.tsv', '.txt')


def table(path: pathlib.Path, called: str, delimiter: str = '') -> list[Record]:
  """Reads a table of any kind.

  Args:
    path: a `.jsonl` file of objects, or a `.csv` or `.tsv` file whose first line names the columns.
      In csv, fields may be quoted by `"`; in tsv, quotes are letters like others. A `.txt` file is
      one record, whose only field is `text`.
    called: name of the file in error messages.
    delimiter: separator of csv fields; empty: a comma.

  Returns:
    At least one record. A number is text, as the file writes it.

  Raises:
    UserError: the file is missing, empty, or malformed.
  """
  if path.suffix not in SUFFIXES:
    raise UserError(f'{called}: unknown kind of file: give one of {", ".join(SUFFIXES)}')
  text = read_text(path, called)
  if path.suffix == '.txt':
    return [Record(called, {'text': text})]
  if path.suffix == '.jsonl':
    records = list(json_records(text, called))
  elif path.suffix == '.csv':
    records = list(separated_records(text, called, delimiter or ',', csv.QUOTE_MINIMAL))
  else:
    records = list(separated_records(text, called, '\t', csv.QUOTE_NONE))
  if not records:
    raise UserError(f'{called}: the file has no rows: give at least one below the column names')
  return records


def read_text(path: pathlib.Path, called: str) -> str:
  """Returns the text of a UTF-8 file without its byte-order mark; refuses NUL and empty files."""
  try:
    data = path.read_bytes()
  except OSError as error:
    reason = error.strerror or type(error).__name__
    raise UserError(f'{called}: cannot be read ({reason}): correct the path') from None
  try:
    text = data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    line = data.count(b'\n', 0, error.start) + 1
    raise UserError(f'{called}:{line}: not UTF-8: save the file as UTF-8') from None
  if '\0' in text:
    line = text.count('\n', 0, text.index('\0')) + 1
    raise UserError(f'{called}:{line}: a NUL character: take it out, or save the file as UTF-8')
  if not text.strip():
    raise UserError(f'{called}: the file is empty: give at least one row')
  return text


def lines(path: pathlib.Path, called: str) -> list[str]:
  """Returns the lines of a text file; only a line feed ends a line, as editors count lines."""
  text = read_text(path, called).removesuffix('\n')
  return [line.removesuffix('\r') for line in text.split('\n')]


def json_value(text: str, called: str) -> object:
  """Returns the value of a JSON document, numbers as text; refuses NaN and repeated keys."""
  try:
    return json.loads(
      text,
      parse_int=str,
      parse_float=str,
      parse_constant=refuse_constant,
      object_pairs_hook=unique_keys,
    )
  except json.JSONDecodeError as error:
    where = f'{called}:{error.lineno}' if '\n' in text.strip() else called
    raise UserError(
      f'{where}: malformed JSON ({error.msg}, column {error.colno}): mend it'
    ) from None
  except RecursionError:
    raise UserError(f'{called}: malformed JSON (nested too deeply): mend it') from None
  except ValueError as error:
    raise UserError(f'{called}: malformed JSON ({error}): mend it') from None


def refuse_constant(name: str) -> None:
  """Raises for NaN and the infinities, which are not JSON."""
  raise ValueError(f'{name} is no number')


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
  """Returns the pairs as a dict, if no key stands twice."""
  result = dict(pairs)
  if len(result) < len(pairs):
    times = collections.Counter(key for key, _ in pairs)
    raise ValueError(f'key {next(k for k, count in times.items() if count > 1)!r} stands twice')
  return result


def json_records(text: str, called: str) -> Iterator[Record]:
  """Yields the objects of a jsonl file, one a line; skips blank lines."""
  for number, line in enumerate(text.split('\n'), 1):
    if line.strip():
      where = f'{called}:{number}'
      value = json_value(line.strip(), where)
      if not isinstance(value, dict):
        raise UserError(f'{where}: not a JSON object: write {{"column": "value", …}} on each line')
      yield Record(where, value)


def separated_records(
  text: str, called: str, delimiter: str, quoting: Literal[0, 3]
) -> Iterator[Record]:
  """Yields the rows of a csv or tsv file below its column names; skips blank lines."""
  reader = csv.reader(
    io.StringIO(text, newline=''), delimiter=delimiter, quoting=quoting, strict=True
  )
  columns: list[str] = []
  while True:
    line = reader.line_num + 1
    where = f'{called}:{line}'
    try:
      values = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      raise UserError(f'{where}: malformed row ({error}): check its quotes') from None
    if not any(value.strip() for value in values):
      continue
    if not columns:
      columns = [value.strip() for value in values]
      if len(set(columns)) < len(columns) or '' in columns:
        raise UserError(f'{where}: column names {columns} are not distinct and filled: mend them')
    elif len(values) != len(columns):
      raise UserError(
        f'{where}: {len(values)} fields where the column names are {len(columns)}: '
        'quote a field that holds the separator, or fill in what is missing'
      )
    else:
      yield Record(where, dict(zip(columns, values, strict=True)))
