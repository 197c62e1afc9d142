"""DER++ (Buzzega et al. 2020): L = CE(new) + beta·CE(old) + alpha·MSE(old, model of the past)."""

import dataclasses
from typing import Any, ClassVar

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
  targets: str = choice('teacher', 'stored')  # before the task | when it entered the buffer
  teacher_cache_mb: int = 2048  # MiB of the teacher's states; more: it runs in the step
  stored_logits_mb: int = 1024  # MiB of stored logits; more is refused
  published_til_weighting: bool = False  # heads: new rows weigh beta and keep to untrained heads
  scenarios: ClassVar = ('cil', 'til', 'dil')
  brings: ClassVar = ('loss', 'rows')
  holds_tree: ClassVar = True

  def check(self) -> None:
    """Refuses values out of their range."""
    super().check()
    methods.not_negative(self, 'alpha', 'beta', 'teacher_cache_mb', 'stored_logits_mb')
    if self.targets == 'stored':
      methods.require(self.update == 'after_task', 'update', self.update, "'after_task' if stored")
      right, words = not self.published_til_weighting, "False with targets 'stored'"
      methods.require(right, 'published_til_weighting', True, words)

  def check_run(self, scenario: str, tools: Any) -> None:
    """Refuses logits that take too much, and a weighting of heads without them."""
    super().check_run(scenario, tools)
    right = (tools.told and tools.heads is not None) or not self.published_til_weighting
    methods.require(right, 'published_til_weighting', True, 'False without heads in til')
    if self.targets == 'stored':
      teacher.check_stored(tools, self.most(tools.stream), self.stored_logits_mb)


def derpp(backbone, settings: Derpp) -> methods.Method:
  """New and old rows are told apart by `replay`, never by their place in the batch."""
  past, s = replay(backbone, settings, term='old'), settings
  published = s.published_til_weighting

  def loss_fn(params, teacher_params, batch):
    batch = batch.replace(known=batch.allowed) if published else batch
    apart = losses.mean_squared_error
    ce_M, mse_M = teacher.compare(backbone, params, teacher_params, batch, apart)
    old_M = batch.replay_M
    mse = (mse_M, (old_M | published) & teacher.knows(batch))
    return {'new': (ce_M, ~old_M), 'old': (ce_M, old_M), 'mse': mse}

  def init(params, stream, tools):
    field = teacher.HIDDEN if s.update == 'after_task' else teacher.FAMILIAR
    field = teacher.LOGITS if s.targets == 'stored' else field
    cache_mb = 0 if published else s.teacher_cache_mb  # it looks at new rows, too
    frozen = teacher.start(backbone, params, tools, s.most(stream), cache_mb, field)
    return past.init(params, stream, tools) | frozen

  def before_task(memory, params, task, tools):
    old = memory['buffer']['examples']
    return memory | teacher.freeze(memory, backbone, params, old, tools), params

  def plan(memory, task):
    weights = {'new': 1.0, 'old': s.beta, 'mse': s.alpha}
    if published:  # from the second task on
      weights |= {'new': s.beta} if task.index else {'mse': 0.0}
    return past.plan(memory, task)._replace(weights=weights, tables=memory['tables'])

  def after_task(memory, params, task, tools):
    memory, params = past.after_task(memory, params, task, tools)
    old = memory['buffer']['examples']
    return memory | teacher.store(memory, backbone, params, old, tools), params

  return past._replace(
    init=init, before_task=before_task, plan=plan, loss_fn=loss_fn, after_task=after_task
  )
