"""A lock that lets one run at a time work in a workdir."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator

from jcl.errors import UserError

LOCK = '.lock'  # the file's name


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a workdir while the block runs.

  The lock is one of the system (`flock`) on a file that stays and says who held it last. The system
  releases it when the process dies, so nothing is left to clear up after a kill. On a shared file
  system it also holds for runs on other hosts.

  Args:
    workdir: a folder that exists.

  Raises:
    UserError: another run holds the lock.
  """
  try:
    import fcntl
  except ImportError:  # a system without flock
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
  """Writes into the file which process holds the lock."""
  owner = {'process': os.getpid(), 'host': os.uname().nodename, 'since': time.strftime('%F %T')}
  os.ftruncate(file, 0)
  os.pwrite(file, (json.dumps(owner) + '\n').encode(), 0)


def _owner(file: int) -> str:
  """Returns in words who holds the lock."""
  try:
    owner = json.loads(os.pread(file, 1000, 0))
    return f'process {owner["process"]} on {owner["host"]}, since {owner["since"]}'
  except (ValueError, KeyError, TypeError):
    return 'its process is unknown'
