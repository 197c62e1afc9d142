"""SEQ* (Zheng et al. 2024): a pretrained model is frozen early, and its head grows class by class.

    L = CE(new),    softmax over all classes of the stream, those of later tasks included

In `til` the softmax runs over the classes of the task. In the first `warmup_epochs` epochs of the
first task the whole model trains; afterwards everything but the head is frozen. A task trains the
rows of the head for the classes that are new in it; the rows of earlier classes are frozen.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jcl.backbones import Backbone
from jcl.config import number
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.method import Method, Settings
from jcl.step import losses
from jcl.streams.stream import TaskPlan

HEAD = 'head'  # its entry among the parameters


@dataclasses.dataclass
class SeqStar(Settings):
  """Made for a pretrained model with a cosine head (`backbone.head=cosine`)."""

  warmup_epochs: int = number(1, least=0)  # epochs of the first task that train the whole model
  scenarios: ClassVar = ('cil', 'til')  # elsewhere no later task has classes of its own
  head_scenarios: ClassVar = ('cil', 'til')
  needs: ClassVar = ('head',)
  brings: ClassVar = ('loss', 'trainable')
  neutral: ClassVar = None  # classes of later tasks are in the softmax

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `seq_star`."""
    return seq_star(backbone, self)


def seq_star(backbone: Backbone, settings: SeqStar) -> Method:
  """Returns the method.

  `teacher` holds the number of warm-up steps, and whether the softmax runs over all classes. Of the
  memory, `own` are the classes that are new in the task, and `warm` says whether the whole model
  trains in it.
  """

  def init(params, stream, tools):
    steps = settings.warmup_epochs * tools.steps_per_epoch(len(stream.tasks[0].train))
    teacher = {'warm_up': jnp.int32(steps), 'all': jnp.bool_(not tools.task_id_given)}
    return {'teacher': teacher, 'own': [], 'warm': settings.warmup_epochs > 0}

  def before_task(memory, params, task, tools):
    earlier = {c for old in tools.stream.tasks[: task.index] for c in old.classes}
    own = [c for c in task.classes if c not in earlier]
    if not own:
      tools.report(warnings=f'{task.name} has no class that is new, so nothing of it is learned')
    return memory | {'own': own, 'warm': task.index == 0 and settings.warmup_epochs > 0}, params

  def plan(memory, task):
    own_C = np.isin(np.arange(backbone.outputs), memory['own'])
    rows = ((f'^{HEAD}/kernel$', own_C[None]), (f'^{HEAD}/bias$', own_C))
    return TaskPlan(task.train, trainable=(*rows, ('', memory['warm'])))

  def loss_fn(params, teacher_params, batch):
    if batch.allowed is not None:
      batch = batch.replace(allowed=batch.allowed | teacher_params['all'])
    return {'ce': (losses.target_cross_entropy(backbone, params, batch), True)}

  def project(updates, params, teacher_params, step):
    warm = step < teacher_params['warm_up']
    only_warm = lambda part: jax.tree.map(lambda u: jnp.where(warm, u, 0), part)
    return {name: part if name == HEAD else only_warm(part) for name, part in updates.items()}

  return Method(init, before_task, plan, loss_fn, project=project)
