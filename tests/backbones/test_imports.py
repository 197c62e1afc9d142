"""Imports between the modules of the backbones room, and the names its package offers."""

import ast
import pathlib
import subprocess
import sys

import pytest

from jcl import backbones

ROOM = pathlib.Path(backbones.__file__).parent
TOP = sorted(path for path in ROOM.glob('*.py') if path.name != '__init__.py')


def imported_at_module_level(path):
  """Dotted names that are imported when the module is, so not in functions and not for types."""
  for node in ast.parse(path.read_text()).body:
    if isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)


@pytest.mark.parametrize('path', TOP, ids=lambda path: path.name)
def test_models_do_not_import_files(path):
  found = [n for n in imported_at_module_level(path) if n.startswith('jcl.backbones.files')]
  assert not found, f'{path.name} imports {found}: only files/ imports models'


def test_the_package_gives_each_of_its_names():
  for name in backbones.__all__:
    assert getattr(backbones, name) is not None
  assert sorted(backbones.__all__) == sorted(backbones._PUBLIC)
  with pytest.raises(AttributeError, match=r'jcl.backbones has no backbone_of'):
    _ = backbones.backbone_of


def test_the_package_is_imported_without_jax():
  code = "import sys, jcl.backbones; assert not {'jax', 'numpy', 'tokenizers'} & set(sys.modules)"
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
