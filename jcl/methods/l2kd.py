"""L2KD, lifelong language knowledge distillation (Chuang et al. 2020), on top of LAMOL.

    L = (1 − alpha) · CE(new QA) + alpha · KD_T(new QA) + CE(old QA)
        + lambda_gen · ((1 − alpha) · CE(new GEN) + alpha · KD_T(new GEN) + CE(old GEN))

KD_T = T² · KL(teacher ‖ model), T is distill_temperature. Before each task a teacher starts from
the parameters that the run started from and learns the new task alone, by CE(QA) + lambda_gen ·
CE(GEN); so the model is shown what a specialist of the task knows. Old rows are pseudo samples, as
in LAMOL.
"""

import dataclasses
import functools
from typing import ClassVar

from jcl.backbones import Backbone
from jcl.config import GIVEN, number, only_with
from jcl.memory import teacher
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.lamol import Lamol, lamol
from jcl.methods.method import Method
from jcl.step import losses
from jcl.streams.stream import Stream, TaskPlan


@dataclasses.dataclass
class L2Kd(Lamol):
  """Distillation at every target of a new row, token by token (word level)."""

  # Weight of the distillation on new rows; that of their cross-entropy is 1 - alpha.
  alpha: float = number(0.5, least=0, most=1)
  # of the two softmaxes
  distill_temperature: float = only_with(number(2.0, above=0), {'alpha': GIVEN})
  teacher_epochs: int = number(5, least=1)  # passes of the teacher over the new task
  # MiB that the teacher's states may take; where they take more, the teacher runs in the step.
  teacher_cache_mb: int = number(2048, least=0)
  holds_tree: ClassVar = True
  neutral: ClassVar = {'lambda_gen': 0.0, 'alpha': 0.0}

  @property
  def weights(self) -> dict[str, float]:
    """The weights of the terms; `old_qa` counts 1."""
    qa = {'qa': 1 - self.alpha, 'kd_qa': self.alpha, 'old_qa': 1.0}
    return qa | {name.replace('qa', 'gen'): self.lambda_gen * w for name, w in qa.items()}

  def max_cached_examples(self, stream: Stream) -> int:
    """Returns the number of training examples of the largest task."""
    return max(len(task.train) for task in stream.tasks)

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `l2kd`."""
    return l2kd(backbone, self)


def l2kd(backbone: Backbone, settings: L2Kd) -> Method:
  """Returns the method; the memory holds the parameters that the run started from (`base`)."""
  s, past = settings, lamol(backbone, settings)
  divergence = functools.partial(losses.distillation, temperature=s.distill_temperature)

  def loss_fn(params, teacher_params, batch):
    old_M, gen_M = batch.replay_M, batch.generative_M
    ce_M, kd_M = teacher.compare(backbone, params, teacher_params, batch, divergence, ~old_M)
    terms: losses.Terms = {}
    for kind, own_M in (('qa', ~gen_M), ('gen', gen_M)):
      terms |= {kind: (ce_M, own_M & ~old_M), f'old_{kind}': (ce_M, own_M & old_M)}
      terms[f'kd_{kind}'] = (kd_M, own_M & ~old_M)
    return terms

  def init(params, stream, tools):
    most, cache_mb = s.max_cached_examples(stream), s.teacher_cache_mb
    frozen = teacher.start(backbone, params, tools, most, cache_mb)
    return past.init(params, stream, tools) | frozen | {'base': params}

  def before_task(memory, params, task, tools):
    memory, params = past.before_task(memory, params, task, tools)
    alone = TaskPlan(task.train, weights={'gen': s.lambda_gen})
    taught = tools.learn(
      memory['base'], alone, past.loss_fn, s.teacher_epochs, f'teacher of {task.name}'
    )
    return memory | teacher.freeze(memory, backbone, taught, task.train, tools), params

  def plan(memory, task):
    return past.plan(memory, task)._replace(weights=s.weights, tables=memory['tables'])

  return past._replace(init=init, before_task=before_task, plan=plan, loss_fn=loss_fn)
