"""Dark experience replay, DER++ (Buzzega et al. 2020).

    L = CE(new) + beta · CE(old) + alpha · MSE(old)

MSE is the mean squared distance of the logits to those of the past. With a head and the task id
given, the losses of each task that is in the batch are summed.
"""

import dataclasses
from typing import ClassVar

from jcl.backbones import Backbone
from jcl.config import choice, number, only_with
from jcl.memory import buffer, teacher
from jcl.memory.teacher import ExternalTeacher
from jcl.memory.tools import Tools
from jcl.methods.method import Method, require
from jcl.methods.replay import Replay, replay
from jcl.step import losses


@dataclasses.dataclass
class Derpp(Replay):
  """The buffer is that of `replay`; the past is by default the model before the task."""

  alpha: float = number(0.5, least=0)  # weight of the squared distance to the logits of the past
  beta: float = number(0.5, least=0)  # weight of cross-entropy on old rows
  # Old rows make up half of every batch (`batch`), or are mixed into each epoch (`dataset`).
  level: str = choice('batch', 'dataset')
  # Answers of old rows: the stored ones, at which the logits of the past are known.
  answers: str = choice('stored')
  # Old rows are examples, at which the logits of the past are known, and no corpus.
  corpus: str = choice('')
  # Logits of the past: of the model before the task, or of the model when an example was stored.
  targets: str = choice('teacher', 'stored')
  # MiB that the teacher's states may take; where they take more, the teacher runs in the step.
  teacher_cache_mb: int = only_with(
    number(2048, least=0),
    {'targets': 'teacher', 'update': 'after_task', 'published_til_weighting': False},
  )
  # MiB that stored logits may take
  stored_logits_mb: int = only_with(number(1024, least=0), {'targets': 'stored'})
  # As in the published code, with heads and task ids: new rows have weight beta and an MSE, too.
  published_til_weighting: bool = False
  scenarios: ClassVar = ('cil', 'til', 'dil')
  brings: ClassVar = ('loss', 'rows')
  holds_tree: ClassVar = True

  def check(self) -> None:
    """Refuses values out of their bounds, and stored logits that would change within a task."""
    super().check()
    right = self.update == 'after_task' or self.targets == 'teacher'
    require(right, 'update', self.update, "'after_task' with targets 'stored'")

  def check_run(self, scenario: str, tools: Tools) -> None:
    """Refuses logits that take too much memory, and weights that the run has no use for."""
    super().check_run(scenario, tools)
    teacher.check_stored(tools, self)
    plain, words = not self.published_til_weighting, "False but for heads in til and a 'teacher'"
    right = plain or (tools.task_id_given and tools.heads is not None and self.targets == 'teacher')
    require(right, 'published_til_weighting', True, words)

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `derpp`."""
    return derpp(backbone, self)


def derpp(backbone: Backbone, settings: Derpp) -> Method:
  """Returns the method; `batch.replay_M` says which targets are of old rows."""
  s, published = settings, settings.published_til_weighting
  field = teacher.field_of(s.targets, s.update)
  cache_mb = 0 if published else s.teacher_cache_mb  # new rows need the teacher, too
  past = teacher.follow(
    replay(backbone, s, 'old'), backbone, s.max_cached_examples, buffer.held, cache_mb, field
  )

  def loss_fn(params, teacher_params, batch):
    batch = batch.replace(known=batch.allowed) if published else batch
    apart, old_M = losses.mean_squared_error, batch.replay_M
    seen_M = (old_M | published) & teacher.knows(batch)
    ce_M, mse_M = teacher.compare(backbone, params, teacher_params, batch, apart, seen_M)
    return {'new': (ce_M, ~old_M), 'old': (ce_M, old_M), 'mse': (mse_M, seen_M)}

  def plan(memory, task):
    later = published and task.index > 0
    mse = s.alpha if later or not published else 0.0
    weights = {'new': s.beta if later else 1.0, 'old': s.beta, 'mse': mse}
    return past.plan(memory, task)._replace(weights=weights)

  return past._replace(plan=plan, loss_fn=loss_fn)
