"""Settings of jax are made before its first array; each in a process of its own."""

import os
import pathlib
import subprocess
import sys

import pytest

from jcl.commands import jax_settings

CODE = f"""
import {jax_settings.__name__} as jax_settings
jax_settings.use_fake_devices(3)
jax_settings.use_compile_cache()
jax_settings.join_processes(False)
import jax
print(jax.device_count(), jax.process_count(), jax.config.jax_compilation_cache_dir)
"""


@pytest.mark.parametrize('folder', ['', 'mine'])
def test_devices_and_compile_cache(folder, tmp_path):
  named = str(tmp_path / folder) if folder else ''
  done = subprocess.run(
    [sys.executable, '-c', CODE], capture_output=True, text=True, check=True,
    env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': named},
  )  # fmt: skip
  default = str(pathlib.Path.home() / '.cache' / 'jcl' / 'xla')
  assert done.stdout.split() == ['3', '1', named or default]
