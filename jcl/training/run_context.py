"""Facts of a run, as a method's hooks see them; nothing here computes on a device."""

import dataclasses
import itertools
import zlib
from collections.abc import Sequence
from typing import Self

import jax
import numpy as np
from jax.sharding import Mesh

from jcl.backbones import Backbone
from jcl.batching import batch as batches
from jcl.batching import epochs
from jcl.batching.corpus import Corpus
from jcl.batching.packing import mode
from jcl.batching.text_formats import Text
from jcl.config import TrainConfig
from jcl.step.sharding import blocks_of
from jcl.streams.stream import Example, Lazy, Reference, Stream, Task, TaskPlan


@dataclasses.dataclass(frozen=True)
class RunContext:
  """Facts of a run, as its hooks see them; nothing here computes on a device.

  Attributes:
    backbone: the model.
    text: how examples become rows.
    stream: the tasks.
    mesh: the devices.
    seed: seed of the run; every draw is a function of it.
    batch_size: rows of a chunk of a fold (`mean_examples`: examples), on all devices together.
    membership: [tasks, C] bool for a classifier, the classes of each task; else None.
    task_id_given: whether the model is given the task id at test time.
    train: how tasks are trained; it decides the order of their examples.
    task_index: index of the current task.
    corpus: general text that no task has, and that a plan may draw from; None: there is none.
    added: ids of the tokens that were added to the tokenizer.
    reports: {kind: lines} that hooks have reported; the loop takes them when a hook returns.
  """

  backbone: Backbone
  text: Text
  stream: Stream
  mesh: Mesh
  seed: int
  batch_size: int
  membership: np.ndarray | None = None
  task_id_given: bool = False
  train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  task_index: int = 0
  corpus: Corpus | None = None
  added: tuple[int, ...] = ()
  reports: dict[str, list] = dataclasses.field(default_factory=dict)

  def at(self, task_index: int) -> Self:
    """Returns the same tools for another current task."""
    return dataclasses.replace(self, task_index=task_index)

  @property
  def packing(self) -> str:
    """`on`, `off` or `auto`: how the rows of the backbone may be packed, see `packing.mode`."""
    return mode(self.train.packing, self.backbone.packs, self.backbone.width)

  @property
  def row_blocks(self) -> int:
    """Number of blocks in which the rows of a batch stand on the devices."""
    return blocks_of(self.mesh)

  @property
  def heads(self) -> batches.Heads | None:
    """Classes that may be answered in the current task; None without a head."""
    if self.membership is None:
      return None
    return batches.Heads(self.membership, self.task_index, self.task_id_given)

  def key(self, purpose: str, *numbers: int) -> jax.Array:
    """Returns the key that is a function of (seed, purpose, numbers)."""
    key = jax.random.key(self.seed)
    for number in (zlib.crc32(purpose.encode()), *numbers):
      key = jax.random.fold_in(key, number)
    return key

  def report(self, **lines: object) -> None:
    """Adds a line to each list of `results.json` that is named; written when the hook returns."""
    for kind, line in lines.items():
      self.reports.setdefault(kind, []).append(line)

  def example(self, one: Example | Reference) -> Example:
    """Returns an example, given as itself or as its reference."""
    return one if isinstance(one, Example) else self.stream.example(one)

  def rows(
    self, examples: Sequence[Example | Reference], replay: bool = False
  ) -> Sequence[tuple[batches.Row, ...]]:
    """Returns the rows of each example in the method's text format, made as they are asked for."""
    return Lazy(examples, lambda _, one: self.text.rows(self.example(one), replay))

  def trained(self, plan: TaskPlan, task: Task) -> list[Example]:
    """Returns the new examples of a task's plan in the order in which they are first trained on.

    If `train.steps` ends the task before every example had its turn, the others are left out.
    """
    plan = plan._replace(new=[self.example(e) for e in plan.new])
    rows_of = lambda example, replay: self.text.rows(self.example(example), replay)
    of_epoch = self.seed, task.index, 0, self.train.batch_size
    first = epochs.steps(plan, rows_of, *of_epoch, self.corpus)
    return epochs.trained(plan, itertools.islice(first, self.train.steps or None))

  def steps_per_epoch(self, examples: int) -> int:
    """Returns the steps of one epoch over `examples` new examples; old ones add no step here."""
    return -(-examples // self.train.batch_size)
