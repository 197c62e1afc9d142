"""Orbax as snapshots use it, and why a write failed."""

import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any


def orbax() -> Any:
  """Orbax; 2 s of imports that a refusal need not wait for.

  Its threads print every failed write with tracebacks, several times over. `Snapshots` says it in
  one line, so those are left out.
  """
  from orbax.checkpoint import v1

  logging.getLogger('absl').addFilter(_is_no_echo)
  if getattr(sys.unraisablehook, 'func', None) is not _unless_late:
    sys.unraisablehook = functools.partial(_unless_late, sys.unraisablehook)
  return v1


def _is_no_echo(record: logging.LogRecord) -> bool:
  return '_SignalingThread.run() raised' not in record.getMessage()


def _unless_late(hook: Callable, error: Any) -> None:
  """Leaves out writes that end when the first has failed and nobody waits for them any more."""
  trace = error.exc_traceback
  if trace is None or trace.tb_frame.f_code.co_name != 'call_soon_threadsafe':
    hook(error)


def reason(error: BaseException) -> str:
  """Why a write failed, in the system's words where they are to be found."""
  number = getattr(error, 'errno', None)
  if not isinstance(number, int):
    found = re.search(r"(?:Errno |os_error_code=')(\d+)", str(error))
    number = int(found[1]) if found else None
  return os.strerror(number) if number else ' '.join(f'{type(error).__name__}: {error}'.split())
