"""EWC (Kirkpatrick et al. 2017): L = CE + lambda_ewc · Σ_p F_p (θ_p − θ*_p)².

F is as small as the model is sure of its answers, so lambda_ewc is no number that carries over. On
the quickstart A_T is 20.4 at 1e3 (plain fine-tuning: 20.2) and 56.1 at 1e6, one seed.
"""

import dataclasses
from typing import Any, ClassVar

from jcl.config import choice, number
from jcl.memory import fisher
from jcl.methods.method import Method, Settings, require
from jcl.streams.stream import TaskPlan


@dataclasses.dataclass
class Ewc(Settings):
  """What mattered to the answers of old tasks moves less. Published code: 5000, `half` true."""

  lambda_ewc: float = number(1000.0, least=0)  # weight of the penalty
  half: bool = False  # ½ before the sum
  fisher_reduction: str = choice('mean', 'sum')  # over an example's targets, of −log p
  labels: str = choice('empirical', 'sampled')  # those given | drawn from the model: true Fisher
  over_tasks: str = choice(*fisher.MERGES)  # exact | F decays | F averaged; both: last anchor
  fisher_decay: float = number(1.0, least=0, most=1)  # of F a task, with `online`
  # Examples whose mean gradient is squared (published code: 32); 0: each example's own gradient.
  batch_fisher: int = number(0, least=0)
  holds_tree: ClassVar = True
  neutral: ClassVar = {'lambda_ewc': 0.0}

  def check(self) -> None:
    """Refuses values out of their bounds, and a decay that nothing would read."""
    super().check()
    read = self.over_tasks == 'online' or self.fisher_decay == 1
    require(read, 'fisher_decay', self.fisher_decay, "1 unless over_tasks is 'online'")

  def build(self, backbone: Any, teacher: Any = None) -> Method:
    """Builds `ewc`."""
    return ewc(backbone, self)


def ewc(backbone, settings: Ewc) -> Method:
  """Plain cross-entropy and a pull to where old tasks ended, as strong as they need it."""
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
