"""Parameters are held near the mean of the models at the ends of the old tasks.

L = CE(new) + strength · Σ_p (θ_p − mean_p)²
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jcl.methods import Method, Settings, TaskPlan, number


@dataclasses.dataclass
class Anchor(Settings):
  """The penalty counts from the second task on."""

  strength: float = number(0.1, least=0)  # weight of the penalty
  holds_tree: ClassVar = True
  neutral: ClassVar = {'strength': 0.0}
  needs_jcl: ClassVar = '0.1'
  oracle: ClassVar = 'jcl_outside.oracle:anchor'

  def build(self, backbone, teacher=None):
    """Builds `anchor`."""
    return anchor(backbone, self)


def anchor(backbone, settings):
  """Returns the method; `teacher` holds the mean and whether there is one."""

  def init(params, stream, tools):
    return {'teacher': {'mean': params, 'on': jnp.float32(0)}, 'ends': []}

  def plan(memory, task):
    return TaskPlan(task.train, weights={'anchor': settings.strength})

  def penalty_fn(params, teacher_params):
    each = jax.tree.map(lambda p, m: jnp.square(p - m).sum(), params, teacher_params['mean'])
    return {'anchor': teacher_params['on'] * jax.tree.reduce(jnp.add, each)}

  def count(carry, example):
    new = np.array(len(example.text.split()))
    return new if carry is None else carry + new

  def after_task(memory, params, task, tools):
    words = int(tools.fold('words', count, None, task.train))
    tools.report(words={'task': task.name, 'words': words})
    mean = memory['teacher']['mean']
    mean = jax.tree.map(lambda m, p: m + (p - m) / (task.index + 1), mean, params)
    ends = [*memory['ends'], [task.name, words]]
    return {'teacher': {'mean': mean, 'on': jnp.float32(1)}, 'ends': ends}, params

  return Method(init, plan=plan, penalty_fn=penalty_fn, after_task=after_task)
