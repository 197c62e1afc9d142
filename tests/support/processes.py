"""Runs of several processes on this machine, each with its share of fake CPU devices."""

import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from support import ROOT

LIMIT = 600  # seconds
TRANSPORT = ('[Gloo]', 'WARNING: All log messages before absl')  # opens lines that are not jcl's


def free_port() -> int:
  """A port that nothing listens on."""
  with socket.socket() as it:
    it.bind(('localhost', 0))
    return it.getsockname()[1]


class Processes:
  """Processes of one run of `jcl`, started at once.

  Args:
    arguments: of `jcl`, without `--distributed`.
    count: of processes.
    devices: of all of them together.
    environment: more variables.
  """

  def __init__(self, arguments: Sequence[str], count: int, devices: int = 4, **environment: str):
    shared = {
      **os.environ, 'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(devices // count),
      'JAX_COORDINATOR_ADDRESS': f'localhost:{free_port()}', 'JAX_NUM_PROCESSES': str(count),
      'PYTHONPATH': str(ROOT), **environment,
    }  # fmt: skip
    command = [sys.executable, '-m', 'jcl', *arguments, '--distributed']
    self.all = [
      subprocess.Popen(
        command, cwd=ROOT, env={**shared, 'JAX_PROCESS_ID': str(i)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      ) for i in range(count)
    ]  # fmt: skip

  def __enter__(self) -> 'Processes':
    return self

  def __exit__(self, *error: object) -> None:
    for process in self.all:
      process.kill()
      process.communicate()

  def wait_for(self, file: pathlib.Path, lines: int) -> None:
    """Waits until a file has so many lines, or the processes have ended."""
    start = time.monotonic()
    while not (file.exists() and file.read_bytes().count(b'\n') >= lines):
      assert time.monotonic() - start < LIMIT
      assert all(process.poll() is None for process in self.all), self.ended()
      time.sleep(0.05)

  def ended(self) -> list[tuple[int, str, str]]:
    """Waits for all -> exit status, standard output and jcl's standard error of each."""
    found = []
    for process in self.all:
      out, err = process.communicate(timeout=LIMIT)
      kept = [line for line in err.splitlines() if not line.startswith(TRANSPORT)]
      spoken = [line for line in out.splitlines() if not line.startswith(TRANSPORT)]
      found.append((process.returncode, '\n'.join(spoken), '\n'.join(kept)))
    return found
