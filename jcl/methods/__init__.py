"""Methods of continual learning: records of pure functions, one file each.

Everything that the author of a method needs is exported here: the record `Method`, its `Settings`
with `number`, `choice` and `require`, the `Tools` of hooks, `TaskPlan`, `losses`, and what a method
keeps from task to task (`buffer`, `fisher`, `interference`, `pseudo`, `teacher`).
"""

from jcl.backbones import Backbone
from jcl.batching.batch import Batch
from jcl.config import GIVEN, choice, number, only_with
from jcl.memory import buffer, fisher, interference, pseudo, teacher
from jcl.memory.tools import Tools
from jcl.methods.compose import compose
from jcl.methods.method import Method, Settings, require
from jcl.methods.registry import (
  BUILT_IN,
  make,
  name_of,
  names,
  parts,
  settings,
  settings_class,
)
from jcl.step import losses
from jcl.streams.stream import Stream, Task, TaskPlan
from jcl.types import Memory, Params

__all__ = [
  'BUILT_IN', 'GIVEN', 'Backbone', 'Batch', 'Memory', 'Method', 'Params', 'Settings', 'Stream',
  'Task', 'TaskPlan', 'Tools', 'buffer', 'choice', 'compose', 'fisher', 'interference', 'losses',
  'make', 'name_of', 'names', 'number', 'only_with', 'parts', 'pseudo', 'require', 'settings',
  'settings_class', 'teacher',
]  # fmt: skip
