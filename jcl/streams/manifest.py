"""A user's own tasks, from a small manifest that names files, columns, tasks and splits.

`stream.path` is a manifest, `manifest.json` or `manifest.py`, or the folder that holds one:

    {
      "name": "helpdesk",
      "text": "utterance",
      "label": "intent",
      "tasks": [
        {"name": "billing", "train": "billing/train.jsonl", "test": "billing/test.jsonl"},
        {"name": "travel", "train": "travel.csv", "dev": "travel-dev.csv",
         "test": "travel-test.csv", "text": "{subject}: {body}", "id": "ticket"},
        {"name": "news", "train": {"hf": "fancyzhx/ag_news"}, "test": {"hf": "fancyzhx/ag_news"},
         "text": "text", "label": "label"}
      ]
    }

Tasks are learned in the order given, or in that of `stream.order_seed`. Where one table holds all
tasks, `task` names the column that tells them apart, `train`, `dev` and `test` stand beside it, and
`tasks`, if given, is a list of its values in order, all others being left out:

    {"text": "utterance", "answer": "reply", "task": "domain", "train": "train.tsv",
     "test": "test.tsv", "tasks": ["billing", "travel"]}

- **Columns** hold for all tasks, or stand in one: `text` (by default `text`), either `label` (a
  class; the answer is its name, `_` read as a space) or `answer` (free text), and `id`, if rows
  have one. A `text` with braces is a template over several columns. Numbers count as their text.
- **Raw text** (scenario cpt) needs a `text` column alone; a row is a document. A data set of the
  Hugging Face library that a task names is then read from the disk as it is needed, and may be
  larger than memory.
- **A split** is a `.jsonl`, `.csv` or `.tsv` file, a `.txt` file (one row, its column `text`), or
  `{"hf": NAME, "config": …, "split": …}`: a data set of the Hugging Face hub or a folder (of
  parquet, json or csv files, or written by `save_to_disk`), where `split` is by default `train`,
  `validation` for dev, or `test`. `dev` may be missing: it is carved from train when one is needed.
- **Paths** are relative to the manifest and stay, links followed, in its folder or in one of those
  that `folders` lists; so do the files that a data set in a folder names. No flag reads more: where
  a manifest comes from somebody else, the one line `folders` says all that it can read. It cannot
  list a folder that the user's home lies in, or the whole disk.
- **Others**: `name` of the stream (by default the folder's) and `template` of plain rows.
- **A Python manifest** is `manifest = {…}`, written in literals and comments. Nothing in it is run.
"""

import ast
import json
import math
import pathlib
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams import hub
from jcl.streams.build import SPLITS, TEMPLATE, RawRow, RawStream, RawTask, permutation
from jcl.streams.stream import Lazy
from jcl.streams.tables import Record, json_value, read_text, table

COLUMNS = ('text', 'label', 'answer', 'id')
TASK_KEYS = ('name', *COLUMNS, *SPLITS)
MANIFEST_KEYS = ('name', 'template', 'folders', 'tasks', 'task', *COLUMNS, *SPLITS)
HUB_KEYS = ('hf', 'config', 'split')
HUB_SPLITS = {'train': 'train', 'dev': 'validation', 'test': 'test'}


class Manifest(NamedTuple):
  """A manifest as it was read.

  Attributes:
    called: what errors call it, its file name.
    folder: that it stands in.
    roots: the folders that its paths may lie in.
    fields: what it says.
    targets: whether its rows must have labels or answers.
  """

  called: str
  folder: pathlib.Path
  roots: tuple[pathlib.Path, ...]
  fields: dict[str, Any]
  targets: bool = True


