"""The stream as data: examples in tasks, tasks in a stream, and the plan of a task."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, Self, TypeVar, overload

import numpy as np

from jcl.config import StreamConfig, Unread
from jcl.errors import count_of
from jcl.streams.by_task import ByTask
from jcl.streams.raw import SPLITS, TEMPLATE, RawStream

ROWS = 'jcl.streams.rows'  # builds streams, so it imports this module
Item = TypeVar('Item', covariant=True)
Source = TypeVar('Source')

Reference = tuple[int, int]
"""An example of the stream as plain data: (task, number)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
  """One pair of input and target text.

  Attributes:
    number: place of the example among all examples of the stream, over tasks and splits; never
      reused. The number of a pseudo sample is past those of the stream's examples.
    text: input text.
    answer: target text: the label of a class as the model writes it, or a free answer.
    task: index of the task.
    label: index of the class in `Stream.classes`; -1 for an example without a class.
    name: name in messages and reports: the user's own id, or the place of the row, `file:line`.
    tokens: ids of a pseudo sample from its input to end-of-sequence; None for a real example.
    messages: as in `RawRow`.
    place: where the row stands in its source, such as `file:line`; '' where it has none.
    prompt_size: tokens of the prompt, if `tokens` are prompt and what is predicted; else 0.
  """

  number: int
  text: str
  answer: str
  task: int
  label: int = -1
  name: str = ''
  tokens: tuple[int, ...] | None = None
  messages: str = ''
  place: str = dataclasses.field(default='', compare=False)
  prompt_size: int = 0

  @property
  def called(self) -> str:
    """The example as messages name it: its id with the place of its row, else its number."""
    other = f' ({self.place})' if self.place not in ('', self.name) else ''
    return f'{self.name}{other}' if self.name else str(self.number)

  @property
  def reference(self) -> Reference:
    """The example as plain data, as a method's memory keeps it."""
    return self.task, self.number


@dataclasses.dataclass(frozen=True, repr=False)
class Task:
  """A named set of examples.

  Attributes:
    index, name: place of the task in the stream, from 0; its name, unique in the stream.
    train, dev, test: examples of each split, numbered in sequence; `dev` may be empty.
    classes: indices into `Stream.classes`, in order of appearance; empty where answers are free.
    last, metric: whether it is the last task; the metric of its answers, see `RawStream`.
  """

  index: int
  name: str
  train: Sequence[Example]
  dev: Sequence[Example]
  test: Sequence[Example]
  classes: tuple[int, ...] = ()
  last: bool = False
  metric: str = ''

  @property
  def sizes(self) -> str:
    """Examples of train, dev and test: `16/4/4`."""
    return '/'.join(str(len(split)) for split in (self.train, self.dev, self.test))

  def __repr__(self) -> str:
    classes = f', {count_of(len(self.classes), "class")}' if self.classes else ''
    return f'Task({self.index}, {self.name!r}, train/dev/test: {self.sizes}{classes})'


