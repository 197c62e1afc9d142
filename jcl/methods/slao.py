"""SLAO (Qiao and Mahdavi 2025): one adapter trains on every task, and a running merge answers.

    L = CE(new),    W = W_base + (lora_alpha / r) · Aᵀ B
    task t starts from   A = Qᵀ, Q R = A_{t−1}ᵀ (QR decomposition),   B = B_{t−1}
    after it             A_merge = A_t,   B_merge ← B_merge + (B_t − B_merge) / √t,   t = 1, 2, …

A_t and B_t are the factors after training on task t; B_merge is B_1 after the first task. The merge
is evaluated, also where the task is told.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jcl.backbones import Backbone
from jcl.backbones import lora as adapters
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.lora import Adapter
from jcl.methods.method import Method, require
from jcl.streams.stream import TaskPlan
from jcl.types import Memory, Params


@dataclasses.dataclass
class Slao(Adapter):
  """Two adapters are kept whatever the number of tasks: the last one and the merge."""

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `slao`."""
    return slao(backbone, self)


def slao(backbone: Backbone, settings: Slao) -> Method:
  """Returns the method; only the adapter and a head train.

  The memory holds the adapter after the last task (`last`), the merge (`merged`), and the numbers
  of tasks that have begun (`begun`) and ended (`learned`).
  """
  s = settings

  def fresh(params: Params, key: jax.Array) -> Params:
    return adapters.init_adapter(params, key, s.r, s.lora_alpha, s.targets)

  def init(params, stream, tools):
    jax.eval_shape(lambda params: fresh(params, tools.key('adapter', 0)), params)
    narrowest = min(adapters.kernels(params)[name][1] for name in s.targets)
    require(s.r <= narrowest, 'r', s.r, f'at most {narrowest}, the inputs of a projection')
    return {'teacher': {}, 'last': {}, 'merged': {}, 'learned': 0, 'begun': 0}

  def before_task(memory, params, task, tools):
    adapter = fresh(params, tools.key('adapter', task.index))
    if memory['last']:
      continued = lambda new, old: {**new, 'a': _orthonormal(old['a']), 'b': old['b']}
      last = memory['last']['layers']
      layers = {name: continued(new, last[name]) for name, new in adapter['layers'].items()}
      adapter = {'layers': layers}
    return memory | {'begun': task.index + 1}, {**params, 'lora': adapter}

  def plan(memory, task):
    rules = (('lora/.*/scale$', False), ('^lora/', True), ('^head/', True), ('', False))
    return TaskPlan(task.train, trainable=rules)

  def after_task(memory, params, task, tools):
    whole = _merged(memory, params['lora'], task.index + 1)
    return memory | {'last': params['lora'], 'merged': whole, 'learned': task.index + 1}, params

  def params_for(memory, params, task):
    whole = memory['merged']
    if memory['begun'] > memory['learned']:  # inside a task: as if it ended now
      whole = _merged(memory, params['lora'], memory['begun'])
    return {**params, 'lora': whole} if whole else params

  return Method(init, before_task, plan, after_task=after_task, params_for=params_for)


def _orthonormal(a_LRI: jax.Array) -> jax.Array:
  """Returns [L, R, I] whose rows are orthonormal and span the rows of A, layer by layer."""
  q_LIR, _ = jnp.linalg.qr(jnp.swapaxes(jnp.asarray(a_LRI), 1, 2))
  return jnp.swapaxes(q_LIR, 1, 2)


def _merged(memory: Memory, adapter: Params, tasks: int) -> Params:
  """Returns the merge after `tasks` tasks, of which `adapter` is the adapter of the last one."""
  if not memory['merged']:
    return adapter
  before, share = memory['merged']['layers'], 1 / math.sqrt(tasks)
  moved = lambda new, old: {**new, 'b': old['b'] + share * (new['b'] - old['b'])}
  return {'layers': {name: moved(new, before[name]) for name, new in adapter['layers'].items()}}
