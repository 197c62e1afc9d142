"""How forgetting is held off: methods are records of pure functions, one file each.

All that the author of a method needs stands here: `Method`, `Settings`, `TaskPlan`, `losses`, and
`jcl.memory` for what a method keeps from task to task.
"""

from jcl.methods.compose import compose
from jcl.methods.method import Method, Settings, require
from jcl.methods.registry import (
  BUILT_IN,
  make,
  name_of,
  parts,
  settings,
  settings_class,
)
from jcl.step import losses
from jcl.streams.stream import TaskPlan

__all__ = [
  'BUILT_IN', 'Method', 'Settings', 'TaskPlan', 'compose', 'losses', 'make', 'name_of',
  'parts', 'require', 'settings', 'settings_class',
]  # fmt: skip
