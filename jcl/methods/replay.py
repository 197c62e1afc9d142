"""Replay: real examples of the past, kept in a buffer and mixed into the new ones."""

import dataclasses

from jcl import methods
from jcl.config import choice
from jcl.memory import buffer
from jcl.streams.stream import Plan


@dataclasses.dataclass
class Replay(methods.Settings):
  """Cross-entropy over all rows, new and old."""

  buffer_size: int = 10000  # examples
  replay_ratio: float = 0.3  # old examples for each new one; level `dataset`
  level: str = choice('dataset', 'batch')  # mixed into the epoch | half of every batch
  policy: str = choice('reservoir', 'fifo')  # which examples the buffer keeps

  def check(self) -> None:
    """Refuses a buffer that holds nothing and a negative ratio."""
    methods.require(self.buffer_size >= 1, 'buffer_size', self.buffer_size, 'at least 1')
    methods.require(self.replay_ratio >= 0, 'replay_ratio', self.replay_ratio, 'at least 0')


def replay(backbone, settings: Replay) -> methods.Method:
  """Plain cross-entropy; the examples of a finished task enter the buffer."""

  def init(params, stream, tools):
    return {'teacher': {}, 'buffer': buffer.empty()}

  def plan(memory, task):
    old = memory['buffer']['examples']
    return Plan(task.train, old, settings.level, settings.replay_ratio)

  def after_task(memory, params, task, tools):
    new = [e.reference for e in task.train]
    kept = buffer.add(memory['buffer'], new, settings.buffer_size, settings.policy, tools.seed)
    return memory | {'buffer': kept}, params

  return methods.Method(init, plan=plan, after_task=after_task)
