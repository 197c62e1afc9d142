"""Division of rows into tasks and splits: classes cut into tasks, overlap, carving, limits."""

import collections
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from jcl.config import StreamConfig, Unread
from jcl.errors import UserError, count_of
from jcl.seeds import generator
from jcl.streams.checks import unknown_label
from jcl.streams.raw import OWN, SPLITS, RawRow, RawTask, classes_of, normalized_text, permutation
from jcl.streams.stream import Lazy


def class_tasks(
  splits: Mapping[str, Sequence[RawRow]], classes_per_task: int, order_seed: int
) -> list[RawTask]:
  """Cuts one data set with classes into tasks of `classes_per_task` classes each.

  Classes stand in order of first appearance in train, or in the order of `order_seed`; the last
  task may have fewer classes than the others.

  Args:
    splits: rows of `train`, `test` and, if there is one, `dev`.
    classes_per_task: classes of a task.
    order_seed: seed of the order of classes; -1 keeps their order of appearance.

  Raises:
    UserError: a row of dev or test has a class that no training row has.
  """
  if classes_per_task < 1:
    raise UserError(f'stream.classes_per_task is {classes_per_task}: give 1 or more')
  classes = classes_of(splits['train'])
  classes = [classes[i] for i in permutation(len(classes), order_seed)]
  task_of = {label: i // classes_per_task for i, label in enumerate(classes)}
  parts: dict[str, dict[int, list[RawRow]]] = {s: collections.defaultdict(list) for s in SPLITS}
  for split in SPLITS:
    for row in splits.get(split, ()):
      if row.label is None or row.label not in task_of:
        raise unknown_label(row, classes)
      parts[split][task_of[row.label]].append(row)
  tasks = []
  for index, first in enumerate(range(0, len(classes), classes_per_task)):
    last = min(first + classes_per_task, len(classes))
    rows = {split: parts[split][index] for split in SPLITS}
    tasks.append(RawTask(f'classes-{first + 1}-{last}', **rows))
  return tasks


def count_overlap(tasks: Sequence[RawTask]) -> dict[str, int]:
  """Maps each task to the number of its test examples whose text stands in any train split."""
  tested = {task.name: [text_digest(row) for row in task.test] for task in tasks}
  every = {digest for digests in tested.values() for digest in digests}
  trained = {d for task in tasks for row in task.train if (d := text_digest(row)) in every}
  return {name: sum(d in trained for d in digests) for name, digests in tested.items()}


def text_digest(row: RawRow) -> bytes:
  """Returns a digest that stands for a row's text: texts of a corpus may not fit into memory."""
  text = normalized_text(row.text).encode('utf-8', 'surrogatepass')
  return hashlib.blake2b(text, digest_size=16).digest()


def refuse_overlap(tasks: Sequence[RawTask]) -> None:
  """Raises for the first training row whose text stands in a test split."""
  tested = {
    normalized_text(row.text): row.where for task in reversed(tasks) for row in reversed(task.test)
  }
  found = [row for task in tasks for row in task.train if normalized_text(row.text) in tested]
  more = f' (and {count_of(len(found) - 1, "more training row")})' if len(found) > 1 else ''
  raise UserError(
    f'{found[0].where}: this training text stands also in the test split at '
    f'{tested[normalized_text(found[0].text)]}{more}: take it out of one, or set stream.overlap '
    '(overlap= in Python) to drop or keep'
  )


def without_overlap(tasks: Sequence[RawTask]) -> list[RawTask]:
  """Returns the tasks without the training rows whose text stands in a test split.

  Raises:
    UserError: a class would lose all its training rows.
  """
  tested = {normalized_text(row.text) for task in tasks for row in task.test}
  fresh = lambda rows: [row for row in rows if normalized_text(row.text) not in tested]
  kept = [task._replace(train=fresh(task.train)) for task in tasks]
  for before, after in zip(tasks, kept, strict=True):
    lost = set(classes_of(before.train)) - set(classes_of(after.train))
    if not after.train or lost:
      what = f'class {min(lost)!r}' if lost else 'it'
      raise UserError(
        f'task {before.name!r}: every training text of {what} stands in a test split: '
        'give other training texts, or set stream.overlap (overlap= in Python) to keep'
      )
  return kept


def carved(
  tasks: Sequence[RawTask], split: str, fraction: float, seed: int | None = None
) -> list[RawTask]:
  """Returns the tasks with a split taken out of train, for those that have none.

  Each class gives `fraction` of its rows, one at least and never its last. A text that train splits
  hold twice is not taken, so that no text of the new split stands in any train split.

  Args:
    tasks: tasks of one stream.
    split: `dev` or `test`.
    fraction: share of the rows of each class, between 0 and 1.
    seed: seed of the choice; None: rows are evenly spaced in their order.

  Raises:
    UserError: a task has too few training rows.
  """
  digests = [[(row.label, text_digest(row)) for row in task.train] for task in tasks]
  times = collections.Counter(digest for of_task in digests for _, digest in of_task)
  result = []
  for task, of_task in zip(tasks, digests, strict=True):
    if getattr(task, split):
      result.append(task)
      continue
    rows: dict[str | None, list[int]] = {}
    once: dict[str | None, list[int]] = {}
    for i, (label, digest) in enumerate(of_task):
      rows.setdefault(label, []).append(i)
      once.setdefault(label, []).extend([i] if times[digest] == 1 else [])
    chosen: set[int] = set()
    for number, label in enumerate(rows):
      count = min(max(1, round(fraction * len(rows[label]))), len(rows[label]) - 1)
      name = f'{split} of {task.name}'
      random = None if seed is None else generator(seed, name, number)
      chosen.update(picked(once[label], count, random))
    if not chosen:
      raise UserError(
        f'task {task.name!r} has too few training examples to carve a {split} split: '
        f'give it a {split} split, or a class with two different training texts'
      )
    taken = at_places(task.train, sorted(chosen))
    task = task._replace(train=at_places(task.train, sorted(set(range(len(of_task))) - chosen)))
    result.append(task._replace(dev=taken) if split == 'dev' else task._replace(test=taken))
  return result


def unread(tasks: Sequence[RawTask], config: StreamConfig, need_dev: bool) -> tuple[Unread, ...]:
  """Returns shares of splits that no task lacks, and the seed of an order of one task.

  Args:
    tasks: those of the data, before `stream.max_tasks` leaves out some.
    config: settings of the stream.
    need_dev: whether every task must have a dev split.
  """
  shares = [('test', config.test_fraction, StreamConfig.test_fraction)]
  if need_dev:
    shares.append(('dev', config.dev_fraction, StreamConfig.dev_fraction))
  found = [
    Unread(f'stream.{split}_fraction', share, f'every task has a {split} split')
    for split, share, default in shares
    if share != default and all(getattr(task, split) for task in tasks)
  ]
  if config.order_seed >= 0 and config.name in OWN and len(tasks) == 1:
    found.append(Unread('stream.order_seed', config.order_seed, 'the data has one task'))
  return tuple(found)


def with_test(
  tasks: Sequence[RawTask], fraction: float, seed: int
) -> tuple[list[RawTask], list[str]]:
  """Returns the tasks with a test split carved for those without, and the line that says so.

  Args:
    tasks, fraction, seed: as in `carved`.

  Raises:
    UserError: a task has too few training rows.
  """
  without = [task.name for task in tasks if not task.test]
  if not without:
    return list(tasks), []
  names = ', '.join(without[:3]) + (', …' if len(without) > 3 else '')
  made = carved(tasks, 'test', fraction, seed)
  count = sum(len(task.test) for task in made if task.name in set(without))
  line = (
    f'no test split in {names}: {count_of(count, "row")} of train for test, of each class a share '
    f'of {fraction:g}, chosen by seed {seed}'
  )
  return made, [line]


def picked(places: Sequence[int], count: int, random: np.random.Generator | None) -> Sequence[int]:
  """Returns `count` of some places, or all if there are fewer: drawn, or evenly spaced for None."""
  count = min(count, len(places))
  if random is None:
    return [places[(2 * k + 1) * len(places) // (2 * count)] for k in range(count)]
  return [places[i] for i in random.permutation(len(places))[:count]]


def at_places(rows: Sequence[RawRow], places: Sequence[int]) -> Sequence[RawRow]:
  """Returns the rows at some places; lazily if the rows are lazy."""
  if isinstance(rows, Lazy):
    return Lazy(places, lambda _, place: rows[place])
  return [rows[place] for place in places]


def limited(tasks: Sequence[RawTask], config: StreamConfig, targets: bool = True) -> list[RawTask]:
  """Returns the first tasks, and of each as many examples as the settings allow.

  Dev splits are cut to `max_test_per_task`, as test splits are.

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
  """Returns `count` rows, taken from each class in turn; they stay in the order of `rows`.

  Args:
    rows: rows of one split.
    classes: order of the turns; empty: the first rows are taken.
    count: number of rows; 0: all.
  """
  if not 0 < count < len(rows):
    return rows
  if not classes:
    return rows[:count]
  place = {label: i for i, label in enumerate(classes)}
  seen: collections.Counter[str | None] = collections.Counter()
  ranks = []
  for index, row in enumerate(rows):
    turn = 0 if row.label is None else place.get(row.label, 0)
    ranks.append((seen[row.label], turn, index))
    seen[row.label] += 1
  return [rows[index] for index in sorted(index for *_, index in sorted(ranks)[:count])]
