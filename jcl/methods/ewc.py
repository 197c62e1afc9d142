"""Elastic weight consolidation, EWC (Kirkpatrick et al. 2017).

    L = CE(new) + lambda_ewc · Σ_p F_p (θ_p − θ*_p)²      (times ½ with `half`)

F is the Fisher diagonal at the end of the old tasks, θ* the parameters there. F is small where the
model is sure of its answers, so a good lambda_ewc differs from model to model. Average accuracy on
the quickstart, one seed: 20.4 % with 1e3 (`seq`: 20.2 %), 56.1 % with 1e6.
"""

import dataclasses
from typing import ClassVar

from jcl.backbones import Backbone
from jcl.config import GIVEN, choice, number, only_with
from jcl.memory import fisher
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.method import Method, Settings, require
from jcl.streams.stream import TaskPlan


@dataclasses.dataclass
class Ewc(Settings):
  """Published code has lambda_ewc 5000 and `half`."""

  lambda_ewc: float = number(1000.0, least=0)  # weight of the penalty
  # multiply the penalty by ½
  half: bool = only_with(False, {'lambda_ewc': GIVEN})
  # Loss of an example of which F is the squared gradient: mean or sum of −log p over its targets.
  fisher_reduction: str = only_with(choice('mean', 'sum'), {'lambda_ewc': GIVEN})
  # Labels in F: those given, or drawn from the model (the true Fisher).
  labels: str = only_with(choice('empirical', 'sampled'), {'lambda_ewc': GIVEN})
  # How the quadratics of several tasks are merged: kept exactly, or F as a decaying sum or a mean
  # around the last model.
  over_tasks: str = only_with(choice(*fisher.MERGES), {'lambda_ewc': GIVEN})
  fisher_decay: float = number(
    1.0, least=0, most=1
  )  # factor on the old F at each task, with `online`
  # Examples whose mean gradient is squared (published code: 32); 0: each example's own gradient.
  batch_fisher: int = only_with(number(0, least=0), {'lambda_ewc': GIVEN})
  holds_tree: ClassVar = True
  neutral: ClassVar = {'lambda_ewc': 0.0}

  def check(self) -> None:
    """Refuses values out of their bounds, and a decay that nothing would read."""
    super().check()
    read = self.over_tasks == 'online' or self.fisher_decay == 1
    require(read, 'fisher_decay', self.fisher_decay, "1 unless over_tasks is 'online'")

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `ewc`."""
    return ewc(backbone, self)


def ewc(backbone: Backbone, settings: Ewc) -> Method:
  """Returns the method; `teacher` holds F, the anchor θ* and a constant (`jcl.memory.fisher`)."""
  s = settings
  squared = fisher.squared_gradient(fisher.answer_nats(backbone, s.labels, s.fisher_reduction))

  def init(params, stream, tools):
    return {'teacher': fisher.nothing(params)}

  def plan(memory, task):
    return TaskPlan(task.train, weights={'ewc': s.lambda_ewc * (0.5 if s.half else 1.0)})

  def penalty_fn(params, teacher_params):
    return {'ewc': fisher.quadratic(params, teacher_params)}

  def after_task(memory, params, task, tools):
    new = tools.mean_examples(squared, params, task.train, max(s.batch_fisher, 1))
    how = s.over_tasks, task.index, s.fisher_decay
    return memory | {'teacher': fisher.merge(memory['teacher'], new, params, *how)}, params

  return Method(init, plan=plan, penalty_fn=penalty_fn, after_task=after_task)
