"""Metrics on matrices worked by hand, with the arithmetic beside them."""

import math

import pytest

from jcl.errors import UserError
from jcl.reports.metrics import average_so_far, mean_and_interval, metrics, negative_flips
from jcl.reports.metrics import worst_just_learned as worst

FORGETS = [
  [0.1, 0.2, 0.0],  # before training
  [0.9, 0.3, 0.1],
  [0.6, 0.8, 0.2],
  [0.3, 0.4, 1.0],
]


def test_three_tasks():
  assert metrics(FORGETS, sizes=[10, 20, 70]) == pytest.approx(
    {
      'average_accuracy': 1.7 / 3,  # (.3 + .4 + 1.0) / 3
      'average_incremental_accuracy': (0.9 + 0.7 + 1.7 / 3) / 3,  # .9; (.6 + .8) / 2; 1.7 / 3
      'backward_transfer': -0.5,  # ((.3 − .9) + (.4 − .8)) / 2
      'forward_transfer': 0.15,  # ((.3 − .2) + (.2 − .0)) / 2
      'forgetting': 0.5,  # ((max(.9, .6) − .3) + (.8 − .4)) / 2
      'forgetting_first': 0.5,
      'forgetting_rate': 7 / 12,  # (.6 / .9 + .4 / .8) / 2
      'example_weighted_accuracy': 0.81,  # (3 + 8 + 70) / 100
    }
  )
  assert worst(FORGETS) == 0.8
  assert average_so_far(FORGETS) == pytest.approx([0.9, 0.7, 1.7 / 3])


def test_forgetting_takes_the_maximum_of_the_past_and_not_of_the_end():
  matrix = [
    [0.0, 0.0, 0.0],
    [0.5, 0.0, 0.0],
    [0.7, 0.6, 0.0],
    [0.8, 0.4, 0.9],
  ]
  found = metrics(matrix)
  assert found['forgetting'] == pytest.approx(0.05)  # ((.7 − .8) + (.6 − .4)) / 2
  assert found['forgetting_first'] == pytest.approx(-0.05)  # ((.5 − .8) + (.6 − .4)) / 2
  assert found['backward_transfer'] == pytest.approx(0.05)
  assert found['forgetting_rate'] == pytest.approx((-0.3 / 0.5 + 0.2 / 0.6) / 2)


def test_forgetting_is_negative_where_the_past_got_better():
  found = metrics([[0.0, 0.0], [0.5, 0.0], [0.75, 1.0]])
  assert found['forgetting'] == -0.25
  assert found['forgetting_first'] == -0.25
  assert found['backward_transfer'] == 0.25
  assert found['forgetting_rate'] == -0.5


def test_log_perplexity_counts_a_rise_as_forgetting():
  matrix = [
    [5.0, 6.0, 7.0],  # nats per target
    [2.0, 5.0, 6.5],
    [1.5, 2.0, 6.0],
    [3.0, 2.5, 1.0],
  ]
  assert metrics(matrix, 'log_perplexity', sizes=[1, 1, 2]) == pytest.approx(
    {
      'average_accuracy': 6.5 / 3,  # of R: (3 + 2.5 + 1) / 3
      'average_incremental_accuracy': (2.0 + 1.75 + 6.5 / 3) / 3,
      'backward_transfer': -0.75,  # ((2 − 3) + (2 − 2.5)) / 2
      'forward_transfer': 1.0,  # ((6 − 5) + (7 − 6)) / 2
      'forgetting': 1.0,  # ((3 − min(2, 1.5)) + (2.5 − 2)) / 2
      'forgetting_first': 0.75,
      'forgetting_rate': None,
      'example_weighted_accuracy': 1.875,  # (3 + 2.5 + 2·1) / 4
    }
  )
  assert worst(matrix, 'log_perplexity') == 2.0


def test_future_tasks_not_evaluated():
  matrix = [[None] * 3, [0.9, None, None], [0.6, 0.8, None], [0.3, 0.4, 1.0]]
  found, whole = metrics(matrix), metrics(FORGETS)
  assert found['forward_transfer'] is None
  assert found == {**whole, 'forward_transfer': None}


