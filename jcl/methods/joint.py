"""JOINT: a fresh model trained once on the union of all tasks. The upper bound."""

import dataclasses
from typing import Any, ClassVar

from jcl.methods.method import Method, Settings
from jcl.streams.stream import TaskPlan


@dataclasses.dataclass
class Joint(Settings):
  """By default only the last row of the accuracy matrix (and the one before training) is filled."""

  starts_afresh: ClassVar = True
  every_task: bool = False  # train afresh on tasks 1..i for every i: costs T(T+1)/2 tasks

  def build(self, backbone: Any, teacher: Any = None) -> Method:
    """Builds `joint`."""
    return joint(backbone, self)


def joint(backbone, settings: Joint) -> Method:
  """Cross-entropy on all tasks at once, from the initial parameters."""

  def init(params, stream, tools):
    return {'teacher': {}, 'initial': params, 'union': []}

  def before_task(memory, params, task, tools):
    union = memory['union'] + [e.reference for e in task.train]
    return memory | {'union': union}, memory['initial']

  def plan(memory, task):
    return TaskPlan(memory['union'] if task.last or settings.every_task else ())

  return Method(init, before_task, plan)
