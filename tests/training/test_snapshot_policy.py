"""When a snapshot is due: by steps, by chunks, by minutes, and when the run is asked to stop."""

import pytest

from jcl.config import CheckpointConfig
from jcl.training.peers import SAVE
from jcl.training.signals import Requests
from jcl.training.snapshot_policy import SnapshotPolicy, half


class Scripted:
  """Peers that agree on what a test says.

  Args:
    *due: what is due at each point.
  """

  def __init__(self, *due):
    self.due, self.wishes = list(due), []

  def wish(self, word):
    self.wishes.append(word)

  def point(self):
    return self.due.pop(0)


def policy(peers=None, asked='', **settings):
  requests = Requests()
  requests.asked = asked
  return SnapshotPolicy(CheckpointConfig(**{'every_minutes': 0.0, **settings}), requests, peers)


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


def test_minutes_are_counted_from_the_last_snapshot(monkeypatch):
  now = [100.0]
  monkeypatch.setattr('time.monotonic', lambda: now[0])
  alone = policy(every_minutes=2.0)
  now[0] += 119
  assert not alone.overdue()
  now[0] += 1
  assert alone.overdue()
  assert alone.after_step(1)
  alone.saved()
  assert not alone.overdue()


def test_of_several_processes_the_first_counts_minutes_and_all_agree(monkeypatch):
  now = [100.0]
  monkeypatch.setattr('time.monotonic', lambda: now[0])
  peers = Scripted('', '', SAVE, '')
  first = policy(peers, every_minutes=2.0)
  assert not first.overdue()
  assert not peers.wishes
  now[0] += 120
  assert not first.overdue()  # the others do not know yet
  assert peers.wishes == [SAVE]
  assert first.after_step(1)
  assert not first.asked
  first.saved()
  assert not first.overdue()
  assert peers.wishes == [SAVE, SAVE]


def test_a_process_that_is_not_the_first_has_no_clock(monkeypatch):
  now = [100.0]
  monkeypatch.setattr('time.monotonic', lambda: now[0])
  monkeypatch.setattr('jcl.distributed.is_first', lambda: False)
  peers = Scripted('')
  other = policy(peers, every_minutes=2.0)
  now[0] += 1000
  assert not other.overdue()
  assert not peers.wishes


def test_a_signal_counts_once_all_agree_and_every_step_and_chunk_is_a_point():
  requests = Requests(print)
  peers = Scripted('', '', 'SIGTERM', '', '')
  among = SnapshotPolicy(CheckpointConfig(every_steps=1, every_chunks=1), requests, peers)
  assert among.after_step(1)  # by the settings
  assert among.after_chunk()
  assert len(peers.due) == 3
  assert not among.asked
  assert among.after_step(2)
  assert among.asked
  assert requests.asked == 'SIGTERM'
  assert among.overdue()
  assert among.after_step(3)
  assert not peers.due


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
