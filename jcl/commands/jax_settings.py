"""Settings of jax that a command makes before the first array: compile cache and devices."""

import functools
import os
import re
import subprocess
import sys

from jcl.errors import UserError
from jcl.storage import paths

READ_FLAGS = 'import jaxlib.xla_client as xla; xla.CompileOptions()'


def use_compile_cache() -> None:
  """Keeps compiled programs between runs, in JAX_COMPILATION_CACHE_DIR or the user's cache."""
  check_environment()
  import jax

  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    jax.config.update('jax_compilation_cache_dir', str(paths.user_cache('xla')))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def check_environment() -> None:
  """Refuses settings of jax and XLA under which no command can end.

  Raises:
    UserError: names the environment variable.
  """
  flags, value = os.environ.get('XLA_FLAGS', ''), os.environ.get('JAX_DISABLE_JIT', '')
  if flags.strip() and (why := fault_of_flags(flags)):
    raise UserError(f'XLA_FLAGS is {flags!r}: {why}; correct or unset it')
  if value.lower() in ('1', 'true', 't', 'yes', 'y', 'on'):
    raise UserError(
      f'JAX_DISABLE_JIT is {value!r}, with which every operation is compiled and called on its '
      'own, and a run takes hours; unset it'
    )


@functools.cache
def fault_of_flags(flags: str) -> str:
  """Returns why XLA does not take the flags in XLA_FLAGS; empty: it does.

  Another process tries them, for XLA ends the one that has a flag which it does not know.
  """
  done = subprocess.run(
    [sys.executable, '-c', READ_FLAGS], env={**os.environ, 'XLA_FLAGS': flags},
    capture_output=True, text=True, errors='replace', check=False,
  )  # fmt: skip
  found = re.search(r'\] (.*?XLA_FLAGS.*)', done.stderr)
  why = found[1][:200] if found else 'XLA does not take it'
  return why if done.returncode else ''


def use_fake_devices(count: int) -> None:
  """Gives jax `count` CPU devices to compile for; nothing may have asked for a device before."""
  import jax

  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', count)


def join_processes(several: bool) -> None:
  """Makes this process one of several, if it is to be; see `jcl.distributed.join_processes`."""
  if several:
    from jcl import distributed
    from jcl.training import peers

    distributed.join_processes()
    peers.start()
