"""The batches of a task: composed, laid out and placed before the step that takes them."""

import copy
import itertools
import queue
import threading
from collections.abc import Generator, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from jcl.batching import batch as batches
from jcl.batching import batch_shapes, packed_epochs
from jcl.batching import epochs as rows
from jcl.batching.batch import Batch
from jcl.batching.outlines import Outline
from jcl.batching.packed_text import PackedText
from jcl.batching.packing import mode
from jcl.config import TrainConfig
from jcl.errors import UserError
from jcl.step import sharding
from jcl.step.numerics import computing
from jcl.streams.stream import Example, Lazy, Reference, TaskPlan

if TYPE_CHECKING:
  from jcl.training.hook_tools import HookTools

AHEAD = 2  # batches that wait on the devices
LOOKED_AT = 8  # epochs whose steps decide which shapes a task has
ENOUGH = 2**16  # steps after which no other epoch is looked at


class LoadedBatch(NamedTuple):
  """The batch of one step.

  Attributes:
    number: number of the step in its task, from 0.
    batch: the batch, on the devices.
    tokens: real tokens in the batch.
    old_tokens: real tokens that come from the past.
    new_rows: rows of the task's own examples.
    old_rows: rows that come from the past.
    rows: (task, number) of each example in the batch.
    epoch: epoch of the step, from 0.
    ends_epoch: whether the step is the last of its epoch.
    last: whether the step is the last of its task.
  """

  number: int
  batch: Batch
  tokens: int
  old_tokens: int
  new_rows: int
  old_rows: int
  rows: tuple[Reference, ...]
  epoch: int
  ends_epoch: bool
  last: bool

  @property
  def shape(self) -> Hashable:
    """Shape of each array of the batch; batches of equal shapes are computed by one program."""
    return tuple(np.shape(x) for x in jax.tree.leaves(self.batch))


