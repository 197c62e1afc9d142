"""One run in one workdir at a time; the system takes the lock from a process that dies."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator

from jcl.errors import UserError

LOCK = '.lock'


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a workdir, which exists.

  The file stays and says who held it last. A lock of the system (`flock`) is on it, so nothing is
  left to clear up after a kill, on this host or, where the file system is shared, on another.

  Raises:
    UserError: another run is at work there.
  """
  try:
    import fcntl
  except ImportError:  # no such system
    yield
    return
  file = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
  try:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(
        f'{workdir}: another run is at work in it ({_owner(file)}); wait until it ends, stop it, '
        'or give another workdir'
      ) from None
    except OSError:  # a file system without locks
      pass
    else:
      _sign(file)
    yield
  finally:
    os.close(file)


def _sign(file: int) -> None:
  owner = {'process': os.getpid(), 'host': os.uname().nodename, 'since': time.strftime('%F %T')}
  os.ftruncate(file, 0)
  os.pwrite(file, (json.dumps(owner) + '\n').encode(), 0)


def _owner(file: int) -> str:
  """Who holds the lock, in words."""
  try:
    owner = json.loads(os.pread(file, 1000, 0))
    return f'process {owner["process"]} on {owner["host"]}, since {owner["since"]}'
  except (ValueError, KeyError, TypeError):
    return 'its process is unknown'
