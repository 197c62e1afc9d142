"""Distillation (Hinton et al. 2015; Li and Hoiem 2016): L = alpha·KD_T + (1 − alpha)·CE."""

import dataclasses
import functools
from typing import Any, ClassVar

from jcl.config import number
from jcl.memory import teacher
from jcl.methods.method import Method, Settings, require
from jcl.step import losses
from jcl.streams.stream import TaskPlan


@dataclasses.dataclass
class Distill(Settings):
  """New rows alone train; the teacher is looked at on all of them."""

  # Weight of the distillation; that of cross-entropy is 1 - alpha.
  alpha: float = number(0.5, least=0, most=1)
  distill_temperature: float = number(2.0, above=0)  # of the two softmaxes
  teacher_path: str = ''  # another model, as backbone.path; empty: the model before the task
  # MiB that the teacher's states may take; where they take more, the teacher runs in the step.
  teacher_cache_mb: int = number(2048, least=0)
  head_scenarios: ClassVar = ('cil', 'dil')  # in til a task's own head had nothing to teach yet
  brings: ClassVar = ('loss',)
  holds_tree: ClassVar = True
  neutral: ClassVar = {'alpha': 0.0}

  def max_cached_examples(self, stream: Any) -> int:
    """Examples of the largest task."""
    return max(len(task.train) for task in stream.tasks)

  def check_run(self, scenario: str, tools: Any) -> None:
    """Refuses another teacher for a head: it has no head over these classes."""
    right = not self.teacher_path or tools.heads is None
    require(right, 'teacher_path', self.teacher_path, 'empty with backbone.head')

  def build(self, backbone: Any, teacher: Any = None) -> Method:
    """Builds `distill`."""
    return distill(backbone, self, teacher)


def distill(
  backbone, settings: Distill, external_teacher: teacher.ExternalTeacher | None = None
) -> Method:
  """The first task has no past: plain cross-entropy, of weight 1, unless another model teaches."""
  divergence = functools.partial(losses.distillation, temperature=settings.distill_temperature)
  theirs = backbone if external_teacher is None else external_teacher.backbone
  knowing = lambda params: params if external_teacher is None else external_teacher.params()

  def loss_fn(params, teacher_params, batch):
    ce_M, kd_M = teacher.compare(backbone, params, teacher_params, batch, divergence, theirs)
    return {'ce': (ce_M, True), 'kd': (kd_M, teacher.knows(batch))}

  def init(params, stream, tools):
    most, cache_mb = settings.max_cached_examples(stream), settings.teacher_cache_mb
    return teacher.start(theirs, knowing(params), tools, most, cache_mb)

  def before_task(memory, params, task, tools):
    looked_at = task.train if task.index or external_teacher else ()
    return memory | teacher.freeze(memory, theirs, knowing(params), looked_at, tools), params

  def plan(memory, task):
    alpha = settings.alpha if task.index or external_teacher else 0.0
    return TaskPlan(task.train, weights={'ce': 1 - alpha, 'kd': alpha}, tables=memory['tables'])

  return Method(init, before_task, plan, loss_fn)