class BatchLoader:
  """The batches of one task, a function of (seed, plan, task, step) only.

  Args:
    plan: what trains the task.
    task: index of the task.
    tools: of the run.
    train: settings: epochs, steps, batch size.

  Attributes:
    plan: the plan, its references replaced by examples.
    total: steps of the task.
    per_epoch: steps of the first epoch; epochs differ in length when replay is counted in tokens.
  """

  def __init__(self, plan: TaskPlan, task: int, tools: 'HookTools', train: TrainConfig):
    self._task, self._tools, self._train = task, tools, train
    new, old = self._resolved(plan.new), self._resolved(plan.old)
    # Blocks of raw text are read at their step: there may be too many to hold.
    text = tools.text
    self._lazy = isinstance(text, PackedText) and (plan.level == 'even' or not plan.old)
    if self._lazy and isinstance(text, PackedText):
      sizes = lambda blocks: np.array([text.size(e) for e in blocks], np.int64)
      self._general = text.general
      self._sizes = sizes(new), sizes(old), sizes(self._general)
    else:
      new = list(new)
    self.plan = plan._replace(new=new, old=old)
    self._blocks = tools.row_blocks * train.microbatches
    if self._lazy:
      self.per_epoch = len(self._blocks_of(0))
      self.total = train.steps or self._steps(train.epochs)
      self._shapes = [self._whole_blocks()]
      return
    # Of rows that change from epoch to epoch the largest that there can be decide on shapes.
    largest = self.of_epoch(plan._replace(new=plan.largest)) if plan.largest else self
    steps = largest._outlines(0)
    self.per_epoch = len(steps)
    self.total = train.steps or self._steps(train.epochs)
    for epoch in range(1, min(-(-self.total // self.per_epoch), LOOKED_AT)):
      if len(steps) >= ENOUGH:
        break
      steps += largest._outlines(epoch)
    width = tools.backbone.width
    packing = mode(train.packing, tools.backbone.packs, width)
    rest = self._blocks, self._rows(), packing, width
    self._shapes = batch_shapes.chosen(steps, *rest)

  def of_epoch(self, plan: TaskPlan) -> 'BatchLoader':
    """Returns a loader in these shapes for a plan of as many examples that trains one epoch."""
    loader = copy.copy(self)
    loader.plan = plan._replace(new=list(self._resolved(plan.new)), old=self._resolved(plan.old))
    return loader

  def _resolved(self, examples: Sequence[Example | Reference]) -> Sequence[Example]:
    """Returns examples, each made when it is asked for."""
    return Lazy(examples, lambda _, one: self._tools.example(one))

  @property
  def largest(self) -> batches.Shape:
    """The largest shape to which a step is padded."""
    return self._shapes[-1]

  def padding(self) -> tuple[float, float]:
    """Returns the share of padding in the steps of the first epoch, as they are and unpacked."""
    if self._lazy:  # too many blocks to read
      first = self._blocks_of(0)
      share = 1 - sum(first.tokens) / (len(first) * self.largest.places)
      return share, share
    steps = self._outlines(0)
    plain = self._shapes
    if plain[0].lines:
      plain = batch_shapes.rungs(steps, self._blocks, self._rows())
    of = lambda shapes: batch_shapes.padding(steps, self._blocks, shapes)
    return of(self._shapes), of(plain)

  def _rows_of(self, example: Example | Reference, replay: bool) -> Sequence[batches.Row]:
    return self._tools.text.rows(self._tools.example(example), replay)

  def _outlines_of(self, example: Example | Reference, replay: bool) -> Sequence[Outline]:
    return self._tools.text.outlines(self._tools.example(example))

  def _steps_from(self, epoch: int, first: int) -> Iterator[tuple[rows.Step, bool]]:
    """Yields (step, whether it is the last) of an epoch from step `first` on, composed as asked."""
    if self._lazy:
      of_epoch = self._blocks_of(epoch)
      for i in range(first, len(of_epoch)):
        yield of_epoch[i], i == len(of_epoch) - 1
      return
    rest = self._tools.seed, self._task, epoch, self._train.batch_size
    steps = rows.steps(self.plan, self._rows_of, *rest, self._tools.corpus)
    before = None
    for step in itertools.islice(steps, first, None):
      if before is not None:
        yield before, False
      before = step
    if before is not None:
      yield before, True

  def _blocks_of(self, epoch: int) -> packed_epochs.Epoch:
    """Returns the steps of an epoch of raw text."""
    rest = self._tools.seed, self._task, epoch, self._train.batch_size
    return packed_epochs.Epoch(
      self.plan, self._sizes[:2], self._rows_of, *rest, self._general, self._sizes[2]
    )

  def _composed(self, epoch: int) -> Iterator[list[rows.Drawn]]:
    """Yields the examples of each step of an epoch."""
    rest = self._tools.seed, self._task, epoch, self._train.batch_size
    return rows.composed(self.plan, self._outlines_of, *rest, self._tools.corpus)

  def _outlines(self, epoch: int) -> list[list[Outline]]:
    """Returns the lengths of the rows of each step of an epoch."""
    each = self._outlines_of
    return [[row for item in items for row in each(*item)] for items in self._composed(epoch)]

  def _steps(self, epochs: int) -> int:
    """Number of steps in `epochs` epochs, which differ in length if replay is counted in tokens."""
    if self._alike:
      return epochs * self.per_epoch
    return sum(map(self._length, range(epochs)))

  @property
  def _alike(self) -> bool:
    """Whether all epochs have as many steps as the first."""
    plan = self.plan
    if self._lazy:
      return not (plan.old or plan.corpus_ratio)
    return _is_alike(plan)

  def _length(self, epoch: int) -> int:
    """Returns the number of steps of an epoch."""
    if not epoch or self._alike:
      return self.per_epoch
    return len(self._blocks_of(epoch)) if self._lazy else sum(1 for _ in self._composed(epoch))

  def _whole_blocks(self) -> batches.Shape:
    """The shape of a step whose blocks of raw text are all full; every step of a run has it."""
    a_block = -(-self._train.batch_size // self._blocks)
    longest = batches.bucket(self._tools.text.max_length, batches.LENGTHS)
    targets = batches.bucket(a_block * self._tools.text.max_length, batches.TARGETS)
    return batches.Shape(a_block * self._blocks, longest, targets)

  def _rows(self) -> int:
    """Number of rows for which a batch has room, the same in every step of a run."""
    width = len(self._tools.text.rows(self._tools.example(self.plan.new[0])))
    size = self._train.batch_size
    if self.plan.level == 'batch' and (self.plan.old or self.plan.online_buffer is not None):
      size = max(size // 2, 1) * (1 + self.plan.candidates)
    return width * max(size, self._train.batch_size)

  def _laid_out(self, skip: int, end: int) -> Iterator[LoadedBatch]:
    """Yields the batches of the steps from `skip` to before `end`."""
    number, epoch = 0, 0  # of the first step of the epoch
    while number < end:
      if number < skip and number + self._length(epoch) <= skip:
        number, epoch = number + self._length(epoch), epoch + 1
        continue
      done = max(skip - number, 0)
      for i, (step, ends_epoch) in enumerate(self._steps_from(epoch, done), number + done):
        if i == end:
          return
        yield self._loaded(step, i, epoch, ends_epoch)
      number, epoch = i + 1, epoch + 1

  def _loaded(self, step: rows.Step, number: int, epoch: int, ends_epoch: bool) -> LoadedBatch:
    """Returns the batch of one step, on the devices; arguments as in `LoadedBatch`."""
    shape = batch_shapes.fit(step.rows, self._blocks, self._shapes)
    batch = batches.layout(
      step.rows, self._blocks, shape, step.keys, self.plan.tables, self._tools.heads
    )
    tokens = sum(len(r.tokens) for r in step.rows)
    old = sum(len(r.tokens) for r in step.rows if r.replay)
    replays = sum(r.replay for r in step.rows)
    of_rows = tuple(dict.fromkeys((r.task, r.number // 2) for r in step.rows))
    return LoadedBatch(
      number, sharding.place_batch(batch, self._tools.mesh), tokens, old, len(step.rows) - replays,
      replays, of_rows, epoch, ends_epoch, number + 1 == self.total,
    )  # fmt: skip

  def batches(self, skip: int = 0, end: int = 0) -> Generator[LoadedBatch, None, None]:
    """Yields batches, which a thread makes, at most two ahead.

    Args:
      skip: number of the first step.
      end: number of the step after the last one; 0: the task ends with it.
    """
    ready: queue.Queue = queue.Queue(AHEAD)
    stop = threading.Event()

    def put(item: object) -> bool:
      while not stop.is_set():
        try:
          ready.put(item, timeout=0.1)
          return True
        except queue.Full:
          continue
      return False

    @computing
    def work() -> None:
      try:
        for loaded in self._laid_out(skip, end or self.total):
          if not put(loaded):
            return
        put(None)
      except BaseException as error:  # raised again in the loop that takes the batches
        put(error)

    thread = threading.Thread(target=work, daemon=True, name='jcl-feed')
    thread.start()
    try:
      while (item := ready.get()) is not None:
        if isinstance(item, BaseException):
          raise item
        yield item
    finally:
      stop.set()
      thread.join()


def check_epochs(plan: TaskPlan) -> None:
  """Refuses epochs that differ in length, where rows are drawn before each epoch.

  Raises:
    UserError: old rows are counted in tokens or targets, or enter the buffer within the task.
  """
  if not _is_alike(plan):
    raise UserError(
      'rows are drawn before each epoch, so all epochs must have as many steps: set method.unit '
      "to 'rows' and method.update to 'after_task'"
    )


def _is_alike(plan: TaskPlan) -> bool:
  """Whether all epochs of a plan have as many steps, whatever its rows are."""
  return plan.online_buffer is None and plan.unit == 'rows'
