"""Settings of jax are made before its first array; each in a process of its own."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
from support import ROOT

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


@pytest.mark.parametrize(
  ('name', 'value', 'says'),
  [('JAX_DISABLE_JIT', '1', "JAX_DISABLE_JIT is '1', .* unset it"),
   ('XLA_FLAGS', '--xla_nonsense=3', 'XLA_FLAGS is .*Unknown flag in XLA_FLAGS: --xla_nonsense=3'),
   pytest.param('XLA_FLAGS', 'nonsense', 'XLA_FLAGS is .*Could not open file "nonsense"',
                marks=pytest.mark.slow)],
)  # fmt: skip
def test_settings_with_which_no_command_can_end_are_refused(name, value, says):
  done = subprocess.run(
    [sys.executable, '-m', 'jcl.cli', 'plan', '--config=quickstart:seq'], cwd=ROOT, check=False,
    capture_output=True, text=True, env={**os.environ, name: value}, timeout=60,
  )  # fmt: skip
  assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, '', 1), done.stderr
  assert re.search(says, done.stderr)


def test_known_flags_of_xla_are_taken(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_force_host_platform_device_count=1')
  jax_settings.check_environment()
