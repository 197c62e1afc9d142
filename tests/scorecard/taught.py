"""Column of a teacher that learns each task by itself: its parameters, from where it starts."""

import numpy as np
from oracles import subspaces

from jcl import methods
from jcl.streams.stream import TaskPlan
from scorecard import cases
from scorecard.cases import Case
from scorecard.subspaces import difference, leaves, length, like
from scorecard.wrong import above, near

ROUNDING = 2e-3  # share of the whole move; Adam divides a gradient near 0 by its own size


def alone(case: Case) -> None:
  """Each teacher takes the steps of AdamW from the first parameters, on LAMOL of its task alone."""
  lamol = methods.make(case.backbone, cases.chosen('lamol', task_tokens=case.settings.task_tokens))
  by = subspaces.Optimiser(
    cases.TRAIN.learning_rate, cases.TRAIN.weight_decay, cases.TRAIN.clip_norm,
    beta2=cases.TRAIN.beta2,
  )  # fmt: skip
  start, weights = case.moments[0].start, {'gen': case.settings.lambda_gen}
  for moment, taught in zip(case.moments, case.tools.learned, strict=False):
    plan, now = TaskPlan(list(moment.task.train)), start
    steps = case.steps(plan, moment.task, case.settings.teacher_epochs)
    state = subspaces.nothing(leaves(start))
    for items in steps:
      batch = case.batch(moment, case.rows(items))
      judged = case.judge(moment, batch, now, weights=weights, teacher={}, method=lamol)
      gradient = like(judged.gradient, leaves(start))
      moved, state = subspaces.adam(leaves(now), gradient, state, by)
      now = like_tree(moved, start)
    what = f'task {moment.task.index + 1}'
    wanted, found = leaves(now), leaves(cases.host(taught))
    move = length(difference(wanted, leaves(start)))
    above(f'{what}: what the teacher learns', move, 1e-2)
    off = length(difference(found, wanted)) / move
    near(f'{what}: share of the move of its teacher that is off', off, 0, ROUNDING, 1.0)


def like_tree(moved: subspaces.Leaves, start: dict) -> dict:
  """The leaves in float32, in the tree of the recurrent model."""
  names = {f"['{name}']['kernel']": name for name in start}
  return {names[path]: {'kernel': x.astype(np.float32)} for path, x in moved.items()}


def has_one(case: Case) -> bool:
  """Whether a teacher learns each task apart."""
  return hasattr(case.settings, 'teacher_epochs')
