"""Evaluates an exponential moving average of the parameters (Polyak and Juditsky 1992).

    L = CE(new);    after every update  θ̄ ← θ̄ + (1 − a) (θ − θ̄),    a = min(1 − 1 / (n + 1), decay)

θ are the parameters that train and go on to the next task; n is the number of updates since the
start of the run, this one included. A continual learner answers more steadily with θ̄ than with θ
(Soutif-Cormerais et al. 2023).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jcl.backbones import Backbone
from jcl.config import number
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.method import Method, Settings
from jcl.types import Params, Tree


@dataclasses.dataclass
class Ema(Settings):
  """The average spans about 1 / (1 - decay) updates, across the borders of tasks."""

  decay: float = number(0.99, least=0, below=1)  # largest share of the average that an update keeps
  brings: ClassVar = ('slow',)
  holds_tree: ClassVar = True

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `ema`."""
    return ema(backbone, self)


def ema(backbone: Backbone, settings: Ema) -> Method:
  """Returns the method; `teacher` holds the average, which is evaluated, and its update count."""

  def init(params, stream, tools):
    return {'teacher': {'average': params, 'updates': jnp.int32(0)}}

  def after_step(teacher_params, params, step):
    updates = teacher_params['updates'] + 1
    average = averaged(teacher_params['average'], params, updates, settings.decay)
    return {'average': average, 'updates': updates}, params

  def params_for(memory, params, task):
    return memory['teacher']['average']

  return Method(init, after_step=after_step, params_for=params_for)


def averaged(average: Tree, params: Params, updates: jax.Array, decay: float) -> Tree:
  """Returns the average after one more update; a leaf that equals its parameter stays equal to it.

  Args:
    average: before the update, a tree like `params`.
    params: after the update.
    updates: number of updates since the average began, this one included, at least 1.
    decay: largest share of the average that an update keeps. During the first 1 / (1 - decay)
      updates less is kept: the average is then the mean of all parameters from the start on.
  """
  share = jnp.maximum(1 / (updates + 1), 1 - decay)
  return jax.tree.map(lambda mean, p: mean + share.astype(mean.dtype) * (p - mean), average, params)
