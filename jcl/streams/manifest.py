"""Reader of a user's own tasks: a small manifest names files, columns, tasks and splits.

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

Tasks are learned in the order given, or in the order of `stream.order_seed`. If one table holds all
tasks, `task` names the column that tells them apart, and `train`, `dev` and `test` stand beside it;
`tasks`, if given, lists values of that column in order, and rows with other values are left out:

    {"text": "utterance", "answer": "reply", "task": "domain", "train": "train.tsv",
     "test": "test.tsv", "tasks": ["billing", "travel"]}

- **Columns** are named for all tasks, or in one task: `text` (by default `text`), either `label` (a
  class; the model writes its `_` as a space) or `answer` (free text), and `id`, if rows have one. A
  `text` with braces is a template over several columns. A number counts as its text, a boolean as
  `true` or `false`. A nested column is named by its path, `answers.text.0`; an answer that is a
  list counts as its first entry.
- **Raw text** (scenario cpt) needs a `text` column alone; each row is a document. A data set of the
  Hugging Face library is then read from the disk as it is needed, and may be larger than memory.
- **A split** is a `.jsonl`, `.json` (a list of objects), `.csv`, `.tsv` or `.parquet` file, a
  `.txt` file (one row with a column `text`), each but parquet perhaps packed (`.gz`, `.bz2`, `.xz`,
  `.zst`), or `{"hf": NAME, "config": …, "split": …}`: a data set of the Hugging Face hub, or a
  folder (of parquet, json or csv files, or written by `save_to_disk`). `split` may be a slice,
  `train[:80%]`; its default is `train`, `validation` for dev, or `test`. `dev` may be missing: it
  is carved from train when needed. `test` may be missing where `stream.test_fraction` is given.
- **Paths** are relative to the manifest and, links followed, must lie in its folder or in one that
  `folders` lists; so must the files that a data set in a folder names. No flag allows more: the one
  line `folders` of a stranger's manifest says all that it can read. It cannot list a folder that
  holds the user's home, or the whole disk.
- **Others**: `name` of the stream (by default the name of the folder) and `template` of plain rows.
- **A Python manifest** is `manifest = {…}`, written in literals and comments. Nothing in it is run.
"""

import ast
import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jcl import notation
from jcl.config import StreamConfig
from jcl.errors import UserError, nearest
from jcl.storage import paths
from jcl.streams import hub
from jcl.streams.checks import check_stream_name, check_template
from jcl.streams.escaping import shortened
from jcl.streams.files import placed, read_text, reason_of
from jcl.streams.json_tables import json_value
from jcl.streams.raw import SPLITS, TEMPLATE, RawRow, RawStream, RawTask, permutation
from jcl.streams.records import Record, check_columns, notes_on, row_of, rows_of, value
from jcl.streams.tables import known_kind, table

COLUMNS = ('text', 'label', 'answer', 'id')
TASK_KEYS = ('name', *COLUMNS, *SPLITS)
MANIFEST_KEYS = ('name', 'template', 'folders', 'tasks', 'task', *COLUMNS, *SPLITS)
HUB_KEYS = ('hf', 'config', 'split')
HUB_SPLITS = {'train': 'train', 'dev': 'validation', 'test': 'test'}


class Manifest(NamedTuple):
  """A manifest as it was read.

  Attributes:
    called: path of the file as it was given, for error messages.
    folder: folder of the manifest.
    roots: folders that its paths may lie in.
    fields: content of the manifest.
    texts: the fields among them that are text, and were checked to be.
    targets: whether its rows must have labels or answers.
    carve_test: whether a test split may be missing: it is carved from train.
    notes: lines on how the data was read; grows.
  """

  called: str
  folder: pathlib.Path
  roots: tuple[pathlib.Path, ...]
  fields: Mapping[str, object]
  texts: Mapping[str, str]
  targets: bool
  carve_test: bool
  notes: list[str]


def read(config: StreamConfig, targets: bool = True) -> RawStream:
  """Reads the tasks of the manifest at `config.path`.

  Args:
    config: settings of the stream.
    targets: whether to read labels or answers; if not, rows have their texts alone.

  Raises:
    UserError: the manifest or a table is missing or malformed; it names file, line or field.
  """
  manifest = read_manifest(config, targets)
  with placed(manifest.called, manifest.fields):
    tasks = divided_tasks(manifest) if 'task' in manifest.fields else listed_tasks(manifest)
  tasks = [tasks[i] for i in permutation(len(tasks), config.order_seed)]
  template = manifest.texts.get('template', TEMPLATE)
  if targets:
    check_template(template, f'{manifest.called}: template')
  return RawStream(stream_name(manifest), tasks, template, targets=targets, notes=manifest.notes)


def read_manifest(config: StreamConfig, targets: bool) -> Manifest:
  """Reads a manifest and checks the keys and values that hold for all tasks."""
  file = manifest_file(config.path)
  called, text = str(file), read_text(file, str(file))
  fields = json_value(text, called) if file.suffix == '.json' else literal(text, called)
  return checked(fields, called, file.resolve().parent, config, targets)


