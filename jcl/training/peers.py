"""Processes of one run: all stop or save at the same step, and none outlives another for long.

Each process has a thread that watches messages in the key-value store of JAX's coordination
service, which runs in process 0. A message is the value of the next free key `…/message/N`, so all
processes read the same messages in the same order.

**Agreement.** A message asks for a snapshot or a stop. On reading it every process holds its work
at its next point (between two steps or two chunks), writes down how many points it has passed and
reads what all others wrote; the work is due at one point after the largest of these numbers, which
no process has passed. A point without a message costs no communication.

**A common end.** Every process writes a sign of life each second, and process 0 reads them. A
process that has written none for `patience` seconds is lost. The message says so, as it does of a
process that fails; every other process then ends with one line. If process 0 is lost, so is the
store: that too ends the others.
"""

import atexit
import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

import jax

from jcl import distributed
from jcl.distributed import Service
from jcl.errors import UserError
from jcl.storage import console
from jcl.streams.escaping import escaped
from jcl.training.signals import STATUS, Stopped

SAVE = 'save'
BEAT = 1.0  # seconds between two signs of life
SUSPECTED = 10.0  # seconds of patience once a process could not talk to another one
LEAVING = 3 * BEAT  # seconds that process 0, which holds the store, stays after a failure
GOES_ON = 'the same command goes on'


