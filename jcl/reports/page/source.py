"""A run as the page reads it, and how the page writes its scores."""

from collections.abc import Sequence
from typing import NamedTuple

from jcl.reports.formatting import MISSING, format_number
from jcl.reports.page import axes
from jcl.reports.page.markup import Number, minus, number
from jcl.reports.results import Results, is_number, score_matrix, score_of, tasks_learned
from jcl.types import Json


class Source(NamedTuple):
  """The files of one run.

  Attributes:
    results: contents of `results.json`.
    lines: of `metrics.jsonl`; empty where there are none.
    anchor: before the anchors of its sections, so that several runs stand in one page.
    place: folder of the run as its commands name it; '': it is not known.
  """

  results: Results
  lines: Sequence[Json] = ()
  anchor: str = ''
  place: str = ''

  @property
  def learned(self) -> int:
    """Number of tasks that the run has finished."""
    return tasks_learned(score_matrix(self.results))


def scale(run: Results) -> int:
  """Returns what scores are multiplied with: 100 for shares, which are shown in %."""
  return 100 if score_of(run) == 'accuracy' else 1


def score_cell(run: Results, value: float | None) -> Number:
  """Returns a score as a cell of a table."""
  return Number(number(value, score_of(run)), value)


def count_cell(value: object) -> Number:
  """Returns a count as a cell of a table."""
  if not is_number(value):
    return Number(MISSING, None)
  count = float(value)  # type: ignore[arg-type]
  return Number(f'{count:,.0f}' if count.is_integer() else f'{count:,.2f}', count)


def score_axis(run: Results, values: Sequence[float] = ()) -> axes.Axis:
  """Returns an axis of scores: 0 to 100 %, or the nats that occur.

  Args:
    run: whose scores they are.
    values: nats per token that must lie on it.
  """
  if score_of(run) == 'accuracy':
    return axes.Axis(0, 100, '', '{:.0f}'.format, ticks=(0, 25, 50, 75, 100))
  low, high = axes.range_of(list(values) or [0.0, 1.0])
  return axes.Axis(low, high, '')


def tasks_axis(tasks: int) -> axes.Axis:
  """Returns an axis of tasks learned, from the first to the last."""
  return axes.Axis(1, max(tasks, 2), 'tasks learned', whole=True)


def seconds_cell(value: object) -> Number:
  """Returns seconds as a cell of a table."""
  known = float(value) if is_number(value) else None  # type: ignore[arg-type]
  return Number(MISSING if known is None else f'{known:,.1f}', known)


def difference(run: Results, value: float | None) -> str:
  """Returns a difference of scores with its sign: points of a per cent, or nats."""
  if value is None:
    return MISSING
  shown = format_number(value, score_of(run))
  return minus(shown) if shown.startswith('-') or not float(shown) else f'+{shown}'
