"""Language modelling for lifelong learning, LAMOL (Sun et al. 2020).

    L = CE(QA) + lambda_gen · CE(GEN)

The model learns to answer (QA rows) and to generate training examples (GEN rows). Before each task
it generates pseudo samples of the old tasks, which train with the new examples.
"""

import dataclasses
from typing import ClassVar

from jcl.backbones import Backbone
from jcl.config import GIVEN, number, only_with
from jcl.memory import pseudo
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.method import Method, Settings
from jcl.step import losses
from jcl.streams.stream import TaskPlan


@dataclasses.dataclass
class Lamol(Settings):
  """By default one generation token serves all tasks."""

  lambda_gen: float = number(0.25, least=0)  # weight of the generation rows
  gamma: float = number(0.20, least=0)  # pseudo samples for each new example
  # likeliest tokens that a sampled token is drawn from
  top_k: int = only_with(number(20, least=1), {'gamma': GIVEN})
  # of sampling
  temperature: float = only_with(number(1.0, above=0), {'gamma': GIVEN})
  task_tokens: bool = False  # a generation token for each task: __0__, __1__, …, not __gen__
  # draw again until as many samples parse as were asked for
  retry: bool = only_with(True, {'gamma': GIVEN})
  # most draws, as a multiple of the number asked for
  max_attempts: int = only_with(number(3, least=1), {'gamma': GIVEN, 'retry': True})
  # keep only samples that answer with a label of their task, or of an old task where none is told
  require_known_label: bool = only_with(False, {'gamma': GIVEN})
  # keep no sample twice
  deduplicate: bool = only_with(False, {'gamma': GIVEN})
  brings: ClassVar = ('loss', 'rows')
  scenarios: ClassVar = ('cil', 'til', 'iil', 'dil')
  neutral: ClassVar = {'lambda_gen': 0.0}

  @property
  def text_format(self) -> str:
    """`lamol_task` with a generation token for each task, else `lamol`."""
    return 'lamol_task' if self.task_tokens else 'lamol'

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `lamol`."""
    return lamol(backbone, self)


def lamol(backbone: Backbone, settings: Lamol) -> Method:
  """Returns the method; both losses are taken over real and pseudo rows, in one forward pass."""

  def loss_fn(params, teacher_params, batch):
    ce_M = losses.target_cross_entropy(backbone, params, batch)
    return {'qa': (ce_M, ~batch.generative_M), 'gen': (ce_M, batch.generative_M)}

  def init(params, stream, tools):
    return {'teacher': {}, 'pseudo': [], 'longest': 0}

  def before_task(memory, params, task, tools):
    samples = pseudo.draw(params, task, tools, memory['longest'], settings)
    longest = max(len(tools.text.outlines(e)[1].targets) for e in task.train)
    return memory | {'pseudo': samples, 'longest': max(longest, memory['longest'])}, params

  def plan(memory, task):
    weights = {'gen': settings.lambda_gen}
    return TaskPlan(task.train, pseudo.examples(memory['pseudo']), weights=weights)

  return Method(init, before_task, plan, loss_fn)
