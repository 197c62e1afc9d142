"""Reptile (Nichol et al. 2018): `inner_steps` updates, then θ ← θ + outer_step·(θ' − θ)."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jcl.config import choice, number
from jcl.methods.method import Method, require
from jcl.methods.replay import Replay, replay


@dataclasses.dataclass
class Reptile(Replay):
  """Each update sees one task: the new one and those of the buffer in turn."""

  level: str = choice('task')  # a batch of one task at a time
  inner_steps: int = number(5, least=1)  # updates between two moves of the slow parameters
  # Share of the way to the fast parameters; 1 is plain training.
  outer_step: float = number(0.5, above=0, most=1)
  brings: ClassVar = ('rows', 'slow')
  holds_tree: ClassVar = True
  neutral: ClassVar = {'outer_step': 1.0}

  def check(self) -> None:
    """Refuses values out of their bounds, and a buffer that changes within a task."""
    super().check()
    later = self.update == 'after_task'
    require(later, 'update', self.update, "'after_task': a step has one task")

  def build(self, backbone: Any, teacher: Any = None) -> Method:
    """Builds `reptile`."""
    return reptile(backbone, self)


def reptile(backbone, settings: Reptile) -> Method:
  """The slow parameters are the teacher, which moves; they are what is evaluated."""
  past = replay(backbone, settings)

  def toward(slow, fast):
    return jax.tree.map(lambda s, f: s + settings.outer_step * (f - s), slow, fast)

  def init(params, stream, tools):
    return past.init(params, stream, tools) | {'teacher': params}

  def after_step(slow, fast, step):
    due = (step + 1) % settings.inner_steps == 0
    pick = lambda yes, no: jax.tree.map(lambda y, n: jnp.where(due, y, n), yes, no)
    slow = pick(toward(slow, fast), slow)
    return slow, pick(slow, fast)

  def after_task(memory, params, task, tools):
    params = toward(memory['teacher'], params)  # a short last round; none leaves the two equal
    memory, params = past.after_task(memory, params, task, tools)
    return memory | {'teacher': params}, params

  def params_for(memory, params, task):
    return memory['teacher']

  return past._replace(
    init=init, after_step=after_step, after_task=after_task, params_for=params_for
  )
