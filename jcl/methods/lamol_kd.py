"""LAMOL-KD: LAMOL with distillation on the pseudo samples, from the model that generated them.

    L = CE(new QA) + lambda_gen · CE(new GEN)
        + distill_weight · (KD_T(old QA) + lambda_gen · KD_T(old GEN))

KD_T = T² · KL(teacher ‖ model), T is distill_temperature, the teacher is the model before the task.
"""

import dataclasses
import functools
from typing import ClassVar

from jcl.backbones import Backbone
from jcl.config import GIVEN, number, only_with
from jcl.memory import pseudo, teacher
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.lamol import Lamol, lamol
from jcl.methods.method import Method
from jcl.step import losses
from jcl.streams.stream import Stream


@dataclasses.dataclass
class LamolKd(Lamol):
  """Pseudo rows have distillation in place of cross-entropy, at the same targets."""

  task_tokens: bool = True  # a generation token for each task: __0__, __1__, …, not __gen__
  # Weight of the distillation; the cross-entropy of new rows has weight 1.
  distill_weight: float = number(1.0, least=0)
  # of the two softmaxes
  distill_temperature: float = only_with(number(2.0, above=0), {'distill_weight': GIVEN})
  # MiB that the teacher's states may take; where they take more, the teacher runs in the step.
  teacher_cache_mb: int = number(2048, least=0)
  # As in the published code, distil one position later: after eos, and not the first token.
  published_kd_mask: bool = only_with(False, {'distill_weight': GIVEN})
  holds_tree: ClassVar = True

  @property
  def weights(self) -> dict[str, float]:
    """The weights of the terms; `qa` counts 1."""
    kd = self.distill_weight
    return {'gen': self.lambda_gen, 'kd_qa': kd, 'kd_gen': kd * self.lambda_gen}

  def max_cached_examples(self, stream: Stream) -> int:
    """Returns the number of pseudo samples before the largest task."""
    return int(self.gamma * max(len(task.train) for task in stream.tasks))

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `lamol_kd`."""
    return lamol_kd(backbone, self)


def lamol_kd(backbone: Backbone, settings: LamolKd) -> Method:
  """Returns the method; all four terms come from one forward pass."""
  s, later = settings, int(settings.published_kd_mask)
  drawn = lambda memory: pseudo.examples(memory['pseudo'])
  past = lamol(backbone, s)
  past = teacher.follow(
    past, backbone, s.max_cached_examples, drawn, s.teacher_cache_mb, later=later
  )
  divergence = functools.partial(losses.distillation, temperature=s.distill_temperature)

  def loss_fn(params, teacher_params, batch):
    # Only old rows move, and these have no cross-entropy.
    moved_M = batch.target_position + later * batch.replay_M.astype('int32')
    batch = batch.replace(target_position=moved_M)
    old_M, gen_M = batch.replay_M, batch.generative_M
    ce_M, kd_M = teacher.compare(backbone, params, teacher_params, batch, divergence, old_M)
    new = {'qa': (ce_M, ~old_M & ~gen_M), 'gen': (ce_M, ~old_M & gen_M)}
    return new | {'kd_qa': (kd_M, old_M & ~gen_M), 'kd_gen': (kd_M, old_M & gen_M)}

  def plan(memory, task):
    return past.plan(memory, task)._replace(weights=s.weights)

  return past._replace(plan=plan, loss_fn=loss_fn)
