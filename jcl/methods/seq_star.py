"""SEQ* (Zheng et al. 2024): sequential fine-tuning of a pretrained model that soon stands still.

    L = CE(new), the softmax over all classes of the stream, those of later tasks too

In the first `warmup_epochs` epochs of the first task the whole model trains; then all but the head
is frozen for good. Of the head each task trains the rows of the classes that are new in it, and the
rows of earlier classes stay as they are.
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

  warmup_epochs: int = number(1, least=0)  # of the first task, in which the whole model trains
  scenarios: ClassVar = ('cil', 'til')  # elsewhere no later task has classes of its own
  head_scenarios: ClassVar = ('cil', 'til')
  needs: ClassVar = ('head',)
  brings: ClassVar = ('loss', 'trainable')
  neutral: ClassVar = None  # classes of later tasks are in the softmax

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `seq_star`."""
    return seq_star(backbone, self)


def seq_star(backbone: Backbone, settings: SeqStar) -> Method:
  """Returns the method; `teacher` holds the steps of warm-up and whether all classes compete."""

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
    still = lambda part: jax.tree.map(lambda u: jnp.where(warm, u, 0), part)
    return {name: part if name == HEAD else still(part) for name, part in updates.items()}

  return Method(init, before_task, plan, loss_fn, project=project)
