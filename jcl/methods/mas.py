"""Memory aware synapses, MAS (Aljundi et al. 2018).

    L = CE(new) + lambda_mas · Σ_p Ω_p (θ_p − θ*_p)²

θ* is the model at the end of the last task. Ω sums over tasks the mean over their examples of
|∇ Σ_m ‖z[m]‖² / Σ_m w[m]|, z[m] the logits and w[m] the weight of target m. No labels are needed.
Average accuracy on the quickstart, one seed: 21.3 % with the default, under which new tasks are
hardly learned, 37.1 % with lambda_mas 1e-2.
"""

import dataclasses
from typing import ClassVar

from jcl.backbones import Backbone
from jcl.config import number
from jcl.memory import fisher
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.method import Method, Settings
from jcl.streams.stream import TaskPlan


@dataclasses.dataclass
class Mas(Settings):
  """A parameter that the outputs on old tasks depend on is held more strongly."""

  lambda_mas: float = number(1.0, least=0)  # weight of the penalty
  holds_tree: ClassVar = True
  neutral: ClassVar = {'lambda_mas': 0.0}

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `mas`."""
    return mas(backbone, self)


def mas(backbone: Backbone, settings: Mas) -> Method:
  """Returns the method; `teacher` holds Ω and the anchor θ*."""
  importance = fisher.absolute_gradient(fisher.output_size(backbone))

  def init(params, stream, tools):
    return {'teacher': fisher.nothing(params)}

  def plan(memory, task):
    return TaskPlan(task.train, weights={'mas': settings.lambda_mas})

  def penalty_fn(params, teacher_params):
    return {'mas': fisher.quadratic(params, teacher_params)}

  def after_task(memory, params, task, tools):
    new = tools.mean_examples(importance, params, task.train)
    return memory | {'teacher': fisher.online(memory['teacher'], new, params)}, params

  return Method(init, plan=plan, penalty_fn=penalty_fn, after_task=after_task)
