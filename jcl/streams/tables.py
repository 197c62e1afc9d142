"""Files as records, checked row by row: parquet, json, jsonl, csv, tsv, and plain lines.

Every error names the file and the row. Text is UTF-8, with or without a byte-order mark, or UTF-16
with one; all but parquet may be compressed.
"""

import contextlib
import csv
import io
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from jcl.errors import UserError, count_of
from jcl.streams import hub
from jcl.streams.escaping import shortened
from jcl.streams.files import PACKED, kind_of, read_text, reason_of, refuse_pointer
from jcl.streams.json_tables import json_records, list_records
from jcl.streams.records import Record

csv.field_size_limit(2**31 - 1)  # a field may be a document
SUFFIXES = ('.jsonl', '.json', '.csv', '.tsv', '.parquet', '.txt')
SEPARATORS = {',': 'a comma', ';': 'a semicolon', '\t': 'a tab', '|': 'a bar'}
Quoting = Literal[0, 3]
STARTS_QUOTED = re.compile(r'^"|[\t\r\n]"')
SEPARATOR_LINE = re.compile(
  r'"?sep=([^\s"\w]|\t)"?[,;\t|]*(?:\r\n|\r|\n)', re.IGNORECASE
)  # Excel's
# A tsv file all of whose quotes stand around fields, or are doubled inside of such fields.
ALL_QUOTED = re.compile(r'(?:(?:"[^"]*+(?:""[^"]*+)*+"|[^"\t\r\n]*+)(?:[\t\r\n]|\Z))*+')


def table(
  path: pathlib.Path, called: str, delimiter: str = '', notes: list[str] | None = None
) -> Sequence[Record]:
  """Reads a table of any kind.

  Args:
    path: a `.jsonl` file of objects; a `.json` file, a list of objects or lists by column; a
      `.parquet` file; a `.csv` or `.tsv` file whose first line names the columns. Fields may be
      quoted by `"`; in tsv only if all quotes stand so, else they are letters. A `.txt` file is one
      record, whose only field is `text`. All but parquet may be compressed: `.jsonl.gz`, `.bz2`,
      `.xz`, `.zst`.
    called: name of the file in error messages.
    delimiter: separator of csv fields; empty: a comma, or another one that the file clearly has or
      that its first line names as Excel reads it, `sep=;`.
    notes: grows by a line for each thing that was decided about the file.

  Returns:
    At least one record. A number is text, as the file writes it; in parquet it is a number.

  Raises:
    UserError: the file is missing, empty, or malformed.
  """
  kind, notes = known_kind(path, called), [] if notes is None else notes
  if kind == '.parquet':
    records = parquet_records(path, called)
  elif kind == '.txt':
    return [Record(called, {'text': read_text(path, called)})]
  elif kind == '.jsonl':
    records = list(json_records(read_text(path, called), called))
  elif kind == '.json':
    records = list_records(read_text(path, called), called, notes)
  else:
    records = csv_records(read_text(path, called), called, kind, delimiter, notes)
  if not records:
    raise UserError(f'{called}: the file has no rows: give at least one below the column names')
  return records


def known_kind(path: pathlib.Path, called: str) -> str:
  """Returns the suffix that tells how a table is read; arguments as of `table`.

  Raises:
    UserError: no table has this suffix.
  """
  kind = kind_of(path)
  if kind not in SUFFIXES:
    known = f'{", ".join(SUFFIXES)}, or one of them with {", ".join(PACKED)}'
    raise UserError(f'{called}: unknown kind of file: give one of {known}')
  return kind


def lines(path: pathlib.Path, called: str) -> list[str]:
  """Returns the lines of a text file; only a line feed ends a line, as editors count lines."""
  text = read_text(path, called).removesuffix('\n')
  return [line.removesuffix('\r') for line in text.split('\n')]