class Peers:
  """This process among those of its run.

  Args:
    service: of the processes.
    patience: seconds after which a process without a sign of life is lost.
  """

  def __init__(self, service: Service, patience: float):
    self._client, self._index, self._count = service
    self._patience = patience
    self._lock = threading.Lock()  # held while the processes agree: no point is passed
    self._passed = 0  # points
    self._due: dict[int, set[str]] = {}  # {point: what is due there}
    self._wishes: set[str] = set()  # of this process, not yet posted
    self._posted: set[str] = set()  # wishes that are posted and not yet met
    self._next, self._stops = 0, 0  # messages read; stops agreed upon
    self._closed, self._failed = False, 0  # the exit status after a failure
    self._beats = itertools.count()
    self._heard: dict[str, tuple[str, float]] = {}  # newest sign of life, and when it was read
    self._thread = threading.Thread(target=self._watch, name='jcl-peers', daemon=True)
    self._thread.start()

  def point(self) -> str:
    """Passes a point of the work; all processes pass the same ones in the same order.

    Returns:
      `save`, the name of the signal by which the run was asked to stop, or an empty text; the same
      in every process.
    """
    with self._lock:
      self._passed += 1
      due = self._due.pop(self._passed, set())
      self._posted -= due
      if stops := sorted(due - {SAVE}):
        self._wishes &= {SAVE}  # the others have met the signal that struck this process, too
    return stops[0] if stops else SAVE if due else ''

  def wish(self, word: str) -> None:
    """Asks all processes for a snapshot (`save`) or for a stop (the name of a signal)."""
    if word not in self._posted:
      self._wishes.add(word)

  def fail(self, line: str, status: int) -> None:
    """Tells the others that this process ends, and why; they end with that line and status."""
    if self._closed:
      return
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the store may be gone
      self._post({'kind': 'lost', 'by': self._index, 'line': line, 'status': status})
    self._closed, self._failed = True, status

  def verdict(self) -> None:
    """Waits, after a failure that a lost process may be the cause of, until one is found.

    Where one is, this does not return.
    """
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      self._client.key_value_set(self._key('suspected'), '', allow_overwrite=True)
    time.sleep(min(self._patience, SUSPECTED) + 5 * BEAT)

  def close(self) -> None:
    """Ends the watch, of all processes: the program is over.

    After a failure it ends this process, because JAX would wait for the others.
    """
    if self._failed:
      self._leave(self._failed)
    if not self._closed:
      with contextlib.suppress(jax.errors.JaxRuntimeError):
        self._post({'kind': 'end'})
    self._closed = True
    self._thread.join(2 * BEAT)

  def _key(self, *parts: object) -> str:
    return '/'.join(['jcl', *map(str, parts)])

  def _post(self, message: dict) -> None:
    """Writes a message under the next free key."""
    for number in itertools.count(self._next):
      try:
        self._client.key_value_set(self._key('message', number), json.dumps(message))
        return
      except jax.errors.JaxRuntimeError as error:
        if 'ALREADY_EXISTS' not in str(error):
          raise

  def _read(self, number: int, seconds: float) -> dict | None:
    """Returns the message of a number; None: none has come within some seconds."""
    try:
      text = self._client.blocking_key_value_get(self._key('message', number), int(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
      if 'DEADLINE_EXCEEDED' not in str(error):
        raise
      return None
    return json.loads(text)

  def _watch(self) -> None:
    """Reads messages and gives signs of life until the program is over; a thread."""
    try:
      while not self._closed:
        self._live()
        for word in self._wished():
          self._ask(word)
        message = self._read(self._next, BEAT)
        if message is not None:
          self._next += 1
          self._take(message)
    except jax.errors.JaxRuntimeError:
      if not self._closed:
        self._end(f'process 0, by which the others agree, is lost; {GOES_ON}', STATUS)

  def _live(self) -> None:
    """Gives a sign of life; process 0 looks for those of the others."""
    self._client.key_value_set(
      self._key('alive', self._index), str(next(self._beats)), allow_overwrite=True
    )
    if self._index:
      return
    now, patience = time.monotonic(), self._patience
    if self._client.key_value_dir_get(self._key('suspected')):
      patience = min(patience, SUSPECTED)
    for key, sign in self._client.key_value_dir_get(self._key('alive') + '/'):
      before, when = self._heard.get(key, ('', now))
      if sign != before:
        self._heard[key] = sign, now
      elif now - when > patience:
        name = f'process {key.rpartition("/")[2]}'
        line = f'{name} has given no sign of life for {now - when:.0f} s and is lost; {GOES_ON}'
        self._post({'kind': 'lost', 'by': None, 'line': line, 'status': STATUS})
        self._heard[key] = '', now

  def _wished(self) -> list[str]:
    """Takes the wishes of this process; not that for a stop where one is due already."""
    with self._lock:
      words = list(self._wishes)
      self._wishes.difference_update(words)
      stops = any(due - {SAVE} for due in self._due.values())
    return [word for word in words if word == SAVE or not stops]

  def _ask(self, word: str) -> None:
    """Posts a wish; of the processes that a signal has struck, the first one posts it."""
    if word != SAVE:
      try:
        self._client.key_value_set(self._key('stop', self._stops), word)
      except jax.errors.JaxRuntimeError as error:
        if 'ALREADY_EXISTS' not in str(error):
          raise
        return
    self._posted.add(word)
    self._post({'kind': 'due', 'word': word})

  def _take(self, message: dict) -> None:
    """Does what a message says."""
    if message['kind'] == 'end':
      self._closed = True
    elif message['kind'] == 'lost':
      if message['by'] != self._index:
        by = '' if message['by'] is None else f'process {message["by"]} has ended: '
        self._end(by + message['line'], message['status'])
    else:
      self._agree(message['word'], self._next - 1)

  def _agree(self, word: str, number: int) -> None:
    """Agrees with the others at which point the word of a message is due."""
    with self._lock:
      key = self._key('passed', number)
      self._client.key_value_set(f'{key}/{self._index}', str(self._passed))
      while len(found := self._client.key_value_dir_get(f'{key}/')) < self._count:
        self._live()
        message = self._read(self._next, BEAT / 10)
        if message is not None and message['kind'] == 'lost':
          self._take(message)
      self._due.setdefault(1 + max(int(passed) for _, passed in found), set()).add(word)
    self._stops += word != SAVE

  def _end(self, line: str, status: int) -> None:
    """Ends this process with a line."""
    kind = 'stopped' if status == STATUS else 'error'
    with contextlib.suppress(Exception):  # whatever stands for standard error: it ends all the same
      console.show(f'{kind}: {escaped(line)}', sys.stderr)
    self._leave(status)

  def _leave(self, status: int) -> NoReturn:
    """Ends this process at once; process 0 stays until the others have read why."""
    with contextlib.suppress(Exception):  # as above
      sys.stdout.flush()
      sys.stderr.flush()
    if self._index == 0:
      time.sleep(LEAVING)
    os._exit(status)


_here: Peers | None = None  # of this process


def start() -> Peers | None:
  """Begins to watch, if the run has several processes and nothing watches yet."""
  global _here
  if _here is None and (service := distributed.service()) is not None:
    _here = Peers(service, distributed.patience())
    atexit.register(_here.close)  # before JAX leaves the service
  return _here


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Tells the other processes of a run of a failure inside, so that they end, too."""
  peers = start()
  try:
    yield
  except Stopped:
    raise
  except BaseException as error:
    if peers is not None:
      if isinstance(error, jax.errors.JaxRuntimeError):
        peers.verdict()
      kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
      peers.fail(' '.join(f'{kind}{error}'.split())[:1000], 2 if not kind else 1)
    raise