def checked(
  fields: object, called: str, folder: pathlib.Path, config: StreamConfig, targets: bool
) -> Manifest:
  """Returns the content of a manifest, its keys checked and the values that hold for all tasks.

  Args:
    fields: the content.
    called, folder, targets: as in `Manifest`.
    config: settings of the stream.
  """
  if not isinstance(fields, dict):
    raise UserError(f'{called}: not an object: write {{"tasks": […], …}}')
  check_keys(fields, MANIFEST_KEYS, called)
  texts = checked_texts(fields, ('name', 'template', 'task', *COLUMNS), called)
  folders = as_list(fields.get('folders', []))
  if not isinstance(folders, list) or not all(isinstance(f, str) and f for f in folders):
    raise UserError(f'{called}: \'folders\' is not a list of folders: write ["../data"]')
  folder = folder.resolve()
  roots = (folder, *(resolved(folder, f, called) for f in folders))
  for name, root in zip(folders, roots[1:], strict=True):
    if paths.home_within(root):
      raise UserError(f"{called}: 'folders' lists {name!r}, which is too much: name what is read")
  return Manifest(called, folder, roots, fields, texts, targets, config.test_fraction > 0, [])


def stream_name(manifest: Manifest) -> str:
  """Returns the name of the stream: the manifest's, or that of its folder."""
  name = manifest.texts.get('name', shortened(manifest.folder.name) or 'files')
  check_stream_name(name, f'{manifest.called}: name')
  return name


def as_list(value: object) -> object:
  """Returns a value of a manifest as a list if it is text such as `a,b`; numbers become text."""
  try:
    value = list(notation.parse(value, str)) if isinstance(value, str) else value
  except ValueError:
    return value
  if not isinstance(value, list):
    return value
  number = lambda x: isinstance(x, int | float) and not isinstance(x, bool)
  return [str(entry) if number(entry) else entry for entry in value]


def manifest_file(path: str) -> pathlib.Path:
  """Returns the file of a manifest that is given by its path or its folder."""
  if not path:
    raise UserError('stream.path is empty: give a manifest, or the folder of one')
  file = paths.local(path, 'stream.path')
  if file.is_dir():
    found = [file / name for name in ('manifest.json', 'manifest.py') if (file / name).is_file()]
    if len(found) != 1:
      what = 'both manifest.json and' if found else 'neither manifest.json nor'
      raise UserError(
        f'{file}: the folder holds {what} manifest.py: name one file; stream.name=classes reads '
        'train.csv and test.csv'
      )
    file = found[0]
  if file.suffix not in ('.json', '.py') and file.exists():
    raise UserError(
      f'{file}: this is no manifest, which is a .json or .py file that names tasks, files and '
      'columns (docs/data.md); write one, or let stream.name=classes cut a table into tasks'
    )
  return file


