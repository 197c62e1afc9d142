"""The column of distillation from another model than the one before the task."""

from scorecard import checks
from scorecard.cases import Case
from scorecard.wrong import equal


def base() -> None:
  """With anchor `base` the first model teaches in every task: value and steps are the oracle's.

  It does so whether its states are kept or it runs in the step.
  """
  for cache_mb in (2048, 0):
    case = Case('distill', anchor='base', teacher_cache_mb=cache_mb)
    checks.value(case)
    checks.three_tasks(case)
    equal('tasks whose states are kept', bool(case.last.plan.tables), cache_mb > 0)
