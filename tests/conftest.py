"""What all tests share: strict arithmetic, a compile cache, shared files, eight fake devices."""

import os
import pathlib
import subprocess
import sys

# Before jax is imported; processes that tests start inherit it.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path.home() / '.cache' / 'jcl' / 'tests')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')

import jax
import numpy as np
import pytest
from support import ROOT, TESTS

os.environ['PYTHONPATH'] = f'{ROOT}{os.pathsep}{TESTS}'  # processes that tests start inherit it

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """The folder of real data and models beside the repository."""
  folder = ROOT.parent / 'shared'
  if not folder.is_dir():
    pytest.skip(f'no folder {folder.name} beside the repository')
  return folder


@pytest.fixture(scope='session')
def eight_devices(tmp_path_factory) -> dict[str, np.ndarray]:
  """What `eight_devices.py` computes in a process of its own, with 8 fake CPU devices."""
  out = tmp_path_factory.mktemp('devices') / 'results.npz'
  command = [sys.executable, '-m', 'support.eight_devices', str(out)]
  done = subprocess.run(
    command,
    cwd=ROOT,
    env={**os.environ, 'JAX_NUM_CPU_DEVICES': '8', 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=900,
    check=False,
  )
  assert done.returncode == 0, f'{done.stdout}\n{done.stderr[-4000:]}'
  with np.load(out) as file:
    return dict(file)
