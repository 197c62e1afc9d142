"""Reptile (Nichol et al. 2018).

    L = CE(rows of one task);    after every inner_steps updates  θ ← θ + outer_step · (θ' − θ)

θ' is what the optimiser updates (the fast parameters), θ the slow parameters.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jcl.backbones import Backbone
from jcl.config import choice, number
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.method import Method, require
from jcl.methods.replay import Replay, replay
from jcl.types import Params


@dataclasses.dataclass
class Reptile(Replay):
  """Each batch has one task: the new one and the tasks of the buffer in turn."""

  level: str = choice('task')  # a batch of one task at a time
  inner_steps: int = number(5, least=1)  # updates between two moves of θ
  # Share of the way from θ to θ' that θ moves; 1 is plain training.
  outer_step: float = number(0.5, above=0, most=1)
  brings: ClassVar = ('rows', 'slow')
  changes: ClassVar = ('after_task',)
  holds_tree: ClassVar = True
  neutral: ClassVar = {'outer_step': 1.0}

  def check(self) -> None:
    """Refuses values out of their bounds, and a buffer that changes within a task."""
    super().check()
    later = self.update == 'after_task'
    require(later, 'update', self.update, "'after_task': a step has one task")

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `reptile`."""
    return reptile(backbone, self)


def reptile(backbone: Backbone, settings: Reptile) -> Method:
  """Returns the method; `teacher` holds the slow parameters, which are evaluated."""
  past = replay(backbone, settings)

  def toward(slow: Params, fast: Params) -> Params:
    return jax.tree.map(lambda s, f: s + settings.outer_step * (f - s), slow, fast)

  def init(params, stream, tools):
    return past.init(params, stream, tools) | {'teacher': params}

  def after_step(slow, fast, step):
    due = (step + 1) % settings.inner_steps == 0
    pick = lambda yes, no: jax.tree.map(lambda y, n: jnp.where(due, y, n), yes, no)
    slow = pick(toward(slow, fast), slow)
    return slow, pick(slow, fast)

  def after_task(memory, params, task, tools):
    params = toward(memory['teacher'], params)  # the last round may be short
    memory, params = past.after_task(memory, params, task, tools)
    return memory | {'teacher': params}, params

  def params_for(memory, params, task):
    return memory['teacher']

  return past._replace(
    init=init, after_step=after_step, after_task=after_task, params_for=params_for
  )
