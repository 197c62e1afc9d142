"""What every contender is asked to do, and what it shows before it is timed."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from jcl.batching.batch import Row
from jcl.errors import UserError
from jcl.streams.stream import Example, TaskPlan
from jcl.training.experiment import Experiment

MOVED = 1.0 + 2.0**-5  # the student's weights are the teacher's times this while losses are shown
MOMENTS = (lambda p: 0.1 * p, lambda p: p * p)  # what a snapshot holds as AdamW's moments of p
MARGIN = 16  # times the rounding that is expected of sums in another order


class Lesson(NamedTuple):
  """Steps of training: every contender trains on the same rows in the same order.

  Attributes:
    parts: of the run.
    plan: of the task, without the teacher's states.
    task: its index.
    batch_size: examples of a step.
    steps: the rows of each step, as a run composes them.
    longest: tokens of the longest row of the whole stream, to which the plain loop pads.
    temperature: of the distillation.
  """

  parts: Experiment
  plan: TaskPlan
  task: int
  batch_size: int
  steps: Sequence[Sequence[Row]]
  longest: int
  temperature: float = 1.0

  @property
  def shown(self) -> int:
    """Number of the step that contenders show: the first that has old and new rows, else 0."""
    mixed = (len({row.replay for row in rows}) > 1 for rows in self.steps)
    return next((i for i, both in enumerate(mixed) if both), 0)


class Importance(NamedTuple):
  """Examples whose squared gradients are averaged.

  Attributes:
    examples: as jcl knows them.
    rows: of each example.
    longest: tokens of the longest row of the whole stream, to which the plain loop pads.
  """

  examples: Sequence[Example]
  rows: Sequence[Sequence[Row]]
  longest: int


class Prompts(NamedTuple):
  """Prompts to be continued.

  Attributes:
    ids: of each prompt.
    longest: new tokens at most, end-of-sequence included.
    k: candidates of a token; 1 is greedy.
    rows: prompts that are continued together; None: as the contender does by default.
  """

  ids: Sequence[Sequence[int]]
  longest: int
  k: int
  rows: int | None = None


class Shown(NamedTuple):
  """The objective of one step and the norm of its whole gradient, as a contender has them."""

  loss: float
  gradient_norm: float


class Learner(Protocol):
  """A contender that trains on a lesson."""

  def show(self) -> Shown:
    """Returns objective and gradient norm of step `Lesson.shown`, the student's weights `MOVED`."""

  def warm(self) -> None:
    """Does whatever is done once: compiles for the shapes of all steps."""

  def teach(self) -> float:
    """Takes the teacher's states of all old rows, where they are taken before the steps -> 1."""

  def train(self, steps: int) -> float:
    """Takes the next steps, waits for their end and returns their number."""

  def close(self) -> None:
    """Frees what the learner holds."""


@dataclasses.dataclass(frozen=True)
class Contender:
  """A program that does the work of the benchmark.

  Attributes:
    name: as in the table.
    learner: lesson -> what trains on it.
    write: prompts -> new tokens of all rows, each up to its end-of-sequence, [R] lists.
    fisher: examples -> mean of their squared gradients, summed over all parameters.
    store: folder -> 1; writes model and optimiser state into it.
    restore: folder -> 1; reads them back to the device.
    caches_teacher: whether `teach` does anything.
    fixed_rows: prompts that it always continues together; None: as it is asked to.
    notes: lines for the user about choices that were made by measuring.
    waits: seconds of each `store` before a next step could begin; empty: it is the whole.
  """

  name: str
  learner: Callable[[Lesson], Learner]
  write: Callable[[Prompts], list[list[int]]]
  fisher: Callable[[Importance], float]
  store: Callable[[pathlib.Path], float]
  restore: Callable[[pathlib.Path], float]
  caches_teacher: bool
  fixed_rows: int | None = None
  notes: list[str] = dataclasses.field(default_factory=list)
  waits: list[float] = dataclasses.field(default_factory=list)


def tolerance(width: int, layers: int, dtype: str, platform: str = 'cpu') -> float:
  """Returns the relative difference that two right programs may show.

  Sums of n numbers in another order differ by about eps·√n of their size; a state passes through
  two sums of `width` numbers in each layer, there and back, so n is 4 · layers · width. In bfloat16
  the programs round at other places too, after each operation, of which a layer has about 16.
  Accelerators multiply float32 with fewer bits (TF32: eps = 2⁻¹¹).

  Args:
    width: D.
    layers: L.
    dtype: of the computation.
    platform: of the device, as jax calls it.
  """
  if dtype == 'bfloat16':
    return MARGIN * 2.0**-9 * float(np.sqrt(16 * layers))
  eps = 2.0**-24 if platform == 'cpu' else 2.0**-11
  return MARGIN * eps * float(np.sqrt(4 * layers * width))


def check_same(shown: Mapping[str, Shown], most: float) -> None:
  """Stops the benchmark unless all contenders show the same loss and gradient norm.

  Args:
    shown: {contender: what it shows}; the first is what the others are compared with.
    most: relative difference at most.

  Raises:
    UserError: one shows something else; names it.
  """
  for field in Shown._fields:
    values = {name: float(getattr(one, field)) for name, one in shown.items()}
    check_near(field.replace('_', ' '), values, most)


def check_near(what: str, shown: Mapping[str, float], most: float) -> None:
  """Stops the benchmark unless all contenders show the same number.

  Args:
    what: the number is.
    shown: {contender: number}; the first is what the others are compared with.
    most: relative difference at most.

  Raises:
    UserError: one shows another number; names it.
  """
  (first, ours), *others = shown.items()
  for name, theirs in others:
    if not abs(theirs - ours) <= most * abs(ours):
      raise UserError(
        f'{name} shows the {what} {theirs:.7g} and {first} {ours:.7g} on the same rows; they must '
        f'differ by at most {most * abs(ours):.1g}, or they do not do the same work: nothing was '
        'timed'
      )