@dataclasses.dataclass(frozen=True, repr=False)
class Stream(ByTask):
  """An ordered list of tasks; `from_rows` and `from_datasets` make one of a program's own data.

  Attributes:
    name: name of the stream, as results.json gives it.
    tasks: tasks in the order in which they are learned.
    classes: label of each class as the model writes it (`data loss`); empty where answers are free.
    template: text of a plain row up to and with the answer, with `{x}` and `{y}`.
    overlap: {task: number of its test examples whose text a train split has too}, of whole splits.
    held_out: blocks of raw text that no task has, on which continual pretraining is watched.
    labels: label of each class as the user wrote it (`data_loss`), in the order of `classes`.
    reader: function that reads the stream; None for a stream that was put together by hand.
    settings: settings that the stream was built with, None as for `reader`; of a stream of rows,
      `name` is `rows` and `path` is the digest of its content, `sha256:…`.
    notes, unread: lines on how the data was read and split; settings that nothing read.
  """

  name: str
  tasks: tuple[Task, ...]
  classes: tuple[str, ...] = ()
  template: str = TEMPLATE
  overlap: Mapping[str, int] = dataclasses.field(default_factory=dict)
  held_out: Sequence[Example] = ()
  labels: tuple[str, ...] = ()
  reader: Callable[..., RawStream] | None = dataclasses.field(default=None, compare=False)
  settings: StreamConfig | None = dataclasses.field(default=None, compare=False)
  notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)
  unread: tuple[Unread, ...] = dataclasses.field(default=(), compare=False)

  @classmethod
  def from_rows(
    cls,
    train: Mapping[str, Iterable[Mapping[str, object]]],
    *,
    test: Mapping[str, Iterable[Mapping[str, object]]] | None = None,
    dev: Mapping[str, Iterable[Mapping[str, object]]] | None = None,
    text: str = '',
    label: str = '',
    answer: str = '',
    id: str = '',
    name: str = 'rows',
    template: str = TEMPLATE,
    overlap: str = 'refuse',
    test_fraction: float = 0.2,
    seed: int = 0,
  ) -> 'Stream':
    """Makes a stream of rows, which are dicts, or rows of a DataFrame.

        rows = [{'text': 'I was charged twice', 'label': 'refund'}, …]
        stream = jcl.Stream.from_rows({'billing': rows, 'travel': …}, test={'billing': …})

    A row has `text` and either `label` (a class; the model writes `_` as a space) or `answer` (free
    text); other fields are not read. In place of them it may have `messages` (a conversation), or
    `prompt` and `completion`. Rows of raw text, for the scenario cpt, have `text` alone. All rows
    of a stream have the same of these fields. Text, a number or a boolean may be given in each.

    A task that `test` leaves out gets a test split carved from its training rows: of each class
    `test_fraction`, at least one row and never all, chosen by `seed`. No text of it stands in a
    train split. In the scenario iil, where every row is a fact of its own, give `test`: a fact that
    was never trained cannot be known. A task without dev rows gets a dev split carved from train
    when training needs one (`stream.dev_fraction`).

    Args:
      train: maps the name of each task to its training rows, in the order in which tasks are
        learned.
      test: maps tasks to test rows.
      dev: maps tasks to dev rows.
      text, label, answer: fields of other names, such as `text='utterance'`; `text` may be a
        template of fields in braces, `{title}: {body}`.
      id: field with an id of each row, unique in the stream; empty: rows are `task/split[index]`.
      name: name of the stream in reports.
      template: text of a plain row, with `{x}` for the text and, after it, `{y}` for the answer.
      overlap: what happens to training rows whose text a test split has too: `refuse` (an error),
        `drop` (they are left out) or `keep`.
      test_fraction: share of the training rows of each class that become test rows.
      seed: seed of that choice.

    Returns:
      The stream, checked like one that is read from files.

    Raises:
      UserError: a row or an argument cannot be used.
    """
    rows = importlib.import_module(ROWS)

    splits = {'train': train, 'test': test, 'dev': dev}
    carving = rows.Carving(test_fraction, seed)
    named = {'text': text, 'label': label, 'answer': answer, 'id': id}
    return rows.stream(rows.raw_rows(splits, named), name, template, overlap, carving)

  @classmethod
  def from_datasets(
    cls,
    train: Mapping[str, object],
    *,
    test: Mapping[str, object] | None = None,
    dev: Mapping[str, object] | None = None,
    text: str = 'text',
    label: str = 'label',
    answer: str = '',
    id: str = '',
    name: str = 'datasets',
    template: str = TEMPLATE,
    overlap: str = 'refuse',
    test_fraction: float = 0.2,
    seed: int = 0,
  ) -> 'Stream':
    """Makes a stream of data sets of the Hugging Face library `datasets`.

        news = datasets.load_dataset('fancyzhx/ag_news')
        stream = jcl.Stream.from_datasets({'news': news, 'mail': …}, label='label')

    A `ClassLabel` becomes the name of the class. What `from_rows` says about tasks without a test
    or dev split holds here. Raw text is read from the disk as it is needed.

    Args:
      train: maps the name of each task to a `Dataset`, its training rows, or to a `DatasetDict`,
        whose splits `train`, `test` and `validation` (or `dev`) are read and no others.
      test: maps tasks to a `Dataset` of test rows.
      dev: maps tasks to a `Dataset` of dev rows.
      text: column of the input text, or a template of columns in braces, `{title}: {body}`.
      label: column of the classes; empty, without `answer`: raw text, for the scenario cpt.
      answer: column of free answers, in place of `label`.
      id: column of the ids of rows, unique in the stream; empty: rows are called
        `task/split[index]`.
      name, template, overlap, test_fraction, seed: as in `from_rows`.

    Returns:
      The stream, checked like one that is read from files.

    Raises:
      UserError: a data set or an argument cannot be used.
    """
    rows = importlib.import_module(ROWS)
    splits = rows.dataset_splits({'train': train, 'test': test, 'dev': dev})
    columns = rows.chosen_columns(text, label, answer, id)
    carving = rows.Carving(test_fraction, seed)
    return rows.stream(rows.raw_datasets(splits, columns), name, template, overlap, carving)

  def __repr__(self) -> str:
    sizes = (f'{t.name} {t.sizes}' for t in self.tasks)
    what = count_of(len(self.classes), 'class') if self.classes else 'no classes'
    return f'Stream({self.name!r}, {what}, train/dev/test: {", ".join(sizes)})'

  @property
  def examples(self) -> list[Example]:
    """Every example of every task and split."""
    return [e for t in self.tasks for split in (t.train, t.dev, t.test) for e in split]

  def example(self, reference: Reference) -> Example:
    """Returns the example that a reference names; a KeyError where the stream has none."""
    return self._found(reference)[1]

  def _found(self, reference: Reference) -> tuple[str, Example]:
    """Returns the split of the example that a reference names, and the example."""
    task, number = reference
    for split in SPLITS:
      examples = getattr(self.tasks[task], split)
      place = number - examples[0].number if examples else -1
      if 0 <= place < len(examples):
        return split, examples[place]
    raise KeyError(f'task {task} of the stream has no example {number}')

  def called(self, reference: Reference) -> str:
    """Returns task, split, name and number of an example, as messages give them."""
    with contextlib.suppress(KeyError):
      if (task := reference[0]) >= 0:
        split, example = self._found(reference)
        return f'{self.tasks[task].name}, {split}, {example.called} #{reference[1]}'
    return f'pseudo sample #{reference[1]}'

  @property
  def written_labels(self) -> tuple[str, ...]:
    """Label of each class as the user wrote it; the text of the class where that is not known."""
    return self.labels or self.classes

  def shown(self, answer: str, label: int) -> str:
    """Returns the label of a class as the user wrote it; `answer` where `label` is -1: no class."""
    return self.written_labels[label] if label >= 0 else answer

  @functools.cached_property
  def digest(self) -> str:
    """SHA-256, in hex, of template, tasks, splits and examples: what the stream has to teach.

    Two streams with the same digest train the same models under the same settings.
    """
    total = hashlib.sha256()
    for data in map(str.encode, self._content()):
      total.update(len(data).to_bytes(8, 'little'))
      total.update(data)
    return total.hexdigest()

  def _content(self) -> Iterator[str]:
    """Yields every text that the digest covers."""
    yield self.template
    for task in self.tasks:
      yield task.name
      for split in SPLITS:
        examples = getattr(task, split)
        yield f'{split} {len(examples)}'
        for example in examples:
          yield from (example.text, example.answer)
          if example.messages:
            yield example.messages
          yield self.labels[example.label] if example.label >= 0 and self.labels else ''


