"""DER++ (Buzzega et al. 2020): L = CE(new) + beta·CE(old) + alpha·MSE(old, model of the past)."""

import dataclasses
from typing import ClassVar

from jcl import losses, methods
from jcl.config import choice
from jcl.memory import teacher
from jcl.methods.replay import Replay, replay


@dataclasses.dataclass
class Derpp(Replay):
  """The buffer is that of `replay`; the past is the model as it was before the task."""

  alpha: float = 0.5  # weight of the squared distance to the logits of the past
  beta: float = 0.5  # weight of cross-entropy on old rows
  level: str = choice('batch', 'dataset')  # half of every batch | mixed into the epoch
  teacher_cache_mb: int = 2048  # MiB of the teacher's states; more: it runs in the step
  scenarios: ClassVar = ('cil', 'til', 'dil')
  brings: ClassVar = ('loss', 'rows')
  holds_tree: ClassVar = True

  def check(self) -> None:
    """Refuses values out of their range."""
    super().check()
    methods.not_negative(self, 'alpha', 'beta', 'teacher_cache_mb')


def derpp(backbone, settings: Derpp) -> methods.Method:
  """New and old rows are told apart by `replay`, never by their place in the batch."""
  past = replay(backbone, settings, term='old')

  def loss_fn(params, teacher_params, batch):
    apart = losses.mean_squared_error
    ce_M, mse_M = teacher.compare(backbone, params, teacher_params, batch, apart)
    old_M = batch.replay_M
    mse = (mse_M, old_M & teacher.knows(batch))
    return {'new': (ce_M, ~old_M), 'old': (ce_M, old_M), 'mse': mse}

  def init(params, stream, tools):
    examples = min(settings.buffer_size, sum(len(task.train) for task in stream.tasks))
    frozen = teacher.start(backbone, params, tools, examples, settings.teacher_cache_mb)
    return past.init(params, stream, tools) | frozen

  def before_task(memory, params, task, tools):
    old = memory['buffer']['examples']
    return memory | teacher.freeze(memory, backbone, params, old, tools), params

  def plan(memory, task):
    weights = {'old': settings.beta, 'mse': settings.alpha}
    return past.plan(memory, task)._replace(weights=weights, tables=memory['tables'])

  return past._replace(init=init, before_task=before_task, plan=plan, loss_fn=loss_fn)
