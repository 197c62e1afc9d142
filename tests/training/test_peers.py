"""Processes that agree and end together, over a store that stands in for JAX's service."""

import contextlib
import itertools
import json
import random
import threading
import time

import jax
import pytest

from jcl import distributed
from jcl.distributed import Service
from jcl.errors import UserError
from jcl.training import peers
from jcl.training.peers import SAVE, Peers
from jcl.training.signals import STATUS, Stopped


class Store:
  """The key-value store that all processes share; `broken`: process 0 is gone, and it with it."""

  def __init__(self):
    self.values, self.changed, self.broken = {}, threading.Condition(), False

  def check(self) -> None:
    if self.broken:
      raise jax.errors.JaxRuntimeError('UNAVAILABLE: Socket closed')

  def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
    with self.changed:
      self.check()
      if key in self.values and not allow_overwrite:
        raise jax.errors.JaxRuntimeError(f'ALREADY_EXISTS: {key}')
      self.values[key] = value
      self.changed.notify_all()

  def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
    with self.changed:
      found = self.changed.wait_for(lambda: self.broken or key in self.values, timeout_in_ms / 1000)
      self.check()
      if not found:
        raise jax.errors.JaxRuntimeError(f'DEADLINE_EXCEEDED: {key}')
      return self.values[key]

  def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
    with self.changed:
      self.check()
      return [pair for pair in self.values.items() if pair[0].startswith(key)]

  def messages(self, kind: str) -> list[dict]:
    """All messages of a kind, in their order."""
    numbered = (f'jcl/message/{number}' for number in itertools.count())
    texts = itertools.takewhile(bool, (self.values.get(key) for key in numbered))
    return [message for message in map(json.loads, texts) if message['kind'] == kind]


class Process(Peers):
  """Peers whose end is noted in place of ending the tests; `mute`: it gives no sign of life."""

  mute = False

  def __init__(self, *args):
    self.said, self.ended = [], threading.Event()
    super().__init__(*args)

  def _live(self):
    if not self.mute:
      super()._live()

  def _end(self, line, status):
    self.said.append((line, status))
    self._leave(status)

  def _leave(self, status):
    self._closed = True
    self.ended.set()


@pytest.fixture
def run(monkeypatch):
  """(number of processes, seconds of patience) -> store, processes; a beat is 20 ms."""
  monkeypatch.setattr(peers, 'BEAT', 0.02)
  made: list[Process] = []

  def start(count: int, patience: float = 60.0):
    store = Store()
    made.extend(Process(Service(store, i, count), patience) for i in range(count))
    return store, made[-count:]

  yield start
  for one in made:
    one.close()
    one._thread.join(10)  # the machine may have other work
    assert not one._thread.is_alive()


def worked(processes, points: int, wishes: dict[int, tuple[int, str]], seed: int = 0):
  """All processes pass `points` points, each at its own speed.

  Args:
    processes: of the run.
    points: that each of them passes.
    wishes: {process: (after how many points it wishes, what)}.
    seed: of the speeds.

  Returns:
    For each process {point: what was due there}.
  """
  found = [{} for _ in processes]

  def work(index: int) -> None:
    draw = random.Random(f'{seed} {index}')
    for number in range(1, points + 1):
      time.sleep(draw.random() * 0.002)
      if word := processes[index].point():
        found[index][number] = word
      if wishes.get(index, (0, ''))[0] == number:
        processes[index].wish(wishes[index][1])

  threads = [threading.Thread(target=work, args=(i,)) for i in range(len(processes))]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return found


@pytest.mark.parametrize('seed', range(4))
def test_all_stop_at_one_point_that_none_had_passed(seed, run):
  _, processes = run(4)
  found = worked(processes, 150, {2: (20, 'SIGTERM')}, seed)
  assert found[0] in [{point: 'SIGTERM'} for point in range(21, 151)]
  assert found == [found[0]] * 4


def own_point(self, word, number):
  """Due at the next point of this process, whatever the others have passed."""
  with self._lock:
    self._due.setdefault(1 + self._passed, set()).add(word)


def without_the_others(self, word, number):
  """Writes down how far it is and waits for nobody."""
  with self._lock:
    key = self._key('passed', number)
    self._client.key_value_set(f'{key}/{self._index}', str(self._passed))
    found = self._client.key_value_dir_get(f'{key}/')
    self._due.setdefault(1 + max(int(passed) for _, passed in found), set()).add(word)


def a_point_that_one_has_passed(self, word, number):
  """Agrees as it should, on the largest number of points that a process has passed."""
  agree(self, word, number)
  self._due = {max(point - 1, 1): words for point, words in self._due.items()}


def while_others_work(self, word, number):
  """Tells how far it is without holding its work there."""
  key = self._key('passed', number)
  self._client.key_value_set(f'{key}/{self._index}', str(self._passed))
  while len(found := self._client.key_value_dir_get(f'{key}/')) < self._count:
    self._live()
  time.sleep(0.01)
  with self._lock:
    self._due.setdefault(1 + max(int(passed) for _, passed in found), set()).add(word)


agree = Peers._agree
BROKEN = [own_point, without_the_others, a_point_that_one_has_passed, while_others_work]


@pytest.mark.parametrize('broken', BROKEN)
def test_an_agreement_that_is_broken_is_seen(broken, run, monkeypatch):
  """With a broken agreement one of a few runs fails the conditions of the other tests."""
  monkeypatch.setattr(Process, '_agree', broken)
  for seed in range(8):
    _, processes = run(4)
    found = worked(processes, 60, {2: (20, 'SIGTERM')}, seed)
    if found != [found[0]] * 4 or found[0] not in [{p: 'SIGTERM'} for p in range(21, 61)]:
      return
  raise AssertionError('eight runs agreed')


