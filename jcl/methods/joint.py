"""Joint training: a fresh model on all tasks at once, the upper bound of a comparison.

L = CE(all tasks)
"""

import dataclasses
from typing import ClassVar

from jcl.backbones import Backbone
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.method import Method, Settings
from jcl.streams.stream import TaskPlan


@dataclasses.dataclass
class Joint(Settings):
  """By default only the first row of the accuracy matrix and the last one are filled."""

  starts_afresh: ClassVar = True
  changes: ClassVar = ('before_task',)
  # After each task, train a fresh model on all tasks so far; T tasks then cost T(T+1)/2.
  every_task: bool = False

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `joint`."""
    return joint(backbone, self)


def joint(backbone: Backbone, settings: Joint) -> Method:
  """Returns the method; its memory holds the initial parameters and references to all examples."""

  def init(params, stream, tools):
    return {'teacher': {}, 'initial': params, 'union': []}

  def before_task(memory, params, task, tools):
    union = memory['union'] + [e.reference for e in task.train]
    return memory | {'union': union}, memory['initial']

  def plan(memory, task):
    return TaskPlan(memory['union'] if task.last or settings.every_task else ())

  return Method(init, before_task, plan)
