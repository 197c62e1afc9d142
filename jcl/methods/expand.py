"""Block expansion (Wu et al. 2024): each task adds blocks that change nothing yet and trains them.

The model is as deep as there are tasks: it compiles once more a task.
"""

import dataclasses
from typing import Any, ClassVar

from jcl.backbones import block_expansion
from jcl.config import number
from jcl.methods.method import Method, Settings
from jcl.streams.stream import TaskPlan


@dataclasses.dataclass
class Expand(Settings):
  """Everything old is frozen; the base must be a model that can do something already."""

  every: int = number(4, least=1)  # layers of the base to each new block
  needs: ClassVar = ('pre_norm',)
  brings: ClassVar = ('tree',)

  def build(self, backbone: Any, teacher: Any = None) -> Method:
    """Builds `expand`."""
    return expand(backbone, self)


def expand(backbone, settings: Expand) -> Method:
  """Cross-entropy, for the newest blocks (and a head) alone."""

  def init(params, stream, tools):
    return {'teacher': {}, 'sizes': block_expansion.groups(params, settings.every), 'new': None}

  def before_task(memory, params, task, tools):
    params, new_L = block_expansion.grown(params, memory['sizes'])
    sizes = [size + 1 for size in memory['sizes']]
    return memory | {'sizes': sizes, 'new': new_L}, params

  def plan(memory, task):
    rules = (('^layers/', memory['new']), ('^head/', True), ('', False))
    return TaskPlan(task.train, trainable=rules)

  return Method(init, before_task, plan)
