"""A run over time: the lines of `metrics.jsonl` on one axis of steps."""

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jcl.reports.results import Results, is_number
from jcl.types import Json

NO_TERMS = ('task', 'step', 'rate', 'loss', 'gradient_norm')  # numbers of a step beside its terms
Point = tuple[float, float]


class History(NamedTuple):
  """The log of a run of T tasks.

  Attributes:
    lengths: [T] steps of each task, as far as lines tell.
    values: {name: [(step of the whole run, value)]} of loss, terms, rate and gradient norm.
    dev: {task name: [(tasks, score)]}; 1.5 is half-way through the second task.
    gradients: {term: [(step of the whole run, norm of weight · gradient)]}.
  """

  lengths: list[int]
  values: dict[str, list[Point]]
  dev: dict[str, list[Point]]
  gradients: dict[str, list[Point]]

  @property
  def starts(self) -> list[int]:
    """[T] steps of the whole run before each task."""
    return [0, *itertools.accumulate(self.lengths)][: len(self.lengths)]

  @property
  def terms(self) -> list[str]:
    """Names of the terms of the loss, in the order in which they first appear."""
    return [name for name in self.values if name not in NO_TERMS]


def history(run: Results, lines: Sequence[Json]) -> History:
  """Returns what a run logged; lines that are damaged or of another run are left out.

  Args:
    run: contents of its `results.json`.
    lines: of its `metrics.jsonl`.
  """
  tasks = len(run['tasks'])
  kept = [
    line for line in lines
    if type(line.get('task')) is int and line['task'] in range(tasks)
    and is_number(line.get('step')) and line['step'] >= 1
  ]  # fmt: skip
  lengths = [0] * tasks
  for line in kept:
    lengths[line['task']] = max(lengths[line['task']], int(line['step']))
  found = History(lengths, {}, {}, {})
  starts = found.starts
  for line in kept:
    task, step = line['task'], line['step']
    if is_number(line.get('loss')):
      for name, value in line.items():
        if is_number(value) and name not in ('task', 'step'):
          found.values.setdefault(name, []).append((starts[task] + step, float(value)))
    for name, value in _numbers(line.get('dev')):
      found.dev.setdefault(name, []).append((task + step / lengths[task], value))
    for name, value in _numbers(line.get('gradient_norms')):
      found.gradients.setdefault(name, []).append((starts[task] + step, value))
  return found


def _numbers(part: object) -> Iterator[tuple[str, float]]:
  """Yields the finite numbers of a part of a line, with their names."""
  for name, value in part.items() if isinstance(part, Mapping) else ():
    if is_number(value):
      yield name, float(value)


def weighted_terms(run: Results, past: History) -> dict[str, list[Point]]:
  """Returns {term: [(step of the whole run, weight · value)]}; empty where no weights are known.

  Args:
    run: contents of `results.json`; its `weights` say what the terms of each task count.
    past: what the run logged.
  """
  entries = [line for line in run.get('weights') or () if line.get('task') in run['tasks']]
  by_task = {run['tasks'].index(line['task']): line.get('terms') or {} for line in entries}
  if not by_task:
    return {}
  starts = past.starts
  found: dict[str, list[Point]] = {}
  for term in past.terms:
    for step, value in past.values[term]:
      task = bisect.bisect_left(starts, step) - 1
      if (weight := by_task.get(task, {}).get(term)) is not None:
        found.setdefault(term, []).append((step, weight * value))
  return found


def loss_shares(run: Results, past: History) -> dict[str, list[Point]]:
  """Returns {term: [(step of the whole run, its share of the sum of all weighted terms)]}.

  Terms count with their absolute value; all terms have the same steps, with 0 where one is missing.
  """
  return shares(weighted_terms(run, past))


def shares(of: Mapping[str, Sequence[Point]]) -> dict[str, list[Point]]:
  """Returns {term: [(step, its share of the sum of all terms there)]}, as `loss_shares` does."""
  weighted = {term: dict(points) for term, points in of.items()}
  steps = sorted({step for points in weighted.values() for step in points})
  totals = {s: sum(abs(points.get(s, 0.0)) for points in weighted.values()) for s in steps}
  return {
    term: [(s, abs(points.get(s, 0.0)) / totals[s]) for s in steps if totals[s] > 0]
    for term, points in weighted.items()
  }
