"""Replay: real examples of the past, kept in a buffer and mixed into the new ones."""

import dataclasses
from typing import ClassVar

from jcl import methods
from jcl.config import choice
from jcl.memory import buffer, interference
from jcl.streams.stream import Plan


@dataclasses.dataclass
class Replay(methods.Settings):
  """Cross-entropy over all rows, new and old."""

  buffer_size: int = 10000  # examples
  replay_ratio: float = 0.3  # old examples for each new one; level `dataset`
  level: str = choice('dataset', 'batch')  # mixed into the epoch | half of every batch
  policy: str = choice('reservoir', 'fifo')  # which examples the buffer keeps
  select: str = choice('random', 'adversarial')  # which are replayed; MIR: the most interfered
  candidates: int = 3  # drawn for each one replayed, with `adversarial`
  virtual_lr: float = 1e-2  # of the step that tells who is harmed, with `adversarial`
  brings: ClassVar = ('rows',)

  def check(self) -> None:
    """Refuses a buffer that holds nothing and a negative ratio."""
    methods.require(self.buffer_size >= 1, 'buffer_size', self.buffer_size, 'at least 1')
    methods.require(self.replay_ratio >= 0, 'replay_ratio', self.replay_ratio, 'at least 0')
    methods.require(self.candidates >= 1, 'candidates', self.candidates, 'at least 1')
    methods.not_negative(self, 'virtual_lr')
    fits = self.select == 'random' or self.level == 'batch'
    methods.require(fits, 'select', self.select, "'random' unless level is 'batch'")


def replay(backbone, settings: Replay, term: str = 'ce') -> methods.Method:
  """Plain cross-entropy; the examples of a finished task enter the buffer.

  Args:
    backbone: what learns.
    settings: this method's, or those of one that builds on it.
    term: of the loss of old rows.
  """

  def init(params, stream, tools):
    return {'teacher': {}, 'buffer': buffer.empty()}

  def plan(memory, task):
    old = memory['buffer']['examples']
    candidates = settings.candidates if settings.select == 'adversarial' else 1
    return Plan(task.train, old, settings.level, settings.replay_ratio, candidates=candidates)

  def after_task(memory, params, task, tools):
    new = [e.reference for e in task.train]
    kept = buffer.add(memory['buffer'], new, settings.buffer_size, settings.policy, tools.seed)
    return memory | {'buffer': kept}, params

  made = methods.Method(init, plan=plan, after_task=after_task)
  if settings.select == 'random':
    return made
  harmed = interference.most_interfered(term, settings.candidates, settings.virtual_lr)
  return made._replace(objective=harmed)
