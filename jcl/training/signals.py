"""SIGTERM and Ctrl-C: the run saves at its next step and stops; a second signal ends it at once."""

import os
import signal
import sys
import threading
from typing import Any

from jcl.storage import console

STATUS = 75  # of a process that was stopped and can go on: EX_TEMPFAIL of sysexits.h


class Stopped(Exception):
  """A run was asked to stop and has saved itself; the message says where."""


class Requests:
  """Whether the run is asked to stop, while this is in a `with` statement.

  Attributes:
    asked: name of the signal; empty: the run is not asked to stop.
  """

  def __init__(self) -> None:
    self.asked = ''
    self._before: dict[int, Any] = {}

  def __enter__(self) -> 'Requests':
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._before[number] = signal.signal(number, self._take)
    return self

  def _take(self, number: int, frame: object) -> None:
    if self.asked:
      os._exit(128 + number)
    self.asked = signal.Signals(number).name
    line = f'\n{self.asked}: saving at the next step, then stopping; once more ends it at once'
    console.show(line, sys.stderr)

  def __exit__(self, *error: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
    self._before = {}
