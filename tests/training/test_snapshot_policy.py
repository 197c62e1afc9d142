"""When a snapshot is due: by steps, by chunks, by minutes, and when the run is asked to stop."""

import pytest

from jcl.config import CheckpointConfig
from jcl.training.signals import Requests
from jcl.training.snapshot_policy import SnapshotPolicy, half


def policy(alone=True, asked='', **settings):
  requests = Requests()
  requests.asked = asked
  return SnapshotPolicy(CheckpointConfig(**{'every_minutes': 0.0, **settings}), requests, alone)


@pytest.mark.parametrize(('most', 'between'), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_two_snapshots_are_begun_within_what_a_kill_may_cost(most, between):
  assert half(most) == between
  due = [step for step in range(1, 10) if policy(every_steps=most).after_step(step)]
  assert due == list(range(between, 10, between))


def test_chunks_are_counted_from_the_last_snapshot():
  counted = policy(every_chunks=4)
  assert [counted.after_chunk() for _ in range(3)] == [False, True, True]
  counted.saved()
  assert [counted.after_chunk() for _ in range(2)] == [False, True]


def test_minutes_are_counted_from_the_last_snapshot_and_by_one_process_only(monkeypatch):
  now = [100.0]
  monkeypatch.setattr('time.monotonic', lambda: now[0])
  alone, among_others = policy(every_minutes=2.0), policy(alone=False, every_minutes=2.0)
  now[0] += 119
  assert not alone.overdue()
  now[0] += 1
  assert alone.overdue()
  assert alone.after_step(1)
  assert not among_others.overdue()
  alone.saved()
  assert not alone.overdue()


def test_a_request_to_stop_makes_one_due_at_once():
  asked = policy(asked='SIGTERM')
  assert asked.asked
  assert asked.overdue()
  assert asked.after_step(1)
  assert asked.after_chunk()
  assert not policy().after_step(1)


def test_work_waits_for_a_snapshot_only_where_a_kill_may_cost_one_step():
  assert policy(every_steps=1).waits
  assert policy(every_chunks=1).waits
  assert not policy(every_steps=2, every_chunks=3).waits
