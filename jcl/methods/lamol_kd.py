"""LAMOL-KD: LAMOL, whose replay rows are distilled from the model that wrote them."""

import dataclasses
import functools
from typing import Any, ClassVar

from jcl.config import number
from jcl.memory import pseudo, teacher
from jcl.methods.lamol import Lamol, lamol
from jcl.methods.method import Method
from jcl.step import losses


@dataclasses.dataclass
class LamolKd(Lamol):
  """No cross-entropy on pseudo rows: at the same targets the model before the task is followed."""

  task_tokens: bool = True  # __0__, __1__, … instead of one __gen__
  # Weight of the distillation; the cross-entropy of new rows has weight 1.
  distill_weight: float = number(1.0, least=0)
  distill_temperature: float = number(2.0, above=0)  # of the two softmaxes
  # MiB that the teacher's states may take; where they take more, the teacher runs in the step.
  teacher_cache_mb: int = number(2048, least=0)
  published_kd_mask: bool = False  # distil one position later: no first token, but beyond eos
  holds_tree: ClassVar = True

  def max_cached_examples(self, stream: Any) -> int:
    """Pseudo samples before the largest task."""
    return int(self.gamma * max(len(task.train) for task in stream.tasks))

  def build(self, backbone: Any, teacher: Any = None) -> Method:
    """Builds `lamol_kd`."""
    return lamol_kd(backbone, self)


def lamol_kd(backbone, settings: LamolKd) -> Method:
  """CE(new QA) + lambda_gen·CE(new GEN) + distill_weight·(KD(old QA) + lambda_gen·KD(old GEN))."""
  s, later = settings, int(settings.published_kd_mask)
  drawn = lambda memory: pseudo.examples(memory['pseudo'])
  past = lamol(backbone, s)
  past = teacher.follow(
    past, backbone, s.max_cached_examples, drawn, s.teacher_cache_mb, later=later
  )
  divergence = functools.partial(losses.distillation, temperature=s.distill_temperature)

  def loss_fn(params, teacher_params, batch):
    # Old rows are nothing but distilled: to move their targets leaves cross-entropy as it is.
    moved_M = batch.target_position + later * batch.replay_M
    batch = batch.replace(target_position=moved_M)
    ce_M, kd_M = teacher.compare(backbone, params, teacher_params, batch, divergence)
    old_M, gen_M = batch.replay_M, batch.generative_M
    new = {'qa': (ce_M, ~old_M & ~gen_M), 'gen': (ce_M, ~old_M & gen_M)}
    return new | {'kd_qa': (kd_M, old_M & ~gen_M), 'kd_gen': (kd_M, old_M & gen_M)}

  def plan(memory, task):
    kd = s.distill_weight
    weights = {'gen': s.lambda_gen, 'kd_qa': kd, 'kd_gen': kd * s.lambda_gen}
    return past.plan(memory, task)._replace(weights=weights)

  return past._replace(plan=plan, loss_fn=loss_fn)
