"""One model for each task, each trained from the same initial parameters.

    L = CE(new)

Nothing is shared between tasks and nothing is forgotten, at the cost of as many models as tasks.
"""

import dataclasses
from typing import ClassVar

from jcl.backbones import Backbone
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.method import Method, Settings


@dataclasses.dataclass
class Single(Settings):
  """The method is given the task id in every scenario, since it must know which model answers."""

  needs: ClassVar = ('task_id',)
  starts_afresh: ClassVar = True
  changes: ClassVar = ('before_task',)

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `single`."""
    return single(backbone, self)


def single(backbone: Backbone, settings: Single) -> Method:
  """Returns the method; its memory holds the initial parameters and the model of each task."""

  def init(params, stream, tools):
    tools.report(cost={'models': len(stream)})
    return {'teacher': {}, 'initial': params, 'models': {}}

  def before_task(memory, params, task, tools):
    return memory, memory['initial']

  def after_task(memory, params, task, tools):
    return memory | {'models': memory['models'] | {task.name: params}}, params

  def params_for(memory, params, task):
    return memory['models'].get(task.name, params) if task else params

  return Method(init, before_task, after_task=after_task, params_for=params_for)
