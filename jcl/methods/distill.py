"""Knowledge distillation on the new rows (Hinton et al. 2015; Li and Hoiem 2016).

    L = (1 − alpha) · CE(new) + alpha · KD_T(new),    KD_T = T² · KL(teacher ‖ model)

T is distill_temperature. The teacher is the model before the task (`anchor` `last`), the model that
the run started from (`anchor` `base`), or another model (`teacher_path`).
"""

import dataclasses
import functools
from typing import ClassVar

from jcl.backbones import Backbone
from jcl.config import GIVEN, choice, number, only_with
from jcl.memory import teacher
from jcl.memory.teacher import ExternalTeacher
from jcl.memory.tools import Tools
from jcl.methods.method import Method, Settings, require
from jcl.step import losses
from jcl.streams.stream import Stream, TaskPlan
from jcl.types import Memory, Params


@dataclasses.dataclass
class Distill(Settings):
  """By default the model before the task teaches, and the first task is plain fine-tuning."""

  # Weight of the distillation; that of cross-entropy is 1 - alpha.
  alpha: float = number(0.5, least=0, most=1)
  # of the two softmaxes
  distill_temperature: float = only_with(number(2.0, above=0), {'alpha': GIVEN})
  # The model of the run that teaches: before the task (`last`), or before the first task (`base`).
  anchor: str = only_with(choice('last', 'base'), {'teacher_path': '', 'backbone.head': ''})
  # Another model that teaches, as in backbone.path; empty: a model of the run (`anchor`).
  teacher_path: str = ''
  # package.module:name of a Family; empty: found by the model_type of `teacher_path`
  teacher_family: str = only_with('', {'teacher_path': GIVEN})
  # MiB that the teacher's states may take; where they take more, the teacher runs in the step.
  teacher_cache_mb: int = number(2048, least=0)
  head_scenarios: ClassVar = ('cil', 'dil')  # in til, the head of a new task has no teacher
  brings: ClassVar = ('loss',)
  holds_tree: ClassVar = True
  neutral: ClassVar = {'alpha': 0.0}

  def max_cached_examples(self, stream: Stream) -> int:
    """Returns the number of training examples of the largest task."""
    return max(len(task.train) for task in stream.tasks)

  def check_run(self, scenario: str, tools: Tools) -> None:
    """Refuses another model as the teacher of a head: it has no head over these classes."""
    right = not self.teacher_path or tools.heads is None
    require(right, 'teacher_path', self.teacher_path, 'empty with backbone.head')

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `distill`."""
    return distill(backbone, self, teacher)


def distill(
  backbone: Backbone, settings: Distill, external_teacher: ExternalTeacher | None = None
) -> Method:
  """Returns the method; the model before the first task does not teach in the first task.

  Args:
    backbone: the model that learns.
    settings: settings of the method.
    external_teacher: the model at `teacher_path`; None: a model of the run teaches (`anchor`).
  """
  divergence = functools.partial(losses.distillation, temperature=settings.distill_temperature)
  theirs = backbone if external_teacher is None else external_teacher.backbone
  always = external_teacher is not None or settings.anchor == 'base'

  def teacher_of(memory: Memory, params: Params, tools: Tools) -> Params:
    """Returns the parameters of the coming task's teacher; `params` are those before the task."""
    if external_teacher is not None:  # on the devices only while it is needed
      return tools.placed(external_teacher.params) if memory['tables'] else memory['teacher']
    if settings.anchor == 'base':
      return memory['base'] if memory['tables'] else memory['teacher']
    return params

  def loss_fn(params, teacher_params, batch):
    known_M = teacher.knows(batch)
    ce_M, kd_M = teacher.compare(
      backbone, params, teacher_params, batch, divergence, known_M, theirs
    )
    return {'ce': (ce_M, True), 'kd': (kd_M, known_M)}

  def init(params, stream, tools):
    most, cache_mb = settings.max_cached_examples(stream), settings.teacher_cache_mb
    first = params if external_teacher is None else external_teacher.params
    memory = teacher.start(theirs, first, tools, most, cache_mb)
    if external_teacher is not None:
      memory['teacher'] = tools.placed(memory['teacher'])
    # Without tables memory['teacher'] is the whole base.
    kept = settings.anchor == 'base' and bool(memory['tables'])
    return memory | ({'base': params} if kept else {})

  def before_task(memory, params, task, tools):
    looked_at = task.train if task.index or always else ()
    taught_by = teacher_of(memory, params, tools)
    return memory | teacher.freeze(memory, theirs, taught_by, looked_at, tools), params

  def plan(memory, task):
    alpha = settings.alpha if task.index or always else 0.0
    return TaskPlan(task.train, weights={'ce': 1 - alpha, 'kd': alpha}, tables=memory['tables'])

  return Method(init, before_task, plan, loss_fn)
