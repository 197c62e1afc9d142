"""A low-rank adapter for each task, LoRA (Hu et al. 2022), over a frozen base model.

L = CE(new),    W = W_base + (lora_alpha / r) · A·B
"""

import dataclasses
from typing import ClassVar

import jax
import numpy as np

from jcl.backbones import Backbone, lora_merging
from jcl.backbones import lora as adapters
from jcl.config import GIVEN, choice, number, only_with
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.method import Method, Settings, require
from jcl.streams.stream import Task, TaskPlan
from jcl.types import Memory, Params


@dataclasses.dataclass
class Adapter(Settings):
  """Settings of a method that trains adapters in place of the model."""

  r: int = number(16, least=1)  # rank of the adapter of a task
  lora_alpha: float = number(32.0, above=0)  # an adapter's scale is lora_alpha / r
  lora_dropout: float = number(0.05, least=0, below=1)  # dropout of an adapter's input, in training
  targets: tuple[str, ...] = ('q', 'v')  # projections that have an adapter
  brings: ClassVar = ('tree', 'trainable')
  changes: ClassVar = ('before_task',)
  adapters: ClassVar = True


@dataclasses.dataclass
class Lora(Adapter):
  """With the task id the task's adapter answers; without it the last one, the stack or a merge."""

  stack: bool = False  # train on top of the earlier adapters, which stay frozen
  # Merge of all adapters so far, which answers without a task id; '': the last adapter answers.
  merge: str = choice('', *lora_merging.WAYS)
  # share of the entries that `ties` and `dare` keep
  density: float = only_with(number(0.2, above=0, most=1), {'merge': ('ties', 'dare')})
  # share of the merge ΔW that is added to the base: 0 gives the base, 1 the whole merge
  merge_scale: float = only_with(number(1.0, least=0), {'merge': GIVEN})

  def check(self) -> None:
    """Refuses values out of their bounds, and a merge of stacked adapters."""
    super().check()
    right = "'' where adapters are stacked: they are one already"
    require(not (self.stack and self.merge), 'merge', self.merge, right)

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `lora`."""
    return lora(backbone, self)


def lora(backbone: Backbone, settings: Lora) -> Method:
  """Returns the method; only the adapter of the task and a head train."""

  def fresh(params: Params, rank: int, key: jax.Array) -> Params:
    """Returns an untrained adapter."""
    alpha = settings.lora_alpha * rank / settings.r  # the scale is that of one task's rank
    return adapters.init_adapter(params, key, rank, alpha, settings.targets)

  def init(params, stream, tools):
    rank = settings.r * (len(stream) if settings.stack else 1)
    jax.eval_shape(lambda params: fresh(params, rank, tools.key('adapter', 0)), params)
    return {'teacher': {}, 'adapters': {}, 'rank': rank, 'merged': {}}

  def merged(adapters, seed):
    recipe = lora_merging.Recipe(settings.merge, density=settings.density, seed=seed)
    scale = np.float32(settings.merge_scale)
    whole = lora_merging.merge(adapters, recipe)
    scaled = lambda part: {**part, 'scale': part['scale'] * scale}
    return {**whole, 'layers': {name: scaled(part) for name, part in whole['layers'].items()}}

  def before_task(memory, params, task, tools):
    if settings.stack and task.index:
      return memory, params
    adapter = fresh(params, memory['rank'], tools.key('adapter', task.index))
    return memory | {'under_way': task.name, 'seed': tools.seed}, {**params, 'lora': adapter}

  def plan(memory, task):
    own_1R = own(memory, task, settings)[None]
    rules = (('lora/.*/scale$', False), ('^lora/', own_1R), ('^head/', True), ('', False))
    return TaskPlan(task.train, trainable=rules)

  def after_task(memory, params, task, tools):
    if settings.stack:
      return memory, params
    kept = memory['adapters'] | {task.name: params['lora']}
    whole = merged(kept, tools.seed) if settings.merge else {}
    return memory | {'adapters': kept, 'merged': whole}, params

  def params_for(memory, params, task):
    adapter, training = memory['merged'], memory.get('under_way')
    if task:
      adapter = memory['adapters'].get(task.name)
    elif settings.merge and training and training not in memory['adapters']:
      adapter = merged(memory['adapters'] | {training: params['lora']}, memory['seed'])
    return {**params, 'lora': adapter} if adapter else params

  return Method(init, before_task, plan, after_task=after_task, params_for=params_for)


def own(memory: Memory, task: Task, settings: Lora) -> np.ndarray:
  """Returns [R], 1 for the columns of the adapter that belong to `task`, else 0."""
  return (np.arange(memory['rank']) // settings.r == (task.index if settings.stack else 0)) * 1.0
