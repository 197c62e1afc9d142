"""Axes of charts: where a value lies on one, and which values are written at it."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jcl.reports.page.markup import minus


class Axis(NamedTuple):
  """An axis of a chart.

  Attributes:
    low, high: its ends; `high` lies below `low` where smaller values are better.
    label: in words, with the unit.
    shown: how a value on it is written.
    log: whether it is logarithmic.
    ticks: values that are written at it; empty: chosen by `ticks_of`.
    whole: only whole numbers are written at it, as for tasks and steps.
  """

  low: float
  high: float
  label: str
  shown: Callable[[float], str] = '{:g}'.format
  log: bool = False
  ticks: Sequence[float] = ()
  whole: bool = False

  @property
  def written(self) -> Sequence[float]:
    """The values that are written at it."""
    return self.ticks or ticks_of(self.low, self.high, whole=self.whole)

  def words(self, value: float) -> str:
    """Returns a value as it is written at the axis."""
    return minus(self.shown(value))

  def place(self, value: float) -> float:
    """Returns where a value lies, 0 at `low` and 1 at `high`."""
    change = (lambda v: math.log10(max(v, 1e-300))) if self.log else float
    low, high = change(self.low), change(self.high)
    return (change(value) - low) / ((high - low) or 1.0)


def ticks_of(low: float, high: float, most: int = 5, whole: bool = False) -> list[float]:
  """Returns at most `most` round values between two numbers, ends included.

  Args:
    low, high: the numbers, in any order.
    most: values at most.
    whole: only whole numbers.
  """
  low, high = min(low, high), max(low, high)
  if not high > low:
    return [low]
  step = 10 ** math.floor(math.log10((high - low) / most))
  fits = lambda factor: (high - low) / (step * factor) <= most - 1 + 1e-9
  factors = [
    f for f in (1, 2, 2.5, 5, 10, 20, 50) if not whole or math.isclose(step * f, round(step * f))
  ]
  step *= next(filter(fits, factors))
  first = math.ceil(low / step - 1e-9)
  return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def range_of(values: Sequence[float]) -> tuple[float, float]:
  """Returns ends of an axis that holds some values, 0 included where it is near."""
  low, high = min(values), max(values)
  if low > 0 and low < 0.5 * high:
    low = 0.0
  margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
  return (low if low == 0 else low - margin), high + margin
