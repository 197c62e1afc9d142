"""The wheel, built from the source distribution, in a fresh environment and an empty folder."""

import email
import os
import pathlib
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile

import pytest
from support import ROOT
from support.launchers import SMALL

import jcl

pytestmark = pytest.mark.slow


def finished(command: list, folder: pathlib.Path, **env: str) -> subprocess.CompletedProcess:
  """Runs a command outside of the repository, which is not on its path of imports."""
  kept = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
  return subprocess.run(
    [str(word) for word in command], cwd=folder, env={**kept, **env},
    capture_output=True, text=True, timeout=600, check=False,
  )  # fmt: skip


@pytest.fixture(scope='module')
def dist(tmp_path_factory) -> pathlib.Path:
  """A folder with the source distribution, and the wheel that is built from it."""
  folder = tmp_path_factory.mktemp('dist')
  done = finished(
    [sys.executable, '-m', 'build', '--no-isolation', '--outdir', folder, ROOT], folder
  )
  assert done.returncode == 0, f'{done.stdout}\n{done.stderr}'
  return folder


@pytest.fixture(scope='module')
def python(dist, tmp_path_factory) -> pathlib.Path:
  """The Python of a fresh environment with the wheel; what jcl depends on comes from this one."""
  folder = tmp_path_factory.mktemp('fresh') / 'venv'
  venv.create(folder, with_pip=False)
  found = folder / 'bin' / 'python'
  inside = finished(
    [found, '-c', 'import sysconfig; print(sysconfig.get_paths()["purelib"])'], folder
  )
  # Folders in such a file are not searched for more such files: an editable jcl stays out.
  outside = [path for path in sys.path if path.endswith(('site-packages', 'dist-packages'))]
  pathlib.Path(inside.stdout.strip(), 'outside.pth').write_text('\n'.join(outside))
  install = ['install', '--no-deps', '--no-index', '--quiet', *dist.glob('*.whl')]
  done = finished([sys.executable, '-m', 'pip', '--python', found, *install], folder)
  assert done.returncode == 0, done.stderr
  return found


def test_the_wheel_holds_every_module_and_config_and_nothing_else(dist):
  names = set(zipfile.ZipFile(next(dist.glob('*.whl'))).namelist())
  tracked = subprocess.run(
    ['git', 'ls-files', 'jcl', 'configs'], cwd=ROOT, capture_output=True, text=True, check=True
  ).stdout.split()
  wanted = {f'jcl/{name}' if name.startswith('configs/') else name for name in tracked}
  assert {name for name in names if '.dist-info/' not in name} == wanted
  assert {'jcl/py.typed', 'jcl/configs/own_tasks/manifest.json'} <= names


def test_the_source_distribution_holds_what_the_wheel_is_built_of_and_no_tests(dist):
  with tarfile.open(next(dist.glob('*.tar.gz'))) as file:
    folders = {pathlib.PurePath(name).parts[1] for name in file.getnames()}
  assert folders >= {'jcl', 'configs', 'README.md', 'LICENSE', 'pyproject.toml'}
  assert not folders & {'tests', 'launch', 'docs', '.venv', '.git'}


def test_the_metadata_names_the_version_the_licence_and_the_extras(dist):
  wheel = zipfile.ZipFile(next(dist.glob('*.whl')))
  path = next(name for name in wheel.namelist() if name.endswith('/METADATA'))
  metadata = email.message_from_bytes(wheel.read(path))
  assert (metadata['Version'], metadata['License-Expression']) == (jcl.__version__, 'Apache-2.0')
  extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
  assert set(metadata.get_all('Provides-Extra') or ()) == set(extras)


def test_two_tasks_in_an_empty_folder(python, tmp_path):
  command = python.parent / 'jcl'

  def call(*arguments: str) -> subprocess.CompletedProcess:
    return finished([command, *arguments], tmp_path)

  where = finished([python, '-c', 'import jcl; print(jcl.__file__)'], tmp_path).stdout
  assert where.startswith(str(python.parent.parent))
  assert call('--version').stdout == f'jcl {jcl.__version__}\n'
  done = call('train', '--config=quickstart:seq', *SMALL, '--workdir=runs/seq')
  assert done.returncode == 0, done.stderr
  assert 'A_T' in done.stdout
  done = call('report', '--runs=runs', '--out=all')
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'all' / 'report.html').is_file()
  done = call('export', '--workdir=runs/seq', '--out=exported')
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'exported' / 'model.safetensors').is_file()
  done = call('plan', '--config=own_tasks:seq', '--config.backbone.path=')
  assert done.returncode == 0, done.stderr
  assert 'library, train' in done.stdout
  for name in ('check', 'soak'):
    done = call(name)
    assert (done.returncode, done.stderr.count('\n')) == (2, 1)
    assert done.stderr.startswith(f'error: jcl {name} runs the tests of the repository')
  assert {path.name for path in tmp_path.iterdir()} == {'runs', 'all', 'exported'}