def read(config: StreamConfig, targets: bool = True) -> RawStream:
  """Reads the tasks of the manifest at `config.path`; without `targets` their texts alone.

  Raises:
    UserError: for a manifest or tables that are missing or malformed; it names file, line or field.
  """
  manifest = read_manifest(config.path)._replace(targets=targets)
  fields = manifest.fields
  tasks = divided_tasks(manifest) if 'task' in fields else listed_tasks(manifest)
  tasks = [tasks[i] for i in permutation(len(tasks), config.order_seed)]
  return RawStream(
    fields.get('name', manifest.folder.name or 'files'), tasks, fields.get('template', TEMPLATE)
  )


def read_manifest(path: str) -> Manifest:
  """Reads a manifest and checks the keys and values that hold for the whole of it."""
  if not path:
    raise UserError('stream.path is empty: give a manifest (--config.stream.path=manifest.json)')
  file = pathlib.Path(path)
  if file.is_dir():
    found = [file / name for name in ('manifest.json', 'manifest.py') if (file / name).is_file()]
    if len(found) != 1:
      what = 'both manifest.json and' if found else 'neither manifest.json nor'
      raise UserError(f'{file}: the folder holds {what} manifest.py: name one file')
    file = found[0]
  if file.suffix not in ('.json', '.py'):
    raise UserError(f'{file}: a manifest is a .json or .py file: rename it')
  called = file.name
  text = read_text(file, str(file))
  fields = json_value(text, called) if file.suffix == '.json' else literal(text, called)
  if not isinstance(fields, dict):
    raise UserError(f'{called}: not an object: write {{"tasks": […], …}}')
  check_keys(fields, MANIFEST_KEYS, called)
  check_strings(fields, ('name', 'template', 'task', *COLUMNS), called)
  folders = fields.get('folders', [])
  if not isinstance(folders, list) or not all(isinstance(f, str) and f for f in folders):
    raise UserError(f'{called}: \'folders\' is not a list of folders: write ["../data"]')
  folder = file.resolve().parent
  roots = (folder, *(resolved(folder, f, called) for f in folders))
  for name, root in zip(folders, roots[1:], strict=True):
    if pathlib.Path.home().resolve().is_relative_to(root):
      raise UserError(f"{called}: 'folders' lists {name!r}, which is too much: name what is read")
  return Manifest(called, folder, roots, fields)


def literal(text: str, called: str) -> Any:
  """The value of `manifest = …` in Python text, which is parsed and never run."""
  try:
    statements = ast.parse(text).body
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    line = getattr(error, 'lineno', None) or 1
    raise UserError(f'{called}:{line}: malformed Python: mend it') from None
  if statements and isinstance(statements[0], ast.Expr):  # a docstring
    statements = statements[1:]
  match statements:
    case [ast.Assign(targets=[ast.Name(id='manifest')], value=value)]:
      try:
        return ast.literal_eval(value)
      except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        line = value.lineno
    case _:
      line = statements[0].lineno if statements else 1
  raise UserError(
    f'{called}:{line}: not one `manifest = {{…}}` of literals: nothing else is read, and nothing '
    'is run, so write the values out'
  )


def listed_tasks(manifest: Manifest) -> list[RawTask]:
  """Tasks that each name their own splits."""
  called, fields = manifest.called, manifest.fields
  stray = [split for split in SPLITS if split in fields]
  if stray:
    raise UserError(
      f"{called}: {stray[0]!r} stands beside 'tasks': put it into a task, or name the column that "
      "tells tasks apart as 'task'"
    )
  listed = fields.get('tasks')
  if not isinstance(listed, list) or not listed:
    raise UserError(f'{called}: \'tasks\' is not a list of tasks: write [{{"name": …}}, …]')
  tasks = []
  for index, task in enumerate(listed):
    where = f'{called}: tasks[{index}]'
    if not isinstance(task, dict):
      raise UserError(f'{where} is not an object: write {{"name": …, "train": …, "test": …}}')
    check_keys(task, TASK_KEYS, where)
    check_strings(task, ('name', *COLUMNS), where)
    if 'name' not in task:
      raise UserError(f"{where} has no 'name': give it one")
    columns = chosen_columns(fields, task, where, manifest.targets)
    splits = {
      split: raw_rows(records, columns)
      for split, records in split_records(manifest, task, where).items()
    }
    tasks.append(RawTask(task['name'], **splits))
  return tasks