def test_next_task_alone_is_enough_for_forward_transfer():
  matrix = [[0.1, 0.2, 0.0], [0.9, 0.3, None], [0.6, 0.8, 0.2], [0.3, 0.4, 1.0]]
  assert metrics(matrix) == metrics(FORGETS)


def test_joint_fills_the_first_and_the_last_row_alone():
  matrix = [[0.0, 0.1, 0.2], [None] * 3, [None] * 3, [0.7, 0.8, 0.9]]
  found = metrics(matrix)
  assert found.pop('average_accuracy') == pytest.approx(0.8)
  assert set(found.values()) == {None}
  assert worst(matrix) is None
  assert average_so_far(matrix) == [None, None, pytest.approx(0.8)]


def test_run_under_way():
  found = metrics([[0.0, 0.0], [0.9, 0.0], [None, None]], sizes=[5, 5])
  assert found.pop('forward_transfer') == 0
  assert set(found.values()) == {None}


def test_one_task_has_no_past():
  assert metrics([[0.1], [0.75]]) == {
    'average_accuracy': 0.75,
    'average_incremental_accuracy': 0.75,
    'backward_transfer': None,
    'forward_transfer': None,
    'forgetting': None,
    'forgetting_first': None,
    'forgetting_rate': None,
  }


def test_rate_leaves_out_what_was_never_learned():
  matrix = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.8, 0.0], [0.1, 0.2, 0.5]]
  assert metrics(matrix)['forgetting_rate'] == pytest.approx(0.75)  # .6 / .8 alone
  assert metrics([[0.0, 0.0], [0.0, 0.0], [0.5, 1.0]])['forgetting_rate'] is None


@pytest.mark.parametrize(
  ('matrix', 'words'),
  [
    ([], '0 rows'),
    ([[]], '1 row;'),
    ([[0.1, 0.2], [0.1, 0.2]], 'row 0 of the matrix has 2 cells; 2 rows need 1'),
    ([[0.1, 0.2], [0.1], [0.1, 0.2]], 'row 1 of the matrix has 1 cell; 3 rows need 2'),
    ([[0.1], ['a']], "row 1, column 0 of the matrix is 'a'"),
    ([[0.1], [True]], 'is True; it must be a number or null'),
    ([[math.nan], [0.5]], 'row 0, column 0 of the matrix is nan'),
    ([[0.1], [93.0]], r'is 93.0; an accuracy is in \[0, 1\]'),
  ],
)
def test_malformed_matrix_is_refused(matrix, words):
  with pytest.raises(UserError, match=words):
    metrics(matrix)


def test_malformed_arguments_are_refused():
  with pytest.raises(UserError, match='score is'):
    metrics(FORGETS, 'f1')
  with pytest.raises(UserError, match='2 sizes for 3 tasks'):
    metrics(FORGETS, sizes=[1, 2])
  with pytest.raises(UserError, match='at least one test example'):
    metrics(FORGETS, sizes=[1, 2, 0])


def test_negative_flips():
  right_after = [[True, True, False], None, [True, True]]
  at_end = [[False, True, True], [True], [True, False]]
  assert negative_flips(right_after, at_end) == [(0, 0), (2, 1)]
  assert negative_flips([], []) == []
  with pytest.raises(UserError, match='3 tasks before and 1'):
    negative_flips(right_after, at_end[:1])
  with pytest.raises(UserError, match='task 0 has 3 examples before and 1'):
    negative_flips(right_after, [[True], None, None])


def test_mean_over_seeds():
  assert mean_and_interval([]) == (None, None)
  assert mean_and_interval([0.5]) == (0.5, None)
  assert mean_and_interval([0.5, None]) == (None, None)
  # mean 2, s = 1, n = 3, t_{.975, 2} = 4.302653 (tables): 4.302653 / √3
  assert mean_and_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.4841377))
  assert mean_and_interval([0.4] * 3) == pytest.approx((0.4, 0.0))
