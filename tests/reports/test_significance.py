"""Paired differences over seeds, against scipy's t-test; ranks."""

import pytest
import scipy.stats
from support import reported

from jcl.reports.comparison import group_runs
from jcl.reports.significance import by_seed, corrected, paired_difference, ranked

MINE, OTHER = [0.91, 0.84, 0.88, 0.93], [0.82, 0.83, 0.80, 0.90]


def test_a_paired_difference_is_that_of_the_t_test():
  mine, other = (dict(enumerate(values)) for values in (MINE, OTHER))
  found = paired_difference(mine, {**other, 9: 0.5})
  expected = scipy.stats.ttest_rel(MINE, OTHER)
  interval = expected.confidence_interval(0.95)
  assert found.seeds == 4
  assert found.p == pytest.approx(expected.pvalue)
  assert found.mean - found.half == pytest.approx(interval.low)
  assert found.mean + found.half == pytest.approx(interval.high)
  assert found.differs == (interval.low > 0 or interval.high < 0)


def test_few_seeds_say_little_and_equal_differences_much():
  assert paired_difference({0: 0.5}, {1: 0.5}) is None
  assert paired_difference({0: None}, {0: 0.5}) is None
  alone = paired_difference({0: 0.75}, {0: 0.5})
  assert (alone.mean, alone.half, alone.p, alone.differs) == (0.25, None, None, False)
  assert paired_difference({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.25}).p == 0
  assert paired_difference({0: 0.5, 1: 0.25}, {0: 0.5, 1: 0.25}).p == 1


def test_runs_are_paired_by_all_their_seeds():
  groups = group_runs([reported.run(seed=s) for s in (0, 1)] + [reported.run('seq', seed=1)])
  lamol, seq = (by_seed(group, 'average_accuracy') for group in groups)
  assert len(lamol) == 2
  assert len(lamol.keys() & seq.keys()) == 1


def test_the_best_comes_first_and_what_is_not_known_last():
  groups = group_runs([reported.run(name) for name in 'abcd'])
  assert ranked(groups, [0.5, None, 0.9, 0.7], larger=True) == [2, 3, 0, 1]
  assert ranked(groups, [0.5, None, 0.9, 0.7], larger=False) == [0, 3, 2, 1]


def test_p_values_are_corrected_by_holm():
  """Sorted 0.01, 0.02, 0.03, 0.9: times 4, 3, 2, 1, and never smaller than one before."""
  found = corrected([0.02, 0.9, None, 0.01, 0.03])
  assert found[2] is None
  assert [found[i] for i in (0, 1, 3, 4)] == pytest.approx([0.06, 0.9, 0.04, 0.06])
  assert corrected([0.6, 0.7]) == [1.0, 1.0]
  assert corrected([0.03]) == [0.03]
  assert corrected([]) == []