def test_snapshots_and_a_stop_are_due_in_turn_and_the_stop_prevails(run):
  _, processes = run(3)
  found = worked(processes, 300, {0: (10, SAVE), 1: (100, 'SIGTERM')})
  assert [*found[0].values()] == [SAVE, 'SIGTERM']
  assert found == [found[0]] * 3
  processes[0]._due = {301: {SAVE, 'SIGINT'}}
  assert processes[0].point() == 'SIGINT'
  assert processes[0].point() == ''


def test_a_signal_to_all_is_one_message_and_a_later_one_is_met_too(run):
  store, processes = run(4)
  worked(processes, 150, dict.fromkeys(range(4), (20, 'SIGTERM')))
  assert len(store.messages('due')) == 1
  found = worked(processes, 150, {3: (20, 'SIGINT')})  # the next run of these processes
  assert [*found[0].values()] == ['SIGINT']
  assert found == [found[0]] * 4


def test_a_wish_that_is_not_met_yet_is_not_repeated(run):
  store, processes = run(2)
  for _ in range(5):
    processes[0].wish(SAVE)
    time.sleep(0.03)
  found = worked(processes, 20, {})
  assert len(store.messages('due')) == 1
  assert found == [{1: SAVE}] * 2


def test_a_process_without_a_sign_of_life_ends_the_others(run):
  _, processes = run(3, 0.3)
  time.sleep(0.1)
  start = time.monotonic()
  processes[1].mute = True
  assert processes[0].ended.wait(5)
  assert processes[2].ended.wait(5)
  assert 0.25 < time.monotonic() - start < 2
  for one in (processes[0], processes[2]):
    ((line, status),) = one.said
    assert line.startswith('process 1 has given no sign of life for 0 s and is lost; the same')
    assert status == STATUS


def test_it_is_found_while_the_others_agree(run):
  """A process that dies between a message and its answer."""
  _, processes = run(3, 0.3)
  time.sleep(0.1)
  processes[1].mute = True
  processes[1]._lock.acquire()  # its watch stands still, as that of a dead process
  processes[0].wish('SIGTERM')
  assert processes[0].ended.wait(5)
  assert processes[2].ended.wait(5)
  processes[1]._lock.release()


def test_slow_is_not_lost_and_a_suspicion_shortens_the_patience(run, monkeypatch):
  monkeypatch.setattr(peers, 'SUSPECTED', 0.3)
  _, processes = run(2, 60.0)
  time.sleep(0.1)
  processes[1].mute = True
  time.sleep(0.5)
  assert not processes[0].said
  processes[0].verdict()
  assert processes[0].said[0][1] == STATUS


def test_a_failure_ends_the_others_with_its_line_and_status(run, monkeypatch):
  store, processes = run(3)
  monkeypatch.setattr(peers, '_here', processes[1])
  with pytest.raises(UserError), peers.together():
    raise UserError('data.csv is missing;\ngive another')
  for one in (processes[0], processes[2]):
    assert one.ended.wait(5)
    assert one.said == [('process 1 has ended: data.csv is missing; give another', 2)]
  assert not processes[1].said
  processes[1].close()  # at the end of the program
  assert processes[1].ended.is_set()
  assert len(store.messages('lost')) == 1
  assert not store.messages('end')


@pytest.mark.parametrize(('error', 'says', 'status'), [(ValueError('x'), 'ValueError: x', 1)])
def test_a_bug_is_told_by_its_name(error, says, status, run, monkeypatch):
  _, processes = run(2)
  monkeypatch.setattr(peers, '_here', processes[0])
  with pytest.raises(ValueError), peers.together():
    raise error
  assert processes[1].ended.wait(5)
  assert processes[1].said == [(f'process 0 has ended: {says}', status)]


def test_a_run_that_was_stopped_is_no_failure(run, monkeypatch):
  store, processes = run(2)
  monkeypatch.setattr(peers, '_here', processes[0])
  with contextlib.suppress(Stopped), peers.together():
    raise Stopped('snapshot 1 is there')
  assert not store.messages('lost')


def test_without_the_store_a_process_ends(run):
  store, processes = run(2)
  time.sleep(0.05)
  with store.changed:
    store.broken = True
    store.changed.notify_all()
  for one in processes:
    assert one.ended.wait(5)
    assert one.said == [
      ('process 0, by which the others agree, is lost; the same command goes on', STATUS)
    ]


def test_the_end_of_the_program_ends_every_watch(run):
  store, processes = run(3)
  processes[2].close()
  for one in processes:
    one._thread.join(5)
    assert not one._thread.is_alive()
  assert len(store.messages('end')) == 1


def test_a_run_of_one_process_has_no_peers():
  assert distributed.service() is None
  assert peers.start() is None
  with pytest.raises(KeyError), peers.together():
    raise KeyError


@pytest.mark.parametrize('text', ['soon', '1', 'nan', '-5', 'inf'])
def test_a_patience_that_is_none_is_refused(text, monkeypatch):
  monkeypatch.setenv('JCL_PEER_TIMEOUT', text)
  with pytest.raises(UserError, match=f"JCL_PEER_TIMEOUT is '{text}'; give seconds, at least 2"):
    distributed.patience()


@pytest.mark.parametrize(('text', 'seconds'), [('', 60.0), ('90', 90.0), ('2.5', 2.5)])
def test_patience_is_read_from_the_environment(text, seconds, monkeypatch):
  monkeypatch.setenv('JCL_PEER_TIMEOUT', text)
  assert distributed.patience() == seconds
