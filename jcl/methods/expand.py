"""Block expansion (Wu et al. 2024): each task adds blocks to the model and trains these alone.

    L = CE(new)

A new block is a copy of the block before it whose output projections are 0, so that the model's
outputs do not change when the block is added. The model grows, and compiles again, at every task.
"""

import dataclasses
from typing import ClassVar

from jcl.backbones import Backbone, block_expansion
from jcl.config import number
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.method import Method, Settings
from jcl.streams.stream import TaskPlan


@dataclasses.dataclass
class Expand(Settings):
  """All older parameters are frozen, so the base model should be a pretrained one."""

  every: int = number(4, least=1)  # layers of the base model for each new block
  needs: ClassVar = ('pre_norm',)
  brings: ClassVar = ('tree', 'trainable')
  changes: ClassVar = ('before_task',)
  adapters: ClassVar = False

  @property
  def block_every(self) -> int:
    """Returns the layers of the base model for each new block."""
    return self.every

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `expand`."""
    return expand(backbone, self)


def expand(backbone: Backbone, settings: Expand) -> Method:
  """Returns the method; only the newest blocks and a head train."""

  def init(params, stream, tools):
    return {
      'teacher': {},
      'sizes': block_expansion.group_sizes(params, settings.every),
      'new': None,
    }

  def before_task(memory, params, task, tools):
    params, new_L = block_expansion.expand(params, memory['sizes'])
    sizes = [size + 1 for size in memory['sizes']]
    return memory | {'sizes': sizes, 'new': new_L}, params

  def plan(memory, task):
    rules = (('^layers/', memory['new']), ('^head/', True), ('', False))
    return TaskPlan(task.train, trainable=rules)

  return Method(init, before_task, plan)
