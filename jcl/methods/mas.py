"""MAS (Aljundi et al. 2018): L = CE + lambda_mas · Σ_p Ω_p (θ_p − θ*_p)², no labels needed.

Ω is the mean over examples of |∇ Σ_m ‖z[m]‖² / Σ_m w[m]|, z the logits at an example's targets.
Quickstart, one seed: A_T 21.3 at the default, which lets new tasks hardly be learned, 37.1 at 1e-2.
"""

import dataclasses
from typing import Any, ClassVar

from jcl.config import number
from jcl.memory import fisher
from jcl.methods.method import Method, Settings
from jcl.streams.stream import TaskPlan


@dataclasses.dataclass
class Mas(Settings):
  """What the outputs on old tasks depend on moves less."""

  lambda_mas: float = number(1.0, least=0)  # weight of the penalty
  holds_tree: ClassVar = True
  neutral: ClassVar = {'lambda_mas': 0.0}

  def build(self, backbone: Any, teacher: Any = None) -> Method:
    """Builds `mas`."""
    return mas(backbone, self)


def mas(backbone, settings: Mas) -> Method:
  """Plain cross-entropy and a pull to the last model; Ω is summed over tasks."""
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