def parquet_records(path: pathlib.Path, called: str) -> Sequence[Record]:
  """Returns the rows of a parquet file; the index of a class becomes its name."""
  if path.suffix.lower() != '.parquet':
    raise UserError(f'{called}: parquet is compressed inside: unpack the file')
  parquet = hub.imported('pyarrow.parquet')
  try:
    data = parquet.ParquetFile(path).read()
  except OSError as error:
    if error.strerror:
      raise UserError(f'{called}: cannot be read ({error.strerror}): correct the path') from None
    raise unread_parquet(path, called, error) from None
  except MemoryError:
    raise
  except Exception as error:  # the library raises many kinds
    raise unread_parquet(path, called, error) from None
  names = data.column_names
  twice = next((name for name in names if names.count(name) > 1), None)
  if twice is not None:
    raise UserError(f'{called}: two columns are called {twice!r}: rename one')
  try:
    return arrow_records(data, called)
  except MemoryError:
    raise
  except Exception as error:  # a value that Python does not have
    raise UserError(
      f'{called}: a column holds what is not read ({reason_of(error)}): leave it out, or write it '
      'as text'
    ) from None


def arrow_records(data: Any, called: str) -> Sequence[Record]:
  """Returns the rows of a table of Arrow; `datasets` reads the columns of types that it has."""
  others = {
    name: data[name].to_pylist(maps_as_pydicts='lossy')
    for name in data.column_names
    if not known_type(data.schema.field(name))
  }
  where = lambda place: f'{called}[{place}]'
  known = hub.imported('datasets').Dataset(data.drop_columns([*others]))
  found = hub.records(known, where, lazy=False)
  if not others:
    return found
  rows = zip(*others.values(), strict=True)
  return [
    Record(where(place), {**found[place].fields, **dict(zip(others, row, strict=True))})
    for place, row in enumerate(rows)
  ]


def known_type(field: Any) -> bool:
  """Whether `datasets` has the type of a column of Arrow."""
  schema, features = hub.imported('pyarrow').schema([field]), hub.imported('datasets').Features
  try:
    features.from_arrow_schema(schema)
  except (NotImplementedError, TypeError, ValueError):  # which Arrow's own errors are, too
    return False
  return True


def unread_parquet(path: pathlib.Path, called: str, error: Exception) -> UserError:
  """Returns the error for a file that is no parquet."""
  refuse_pointer(path, called)
  return UserError(f'{called}: no whole parquet file ({reason_of(error)}): write or fetch it again')


def csv_records(
  text: str, called: str, kind: str, delimiter: str, notes: list[str]
) -> list[Record]:
  """Returns the rows of a csv or tsv file; arguments as in `table`."""
  usual = '\t' if kind == '.tsv' else ','
  said = None if delimiter else SEPARATOR_LINE.match(text)
  if said:
    text = '\n' + text[said.end() :]  # rows keep the numbers of their lines
  separator = delimiter or (said[1] if said else sniffed(text, usual))
  if separator != (delimiter or usual):
    name = SEPARATORS.get(separator, repr(separator))
    notes.append(f'{called}: its fields are separated by {name}')
  if kind == '.tsv' and separator == usual and not delimiter:
    return tsv_records(text, called, notes)
  return quoted_records(text, called, separator, notes)


def quoted_records(text: str, called: str, delimiter: str, notes: list[str]) -> list[Record]:
  """Returns the rows of a table whose quotes stand around fields, perhaps behind blanks.

  Args:
    text, called, delimiter, notes: as in `separated_records`.

  Raises:
    UserError: a row is malformed.
  """
  if re.search(rf'(?:^|[\r\n]|{re.escape(delimiter)}) +"', text) is None:
    return list(separated_records(text, called, delimiter, 0, notes))
  said: list[str] = []
  try:
    found = list(separated_records(text, called, delimiter, 0, said, blanks=False))
  except UserError:  # a quote that is a letter
    return list(separated_records(text, called, delimiter, 0, notes))
  with contextlib.suppress(UserError):
    if found == list(separated_records(text, called, delimiter, 0, [])):  # all inside of fields
      notes += said
      return found
  notes += [*said, f'{called}: blanks before fields are left out, for quotes follow them']
  return found


