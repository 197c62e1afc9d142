"""Runs the quickstart under settings that people have around it: python tests/surroundings.py

One line a setting. None may end in a traceback or change a number; exit status 1 where one does.
"""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = (
  '--config.stream.max_tasks=2', '--config.stream.max_train_per_task=8',
  '--config.stream.max_test_per_task=4', '--config.train.epochs=1', '--config.train.batch_size=8',
)  # fmt: skip
NOWHERE = '/dev/null/nowhere'  # cannot be made, not even by root
ASCII = {'LC_ALL': 'C', 'LANG': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}


class Setting(NamedTuple):
  """Environment of a run.

  Attributes:
    env: environment variables; '': the variable is taken out.
    cwd: current folder.
  """

  env: dict[str, str]
  cwd: str = str(ROOT)


SETTINGS = {
  'nothing': Setting({}),
  'x64': Setting({'JAX_ENABLE_X64': '1'}),
  'strict promotion of types': Setting({'JAX_NUMPY_DTYPE_PROMOTION': 'strict'}),
  'promotion of ranks raises': Setting({'JAX_NUMPY_RANK_PROMOTION': 'raise'}),
  'PRNG rbg': Setting({'JAX_DEFAULT_PRNG_IMPL': 'rbg'}),
  'PRNG unsafe_rbg': Setting({'JAX_DEFAULT_PRNG_IMPL': 'unsafe_rbg'}),
  'debug_nans': Setting({'JAX_DEBUG_NANS': '1'}),
  'tracer leaks are checked': Setting({'JAX_CHECK_TRACER_LEAKS': '1'}),
  'highest precision': Setting({'JAX_DEFAULT_MATMUL_PRECISION': 'highest'}),
  'LC_ALL=C, ASCII': Setting({**ASCII, 'PYTHONIOENCODING': 'ascii'}),
  'cp1252': Setting({'PYTHONIOENCODING': 'cp1252'}),
  'a home that cannot be written': Setting({'HOME': NOWHERE, 'JAX_COMPILATION_CACHE_DIR': ''}),
  'no HOME': Setting({'HOME': '', 'JAX_COMPILATION_CACHE_DIR': ''}),
  'utf-16, no TMPDIR, a backend of pictures that is not known': Setting(
    {'PYTHONIOENCODING': 'utf-16', 'TMPDIR': NOWHERE, 'MPLBACKEND': 'nonsense'}
  ),
  'latin-1, guarded transfers, a current folder that cannot be written': Setting(
    {'PYTHONIOENCODING': 'latin-1', 'JAX_TRANSFER_GUARD': 'disallow'}, cwd='/proc'
  ),
}


def outcome(name: str, folder: pathlib.Path) -> tuple[str, str, float]:
  """Returns what went wrong, the digest of the parameters, and seconds."""
  setting, workdir = SETTINGS[name], folder / name.replace(' ', '-').replace(',', '')
  env = {**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', **setting.env}
  env = {key: value for key, value in env.items() if value}
  start = time.monotonic()
  done = subprocess.run(
    [sys.executable, str(ROOT / 'launch' / 'train.py'),
     f'--config={ROOT / "configs" / "quickstart.py"}:lamol', f'--workdir={workdir}', *SMALL],
    cwd=setting.cwd, env=env, capture_output=True, check=False,
  )  # fmt: skip
  said = (done.stdout + done.stderr).decode('utf-8', 'replace')
  results = workdir / 'results.json'
  digest = json.loads(results.read_text('utf-8'))['params_sha256'] if results.is_file() else ''
  wrong = f'status {done.returncode}' if done.returncode else ''
  if 'Traceback' in said or 'Error' in said:
    wrong += f': {said.strip().splitlines()[-1]}'
  return wrong or ('' if digest else 'no results'), digest or '', time.monotonic() - start


def main(names: list[str]) -> int:
  """Runs the settings, or those named, after a run without any; returns the exit status."""
  failed = 0
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(folder / 'cache'))
    others = [name for name in names or SETTINGS if name != 'nothing']
    found = [outcome('nothing', folder)]
    usual = found[0][1]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      found += pool.map(lambda name: outcome(name, folder), others)
    for name, (wrong, digest, seconds) in zip(['nothing', *others], found, strict=True):
      if not wrong and digest != usual:
        wrong = 'other numbers'
      failed += bool(wrong)
      print(f'{"FAIL" if wrong else "ok  "}  {name} ({seconds:.0f} s) {wrong}', flush=True)
  return int(failed > 0)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
