"""Differences between two methods over the seeds that both were run with."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jcl.reports.comparison import Group, seeds_of
from jcl.reports.metrics import mean_and_interval
from jcl.reports.results import metrics_of


class Paired(NamedTuple):
  """Differences of two methods, seed by seed.

  Attributes:
    seeds: number of seeds that both have.
    mean: of the differences.
    half: half-width of its 95 % interval; None for one seed.
    p: of the two-sided paired t-test that the mean is 0; None for one seed.
  """

  seeds: int
  mean: float
  half: float | None
  p: float | None

  @property
  def differs(self) -> bool:
    """Whether the 95 % interval leaves out 0."""
    return self.half is not None and abs(self.mean) > self.half


def paired_difference(
  mine: Mapping[object, float | None], other: Mapping[object, float | None]
) -> Paired | None:
  """Returns the differences `mine` − `other` over the keys that both have a value for.

      t = mean / (s / √n),   p = 2 · P(T_{n−1} > |t|)

  With all differences alike, s is 0: p is then 0, or 1 where they are 0.

  Args:
    mine, other: {seeds of a run: score}.

  Returns:
    None where they have no key in common.
  """
  pairs = [(mine[k], other[k]) for k in mine if k in other]
  differences = [a - b for a, b in pairs if a is not None and b is not None]
  if not differences:
    return None
  mean, half = mean_and_interval(differences)
  assert mean is not None
  count = len(differences)
  if half is None:
    return Paired(count, mean, None, None)
  from scipy.special import stdtr

  spread = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (count - 1))
  if spread == 0:
    return Paired(count, mean, half, float(mean == 0))
  t = abs(mean) / (spread / math.sqrt(count))
  return Paired(count, mean, half, 2 * float(stdtr(count - 1, -t)))


def by_seed(group: Group, metric: str) -> dict[object, float | None]:
  """Returns {seeds of a run: its metric} of a group."""
  return {seeds_of(run): metrics_of(run).get(metric) for run in group.runs}


def ranked(groups: Sequence[Group], means: Sequence[float | None], larger: bool) -> list[int]:
  """Returns the places of groups from the best mean to the worst; those without one come last.

  Args:
    groups: to be ranked.
    means: of each, of the score that ranks.
    larger: whether a larger mean is better.
  """
  sign = -1 if larger else 1
  known = lambda i: (means[i] is None, sign * (means[i] or 0.0))
  return sorted(range(len(groups)), key=known)


def corrected(values: Sequence[float | None]) -> list[float | None]:
  """Returns p-values corrected for their number, by Holm (1979), in the order given.

      p_(k) becomes max over i ≤ k of min(1, (m − i + 1) · p_(i)),   p_(1) ≤ … ≤ p_(m)

  Args:
    values: p-values of the same question; None where there is no test, which does not count.
  """
  known = sorted((p, i) for i, p in enumerate(values) if p is not None)
  found: list[float | None] = [None] * len(values)
  largest = 0.0
  for rank, (p, i) in enumerate(known):
    largest = max(largest, min(1.0, (len(known) - rank) * p))
    found[i] = largest
  return found
