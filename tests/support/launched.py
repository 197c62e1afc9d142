"""Programs run as users run them, many times a second: each in a fork that has all imports.

Run as a program it is the process that forks, which has imported everything and started nothing;
`Launchers` starts it and asks it.
"""

import contextlib
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from typing import Any, NamedTuple

from support import ROOT

WARM = (
  'jcl.commands.jax_settings', 'jcl.learning', 'jcl.trained_run', 'jcl.reports.report',
  'jcl.preflight.cost', 'jcl.reports.comparison', 'jcl.backbones.files.hf',
  'jcl.backbones.files.gguf', 'jcl.backbones.lora_merging', 'jcl.backbones.files.peft',
  'jcl.streams.manifest', 'gguf',
  'gguf.quants', 'datasets', 'orbax.checkpoint', 'matplotlib.pyplot',
)  # fmt: skip


class Done(NamedTuple):
  """Outcome of a program: status (-1: killed at its time limit), and its two outputs."""

  status: int
  out: str
  err: str


class Launchers:
  """A process that runs launchers and other programs in forks of itself."""

  def __init__(self):
    self._server = subprocess.Popen(
      [sys.executable, '-m', 'support.launched'],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'MPLBACKEND': 'agg', 'HF_HUB_OFFLINE': '1'},
    )  # fmt: skip

  def __call__(self, program: str, *arguments: str, limit: float = 30) -> Done:
    """Calls launch/PROGRAM.py; after `limit` seconds it is killed."""
    return self._ask(program=f'launch/{program}.py', arguments=arguments, limit=limit)

  def module(self, name: str, *arguments: str, devices: int = 1, limit: float = 300) -> Done:
    """Calls `python -m NAME` with so many fake CPU devices."""
    return self._ask(program=name, arguments=arguments, limit=limit, devices=devices)

  def code(self, text: str, *arguments: str, devices: int = 1, limit: float = 300) -> Done:
    """Calls `python -c TEXT` with so many fake CPU devices."""
    return self._ask(program='', code=text, arguments=arguments, limit=limit, devices=devices)

  def _ask(self, **asked: Any) -> Done:
    self._server.stdin.write(json.dumps(asked) + '\n')
    self._server.stdin.flush()
    return Done(**json.loads(self._server.stdout.readline()))

  def close(self) -> None:
    """Ends the process."""
    self._server.stdin.close()
    self._server.stdout.close()
    self._server.wait(timeout=30)


def serve() -> None:
  """Answers the calls on standard input, one a line."""
  for name in WARM:
    __import__(name)
  sys.modules['jcl.commands.jax_settings'].fault_of_flags(os.environ.get('XLA_FLAGS', ''))
  gc.collect()
  gc.freeze()  # forks share the imports: the collector leaves them alone and runs less often
  gc.set_threshold(100_000, 20, 20)
  for line in sys.stdin:
    print(json.dumps(_called(**json.loads(line))._asdict()), flush=True)


def _called(program: str, limit: float, **how: Any) -> Done:
  with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
    child = os.fork()
    if not child:
      _become(program, out.fileno(), err.fileno(), **how)
    status = _waited(child, time.monotonic() + limit)
    texts = []
    for file in (out, err):
      file.seek(0)
      texts.append(file.read().decode('utf-8', 'replace'))
    return Done(status, *texts)


def _waited(child: int, end: float) -> int:
  while time.monotonic() < end:
    found, status = os.waitpid(child, os.WNOHANG)
    if found:
      return os.waitstatus_to_exitcode(status)
    time.sleep(0.005)
  os.kill(child, signal.SIGKILL)
  os.waitpid(child, 0)
  return -1


def _become(
  program: str, out: int, err: int, arguments: list[str], code: str = '', devices: int = 1
) -> None:
  """The child: standard streams replaced, then what `python PROGRAM …` does. It never returns."""
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  os.dup2(out, 1)
  os.dup2(err, 2)
  sys.stdout = os.fdopen(1, 'w', encoding='utf-8', closefd=False)
  sys.stderr = os.fdopen(2, 'w', encoding='utf-8', errors='backslashreplace', closefd=False)
  if devices > 1:
    import jax  # no backend is started yet

    jax.config.update('jax_num_cpu_devices', devices)
  status: Any = 0
  try:
    _run(program, arguments, code)
  except SystemExit as end:
    status = end.code or 0
  except BaseException:
    traceback.print_exc()
    status = 1
  with contextlib.suppress(OSError):
    sys.stdout.flush()
    sys.stderr.flush()
  os._exit(status if isinstance(status, int) else 1)


def _run(program: str, arguments: list[str], code: str) -> None:
  """Runs a text, a file or a module as the main program."""
  if code:
    sys.argv = ['-c', *arguments]
    exec(compile(code, '<string>', 'exec'), {'__name__': '__main__'})
  elif program.endswith('.py'):
    path = ROOT / program
    sys.argv = [str(path), *arguments]
    sys.path[0] = str(path.parent)
    runpy.run_path(str(path), run_name='__main__')
  else:
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  serve()
