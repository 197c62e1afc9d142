"""Streams of a program's own data: lists of dicts, or data sets of the Hugging Face library.

`Stream.from_rows` and `Stream.from_datasets` are the way in. Rows become the same raw stream that a
reader of files returns, and `build` checks and assembles both.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jcl.config import StreamConfig, plain
from jcl.errors import UserError
from jcl.streams import hub, splits
from jcl.streams.checks import check_names, check_overlap, check_rows, check_template
from jcl.streams.files import reason_of
from jcl.streams.raw import SPLITS, RawRow, RawStream, RawTask, narrow, permutation
from jcl.streams.records import Record, check_columns, columns_in, notes_on, rows_of, shown
from jcl.streams.registry import built
from jcl.streams.stream import Stream

TARGETS = ('label', 'answer')
CONVERSATIONS = (  # fields of input and answer of rows without a field `text`
  ('messages', 'messages'), ('conversations', 'conversations'), ('prompt', 'completion'),
)  # fmt: skip
NARROW = {  # types of columns of pandas -> those of NumPy
  'float32': 'float32', 'float16': 'float16', 'float[pyarrow]': 'float32',
  'halffloat[pyarrow]': 'float16',
}  # fmt: skip
OWN_SPLITS = {'train': 'train', 'test': 'test', 'validation': 'dev', 'dev': 'dev'}

Splits = Mapping[str, Mapping[str, object] | None]
"""What the user gave: {split: {task: rows}}, None for a split that is not given."""


class Given(NamedTuple):
  """Rows that the user gave.

  Attributes:
    rows: {split: {task: its rows}}; a task that has no such split is left out there.
    targets: whether rows have labels or answers; False for raw text.
    notes: lines on how the rows were read.
  """

  rows: Mapping[str, Mapping[str, Sequence[RawRow]]]
  targets: bool
  notes: Sequence[str] = ()


class Carving(NamedTuple):
  """How a test split is carved from train: share of each class, and seed of the choice."""

  fraction: float
  seed: int


@dataclasses.dataclass(frozen=True)
class RowsReader:
  """A stream reader that holds its rows.

  Attributes:
    raw: the rows, tasks in the order given.
  """

  raw: RawStream

  def __call__(self, config: StreamConfig) -> RawStream:
    """Returns the rows, tasks in the order of `config.order_seed`."""
    order = permutation(len(self.raw.tasks), config.order_seed)
    return self.raw._replace(tasks=[self.raw.tasks[i] for i in order])


def read(config: StreamConfig) -> RawStream:
  """Refuses `stream.name=rows`: nothing stores the rows of a stream made in Python."""
  raise UserError(
    f'stream.name is {config.name!r}: a stream made in Python, whose rows are stored nowhere; '
    'make the stream again and give it to jcl.learn'
  )


def stream(given: Given, name: str, template: str, overlap: str, carving: Carving) -> Stream:
  """Builds the stream of rows, with a test split for every task; see `Stream.from_rows`."""
  carving = Carving(*map(plain, carving))
  check_options(name, template, overlap, carving)
  train, test, dev = (given.rows[split] for split in ('train', 'test', 'dev'))
  tasks = [
    RawTask(task, rows, test.get(task, ()), dev.get(task, ())) for task, rows in train.items()
  ]
  check_rows(tasks, given.targets, carve_test=True)
  tasks, notes = splits.with_test(tasks, carving.fraction, carving.seed)
  notes = [*given.notes, *notes]
  reader = RowsReader(RawStream(name, tasks, template, overlap, given.targets, notes))
  made = built(reader, StreamConfig(name='rows'), need_dev=False, targets=given.targets)
  # The settings say which rows they were: a run with other rows cannot go on in its workdir.
  settings = StreamConfig(name='rows', path=f'sha256:{made.digest}')
  return dataclasses.replace(made, settings=settings)


def check_options(name: object, template: object, overlap: object, carving: Carving) -> None:
  """Refuses values that the arguments of `Stream.from_rows` cannot have."""
  if not isinstance(name, str) or not name.strip() or not name.isprintable():
    raise UserError(f'name is {shown(name)}: give text')
  check_template(template, 'template')
  check_overlap(overlap, 'overlap')
  fraction, seed = carving
  number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
  if not number or not 0 < fraction < 1:
    raise UserError(f'test_fraction is {shown(fraction)}: give a number between 0 and 1')
  if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
    raise UserError(f'seed is {shown(seed)}: give a whole number from 0 to 2147483647')


def by_task(given: Splits) -> dict[str, dict[str, object]]:
  """Returns what the user gave as {split: {task: rows}}, every split there.

  Raises:
    UserError: a split is no dict, a task name cannot be used, or a task has no training rows.
  """
  found: dict[str, dict[str, object]] = {}
  for split in SPLITS:
    tasks = given[split]
    if tasks is not None and not isinstance(tasks, Mapping):
      raise UserError(
        f"{split} is a {type(tasks).__name__}: give a dict from task to rows, {{'billing': rows}}"
      )
    found[split] = dict(tasks or {})
  check_names([*found['train']])
  for split in ('test', 'dev'):
    for task in found[split]:
      if task not in found['train']:
        known = ', '.join(map(repr, found['train']))
        raise UserError(f'{split}: task {shown(task)} has no training rows: give one of {known}')
  return found


def raw_rows(given: Splits, named: Mapping[str, str]) -> Given:
  """Returns rows that are dicts.

  Args:
    given: by the user.
    named: fields of `text`, `label`, `answer` and `id`; empty: the field of that name, and a label,
      an answer or neither as the first row has.
  """
  for argument, field in named.items():
    if not isinstance(field, str):
      raise UserError(f'{argument} is {shown(field)}: give the name of a field')
  columns: dict[str, str] = {}
  chosen = any(named[target] for target in TARGETS)
  notes: list[str] = []
  rows: dict[str, dict[str, Sequence[RawRow]]] = {split: {} for split in SPLITS}
  for split, tasks in by_task(given).items():
    for task, some in tasks.items():
      records = dict_records(some, task, split)
      columns = columns or columns_of(records[0], named)
      for record in records:
        for target in TARGETS:
          if target in record.fields and target not in columns and not chosen:
            raise UserError(
              f'{record.where} has {target!r}, which the first row of the stream does not have: '
              'give it to every row or to none'
            )
      notes += notes_on(records, columns, f'{task}, {split}')
      rows[split][task] = rows_of(records, columns)
  return Given(rows, not columns.keys().isdisjoint(TARGETS), notes)


def dict_records(rows: object, task: str, split: str) -> list[Record]:
  """Returns the rows of one split as records, if they are dicts."""
  where = f'task {task!r}: {split}'
  if hasattr(rows, 'features'):
    raise UserError(f'{where} is a data set: use Stream.from_datasets')
  index: Sequence[object] = ()
  if hasattr(rows, 'to_dict') and hasattr(rows, 'columns'):  # a table of pandas
    rows, index = pandas_rows(rows, where)
  if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
    raise UserError(f'{where} is a {type(rows).__name__}: give a list of dicts or a DataFrame')
  records = []
  for place, row in enumerate(rows):
    if not isinstance(row, Mapping):
      raise UserError(
        f'{task}/{split}[{place}] is a {type(row).__name__}: give a dict with text and label'
      )
    own = index[place] if index else None
    records.append(Record(f'{task}/{split}[{place}]', row, noun='field', frame_index=own))
  if not records:
    raise UserError(f'{where} has no rows: give at least one, or leave the task out of {split}')
  return records


def pandas_rows(table: Any, where: str) -> tuple[list[dict[str, object]], list[object]]:
  """Returns the rows and the index of a table of pandas whose columns have names of their own."""
  names = list(table.columns)
  twice = next((name for name in names if names.count(name) > 1), None)
  if twice is not None:
    raise UserError(f'{where}: two columns are called {shown(twice)}: rename one')
  rows = table.to_dict('records')
  for name, kind in table.dtypes.items():
    if str(kind).lower() in NARROW:  # pandas gives the digits of float64
      for row in rows:
        row[name] = narrow(row[name], NARROW[str(kind).lower()])
  return rows, list(table.index)


def columns_of(record: Record, named: Mapping[str, str]) -> dict[str, str]:
  """Returns the fields that every row of a stream must have, from its first row.

  Args:
    record: the first row.
    named: as in `raw_rows`.

  Raises:
    UserError: label and answer are both named, or the row has both, or neither and more than a
      text.
  """
  id, text_field = named['id'], named['text'] or 'text'
  given_id = {'id': id} if id else {}
  if named['label'] and named['answer']:
    raise UserError('label and answer both name a field: give one of them')
  if target := next((name for name in TARGETS if named[name]), ''):
    columns = {'text': text_field, target: named[target], **given_id}
    check_columns(columns, 'from_rows')
    return columns
  own_text = named['text'] or 'text' in record.fields
  for text, answer in CONVERSATIONS:
    if not own_text and {text, answer} <= set(record.fields):
      return {'text': text, 'answer': answer, **given_id}
  targets = [field for field in TARGETS if field in record.fields]
  if len(targets) == 2:
    raise UserError(f'{record.where} has a label and an answer: give one of them')
  read = {*(columns_in(text_field) or ()), id}
  others = [shown(field) for field in record.fields if field not in read]
  if not targets and others:
    raise UserError(
      f'{record.where} has {", ".join(others)} and no label or answer: name the fields with '
      'text= and label= or answer=, or, for raw text, give text alone'
    )
  columns = {'text': text_field, **{field: field for field in targets}, **given_id}
  check_columns(columns, 'from_rows')
  return columns


def chosen_columns(text: str, label: str, answer: str, id: str) -> dict[str, str]:
  """Returns the columns that `Stream.from_datasets` reads; arguments as there."""
  given = {'text': text, 'label': label, 'answer': answer, 'id': id}
  for name, column in given.items():
    if not isinstance(column, str) or (name == 'text' and not column.strip()):
      raise UserError(f'{name} is {shown(column)}: give the name of a column')
  if answer:
    if label not in ('', 'label'):
      raise UserError(f'label is {label!r} and answer is {answer!r}: give one of them')
    del given['label']
  columns = {name: column for name, column in given.items() if column}
  check_columns(columns, 'from_datasets')
  return columns


def dataset_splits(given: Splits) -> Splits:
  """Returns what the user gave with each `DatasetDict` of train cut into its splits.

  Raises:
    UserError: a `DatasetDict` has no training split, or a task has two splits of a kind.
  """
  found = by_task(given)
  for task, data in list(found['train'].items()):
    if not isinstance(data, Mapping):
      continue
    if 'train' not in data:
      known = ', '.join(map(shown, data)) or 'none'
      raise UserError(f'task {task!r}: its splits are {known}: give one, or one called train')
    for name, split in OWN_SPLITS.items():
      if name in data and name != 'train':
        if task in found[split]:
          raise UserError(f'task {task!r} has two {split} splits: give one')
        found[split][task] = data[name]
    found['train'][task] = data['train']
  return found


def raw_datasets(given: Splits, columns: dict[str, str]) -> Given:
  """Returns the rows of data sets; those of raw text stay on the disk until they are needed."""
  targets, notes = not columns.keys().isdisjoint(TARGETS), list[str]()
  rows: dict[str, dict[str, Sequence[RawRow]]] = {split: {} for split in SPLITS}
  for split in SPLITS:
    for task, data in (given[split] or {}).items():
      checked = checked_dataset(data, f'task {task!r}: {split}', columns)
      where = functools.partial('{}/{}[{}]'.format, task, split)
      try:
        records = hub.records(checked, where, lazy=not targets)
      except MemoryError:
        raise
      except Exception as error:  # the library raises many kinds
        raise UserError(
          f'task {task!r}: {split} cannot be read ({reason_of(error)}): load it anew'
        ) from error
      notes += notes_on(records, columns, f'{task}, {split}')
      rows[split][task] = rows_of(records, columns)
  return Given(rows, targets, notes)


def checked_dataset(data: object, where: str, columns: dict[str, str]) -> hub.DataSet:
  """Returns a data set, if it is one that has rows and the columns that are read."""
  if isinstance(data, Mapping):
    raise UserError(f'{where} is a {type(data).__name__}: give one of its splits')
  if not isinstance(data, hub.DataSet):
    raise UserError(
      f'{where} is a {type(data).__name__}: give a datasets.Dataset; use Stream.from_rows for '
      'DataFrames and lists of dicts, and streaming=False for a data set of the hub'
    )
  if not len(data):
    raise UserError(f'{where} has no rows: give at least one, or leave the task out')
  for name, column in columns.items():
    path = any(column.startswith(f'{known}.') for known in data.features)
    if column not in data.features and not path and not (name == 'text' and '{' in column):
      known = ', '.join(map(shown, data.features))
      raw_text = ", or label='' for raw text" if name == 'label' else ''
      raise UserError(f'{where} has no column {column!r}: give {name}= one of {known}{raw_text}')
  return data