class Lazy(Sequence[Item], Generic[Item]):
  """fn(place, item) of every item of a sequence, each made when it is asked for.

  A long sequence is best read in order or in slices, as its items are.
  """

  def __init__(self, items: Sequence[Source], fn: Callable[[int, Source], Item]):
    self._items, self._fn = items, fn

  def __len__(self) -> int:
    return len(self._items)

  def __iter__(self) -> Iterator[Item]:
    return (self._fn(place, item) for place, item in enumerate(self._items))

  @overload
  def __getitem__(self, place: int) -> Item: ...

  @overload
  def __getitem__(self, place: slice) -> list[Item]: ...

  def __getitem__(self, place: int | slice) -> Item | list[Item]:
    if isinstance(place, slice):
      places = range(len(self))[place]
      return [self._fn(i, x) for i, x in zip(places, self._items[place], strict=True)]
    return self._fn(range(len(self))[place], self._items[place])


class OnlineBuffer(Protocol):
  """A buffer that takes in the examples of a task while the task trains.

  Attributes:
    every: number of steps after which their new examples enter the buffer; 0: the examples of the
      first epoch enter at its end.
    examples: examples that may be drawn from the buffer now.
  """

  @property
  def every(self) -> int: ...

  @property
  def examples(self) -> Sequence[Reference]: ...

  def take(self, examples: Sequence[Example], seed: int) -> Self:
    """Returns the buffer after offering `examples`; draws depend on the run's `seed`."""


class TaskPlan(NamedTuple):
  """Examples that train a task, and how they are mixed, as data.

  Attributes:
    new: examples (or references to them) whose rows have `replay` false.
    old: examples of the past, real or generated; their rows have `replay` true.
    level: how old examples are mixed in: `dataset` (into each epoch), `batch` (half of each batch),
      `task` (a batch of one earlier task after each of new ones) or `even` (blocks of raw text).
    ratio: old examples for each new one; None: every old example once an epoch.
    unit: what `ratio` counts: `rows` (examples), `tokens` or `targets`.
    corpus_ratio: tokens (or targets) of the run's corpus for each new one; its rows are old rows.
    online_buffer: buffer that new examples enter as they train, whose examples are then `old`.
    candidates: examples drawn for each old example wanted at level `batch`; `objective` chooses.
    weights: {term: weight}; a term that is not named counts 1, an unknown name is refused.
    groups: {term: group} of every data term, for a method with `combine`; else empty.
    trainable: ((pattern, True | False | mask), …), first match wins; empty: `train.trainable`.
    tables: {field: table of `jcl.batching.batch.table`}, gathered into `batch.fields`.
    takes_steps: whether the optimiser takes steps on the examples; False: the hooks alone learn.
    largest: in place of `new`, with the largest rows that an epoch may have; empty: `new`.
  """

  new: Sequence[Example | Reference]
  old: Sequence[Example | Reference] = ()
  level: str = 'dataset'
  ratio: float | None = None
  unit: str = 'rows'
  corpus_ratio: float = 0.0
  online_buffer: OnlineBuffer | None = None
  candidates: int = 1
  weights: Mapping[str, float] = {}
  groups: Mapping[str, str] = {}
  trainable: Sequence[tuple[str, bool | np.ndarray]] = ()
  tables: Mapping[str, Mapping[str, np.ndarray]] = {}
  takes_steps: bool = True
  largest: Sequence[Example] = ()
