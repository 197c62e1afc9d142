"""What is learned, as data: examples in tasks, tasks in a stream, and the plan of a task."""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Reference = tuple[int, int]
"""An example of the stream as plain data: (task, number)."""


@dataclasses.dataclass(frozen=True)
class Example:
  """One pair of input and target text.

  Attributes:
    number: its place in the stream's table of examples over all tasks and splits (never reused); a
      pseudo sample's number is past the table's end.
    text: the input.
    answer: the target text (a class's label name as words, or a free answer).
    task: index of its task.
    label: index of its class in `Stream.classes`; -1 where it has none.
    name: how messages and reports call it: the user's own id, or `file:line`.
    tokens: the token ids a pseudo sample was drawn as, without beginning-of-sequence and generation
      token, with the answer token and end-of-sequence; None for a real example.
  """

  number: int
  text: str
  answer: str
  task: int
  label: int = -1
  name: str = ''
  tokens: tuple[int, ...] | None = None

  @property
  def reference(self) -> Reference:
    """The example as plain data, as a method's memory keeps it."""
    return self.task, self.number


@dataclasses.dataclass(frozen=True)
class Task:
  """A named set of examples.

  Attributes:
    index: its place in the stream, from 0.
    name: unique in the stream.
    train, dev, test: the examples, numbered in sequence; `train` and `test` are never empty.
    classes: indices into `Stream.classes`, in order; empty where answers are free.
    last: no task follows.
  """

  index: int
  name: str
  train: Sequence[Example]
  dev: Sequence[Example]
  test: Sequence[Example]
  classes: tuple[int, ...] = ()
  last: bool = False


@dataclasses.dataclass(frozen=True)
class Stream:
  """An ordered list of tasks.

  Attributes:
    name: of the stream, as `results.json` calls it.
    tasks: in the order in which they are learned.
    classes: label names as answers say them, in class order; empty where answers are free.
    template: the plain row up to and with the answer, with `{x}` and `{y}`.
    overlap: {task name: number of its test examples whose text also stands in a train split of the
      stream}, counted on whole splits before anything was left out (tasks too).
    held_out: blocks of text that no task has, which continual pretraining is watched on.
  """

  name: str
  tasks: tuple[Task, ...]
  classes: tuple[str, ...] = ()
  template: str = 'Input sentence: {x}\n The label: {y}'
  overlap: Mapping[str, int] = dataclasses.field(default_factory=dict)
  held_out: Sequence[Example] = ()

  def __len__(self) -> int:
    return len(self.tasks)

  @property
  def examples(self) -> list[Example]:
    """Every example of every task and split."""
    return [e for t in self.tasks for split in (t.train, t.dev, t.test) for e in split]

  def example(self, reference: Reference) -> Example:
    """The example that a reference names; numbers of a split are in sequence."""
    task, number = reference
    for split in (self.tasks[task].train, self.tasks[task].dev, self.tasks[task].test):
      place = number - split[0].number if split else -1
      if 0 <= place < len(split):
        return split[place]
    raise KeyError(f'task {task} of the stream has no example {number}')

  def called(self, reference: Reference) -> str:
    """How messages call the example that a reference names."""
    task, number = reference
    try:
      name = self.example(reference).name if task >= 0 else 'pseudo sample'
    except KeyError:
      name = 'pseudo sample'
    return f'{name} #{number}'


class Lazy(Sequence):
  """fn(place, item) of every item of a sequence, each made when it is asked for.

  What is long is asked for in order or in slices, as the items are.
  """

  def __init__(self, items: Sequence, fn: Callable[[int, Any], Any]):
    self._items, self._fn = items, fn

  def __len__(self) -> int:
    return len(self._items)

  def __iter__(self) -> Iterator[Any]:
    return (self._fn(place, item) for place, item in enumerate(self._items))

  def __getitem__(self, place: Any) -> Any:
    if isinstance(place, slice):
      places = range(len(self))[place]
      return [self._fn(i, x) for i, x in zip(places, self._items[place], strict=True)]
    return self._fn(range(len(self))[place], self._items[place])


class References(Sequence):
  """References to whole splits, kept as [task, first number, count] of each."""

  def __init__(self, spans: Sequence[Sequence[int]]):
    self._spans = spans
    self._ends = list(itertools.accumulate(count for *_, count in spans))

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, place: int) -> Reference:
    place = range(len(self))[place]
    at = bisect.bisect_right(self._ends, place)
    task, first, count = self._spans[at]
    return task, first + place - (self._ends[at] - count)


class TaskPlan(NamedTuple):
  """What trains a task, as data.

  Attributes:
    new: examples (or their references) whose rows have `replay` false.
    old: examples from the past, real or generated; rows with `replay` true.
    level: how old ones are mixed in: `dataset` into each epoch, `batch` half of every batch, `task`
      a batch of one task at a time, `even` as blocks of raw text, see `jcl.batching.packed_epochs`.
    ratio: old for each new one; None: every old one once an epoch.
    unit: what `ratio` counts: `rows` (examples) or `tokens`.
    online_buffer: a `memory.buffer.OnlineBuffer` that new examples enter as they are trained on,
      each once; what it holds takes the place of `old`. None: `old` stands still.
    candidates: drawn for every old example wanted at level `batch`; `objective` chooses.
    weights: {term: weight}; a term that is not named counts 1, an unknown name is refused.
    trainable: ((pattern, True | False | mask over leading axes), …), first match wins; empty:
      `train.trainable`.
    tables: {field: Table} gathered into `batch.fields`.
  """

  new: Sequence[Example | Reference]
  old: Sequence[Example | Reference] = ()
  level: str = 'dataset'
  ratio: float | None = None
  unit: str = 'rows'
  online_buffer: Any = None
  candidates: int = 1
  weights: Mapping[str, float] = {}
  trainable: tuple = ()
  tables: Mapping[str, Any] = {}
