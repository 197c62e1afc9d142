"""Readers of tables in JSON: one object a line, a list of objects, or lists by column."""

import collections
import json
from collections.abc import Callable, Iterator

from jcl.errors import UserError
from jcl.streams.raw import Number
from jcl.streams.records import Record


def json_value(text: str, called: str, constant: Callable[[str], object] | None = None) -> object:
  """Returns the value of a JSON document, with numbers as text.

  Args:
    text: the document.
    called: name of the file in error messages.
    constant: gives the value of NaN and the infinities from their names; None: they are refused.

  Raises:
    UserError: the document is malformed, nested too deeply, or repeats a key.
  """
  try:
    return json.loads(
      text,
      parse_int=Number,
      parse_float=Number,
      parse_constant=constant or refuse_constant,
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
  """Raises a ValueError for NaN and the infinities, which JSON does not have."""
  raise ValueError(f'{name} is no number')


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
  """Returns the pairs as a dict.

  Raises:
    ValueError: a key stands twice.
  """
  result = dict(pairs)
  if len(result) < len(pairs):
    times = collections.Counter(key for key, _ in pairs)
    raise ValueError(f'key {next(k for k, count in times.items() if count > 1)!r} stands twice')
  return result


def json_records(text: str, called: str) -> Iterator[Record]:
  """Yields the objects of a jsonl file, one a line, without blank lines."""
  for number, line in enumerate(text.split('\n'), 1):
    if line.strip():
      where = f'{called}:{number}'
      if number == 1 and line.lstrip().startswith('['):
        raise UserError(f'{where}: a JSON list, not an object a line: let its name end in .json')
      value = json_value(line.strip(), where, float)
      if not isinstance(value, dict):
        raise UserError(f'{where}: not a JSON object: write {{"column": "value", …}} on each line')
      yield Record(where, value)


def list_records(text: str, called: str, notes: list[str]) -> list[Record]:
  """Returns the rows of a json file.

  The file holds a list of objects, or an object in which one value is such a list. Or it holds
  columns, as pandas writes them: an object whose values are all lists of one length, or all objects
  with the same keys. A file with one object a line is read too, since many such files are named
  `.json`.

  Args:
    text, called: as in `json_value`.
    notes: grows by a line if keys of the file are not read.

  Raises:
    UserError: the file holds none of these, or is malformed.
  """
  first, _, rest = text.strip().partition('\n')
  if first.startswith('{') and first.rstrip().endswith('}') and rest.lstrip().startswith('{'):
    return list(json_records(text, called))
  value, name = json_value(text, called, float), ''
  if isinstance(value, dict):
    name, value = _rows_within(value, called, notes)
  if not isinstance(value, list):
    raise UserError(f'{called}: not a list of rows: write [{{"column": "value", …}}, …]')
  for place, row in enumerate(value):
    if not isinstance(row, dict):
      raise UserError(
        f'{called}{name}[{place}]: not a JSON object: write {{"column": "value", …}} for each row'
      )
  return [Record(f'{called}{name}[{place}]', row) for place, row in enumerate(value)]


def _rows_within(
  value: dict[str, object], called: str, notes: list[str]
) -> tuple[str, list[object]]:
  """Returns the rows of an object of rows or columns, and their place in it, such as `.data`.

  Args and Raises as in `list_records`; the place of columns is empty.
  """
  lists = {key: x for key, x in value.items() if isinstance(x, list)}
  of_rows = [key for key, x in lists.items() if x and all(isinstance(row, dict) for row in x)]
  columns = [*value.values()]
  if len(of_rows) == 1 or len(value) == len(lists) == 1:
    name = (of_rows or [*lists])[0]
    if others := [key for key in value if key != name]:
      notes.append(f'{called}: the rows are those of {name!r}; not read: {", ".join(others)}')
    return f'.{name}', lists[name]
  if len(lists) == len(value) > 1 and len({len(x) for x in lists.values()}) == 1:
    rows = zip(*lists.values(), strict=True)
    return '', [dict(zip(lists, row, strict=True)) for row in rows]
  row_keys = [[*x] for x in columns if isinstance(x, dict)]
  if len(row_keys) == len(value) > 1 and all(keys == row_keys[0] for keys in row_keys):
    return '', [{key: x[row] for key, x in value.items()} for row in row_keys[0]]  # type: ignore[index]
  some = ', '.join(map(repr, [*value][:5])) or 'no keys'
  raise UserError(
    f'{called}: an object with {some}: write a list of rows, [{{"column": "value"}}, …], or '
    'one list under one key'
  )
