"""Orbax as snapshots use it, and why a write of it failed."""

import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def load_orbax() -> ModuleType:
  """Returns Orbax's module `v1`; importing it takes 2 s, which a refused run need not wait for.

  Orbax's threads print every failed write several times, with tracebacks. `Snapshots` reports a
  failed write in one line, so those prints are suppressed.
  """
  from orbax.checkpoint import v1

  logging.getLogger('absl').addFilter(_is_not_thread_failure)
  if getattr(sys.unraisablehook, 'func', None) is not _unless_late:
    sys.unraisablehook = functools.partial(_unless_late, sys.unraisablehook)
  return v1


def _is_not_thread_failure(record: logging.LogRecord) -> bool:
  """Whether a log record is anything but Orbax's report of a thread that raised."""
  return '_SignalingThread.run() raised' not in record.getMessage()


def _unless_late(hook: Callable[[Any], object], error: Any) -> None:
  """Calls the hook for an unraisable error, unless it is that of a write nobody waits for.

  When the first of several writes fails, the others end after their event loop is closed.

  Args:
    hook: the hook that was there before.
    error: as `sys.unraisablehook` takes it.
  """
  trace = error.exc_traceback
  if trace is None or trace.tb_frame.f_code.co_name != 'call_soon_threadsafe':
    hook(error)


def system_number(error: BaseException) -> int | None:
  """Returns the `errno` of an error, also where only its text holds it; None: it has none."""
  number = getattr(error, 'errno', None)
  if not isinstance(number, int):
    found = re.search(r"(?:Errno |os_error_code=')(\d+)", str(error))
    number = int(found[1]) if found else None
  return number


def failure_reason(error: BaseException) -> str:
  """Returns why a write failed, in the system's words if the error holds a system's number."""
  number = system_number(error)
  return os.strerror(number) if number else ' '.join(f'{type(error).__name__}: {error}'.split())
