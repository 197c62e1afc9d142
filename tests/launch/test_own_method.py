"""A method that a config file defines: trained, compared with a built-in one, evaluated again."""

import os
import subprocess
import sys

import pytest
from support import ROOT
from support.bad_flags import SMALL
from support.launchers import call

MINE = """
import dataclasses
import pathlib

from jcl import methods
from jcl.commands import config_files

with pathlib.Path(__file__).with_name('runs_of_this_file').open('a') as file:
  file.write('x')


@dataclasses.dataclass
class Gem(methods.Settings):
  strength: float = 1.0

  def build(self, backbone, teacher=None):
    return methods.Method()


def get_config(method='mine:Gem'):
  return config_files.make_config('quickstart', method)
"""


@pytest.fixture(scope='module')
def compared(tmp_path_factory):
  """A folder with mine.py, and runs of its method and of seq in `runs`."""
  folder = tmp_path_factory.mktemp('own')
  (folder / 'mine.py').write_text(MINE)
  done = call(
    'compare', f'--config={folder / "mine.py"}', '--methods=seq,mine:Gem',
    '--config.method.strength=2', *SMALL, f'--workdir={folder / "runs"}',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  rows = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
  assert [name for name in rows if name in ('seq', 'gem')] == ['seq', 'gem']
  return folder


def test_the_file_is_run_once_and_its_method_equals_seq(compared):
  assert (compared / 'runs_of_this_file').read_text() == 'x'
  assert {'seq-0', 'mine.Gem-0'} < {path.name for path in (compared / 'runs').iterdir()}
  digests = [
    next(line for line in (compared / 'runs' / name / 'results.json').read_text().splitlines()
         if 'params_sha256' in line) for name in ('seq-0', 'mine.Gem-0')
  ]  # fmt: skip
  assert digests[0] == digests[1]


def test_it_is_evaluated_where_its_module_is_found_and_refused_elsewhere(compared):
  run = f'--workdir={compared / "runs" / "mine.Gem-0"}'
  lost = call('evaluate', run)
  assert (lost.returncode, lost.stderr.count('\n')) == (2, 1)
  assert "there is no module 'mine'" in lost.stderr
  assert 'PYTHONPATH' in lost.stderr
  paths = f'{compared}{os.pathsep}{os.environ["PYTHONPATH"]}'
  done = subprocess.run(
    [sys.executable, 'launch/evaluate.py', run, '--wrong=0'], cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': paths}, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert done.stdout.count('% right') == 2
