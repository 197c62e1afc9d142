"""Cross-entropies that no model has: they are warned of while the run goes on.

A uniform guess over V outputs has log V nats. A mean cross-entropy of more than `TIMES` that much
is no loss of a model that learns. It may stand at the start of a task for some steps, where a model
is badly initialised, or sure of the classes it knows: it is warned of after `STEPS` steps in a row,
or at the end of a shorter task. Above `AT_ONCE` times log V, or below 0, it is warned of at once.
Only terms that are cross-entropies by their name are looked at, each before its weight: penalties,
distillation and scaled terms may have any size.
"""

import math
from collections.abc import Mapping

from jcl.step.losses import CROSS_ENTROPIES

TIMES, AT_ONCE, STEPS = 10, 1000, 10
ROUNDING = 1e-3  # of log V; in float32 a loss of 0 may come out below it
WARNED = -1  # in place of a count: the term was warned of in this task
Counts = dict[str, int]
"""{term: its latest steps in a row above the limit}."""


def doubtful(
  values: Mapping[str, float], uniform: float, counts: Counts, step: int, last: bool
) -> tuple[list[str], Counts]:
  """Returns the terms of a step that are warned of now, and the counts for the next step.

  Args:
    values: {term: mean over the targets of the step}.
    uniform: nats of a uniform guess.
    counts: as returned for the step before; empty at the start of a task.
    step: number of the step in its task, from 1.
    last: whether it is the last of its task.
  """
  found, after = [], dict(counts)
  for term in sorted(CROSS_ENTROPIES & values.keys()):
    count, value = counts.get(term, 0), values[term]
    if count == WARNED:
      continue
    count = count + 1 if value > TIMES * uniform else 0
    if (
      value > AT_ONCE * uniform
      or value < -ROUNDING * uniform
      or count >= min(STEPS, step if last else STEPS)
    ):
      found.append(term)
      count = WARNED
    after[term] = count
  return found, after


def uniform_nats(outputs: int, tasks: int) -> float:
  """Returns the cross-entropy of a uniform guess.

  Args:
    outputs: tokens of the vocabulary, or classes of a head.
    tasks: means that are summed, one for each task; 1: there is one mean.
  """
  return tasks * math.log(max(outputs, 2))


def describe(task: str, step: int, term: str, value: float, uniform: float) -> str:
  """Returns one line about a term that is warned of."""
  if value < 0:
    return f'task {task}, step {step}: {term} is {value:.3g} nats per target, and none is below 0'
  if value > AT_ONCE * uniform:
    why = 'no model is so far off: a target cannot be answered, the loss is wrong, or it diverged'
  else:
    why = 'the rate is too high, the model starts far off, or the loss is wrong'
  return (
    f'task {task}, step {step}: {term} is {value:.3g} nats per target, more than {TIMES} times the '
    f'{uniform:.3g} of a uniform guess: {why}'
  )
