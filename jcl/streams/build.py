"""From raw rows to a stream: the one place where every stream is checked and assembled.

A reader (`benchmarks`, `files`, `synthetic`) returns a `RawStream`; `build` refuses what is wrong,
leaves out what the settings leave out, and numbers what remains. Nothing here draws at random: what
it gives is a function of the rows and the settings.
"""

import collections
import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams.stream import Example, Lazy, Stream, Task

TEMPLATE = Stream.template
SPLITS = ('train', 'dev', 'test')


class RawRow(NamedTuple):
  """One row as it was read.

  Attributes:
    where: what errors call it, `file:line`.
    text: the input.
    answer: the target text of a row without a class; '' for a row with one.
    label: the class as the file writes it, None where answers are free. The answer of a row with a
      class is its label's name as words.
    id: the user's own id, unique in the stream; '' where there is none.
  """

  where: str
  text: str
  answer: str = ''
  label: str | None = None
  id: str = ''


class RawTask(NamedTuple):
  """A task as it was read, in file order; `dev` may be empty."""

  name: str
  train: Sequence[RawRow]
  test: Sequence[RawRow]
  dev: Sequence[RawRow] = ()


class RawStream(NamedTuple):
  """What a reader returns.

  Attributes:
    name: of the stream.
    tasks: in the order in which they are learned.
    template: of plain rows.
    overlap: what is done about training texts in a test split where the settings do not say.
  """

  name: str
  tasks: Sequence[RawTask]
  template: str = TEMPLATE
  overlap: str = 'refuse'


def build(
  raw: RawStream, config: StreamConfig, need_dev: bool = False, targets: bool = True
) -> Stream:
  """Checks a raw stream and assembles it.

  Overlap is counted on whole splits; then a dev split is carved, if one is needed and there is
  none; then tasks and examples are left out. Dev splits are cut to `max_test_per_task` like test.

  Args:
    raw: what a reader returned.
    config: the settings.
    need_dev: whether every task must have a dev split; carving one costs training examples.
    targets: whether rows have labels or answers; without, what a row says of them counts for
      nothing but which rows are left out.

  Returns:
    The stream; its numbers count from 0 over tasks, within each over train, dev and test.

  Raises:
    UserError: for rows or settings that cannot be used.
  """
  check_settings(config)
  template = checked_template(config.template or raw.template)
  check_names(raw.tasks)
  check_rows(raw.tasks, targets)
  tasks = raw.tasks
  counts = overlap(tasks)
  policy = config.overlap or raw.overlap
  if policy == 'refuse' and any(counts.values()):
    refuse_overlap(tasks)
  if policy == 'drop':
    tasks = without_overlap(tasks)
  if need_dev:
    tasks = carved(tasks, config.dev_fraction)
  tasks = sliced(tasks, config, targets)
  if not targets:
    tasks = [without_targets(task) for task in tasks]
  return assembled(raw.name, tasks, template, counts)


def permutation(count: int, seed: int) -> list[int]:
  """Indices 0..count-1: as they are for a negative seed, else in the seed's order."""
  return list(range(count)) if seed < 0 else np.random.default_rng(seed).permutation(count).tolist()


def words(label: str) -> str:
  """A class's label as answers say it: `_` becomes a space."""
  return ' '.join(label.replace('_', ' ').split())


def key(text: str) -> str:
  """What two texts share that count as the same: case and white space do not matter."""
  return ' '.join(text.split()).casefold()


def classes_of(rows: Iterable[RawRow]) -> list[str]:
  """Classes in order of first appearance."""
  return list(dict.fromkeys(row.label for row in rows if row.label is not None))


