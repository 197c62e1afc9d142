"""The lines of metrics.jsonl on one axis: steps of the whole run, parts of tasks, shares."""

import pytest
from support import reported

from jcl.reports.history import history, loss_shares, weighted_terms


def test_steps_go_on_from_task_to_task():
  past = history(reported.run(), reported.log(12))
  assert past.lengths == [12, 12, 12]
  assert past.starts == [0, 12, 24]
  assert [x for x, _ in past.values['loss']] == list(range(1, 37))
  assert past.terms == ['qa', 'gen', 'ewc']
  assert [x for x, _ in past.dev['bank']] == pytest.approx([i / 3 for i in range(1, 10)])
  assert len(past.dev['music']) == 3


def test_lines_that_are_not_of_the_run_are_left_out():
  lines = [
    {'task': 9, 'step': 1, 'loss': 1.0}, {'task': 'a', 'step': 1, 'loss': 1.0}, {'step': 1},
    {'task': 0, 'step': 1, 'loss': float('nan')}, {'task': 0, 'step': 0, 'loss': 1.0},
    {'task': 0, 'step': 2, 'dev': {'bank': None}}, {'task': 0, 'step': 3, 'refused': ['ce']},
    {'task': True, 'step': 1, 'loss': 2.0}, {'task': 0, 'step': 4, 'loss': 1.0, 'ce': 'x'},
  ]  # fmt: skip
  past = history(reported.run(), lines)
  assert past.values['loss'] == [(4, 1.0)]
  assert past.lengths == [4, 0, 0]
  assert past.terms == []
  assert past.dev == {}


def test_shares_are_those_of_the_weighted_terms():
  one = reported.run()
  past = history(one, reported.log())
  weighted = weighted_terms(one, past)
  loss = dict(past.values['loss'])
  for step, value in loss.items():
    assert sum(dict(points)[step] for points in weighted.values()) == pytest.approx(value)
  shares = loss_shares(one, past)
  assert dict(shares['ewc'])[24] == pytest.approx(1.0 / loss[24])
  assert dict(shares['ewc'])[1] == 0
  assert weighted_terms({**one, 'weights': []}, past) == {}
  assert loss_shares({**one, 'weights': None}, past) == {}
