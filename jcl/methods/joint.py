"""JOINT: a fresh model trained once on the union of all tasks. The upper bound."""

import dataclasses
from typing import ClassVar

from jcl import methods
from jcl.streams.stream import Plan


@dataclasses.dataclass
class Joint(methods.Settings):
  """By default only the last row of the accuracy matrix (and the one before training) is filled."""

  starts_afresh: ClassVar = True
  every_task: bool = False  # train afresh on tasks 1..i for every i: costs T(T+1)/2 tasks


def joint(backbone, settings: Joint) -> methods.Method:
  """Cross-entropy on all tasks at once, from the initial parameters."""

  def init(params, stream, tools):
    return {'teacher': {}, 'initial': params, 'union': []}

  def before_task(memory, params, task, tools):
    union = memory['union'] + [e.reference for e in task.train]
    return memory | {'union': union}, memory['initial']

  def plan(memory, task):
    return Plan(memory['union'] if task.last or settings.every_task else ())

  return methods.Method(init, before_task, plan)
