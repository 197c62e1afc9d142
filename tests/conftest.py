"""Set-up that tests share: strict arithmetic, a compile cache, shared files, 8 fake devices."""

import contextlib
import ctypes
import fcntl
import gc
import importlib.metadata
import os
import pathlib

# Before jax is imported; processes that tests start inherit it. A worker of pytest-xdist has a
# cache of its own: jax writes entries in place and warns of one that another has half written.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path.home() / '.cache' / 'jcl' / 'tests')
)
os.environ['JAX_COMPILATION_CACHE_DIR'] = os.path.join(
  os.environ['JAX_COMPILATION_CACHE_DIR'], os.environ.get('PYTEST_XDIST_WORKER', '')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
# Most of the time goes to compiling, and each program runs for milliseconds. The scorecard chooses
# by column what is optimised. All tests, and all of its cells, compile as users do with both
# variables given: JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS= python -m pytest
if 'JCL_SCORECARD' not in os.environ:
  os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
if tuple(map(int, importlib.metadata.version('jaxlib').split('.')[:2])) < (0, 11):
  os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')  # later: gone
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')

import jax
import numpy as np
import pytest
from support import ROOT, TESTS
from support.launchers import forks

os.environ['PYTHONPATH'] = f'{ROOT}{os.pathsep}{TESTS}'  # processes that tests start inherit it

jax.config.update('jax_numpy_rank_promotion', 'raise')


# Files of minutes, which two workers begin with, so that none is left to one of them at the end.
LONG = (
  'step/test_train_step.py', 'training/test_loop.py', 'training/test_kills.py',
  'training/test_layouts.py', 'preflight/test_cost.py', 'test_distributed.py', 'test_failures.py',
  'backbones/test_encoder.py', 'methods/test_classify.py', 'methods/test_derpp.py',
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Puts the long files first, in the order of `LONG`."""
  rank = {TESTS / name: number for number, name in enumerate(LONG)}
  items.sort(key=lambda item: rank.get(item.path, len(LONG)))


MOST_BYTES = 1_400_000_000


def _resident_bytes() -> int:
  """Returns the bytes of memory that this process holds now."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE')


def _give_back_to_the_system() -> None:
  """Returns freed memory to the system, where the C library can."""
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).malloc_trim(0)


def pytest_collection_finish() -> None:
  """Leaves what is imported out of the garbage collector's rounds, which else take a tenth."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 20, 20)


@pytest.fixture(scope='module', autouse=True)
def _compiled_programs_end_with_their_module():
  """Frees what jax has compiled where it has grown: kept, it comes to gigabytes over all modules.

  Small programs that many modules use, such as an addition, are else compiled in each of them.
  """
  yield
  gc.collect()
  if _resident_bytes() > MOST_BYTES:
    jax.clear_caches()
    gc.collect()
    _give_back_to_the_system()


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """The folder of real data and models beside the repository."""
  folder = ROOT.parent / 'shared'
  if not folder.is_dir():
    pytest.skip(f'no folder {folder.name} beside the repository')
  return folder


def computed_on_eight_devices(tmp_path_factory, *more: str) -> dict[str, np.ndarray]:
  """Returns the results of `eight_devices.py`, one process for all workers."""
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent  # which the workers share
  out = folder / f'{"-".join(("eight_devices", *more))}.npz'
  with open(out.with_suffix('.lock'), 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not out.exists():
      done = forks().module('support.eight_devices', str(out), *more, devices=8, limit=900)
      assert done.status == 0, f'{done.out}\n{done.err[-4000:]}'
  with np.load(out) as file:
    return dict(file)


@pytest.fixture(scope='session')
def eight_devices(tmp_path_factory) -> dict[str, np.ndarray]:
  """Gradients, training steps, samples and means on 8 fake CPU devices and on fewer."""
  return computed_on_eight_devices(tmp_path_factory)


@pytest.fixture(scope='session')
def eight_devices_every_way(tmp_path_factory) -> dict[str, np.ndarray]:
  """The gradients of all cells in all ways, for slow tests."""
  return computed_on_eight_devices(tmp_path_factory, 'every')
