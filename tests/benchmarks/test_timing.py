"""Turns, medians and ratios on times that are given."""

import pytest

from jcl.benchmarks import timing
from jcl.benchmarks.timing import Case


class Clock:
  """A clock that moves when somebody works."""

  def __init__(self):
    self.now, self.turns = 0.0, []

  def __call__(self):
    return self.now

  def worker(self, name, seconds, units=1.0):
    """Work that takes the next of `seconds` at each turn."""
    left = list(seconds)

    def work():
      self.turns.append(name)
      self.now += left.pop(0)
      return units

    return work


def test_contenders_alternate_and_the_order_turns():
  clock = Clock()
  works = {name: clock.worker(name, [1.0] * 3) for name in ('jcl', 'a', 'b')}
  timing.alternate(works, 3, clock)
  assert clock.turns == ['jcl', 'a', 'b', 'a', 'b', 'jcl', 'b', 'jcl', 'a']


def test_seconds_are_by_unit_and_in_the_order_of_rounds():
  clock = Clock()
  works = {'jcl': clock.worker('jcl', [2.0, 4.0], 4.0), 'a': clock.worker('a', [3.0, 9.0], 3.0)}
  assert timing.alternate(works, 2, clock) == {'jcl': [0.5, 1.0], 'a': [1.0, 3.0]}


def test_a_contender_that_did_nothing_is_named():
  clock = Clock()
  with pytest.raises(RuntimeError, match='idle did nothing in round 1'):
    timing.alternate({'idle': clock.worker('idle', [1.0], 0.0)}, 1, clock)


def test_ratios_are_paired_and_the_median_is_theirs_by_ours():
  case = Case('step', 'step', {'jcl': [1.0, 2.0, 10.0], 'torch': [2.0, 2.0, 50.0]})
  assert case.ratios() == {'torch': [2.0, 1.0, 5.0]}
  assert case.spread('torch') == (1.0, 2.0, 5.0)  # not median / median, which is 1
  assert case.median() == 2.0


def test_a_case_of_one_contender_has_no_ratio():
  assert Case('replay', 'step', {'jcl': [1.0]}).ratios() == {}
  assert Case('odd', 'step', {'torch': [1.0]}).ratios() == {}


def test_a_whole_counts_each_part_as_often_as_it_is_done():
  steps = Case('steps', 'step', {'jcl': [1.0, 2.0], 'torch': [3.0, 4.0]})
  teacher = Case('teacher', 'task', {'jcl': [5.0, 7.0]})  # torch does it in its steps
  whole = timing.together('task', 'task', {'steps': (steps, 10), 'teacher': (teacher, 1)})
  assert whole.seconds == {'jcl': [15.0, 27.0], 'torch': [30.0, 40.0]}
