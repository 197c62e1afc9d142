"""SIGTERM and Ctrl-C: the run saves at its next step and stops; a second one ends it at once."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from jcl.storage import console

ONE = 1.0  # seconds within which two SIGTERM are one: a cluster may send it by two ways
STATUS = 75  # of a process that was stopped and can go on: EX_TEMPFAIL of sysexits.h


class Stopped(BaseException):
  """A run was asked to stop, and has saved itself if it has a workdir; the message says where.

  It is no `Exception`, so that a loop over runs that catches those stops, too.

  Args:
    where: what is kept of the run, in words.
    kept: whether the run can go on.
  """

  def __init__(self, where: str, kept: bool = True):
    super().__init__(f'{where}; the same call goes on' if kept else where)
    self.where, self.kept = where, kept

  def for_a_shell(self) -> str:
    """Returns the message where a command was called, not a function."""
    return f'{self.where}; the same command goes on' if self.kept else self.where


class Interrupted(Stopped, KeyboardInterrupt):
  """Ctrl-C asked the run to stop: a `KeyboardInterrupt`, as Python raises for it elsewhere."""


def stopped(signal_name: str, where: str, kept: bool = True) -> Stopped:
  """Returns the exception that ends a run.

  Args:
    signal_name: by which the run was asked to stop.
    where, kept: as in `Stopped`.
  """
  return (Interrupted if signal_name == 'SIGINT' else Stopped)(where, kept)


def _goes_on() -> bool:
  """Whether Python goes on after the run: at a prompt, or in a notebook with all its variables."""
  return hasattr(sys, 'ps1') or 'ipykernel' in sys.modules


class Requests:
  """Whether the run is asked to stop, while this is in a `with` statement.

  Args:
    tell: takes the name of a signal where several processes must agree to stop; None: there is one
      process, which stops by itself.

  Attributes:
    asked: name of the signal by which the run is asked to stop; empty: it is not. Where there are
      several processes they set it when they have agreed.
  """

  def __init__(self, tell: Callable[[str], None] | None = None) -> None:
    self.asked = ''
    self._taken, self._when, self._tell = '', 0.0, tell
    self._before: dict[int, Any] = {}

  def __enter__(self) -> 'Requests':
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._before[number] = signal.signal(number, self._take)
    return self

  def _take(self, number: int, frame: object) -> None:
    name, now = signal.Signals(number).name, time.monotonic()
    if self._taken:
      if name == self._taken == 'SIGTERM' and now - self._when < ONE:
        return
      if number == signal.SIGINT and _goes_on():
        raise KeyboardInterrupt
      os._exit(128 + number)
    self._taken, self._when = name, now
    if self._tell is None:
      self.asked = self._taken
    else:
      self._tell(self._taken)
    line = f'\n{self._taken}: saving at the next step, then stopping; once more ends it at once'
    console.show(line, sys.stderr)

  def __exit__(self, *error: object) -> None:
    for number, handler in self._before.items():
      # None: a handler that is not Python's, which cannot be put back
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    self._before = {}