def class_tasks(
  splits: dict[str, Sequence[RawRow]], classes_per_task: int, order_seed: int
) -> list[RawTask]:
  """Cuts one classed data set into tasks of `classes_per_task` classes; the last may have fewer.

  Classes stand in order of first appearance in train, or in the order of `order_seed`.
  """
  if classes_per_task < 1:
    raise UserError(f'stream.classes_per_task is {classes_per_task}: give 1 or more')
  classes = classes_of(splits['train'])
  classes = [classes[i] for i in permutation(len(classes), order_seed)]
  task_of = {label: i // classes_per_task for i, label in enumerate(classes)}
  parts = {split: collections.defaultdict(list) for split in SPLITS}
  for split in SPLITS:
    for row in splits.get(split, ()):
      if row.label not in task_of:
        raise unknown_label(row, classes)
      parts[split][task_of[row.label]].append(row)
  tasks = []
  for index, first in enumerate(range(0, len(classes), classes_per_task)):
    last = min(first + classes_per_task, len(classes))
    rows = {split: parts[split][index] for split in SPLITS}
    tasks.append(RawTask(f'classes-{first + 1}-{last}', **rows))
  return tasks


def check_settings(config: StreamConfig) -> None:
  """Refuses numbers and words of the settings that mean nothing."""
  for field in ('max_tasks', 'max_train_per_task', 'max_test_per_task'):
    if getattr(config, field) < 0:
      value = getattr(config, field)
      raise UserError(f'stream.{field} is {value}; it must be at least 0, which is all')
  if config.overlap not in ('', 'refuse', 'drop', 'keep'):
    raise UserError(f'stream.overlap is {config.overlap!r}: give refuse, drop or keep')
  if not 0 < config.dev_fraction < 1:
    raise UserError(f'stream.dev_fraction is {config.dev_fraction}: give a number between 0 and 1')


def checked_template(template: str) -> str:
  """The template, if it says where the input and, after it, the answer go."""
  once = template.count('{x}') == template.count('{y}') == 1
  if not once or template.index('{x}') > template.index('{y}'):
    raise UserError(f'stream.template {template!r}: needs {{x}} once and then {{y}} once')
  return template


def check_names(tasks: Sequence[RawTask]) -> None:
  """Refuses a stream without tasks, and tasks whose names clash or cannot name a folder."""
  if not tasks:
    raise UserError('the stream has no tasks: name at least one')
  seen = set()
  for name in (task.name for task in tasks):
    if not name.strip(' .') or not name.isprintable() or set(name) & set('/\\') or len(name) > 80:
      raise UserError(f'task name {name!r}: give 1 to 80 characters without / and \\')
    if name in seen:
      raise UserError(f'task name {name!r} is given twice: names are unique in a stream')
    seen.add(name)


def check_rows(tasks: Sequence[RawTask], targets: bool = True) -> None:
  """Refuses missing splits, empty fields, repeated ids, and classes that do not hold together."""
  places: dict[str, str] = {}
  spoken: dict[str, str] = {}
  kinds: dict[bool, str] = {}
  for task in tasks:
    for split in ('train', 'test'):
      if not getattr(task, split):
        raise UserError(f'task {task.name!r} has no {split} examples: give at least one')
    classes = dict.fromkeys(classes_of(task.train))
    for split in SPLITS:
      for row in getattr(task, split):
        check_fields(row, targets)
        check_id(row, places)
        if not targets:
          continue
        kinds.setdefault(row.label is None, row.where)
        if len(kinds) > 1:
          raise UserError(
            f'{kinds[True]} has a free answer and {kinds[False]} a label: '
            'a stream has either answers or labels throughout'
          )
        if row.label is not None and row.label not in classes:
          raise unknown_label(row, list(classes), f' of task {task.name!r}')
    if targets:
      check_labels(classes, spoken)


def check_fields(row: RawRow, targets: bool = True) -> None:
  """Refuses a row that has nothing to read or nothing to say, or what no tokenizer can take."""
  target = 'answer' if row.label is None else 'label'
  values = {'text': row.text}
  if targets:
    values[target] = row.answer if row.label is None else words(row.label)
  for field, value in values.items():
    if not value.strip():
      raise UserError(f'{row.where}: the {field} is empty: fill it in, or leave the row out')
    if '\0' in value:
      raise UserError(f'{row.where}: the {field} holds a NUL character: take it out')
    if any('\ud800' <= letter <= '\udfff' for letter in value):
      raise UserError(f'{row.where}: the {field} holds half a surrogate pair: take it out')


def check_id(row: RawRow, places: dict[str, str]) -> None:
  """Refuses an id that another row has; `places` maps the ids so far to where they stand."""
  if row.id and places.setdefault(row.id, row.where) != row.where:
    raise UserError(
      f'{row.where}: id {row.id!r} stands also at {places[row.id]}: '
      'give each row its own, or name no id column'
    )


def check_labels(classes: Iterable[str], spoken: dict[str, str]) -> None:
  """Refuses two labels that read the same in an answer; `spoken` maps words to labels so far."""
  for label in classes:
    other = spoken.setdefault(key(words(label)), label)
    if other != label:
      raise UserError(f'labels {other!r} and {label!r} read the same in an answer: rename one')


def unknown_label(row: RawRow, classes: Sequence[str], of: str = '') -> UserError:
  """The error for a label that no training row has."""
  some = ', '.join(map(repr, classes[:5])) + (', …' if len(classes) > 5 else '')
  return UserError(
    f'{row.where}: label {row.label!r} is not in the train split{of}, which has {some}: '
    'correct it, or add training examples of it'
  )


def overlap(tasks: Sequence[RawTask]) -> dict[str, int]:
  """{task: how many of its test examples have a text that stands in a train split too}."""
  # A digest a text: corpora may be larger than memory.
  brief = lambda row: hashlib.blake2b(key(row.text).encode(), digest_size=16).digest()
  trained = {brief(row) for task in tasks for row in task.train}
  return {task.name: sum(brief(row) in trained for row in task.test) for task in tasks}


def refuse_overlap(tasks: Sequence[RawTask]) -> None:
  """Raises for the first training row whose text stands in a test split."""
  tested = {key(row.text): row.where for task in reversed(tasks) for row in reversed(task.test)}
  found = [row for task in tasks for row in task.train if key(row.text) in tested]
  more = f' (and {len(found) - 1} more training rows)' if len(found) > 1 else ''
  raise UserError(
    f'{found[0].where}: this training text stands also in the test split at '
    f'{tested[key(found[0].text)]}{more}: take it out of one, or set stream.overlap to drop or keep'
  )


def without_overlap(tasks: Sequence[RawTask]) -> list[RawTask]:
  """The tasks without the training rows whose text stands in a test split."""
  tested = {key(row.text) for task in tasks for row in task.test}
  kept = [t._replace(train=[r for r in t.train if key(r.text) not in tested]) for t in tasks]
  for before, after in zip(tasks, kept, strict=True):
    lost = set(classes_of(before.train)) - set(classes_of(after.train))
    if not after.train or lost:
      what = f'class {min(lost)!r}' if lost else 'it'
      raise UserError(
        f'task {before.name!r}: every training text of {what} stands in a test split: '
        'give other training texts, or set stream.overlap to keep'
      )
  return kept


def carved(tasks: Sequence[RawTask], fraction: float) -> list[RawTask]:
  """The tasks, with a dev split taken out of train where there is none.

  Each class gives `fraction` of its rows, one at least and never its last, evenly spaced in file
  order. A text that train holds twice is not taken, so that no dev text stands in train.
  """
  times = collections.Counter(key(row.text) for task in tasks for row in task.train)
  result = []
  for task in tasks:
    chosen: set[int] = set()
    of_label: dict[str | None, list[int]] = {}
    for i, row in enumerate([] if task.dev else task.train):
      of_label.setdefault(row.label, []).append(i)
    for rows in of_label.values():
      once = [i for i in rows if times[key(task.train[i].text)] == 1]
      count = min(max(1, round(fraction * len(rows))), len(rows) - 1, len(once))
      chosen.update(once[(2 * k + 1) * len(once) // (2 * count)] for k in range(count))
    if not task.dev and not chosen:
      raise UserError(
        f'task {task.name!r} has too few training examples to carve a dev split: '
        'give it a dev split, or a class with two different training texts'
      )
    if chosen:
      dev = [row for i, row in enumerate(task.train) if i in chosen]
      train = [row for i, row in enumerate(task.train) if i not in chosen]
      task = task._replace(train=train, dev=dev)
    result.append(task)
  return result


def sliced(tasks: Sequence[RawTask], config: StreamConfig, targets: bool = True) -> list[RawTask]:
  """The first tasks, and of each as many examples as the settings allow.

  Raises:
    UserError: a class would lose all its training examples (where rows have targets).
  """
  result = []
  for task in tasks[: config.max_tasks or None]:
    classes = classes_of(task.train)
    if targets and 0 < config.max_train_per_task < len(classes):
      raise UserError(
        f'stream.max_train_per_task is {config.max_train_per_task}, which leaves classes of task '
        f'{task.name!r} without a training example: give at least {len(classes)}, or 0 for all'
      )
    train = in_turn(task.train, classes, config.max_train_per_task)
    dev, test = (in_turn(s, classes, config.max_test_per_task) for s in (task.dev, task.test))
    result.append(task._replace(train=train, dev=dev, test=test))
  return result


def in_turn(rows: Sequence[RawRow], classes: Sequence[str], count: int) -> Sequence[RawRow]:
  """`count` rows (0: all), taken from each class in turn in file order; given in file order."""
  if not 0 < count < len(rows):
    return rows
  if not classes:
    return rows[:count]
  place = {label: i for i, label in enumerate(classes)}
  seen: collections.Counter = collections.Counter()
  ranks = []
  for index, row in enumerate(rows):
    ranks.append((seen[row.label], place.get(row.label, 0), index))
    seen[row.label] += 1
  return [rows[index] for index in sorted(index for *_, index in sorted(ranks)[:count])]


def assembled(name: str, tasks: Sequence[RawTask], template: str, counts: dict[str, int]) -> Stream:
  """The stream of tasks that have been checked, numbered."""
  labels = list(dict.fromkeys(label for task in tasks for label in classes_of(task.train)))
  index_of = {label: i for i, label in enumerate(labels)}
  number = 0
  made = []
  for index, task in enumerate(tasks):
    splits = {}
    for split in SPLITS:
      rows = getattr(task, split)
      made_of = functools.partial(numbered, number, index, index_of)
      # Texts without labels and answers may be a corpus that does not fit into memory.
      lazy = isinstance(rows, Lazy)
      splits[split] = Lazy(rows, made_of) if lazy else tuple(map(made_of, range(len(rows)), rows))
      number += len(rows)
    classes = tuple(index_of[label] for label in classes_of(task.train))
    made.append(Task(index, task.name, **splits, classes=classes, last=index == len(tasks) - 1))
  return Stream(name, tuple(made), tuple(words(label) for label in labels), template, counts)


def without_targets(task: RawTask) -> RawTask:
  """The task's texts alone."""
  alone = lambda rows: Lazy(rows, lambda _, row: row._replace(answer='', label=None))
  return RawTask(task.name, *map(alone, (task.train, task.test, task.dev)))


def numbered(first: int, task: int, index_of: dict[str, int], place: int, row: RawRow) -> Example:
  """A row as the example that comes at `place` after the `first` number."""
  return example(row, first + place, task, index_of)


def example(row: RawRow, number: int, task: int, index_of: dict[str, int]) -> Example:
  """A row as an example of a task."""
  free = row.label is None
  answer = row.answer.strip() if free else words(row.label)
  label = -1 if free else index_of[row.label]
  return Example(number, row.text.strip(), answer, task, label, row.id or row.where)
