"""Settings of jax that a command makes before the first array: compile cache and devices."""

import os

from jcl.storage import paths


def use_compile_cache() -> None:
  """Keeps compiled programs between runs, in JAX_COMPILATION_CACHE_DIR or the user's cache."""
  import jax

  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    jax.config.update('jax_compilation_cache_dir', str(paths.user_cache('xla')))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def use_fake_devices(count: int) -> None:
  """Gives jax `count` CPU devices to compile for; nothing may have asked for a device before."""
  import jax

  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', count)


def join_processes(several: bool) -> None:
  """Makes this process one of several, if it is to be; see `jcl.distributed.join_processes`."""
  if several:
    from jcl import distributed

    distributed.join_processes()
