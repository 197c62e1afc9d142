"""Reader of a user's own data set with classes, which it cuts into tasks of some classes each.

`stream.path` is a table, a folder, or a manifest:

    intents.csv                              training rows; `stream.test_fraction` carves test
    intents/train.csv, dev.csv, test.csv     a table a split, of any kind that a manifest may name
    intents/data/train-00000-of-00001.parquet, …   a data set of the Hugging Face library

Columns are `text` and `label`. A manifest (jcl.streams.manifest) names others, without tasks:

    {"text": "utterance", "label": "intent", "train": "train.csv", "test": "test.csv"}

A task has `stream.classes_per_task` classes, in order of first appearance in train, or in that of
`stream.order_seed`. A dev split may be missing.
"""

import pathlib

from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.storage import paths
from jcl.streams import manifest
from jcl.streams.files import kind_of, placed
from jcl.streams.raw import TEMPLATE, RawStream
from jcl.streams.records import rows_of
from jcl.streams.splits import class_tasks
from jcl.streams.tables import SUFFIXES

NAMES = {'train': ('train',), 'dev': ('dev', 'validation', 'valid', 'val'), 'test': ('test',)}
KINDS = tuple(kind for kind in SUFFIXES if kind != '.txt')  # tables that have a column of classes
COLUMNS = {'text': 'text', 'label': 'label'}


def read(config: StreamConfig) -> RawStream:
  """Reads the data set at `config.path` and cuts it into tasks.

  Raises:
    UserError: files are missing or malformed, rows have no classes, or a manifest names tasks.
  """
  made = described(config)
  for key in ('task', 'tasks', 'answer'):
    if key in made.fields:
      raise UserError(
        f'{made.called}: {key!r} is given, but stream.name=classes cuts tasks by classes: take it '
        'out, or set stream.name=files'
      )
  columns = manifest.chosen_columns(made.texts, {}, made.called, targets=True)
  with placed(made.called, made.fields):
    splits = manifest.split_records(made, made.fields, made.called)
    rows = {split: rows_of(records, columns) for split, records in splits.items()}
  tasks = class_tasks(rows, config.classes_per_task, config.order_seed)
  template = made.texts.get('template', TEMPLATE)
  return RawStream(manifest.stream_name(made), tasks, template, notes=made.notes)


def described(config: StreamConfig) -> manifest.Manifest:
  """Returns the manifest at `config.path`, or the one that the files there would have.

  Raises:
    UserError: a folder holds no training rows under a usual name, or two files of one split.
  """
  if not config.path:
    raise UserError(
      'stream.path is empty: give a table with the columns text and label, or a folder with '
      'train.csv and test.csv'
    )
  path = paths.local(config.path, 'stream.path')
  fields: dict[str, object] = {**COLUMNS, 'train': path.name}
  if path.is_file() and path.suffix != '.json' and kind_of(path) in KINDS:
    folder = path.parent
  elif path.is_dir() and not any((path / f'manifest.{kind}').is_file() for kind in ('json', 'py')):
    fields, folder = found_in(path), path
  else:
    return manifest.read_manifest(config, targets=True)
  return manifest.checked(fields, str(path), folder, config, targets=True)


def found_in(folder: pathlib.Path) -> dict[str, object]:
  """Returns columns and splits of the files of a folder that usual names tell apart."""
  found: dict[str, object] = {}
  for split, names in NAMES.items():
    files = [file for file in sorted(folder.iterdir()) if _is_split(file, names)]
    if len(files) > 1:
      raise UserError(
        f'{folder}: {files[0].name} and {files[1].name} are both the {split} split: take one away, '
        'or write a manifest.json that names one'
      )
    if files:
      found[split] = files[0].name
  if 'train' not in found:
    found = {split: {'hf': '.'} for split, names in NAMES.items() if _is_saved(folder, names)}
  if 'train' not in found:
    raise UserError(
      f'{folder}: no training rows: give the folder that holds train.csv (or another of '
      f'{", ".join(KINDS)}), or a manifest.json that names the file'
    )
  return {**COLUMNS, **found}


def _is_split(file: pathlib.Path, names: tuple[str, ...]) -> bool:
  """Whether a file is a table that has the name of a split."""
  return file.name.partition('.')[0].lower() in names and kind_of(file) in KINDS and file.is_file()


def _is_saved(folder: pathlib.Path, names: tuple[str, ...]) -> bool:
  """Whether the Hugging Face library finds a split in a folder, saved or in numbered files."""
  places = [f'{name}{rest}' for name in names for rest in ('/dataset_info.json', '[-_.]*.*')]
  return any(any(folder.glob(f'{under}{place}')) for place in places for under in ('', '*/'))