def literal(text: str, called: str) -> object:
  """Returns the value of `manifest = …` in Python text, which is parsed and never run."""
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
  """Returns tasks that each name their own splits."""
  called, fields = manifest.called, manifest.fields
  stray = [split for split in SPLITS if split in fields]
  if stray:
    raise UserError(
      f"{called}: {stray[0]!r} stands beside 'tasks': put it into a task, or name the column that "
      "tells tasks apart as 'task', or set stream.name=classes to cut tasks by classes"
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
    texts = checked_texts(task, ('name', *COLUMNS), where)
    if 'name' not in texts:
      raise UserError(f"{where} has no 'name': give it one")
    columns = chosen_columns(manifest.texts, texts, where, manifest.targets)
    splits = split_records(manifest, task, where)
    splits.setdefault('test', [])
    for split, records in splits.items():
      manifest.notes.extend(notes_on(records, columns, f'{texts["name"]}, {split}'))
    rows = {split: rows_of(records, columns) for split, records in splits.items()}
    tasks.append(RawTask(texts['name'], **rows))
  return tasks


def divided_tasks(manifest: Manifest) -> list[RawTask]:
  """Returns tasks that a column of one table for all tells apart."""
  called, fields, column = manifest.called, manifest.fields, manifest.texts['task']
  columns = chosen_columns(manifest.texts, {}, called, manifest.targets)
  parts: dict[str, dict[str, list[RawRow]]] = {}
  for split, records in split_records(manifest, fields, called).items():
    manifest.notes.extend(notes_on(records, columns, split))
    for record in records:
      name = value(record, column).strip()
      if not name:
        raise UserError(f'{record.where}: column {column!r} is empty: name the task of the row')
      part = parts.setdefault(name, {split: [] for split in SPLITS})
      part[split].append(row_of(record, columns))
  manifest.notes.extend(alike(list(parts), column))
  names = as_list(fields.get('tasks', list(parts)))
  if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
    raise UserError(f"{called}: 'tasks' is not a list of values of column {column!r}")
  for name in names:
    if name not in parts:
      raise UserError(
        f'{called}: task {name!r} has no examples: {nearest(name, parts)}column {column!r} holds '
        f'{", ".join(map(repr, list(parts)[:9]))}'
      )
  return [RawTask(name, **parts[name]) for name in names]


def alike(names: Sequence[str], column: str) -> Iterator[str]:
  """Yields a line for each task whose name differs from an earlier one in case or spaces alone."""
  first: dict[str, str] = {}
  for name in names:
    other = first.setdefault(' '.join(name.casefold().split()), name)
    if other != name:
      yield f'{other!r} and {name!r} in column {column!r} are two tasks'


def split_records(
  manifest: Manifest, source: Mapping[str, object], where: str
) -> dict[str, Sequence[Record]]:
  """Returns the records of each split that a task, or the manifest for all tasks, names."""
  if 'train' not in source:
    raise UserError(f"{where} has no 'train': name the file of that split")
  if 'test' not in source and not manifest.carve_test:
    raise UserError(
      f"{where} has no 'test': name the file of that split, or set stream.test_fraction, "
      'such as 0.2, to take it from train'
    )
  return {s: records(manifest, source[s], s, where) for s in SPLITS if s in source}


def records(manifest: Manifest, source: object, split: str, where: str) -> Sequence[Record]:
  """Returns the records of one split, from a file or a Hugging Face data set."""
  if isinstance(source, str) and source:
    path = inside(manifest, source)
    known_kind(path, f'{where}: {split!r} is {source!r}')
    return table(path, source, notes=manifest.notes)
  if not isinstance(source, dict) or 'hf' not in source:
    raise UserError(f'{where}: {split!r} is neither a file nor {{"hf": …}}: give one of them')
  check_keys(source, HUB_KEYS, f'{where}: {split!r}')
  texts = checked_texts(source, HUB_KEYS, f'{where}: {split!r}')
  if not all(map(str.isprintable, texts.values())):
    raise UserError(
      f'{where}: {split!r} holds a line end or another control character: take it out'
    )
  return hub_records(manifest, texts, split)


def hub_records(manifest: Manifest, source: Mapping[str, str], split: str) -> Sequence[Record]:
  """Returns the records of a Hugging Face data set, from the hub or a folder."""
  name, usual = source['hf'], HUB_SPLITS[split]
  called = f'{name}[{source.get("split", usual)}]'
  local = name.startswith(('.', '/', '~')) or (manifest.folder / name).is_dir()
  path = inside(manifest, name) if local else None
  if path is not None and not path.is_dir():
    raise UserError(f'{called}: no such folder: correct the path')
  try:
    data = hub.data_set(
      name, path, source.get('config'), source.get('split'), usual, manifest.roots
    )
    found = hub.records(data, lambda place: f'{called}:{place}', lazy=not manifest.targets)
  except UserError as error:
    raise UserError(f'{manifest.called}: {error}') from None
  except MemoryError:
    raise
  except Exception as error:  # the library raises many kinds
    raise UserError(
      f'{called}: cannot be loaded ({reason_of(error)}): correct name, config or split'
    ) from None
  if not found:
    raise UserError(f'{called}: the data set has no rows: give another')
  return found


def inside(manifest: Manifest, name: str) -> pathlib.Path:
  """Returns the path that a manifest names, if it lies in one of the manifest's folders."""
  path = resolved(manifest.folder, name, manifest.called)
  if not any(path.is_relative_to(root) for root in manifest.roots):
    raise UserError(
      f"{manifest.called}: {name!r} lies outside the manifest's folder: move it there, or list its "
      "folder in 'folders'"
    )
  return path


def resolved(folder: pathlib.Path, name: str, called: str) -> pathlib.Path:
  """Returns the path of a name relative to a folder, links followed."""
  if name.isprintable():
    place = paths.local(name, f'{called}: a path')
    with contextlib.suppress(OSError, ValueError, RuntimeError):
      return (folder / place).resolve()
  raise UserError(f'{called}: {name!r} is no path: correct it')


def chosen_columns(
  defaults: Mapping[str, str], task: Mapping[str, str], where: str, targets: bool
) -> dict[str, str]:
  """Returns the columns of a task: its own, and those of the manifest that it does not name."""
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
  check_columns(columns, where)
  return columns


def check_keys(fields: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
  """Refuses a key that is not among the known ones."""
  for key in fields:
    if key not in known:
      raise UserError(f'{where}: unknown key {key!r}: give one of {", ".join(known)}')


def checked_texts(
  fields: Mapping[str, object], keys: tuple[str, ...], where: str
) -> dict[str, str]:
  """Returns the fields of some keys, if each of those that are there is text."""
  texts = {}
  for key in keys:
    text = fields.get(key, '')
    if key in fields and not (isinstance(text, str) and text.strip()):
      raise UserError(f'{where}: {key!r} is not text: write it in quotes')
    if isinstance(text, str) and text:
      texts[key] = text
  return texts
