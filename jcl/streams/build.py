"""From a raw stream to a stream: the one place where every stream is checked and assembled.

Nothing here draws at random: the stream is a function of the raw stream and the settings.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from jcl.config import StreamConfig, check_values
from jcl.errors import UserError
from jcl.storage import paths
from jcl.streams import checks, splits
from jcl.streams.raw import SPLITS, RawRow, RawStream, RawTask, classes_of, label_text
from jcl.streams.records import shown
from jcl.streams.stream import Example, Lazy, Stream, Task


def build(
  raw: RawStream, config: StreamConfig, need_dev: bool = False, targets: bool = True
) -> Stream:
  """Checks a raw stream and assembles it.

  Missing test splits are carved, if the settings say so. Overlap is counted on whole splits; then a
  dev split is carved, if one is needed and there is none; then tasks and examples are left out.

  Args:
    raw: what a reader returned.
    config: settings of the stream.
    need_dev: whether every task must have a dev split; carving one costs training examples.
    targets: whether rows must have labels or answers. If not, the labels and answers of rows are
      dropped; labels still decide which rows `max_train_per_task` leaves out.

  Returns:
    The stream; its examples are numbered from 0 over tasks, and within each over train, dev, test.

  Raises:
    UserError: rows or settings cannot be used.
  """
  check_values(config, 'stream.')
  paths.check_fields(config, 'stream.')
  template = config.template or raw.template
  checks.check_template(template, 'stream.template')
  checks.check_targets(raw, targets)
  checks.check_names([task.name for task in raw.tasks])
  checks.check_rows(raw.tasks, targets, carve_test=config.test_fraction > 0)
  tasks, notes = raw.tasks, list(raw.notes)
  unread = splits.unread(tasks, config, need_dev)
  if config.test_fraction:
    tasks, carved = splits.with_test(tasks, config.test_fraction, config.test_seed)
    notes += carved
  counts = splits.count_overlap(tasks)
  policy = config.overlap or raw.overlap
  if policy == 'refuse' and any(counts.values()):
    splits.refuse_overlap(tasks)
  if policy == 'drop':
    tasks = splits.without_overlap(tasks)
  if need_dev:
    tasks = splits.carved(tasks, 'dev', config.dev_fraction)
  tasks = splits.limited(tasks, config, targets)
  if not targets:
    tasks = [without_targets(task) for task in tasks]
  made = assembled(raw.name, tasks, template, counts)
  measured = [dataclasses.replace(t, metric=raw.metrics.get(t.name, '')) for t in made.tasks]
  return dataclasses.replace(
    made, tasks=tuple(measured), notes=tuple(dict.fromkeys(notes)), unread=unread
  )


def without_targets(task: RawTask) -> RawTask:
  """Returns the task with the texts of its rows alone."""
  alone = lambda rows: Lazy(rows, lambda _, row: row._replace(answer='', label=None))
  return RawTask(task.name, *map(alone, (task.train, task.test, task.dev)))


def assembled(
  name: str, tasks: Sequence[RawTask], template: str, overlap: Mapping[str, int]
) -> Stream:
  """Returns the stream of tasks that were checked; arguments as in `Stream`."""
  labels = list(dict.fromkeys(label for task in tasks for label in classes_of(task.train)))
  class_of = {label: i for i, label in enumerate(labels)}
  number = 0
  made = []
  for index, task in enumerate(tasks):
    examples = {}
    for split in SPLITS:
      examples[split] = numbered(getattr(task, split), number, index, class_of)
      number += len(examples[split])
    classes = tuple(class_of[label] for label in classes_of(task.train))
    train, dev, test = (examples[split] for split in SPLITS)
    made.append(Task(index, task.name, train, dev, test, classes, index == len(tasks) - 1))
  answers = tuple(map(label_text, labels))
  return Stream(name, tuple(made), answers, template, overlap, labels=tuple(labels))


def without(stream: Stream, left_out: Callable[[Example], bool]) -> Stream:
  """Returns a stream without some examples; the others are numbered anew.

  Raises:
    UserError: a split of train or test, or a class in training, would lose all its examples.
  """
  number, tasks = 0, []
  for task in stream.tasks:
    kept: dict[str, tuple[Example, ...]] = {}
    for split in SPLITS:
      whole = getattr(task, split)
      some = [example for example in whole if not left_out(example)]
      kept[split] = tuple(
        dataclasses.replace(example, number=number + i) for i, example in enumerate(some)
      )
      number += len(some)
      lost = set(task.classes) - {e.label for e in some} if split == 'train' else set()
      if (whole and not some) or lost:
        what = f'class {shown(stream.labels[min(lost)])}' if some else f'split {split}'
        raise UserError(
          f'task {task.name!r}: every example of {what} holds a special token, so '
          'stream.special_tokens_in_text=drop leaves none: set it to text'
        )
    train, dev, test = (kept[split] for split in SPLITS)
    tasks.append(dataclasses.replace(task, train=train, dev=dev, test=test))
  return dataclasses.replace(stream, tasks=tuple(tasks))


def numbered(
  rows: Sequence[RawRow], first: int, task: int, class_of: Mapping[str, int]
) -> Sequence[Example]:
  """Returns the rows of one split as examples.

  Args:
    rows: rows of the split.
    first: number of the first example.
    task: index of the task.
    class_of: maps each label to the index of its class.
  """

  # A reader may name many rows alike, such as by their file alone.
  twice = set[str]()
  if not isinstance(rows, Lazy) and len({row.where for row in rows}) < len(rows):
    times = collections.Counter(row.where for row in rows)
    twice = {where for where, count in times.items() if count > 1}

  written = {label: label_text(label) for label in class_of}

  def example(place: int, row: RawRow) -> Example:
    label = -1 if row.label is None else class_of[row.label]
    text = row.text.strip()
    answer = row.answer.strip() if row.label is None else written[row.label]
    where = f'{row.where}[{place}]' if row.where in twice else row.where
    name, number = row.id or where, first + place
    return Example(number, text, answer, task, label, name, None, row.messages, where)

  # Texts without labels and answers may be a corpus that does not fit into memory.
  return (
    Lazy(rows, example) if isinstance(rows, Lazy) else tuple(map(example, range(len(rows)), rows))
  )