def tsv_records(text: str, called: str, notes: list[str]) -> list[Record]:
  """Returns the rows of a tsv file, whose quotes are letters or stand around fields.

  pandas, Excel and R put a field that holds a quote, a tab or a line end into quotes and double the
  quotes inside. One quote of another kind, as in the files of GLUE, shows that all are letters; so
  do rows that quotes around fields would join.

  Args:
    text, called, notes: as in `csv_records`.

  Raises:
    UserError: a row is malformed in both ways.
  """
  if '"' not in text:
    return list(separated_records(text, called, '\t', 3, notes))
  quoted, said_of_quoted = None, [f'{called}: quotes stand around fields and are left out']
  with contextlib.suppress(UserError):
    quoted = list(separated_records(text, called, '\t', 0, said_of_quoted))
  said = [f'{called}: quotes are letters'] if STARTS_QUOTED.search(text) else []
  try:
    letters = list(separated_records(text, called, '\t', 3, said))
  except UserError:
    if quoted is None:
      raise
  else:
    as_many = quoted and (len(quoted) == len(letters) or len(quoted[0].fields) == 1)
    if not (as_many and ALL_QUOTED.fullmatch(text)):
      notes += said
      return letters
  notes += said_of_quoted
  return quoted or []


def sniffed(text: str, usual: str) -> str:
  """Returns the separator of a table: the usual one, unless only another cuts it into columns.

  Args:
    text: of the file.
    usual: separator that the name of the file stands for.
  """
  head = next(line for line in re.split(r'[\r\n]', text) if line.strip())
  cuts = lambda separator: len(next(csv.reader([head], delimiter=separator), ())) > 1
  if cuts(usual):
    return usual
  for separator in SEPARATORS:
    if cuts(separator):
      try:
        if quoted_records(text, '', separator, []):
          return separator
      except UserError:
        continue
  return usual


def separated_records(
  text: str,
  called: str,
  delimiter: str,
  quoting: Quoting,
  notes: list[str],
  blanks: bool = True,
) -> Iterator[Record]:
  """Yields the rows of a csv or tsv file below its column names; skips blank lines.

  A first column without a name, which pandas writes for its index, is left out, with a note.

  Args:
    text, called, notes: as in `table`.
    delimiter: separator of fields.
    quoting: of the module `csv`.
    blanks: whether blanks behind a separator belong to the field.

  Raises:
    UserError: a row is malformed, or is the column names again.
  """
  reader = csv.reader(
    io.StringIO(text, newline=''),
    delimiter=delimiter,
    quoting=quoting,
    skipinitialspace=not blanks,
    strict=True,
  )
  columns: list[str] = []
  spare = 0  # columns at the end without a name, such as the empty ones that Excel writes
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
      columns, spare = column_names(values, called, where, notes)
      continue
    if spare and len(values) == len(columns) + spare:
      if below := [value for value in values[-spare:] if value.strip()]:
        raise UserError(
          f'{where}: {shortened(below[0])!r} stands below a column without a name: give it one'
        )
      values = values[:-spare]
    if len(values) != len(columns):
      raise UserError(
        f'{where}: {count_of(len(values), "field")} below {count_of(len(columns), "column name")}: '
        'quote a field that holds the separator, or fill in what is missing'
      )
    if len(columns) > 1 and [value.strip('\ufeff ') for value in values] == columns:
      raise UserError(f'{where}: the column names stand here again: take the line out')
    named = zip(columns, values, strict=True)
    yield Record(where, {column: value for column, value in named if column})


def column_names(
  values: Sequence[str], called: str, where: str, notes: list[str]
) -> tuple[list[str], int]:
  """Returns the names of the columns, and the number of columns at the end without a name.

  Args:
    values: fields of the line of column names.
    called, where: names of the file and of the line in error messages.
    notes: as in `table`.

  Raises:
    UserError: a name stands twice, or is missing elsewhere than in the first column or at the end.
  """
  columns = [value.strip() for value in values]
  spare = next(i for i, name in enumerate(reversed(columns)) if name)
  if spare:
    columns = columns[:-spare]
    notes.append(f'{called}: {count_of(spare, "column")} at the end without a name: left out')
  names = columns
  if len(columns) > 1 and not columns[0] and all(columns[1:]):
    notes.append(f'{called}: its first column has no name, as the index of pandas: left out')
    names = columns[1:]
  if '' in names or len(set(columns)) < len(columns):
    raise UserError(f'{where}: column names {columns} are not distinct and filled: mend them')
  return columns, spare
