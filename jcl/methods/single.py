"""SINGLE: a model a task, each from the same initial parameters; nothing is shared or forgotten."""

import dataclasses
from typing import Any, ClassVar

from jcl.methods.method import Method, Settings


@dataclasses.dataclass
class Single(Settings):
  """It is told the task in every scenario and costs as many models as there are tasks."""

  needs: ClassVar = ('task_id',)
  starts_afresh: ClassVar = True

  def build(self, backbone: Any, teacher: Any = None) -> Method:
    """Builds `single`."""
    return single(backbone, self)


def single(backbone, settings: Single) -> Method:
  """A fresh model for each task."""

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