def divided_tasks(manifest: Manifest) -> list[RawTask]:
  """Tasks that a column of one table for all tells apart."""
  called, fields = manifest.called, manifest.fields
  columns = chosen_columns(fields, {}, called, manifest.targets)
  parts: dict[str, dict[str, list[RawRow]]] = {}
  for split, records in split_records(manifest, fields, called).items():
    for record in records:
      name = value(record, fields['task']).strip()
      part = parts.setdefault(name, {split: [] for split in SPLITS})
      part[split].append(row(record, columns))
  names = fields.get('tasks', list(parts))
  if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
    raise UserError(f"{called}: 'tasks' is not a list of values of column {fields['task']!r}")
  for name in names:
    if name not in parts:
      raise UserError(
        f'{called}: task {name!r} has no examples: column {fields["task"]!r} holds '
        f'{", ".join(map(repr, list(parts)[:9]))}'
      )
  return [RawTask(name, **parts[name]) for name in names]


def split_records(
  manifest: Manifest, source: Mapping[str, Any], where: str
) -> dict[str, Sequence[Record]]:
  """The rows of every split that a task, or the manifest for all tasks, names."""
  missing = [split for split in ('train', 'test') if split not in source]
  if missing:
    raise UserError(f'{where} has no {missing[0]!r}: name the file of that split')
  return {s: records(manifest, source[s], s, where) for s in SPLITS if s in source}


def records(manifest: Manifest, source: Any, split: str, where: str) -> Sequence[Record]:
  """The rows of one split, from a file or a Hugging Face data set."""
  if isinstance(source, str) and source:
    return table(inside(manifest, source), source)
  if not isinstance(source, dict) or 'hf' not in source:
    raise UserError(f'{where}: {split!r} is neither a file nor {{"hf": …}}: give one of them')
  check_keys(source, HUB_KEYS, f'{where}: {split!r}')
  check_strings(source, HUB_KEYS, f'{where}: {split!r}')
  if not all(map(str.isprintable, source.values())):
    raise UserError(
      f'{where}: {split!r} holds a line end or another control character: take it out'
    )
  return hub_records(manifest, source, split)


def hub_records(manifest: Manifest, source: Mapping[str, str], split: str) -> Sequence[Record]:
  """The rows of a Hugging Face data set, from the hub or a folder; classes by their names."""
  name, wanted = source['hf'], source.get('split', HUB_SPLITS[split])
  called = f'{name}[{wanted}]'
  local = name.startswith(('.', '/', '~')) or (manifest.folder / name).is_dir()
  path = inside(manifest, name) if local else None
  if path is not None and not path.is_dir():
    raise UserError(f'{called}: no such folder: correct the path')
  try:
    data = hub.data_set(name, path, source.get('config'), wanted, manifest.roots)
    classes = {c: f for c, f in data.features.items() if hasattr(f, 'int2str')}
    rows = list(data) if manifest.targets else hub.Mapped(data)
  except UserError as error:
    raise UserError(f'{manifest.called}: {error}') from None
  except Exception as error:  # the library raises what it likes, on what the user named
    reason = ' '.join(str(error).splitlines()[:1]) or type(error).__name__
    raise UserError(
      f'{called}: cannot be loaded ({reason}): correct name, config or split'
    ) from None
  if not rows:
    raise UserError(f'{called}: the data set has no rows: give another')
  if not manifest.targets:
    return Lazy(rows, lambda place, fields: Record(f'{called}:{place}', fields))
  for fields in rows:
    for column, feature in classes.items():
      known = fields[column] is not None and fields[column] >= 0
      fields[column] = feature.int2str(fields[column]) if known else None
  return [Record(f'{called}:{index}', fields) for index, fields in enumerate(rows)]


