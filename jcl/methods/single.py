"""SINGLE: a model a task, each from the same initial parameters; nothing is shared or forgotten."""

import dataclasses
from typing import ClassVar

from jcl import methods


@dataclasses.dataclass
class Single(methods.Settings):
  """It is told the task in every scenario and costs as many models as there are tasks."""

  needs: ClassVar = ('task_id',)
  starts_afresh: ClassVar = True


def single(backbone, settings: Single) -> methods.Method:
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

  return methods.Method(init, before_task, after_task=after_task, params_for=params_for)
