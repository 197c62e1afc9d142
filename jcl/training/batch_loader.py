"""The batches of a task: composed, laid out and placed before the step that takes them."""

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jcl.batching import batch as batches
from jcl.batching import batch_shapes, packed_epochs
from jcl.batching import epochs as rows
from jcl.batching.batch import Batch
from jcl.batching.packed_text import PackedText
from jcl.config import TrainConfig
from jcl.step import sharding
from jcl.step.numerics import computing
from jcl.streams.stream import Example, Lazy, Reference, TaskPlan
from jcl.training.hook_tools import HookTools

AHEAD = 2  # batches that wait on the devices
LOOKED_AT = 8  # epochs whose steps decide which shapes a task has


class LoadedBatch(NamedTuple):
  """The batch of one step.

  Attributes:
    number: number of the step in its task, from 0.
    batch: the batch, on the devices.
    tokens: real tokens in the batch.
    old_tokens: real tokens that come from the past.
    rows: (task, number) of each example in the batch.
    epoch: epoch of the step, from 0.
    ends_epoch: whether the step is the last of its epoch.
    last: whether the step is the last of its task.
  """

  number: int
  batch: Batch
  tokens: int
  old_tokens: int
  rows: tuple[Reference, ...]
  epoch: int
  ends_epoch: bool
  last: bool


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

  def __init__(self, plan: TaskPlan, task: int, tools: HookTools, train: TrainConfig):
    resolve = lambda examples: Lazy(examples, lambda _, one: tools.example(one))
    new: Sequence[Example] = resolve(plan.new)
    old: Sequence[Example] = resolve(plan.old)
    self._task, self._tools, self._train = task, tools, train
    # Blocks of raw text are read at their step: there may be too many to hold.
    text = tools.text
    self._lazy = isinstance(text, PackedText) and (plan.level == 'even' or not plan.old)
    if self._lazy and isinstance(text, PackedText):
      sizes = lambda blocks: np.array([text.size(e) for e in blocks], np.int64)
      self._sizes = sizes(new), sizes(old)
    else:
      new, old = list(new), list(old)
    self.plan = plan._replace(new=new, old=old)
    self._first = self._compose(0)
    self.per_epoch = len(self._first)
    self.total = train.steps or self._steps(train.epochs)
    self._blocks = tools.mesh.size * train.microbatches
    if self._lazy:
      self._shapes = [self._whole_blocks()]
      return
    looked_at = range(1, min(-(-self.total // self.per_epoch), LOOKED_AT))
    steps = [step.rows for step in self._first]
    steps += [step.rows for epoch in looked_at for step in self._compose(epoch)]
    packing = train.packing if tools.backbone.packs else 'off'
    rest = self._blocks, self._rows(), packing, tools.backbone.width
    self._shapes = batch_shapes.chosen(steps, *rest)

  @property
  def largest(self) -> batches.Shape:
    """The largest shape to which a step is padded."""
    return self._shapes[-1]

  def padding(self) -> tuple[float, float]:
    """Returns the share of padding in the steps of the first epoch, as they are and unpacked."""
    if isinstance(self._first, packed_epochs.Epoch):  # too many blocks to read
      share = 1 - sum(self._first.tokens) / (len(self._first) * self.largest.places)
      return share, share
    steps = [step.rows for step in self._first]
    plain = self._shapes
    if plain[0].lines:
      plain = batch_shapes.rungs(steps, self._blocks, self._rows())
    of = lambda shapes: batch_shapes.padding(steps, self._blocks, shapes)
    return of(self._shapes), of(plain)

  def _compose(self, epoch: int) -> Sequence[rows.Step]:
    tools = self._tools
    rows_of = lambda example, replay: tools.text.rows(tools.example(example), replay)
    size = self._train.batch_size
    if self._lazy:
      return packed_epochs.Epoch(
        self.plan, self._sizes, rows_of, tools.seed, self._task, epoch, size
      )
    return rows.steps(self.plan, rows_of, tools.seed, self._task, epoch, size)

  def _steps(self, epochs: int) -> int:
    """Number of steps in `epochs` epochs, which differ in length if replay is counted in tokens."""
    plan = self.plan
    if (self._lazy and plan.old) or plan.online_buffer is not None or plan.unit == 'tokens':
      return self.per_epoch + sum(len(self._compose(epoch)) for epoch in range(1, epochs))
    return epochs * self.per_epoch

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

  def _laid_out(self, skip: int) -> Iterator[LoadedBatch]:
    """Yields the batches from step `skip` on."""
    number, epoch = 0, 0
    while number < self.total:
      steps = self._compose(epoch) if epoch else self._first
      if number + len(steps) > skip:
        for i in range(len(steps)):
          if skip <= number + i < self.total:
            step = steps[i]
            shape = batch_shapes.fit(step.rows, self._blocks, self._shapes)
            batch = batches.layout(
              step.rows, self._blocks, shape, step.keys, self.plan.tables, self._tools.heads
            )
            batch = sharding.place_batch(batch, self._tools.mesh)
            tokens = sum(len(r.tokens) for r in step.rows)
            old = sum(len(r.tokens) for r in step.rows if r.replay)
            rows = tuple(dict.fromkeys((r.task, r.number // 2) for r in step.rows))
            last = number + i + 1 == self.total
            yield LoadedBatch(
              number + i, batch, tokens, old, rows, epoch, i == len(steps) - 1, last
            )
      number, epoch = number + len(steps), epoch + 1

  def batches(self, skip: int = 0) -> Generator[LoadedBatch, None, None]:
    """Yields the batches from step `skip` on; a thread makes them, at most two ahead."""
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
        for loaded in self._laid_out(skip):
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