def inside(manifest: Manifest, name: str) -> pathlib.Path:
  """The path that a manifest names, if it lies in one of the manifest's folders."""
  path = resolved(manifest.folder, name, manifest.called)
  if not any(path.is_relative_to(root) for root in manifest.roots):
    raise UserError(
      f"{manifest.called}: {name!r} lies outside the manifest's folder: move it there, or list its "
      "folder in 'folders'"
    )
  return path


def resolved(folder: pathlib.Path, name: str, called: str) -> pathlib.Path:
  """The path of a name relative to a folder, links followed."""
  try:
    if name.isprintable():
      return (folder / name).resolve()
  except (OSError, ValueError, RuntimeError):
    pass
  raise UserError(f'{called}: {name!r} is no path: correct it')


def chosen_columns(
  defaults: Mapping[str, Any], task: Mapping[str, Any], where: str, targets: bool = True
) -> dict[str, str]:
  """The columns of a task: its own, and the manifest's where it names none."""
  columns = {'text': 'text'} | {key: defaults[key] for key in COLUMNS if key in defaults}
  if 'label' in task or 'answer' in task:
    columns = {key: column for key, column in columns.items() if key not in ('label', 'answer')}
  columns |= {key: task[key] for key in COLUMNS if key in task}
  if not targets:
    return {key: column for key, column in columns.items() if key in ('text', 'id')}
  if ('label' in columns) == ('answer' in columns):
    raise UserError(
      f"{where}: name the column of the classes as 'label', or that of free answers as 'answer', "
      'and not both'
    )
  return columns


def raw_rows(records: Sequence[Record], columns: Mapping[str, str]) -> Sequence[RawRow]:
  """Records as rows of a task; those of a data set that stays on the disk as they are needed."""
  if isinstance(records, Lazy):
    return Lazy(records, lambda _, record: row(record, columns))
  return [row(record, columns) for record in records]


def row(record: Record, columns: Mapping[str, str]) -> RawRow:
  """A record as a row of a task with these columns."""
  label = value(record, columns['label']) if 'label' in columns else None
  answer = value(record, columns['answer']) if 'answer' in columns else ''
  name = value(record, columns['id']).strip() if 'id' in columns else ''
  if 'id' in columns and not name:
    raise UserError(f'{record.where}: column {columns["id"]!r} is empty: give the row an id')
  label = label if label is None else label.strip()
  return RawRow(record.where, filled(record, columns['text']), answer, label, name)


def filled(record: Record, text: str) -> str:
  """The text of a record: a column's, or that of a template over columns in braces."""
  if '{' not in text:
    return value(record, text)
  try:
    pieces = list(string.Formatter().parse(text))
    plain = not any(spec or conversion for *_, spec, conversion in pieces)
  except ValueError:
    plain = False
  if not plain:
    raise UserError(f"the manifest's text {text!r} is no template: write columns as {{column}}")
  return ''.join(
    piece + ('' if column is None else value(record, column)) for piece, column, *_ in pieces
  )


def value(record: Record, column: str) -> str:
  """A field as text."""
  if column not in record.fields:
    names = ', '.join(repr(name) for name in record.fields)
    raise UserError(f'{record.where}: no column {column!r}: the row has {names}')
  field = record.fields[column]
  if isinstance(field, str):
    return field
  number = isinstance(field, (int, float)) and not isinstance(field, bool)
  if not number or not math.isfinite(field):
    raise UserError(
      f'{record.where}: column {column!r} is {json.dumps(field, default=repr)[:40]}: '
      'give text or a number'
    )
  return str(field)


def check_keys(fields: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
  """Refuses a key that means nothing."""
  for key in fields:
    if key not in known:
      raise UserError(f'{where}: unknown key {key!r}: give one of {", ".join(known)}')


def check_strings(fields: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
  """Refuses values that are not text."""
  for key in keys:
    if key in fields and not (isinstance(fields[key], str) and fields[key].strip()):
      raise UserError(f'{where}: {key!r} is not text: write it in quotes')
