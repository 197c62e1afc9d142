"""Replay: real examples of the past, kept in a buffer and mixed into the new ones."""

import dataclasses
from typing import Any, ClassVar

from jcl.config import choice, number
from jcl.memory import buffer, interference
from jcl.methods.method import Method, Settings, require
from jcl.streams.stream import TaskPlan


@dataclasses.dataclass
class Replay(Settings):
  """Cross-entropy over all rows, new and old."""

  buffer_size: int = number(10000, least=1)  # examples
  replay_ratio: float = number(0.3, least=0)  # old for each new one; level `dataset`
  unit: str = choice('rows', 'tokens')  # what the ratio counts
  level: str = choice('dataset', 'batch')  # mixed into the epoch | half of every batch
  policy: str = choice(*buffer.POLICIES)  # which examples the buffer keeps
  keep_hard: bool = False  # `importance` prefers examples of high loss to those of low loss
  update: str = choice('after_task', 'every_epoch', 'every_steps')  # when new examples enter
  update_steps: int = number(0, least=0)  # steps between two updates `every_steps`
  select: str = choice('random', 'adversarial')  # which are replayed; MIR: the most interfered
  candidates: int = number(3, least=1)  # drawn for each one replayed, with `adversarial`
  # Rate of the virtual step that shows which rows are harmed, with `adversarial`.
  virtual_lr: float = number(1e-2, least=0)
  brings: ClassVar = ('rows',)

  def max_cached_examples(self, stream: Any) -> int:
    """Examples that the buffer can come to hold."""
    return min(self.buffer_size, sum(len(task.train) for task in stream.tasks))

  def check(self) -> None:
    """Refuses values out of their bounds, and those that nothing would read."""
    super().check()
    right = self.unit == 'rows' or self.level == 'dataset'
    require(right, 'unit', self.unit, "'rows' with level 'batch', where half of a batch is new")
    right = self.policy == 'importance' or not self.keep_hard
    require(right, 'keep_hard', self.keep_hard, "False unless policy is 'importance'")
    right = self.update == 'after_task' or self.policy not in buffer.BY_MODEL
    require(right, 'update', self.update, f"'after_task' with policy {self.policy!r}")
    right = (self.update_steps >= 1) if self.update == 'every_steps' else self.update_steps == 0
    words = "at least 1 with update 'every_steps' and 0 with any other"
    require(right, 'update_steps', self.update_steps, words)
    right = self.select == 'random' or self.level == 'batch'
    require(right, 'select', self.select, "'random' unless level is 'batch'")

  def check_run(self, scenario: str, tools: Any) -> None:
    """Refuses class quotas where there are no classes, or more of them than places."""
    if self.policy in buffer.BY_CLASS:
      classes = len(tools.stream.classes)
      right = classes > 0 and scenario in ('cil', 'til', 'dil')
      words = 'reservoir, fifo or importance where answers are free'
      require(right, 'policy', self.policy, words)
      words = f'at least {classes}, a place for each class, with policy {self.policy!r}'
      require(self.buffer_size >= classes, 'buffer_size', self.buffer_size, words)

  def build(self, backbone: Any, teacher: Any = None) -> Method:
    """Builds `replay`."""
    return replay(backbone, self)


def replay(backbone, settings: Replay, term: str = 'ce') -> Method:
  """Plain cross-entropy; the examples of a task enter the buffer in the order trained.

  Args:
    backbone: what learns.
    settings: this method's, or those of one that builds on it.
    term: of the loss of old rows.
  """
  s = settings

  def init(params, stream, tools):
    return {'teacher': {}, 'buffer': buffer.empty()}

  def plan(memory, task):
    held, online_buffer = memory['buffer'], None
    if s.update != 'after_task':
      online_buffer = buffer.OnlineBuffer(held, s.buffer_size, s.policy, s.update_steps)
    old = held['examples']
    candidates = s.candidates if s.select == 'adversarial' else 1
    return TaskPlan(
      task.train,
      old,
      s.level,
      s.replay_ratio,
      s.unit,
      candidates=candidates,
      online_buffer=online_buffer,
    )

  def after_task(memory, params, task, tools):
    new = tools.trained(plan(memory, task), task)
    keys = buffer.keys_of(s.policy, backbone, params, new, tools, s.keep_hard)
    kept = buffer.add(memory['buffer'], new, s.buffer_size, s.policy, tools.seed, keys)
    tools.report(buffer={'after': task.name, **buffer.shares(kept, tools)})
    return memory | {'buffer': kept}, params

  made = Method(init, plan=plan, after_task=after_task)
  if s.select == 'random':
    return made
  harmed = interference.most_interfered(term, s.candidates, s.virtual_lr)
  return made._replace(objective=harmed)
