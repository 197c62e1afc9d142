"""The batches of a task, composed, laid out and placed ahead of the step that takes them."""

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jcl.batching import batch as batches
from jcl.batching import epochs as rows
from jcl.batching import packed_epochs
from jcl.batching.packed_text import PackedText
from jcl.config import TrainConfig
from jcl.step import sharding
from jcl.streams.stream import Lazy, Reference, TaskPlan
from jcl.training.hook_tools import HookTools

AHEAD = 2  # batches that wait on the device
LOOKED_AT = 8  # epochs whose steps decide what shapes a task has


class LoadedBatch(NamedTuple):
  """One step's batch.

  Attributes:
    number: of the step in its task, from 0.
    batch: placed on the mesh.
    tokens: real ones in it.
    old_tokens: those of them that come from the past.
    rows: (task, number) of the examples in it.
    epoch: that it is in, from 0.
    ends_epoch: it is the last of its epoch.
    last: it is the last of its task.
  """

  number: int
  batch: Any
  tokens: int
  old_tokens: int
  rows: tuple[Reference, ...]
  epoch: int
  ends_epoch: bool
  last: bool


class BatchLoader:
  """The steps of one task, a function of (seed, plan, task, step) alone.

  Attributes:
    plan: with its examples resolved.
    total: steps of the task.
    per_epoch: steps of its first epoch; those of others may have more or fewer old examples.
  """

  def __init__(self, plan: TaskPlan, task: int, tools: HookTools, train: TrainConfig):
    resolve = lambda examples: Lazy(examples, lambda _, one: tools.example(one))
    new, old = resolve(plan.new), resolve(plan.old)
    self._task, self._tools, self._train = task, tools, train
    # Blocks of raw text are not read before their step, be they ever so many.
    self._lazy = isinstance(tools.text, PackedText) and (plan.level == 'even' or not plan.old)
    if self._lazy:
      sizes = lambda blocks: np.array([tools.text.size(e) for e in blocks], np.int64)
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
    self._shapes = batches.rungs(steps, self._blocks, self._rows())

  @property
  def largest(self) -> batches.Shape:
    """The largest shape that the steps are padded to."""
    return self._shapes[-1]

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
    """Those of so many epochs, which differ where old rows are counted in tokens or come to be."""
    plan = self.plan
    if (self._lazy and plan.old) or plan.online_buffer is not None or plan.unit == 'tokens':
      return self.per_epoch + sum(len(self._compose(epoch)) for epoch in range(1, epochs))
    return epochs * self.per_epoch

  def _whole_blocks(self) -> batches.Shape:
    """The shape of a step of whole blocks of raw text, which is that of every step of a run."""
    a_block = -(-self._train.batch_size // self._blocks)
    longest = batches.bucket(self._tools.text.max_length, batches.LENGTHS)
    targets = batches.bucket(a_block * self._tools.text.max_length, batches.TARGETS)
    return batches.Shape(a_block * self._blocks, longest, targets)

  def _rows(self) -> int:
    """Rows that a batch has room for: the same for every step of a run."""
    width = len(self._tools.text.rows(self.plan.new[0]))
    size = self._train.batch_size
    if self.plan.level == 'batch' and (self.plan.old or self.plan.online_buffer is not None):
      size = max(size // 2, 1) * (1 + self.plan.candidates)
    return width * max(size, self._train.batch_size)

  def _laid_out(self, skip: int) -> Iterator[LoadedBatch]:
    """Batches from step `skip` on."""
    number, epoch = 0, 0
    while number < self.total:
      steps = self._compose(epoch) if epoch else self._first
      if number + len(steps) > skip:
        for i in range(len(steps)):
          if skip <= number + i < self.total:
            step = steps[i]
            shape = batches.fit(step.rows, self._blocks, self._shapes)
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

  def batches(self, skip: int = 0) -> Iterator[LoadedBatch]:
    """Batches from step `skip` on, made by a thread that stays at most two ahead."""
    ready: queue.Queue = queue.Queue(AHEAD)
    stop = threading.Event()

    def put(item: Any) -> bool:
      while not stop.is_set():
        try:
          ready.put(item, timeout=0.1)
          return True
        except queue.Full:
          continue
      return False

    def work() -> None:
      try:
        for loaded in self._laid_out(skip):
          if not put(loaded):
            return
        put(None)
      except BaseException as error:  # whatever it is, the loop must hear of it
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
