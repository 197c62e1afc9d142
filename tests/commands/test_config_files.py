"""Configs by name and by path: found, run once, with modules beside them, refused in one line."""

import importlib
import re
import sys
import textwrap

import pytest
from support import ROOT

from jcl import methods
from jcl.commands import config_files
from jcl.errors import UserError

MODULE = """
import dataclasses
from jcl.methods import Method, Settings

@dataclasses.dataclass
class Gem(Settings):
  strength: float = 1.0

  def build(self, backbone, teacher=None):
    return Method()
"""
CONFIG = """
from jcl import methods
from jcl.config import Config

def get_config(method='seq'):
  return Config(method=methods.settings(method))
"""
RECORD = """
with open('ran', 'a') as file:
  file.write('x')
"""
OWN = '\ndef get_config():'
LAST = """
  from jcl.config import Config
  return Config(method=Gem())
"""


@pytest.fixture(autouse=True)
def same_imports(monkeypatch, tmp_path):
  """Modules and paths that a config file brings go with the test."""
  monkeypatch.setattr(sys, 'path', [*sys.path])
  importlib.invalidate_caches()
  yield
  for name, module in list(sys.modules.items()):
    if str(getattr(module, '__file__', '')).startswith(str(tmp_path)):
      del sys.modules[name]


@pytest.mark.parametrize(
  ('given', 'config', 'method'),
  [
    ('quickstart', 'quickstart', ''),
    ('quickstart:', 'quickstart', ''),
    ('quickstart:lamol', 'quickstart', 'lamol'),
    ('quickstart:replay+ewc', 'quickstart', 'replay+ewc'),
    ('quickstart:pkg.mod:Gem+ewc', 'quickstart', 'pkg.mod:Gem+ewc'),
    ('configs/a.py', 'configs/a.py', ''),
    ('configs/a.py:lamol', 'configs/a.py', 'lamol'),
    ('mine.py:pkg.mod:Gem', 'mine.py', 'pkg.mod:Gem'),
    ('mine.py:pkg.py:Gem', 'mine.py', 'pkg.py:Gem'),
    ('a:b/mine.py:ewc+pkg.mod:Gem', 'a:b/mine.py', 'ewc+pkg.mod:Gem'),
    ('C:\\runs\\mine.py:seq', 'C:\\runs\\mine.py', 'seq'),
    ('my.python/mine.py:seq', 'my.python/mine.py', 'seq'),
    ('a.py/mine.py:seq', 'a.py/mine.py', 'seq'),
  ],
)
def test_a_config_and_its_method_are_told_apart(given, config, method):
  assert config_files.split(given) == (config, method)


def test_every_config_of_the_repository_is_found_by_its_name_and_by_its_path():
  names = {file.stem for file in (ROOT / 'configs').glob('*.py')}
  assert set(config_files.shipped()) == names
  for name in names:
    by_path = config_files.make_config(str(ROOT / 'configs' / f'{name}.py'))
    assert config_files.make_config(name) == by_path


@pytest.mark.parametrize('name', config_files.shipped())
def test_every_config_gives_every_method_and_says_how_it_is_called(name):
  for method in (*methods.BUILT_IN, 'replay+ewc'):
    assert methods.name_of(config_files.make_config(name, method).method) == method
  text = config_files.shipped()[name].read_text().split('"""')[1]
  assert re.search(rf'    jcl (train|compare) --config={name}[: ]', text)


@pytest.mark.parametrize('name', ['once.py', 'colorsys.py'])  # a name that is free, and a taken one
def test_a_file_is_run_once_however_many_methods_are_asked_for(name, tmp_path, monkeypatch):
  monkeypatch.setattr(sys, 'dont_write_bytecode', False)
  (tmp_path / name).write_text(CONFIG + RECORD)
  monkeypatch.chdir(tmp_path)
  for path in (name, str(tmp_path / name), f'./{name}'):
    for method in ('seq', 'ewc'):
      assert methods.name_of(config_files.make_config(path, method).method) == method
  assert (tmp_path / 'ran').read_text() == 'x'
  assert not (tmp_path / '__pycache__').exists()


def test_modules_beside_a_file_are_imported_and_found_by_name(tmp_path):
  (tmp_path / 'gem_module.py').write_text(MODULE)
  (tmp_path / 'beside.py').write_text('import gem_module\n' + CONFIG)
  path = str(tmp_path / 'beside.py')
  made = config_files.make_config(path, 'gem_module:Gem+ewc')
  assert methods.name_of(made.method) == 'gem_module:Gem+ewc'
  assert type(made.method.gem) is sys.modules['gem_module'].Gem
  assert type(methods.settings('gem_module:Gem')) is type(made.method.gem)


def test_nothing_beside_a_file_hides_a_package(tmp_path):
  assert 'tabnanny' not in sys.modules  # else the file beside could not hide it
  (tmp_path / 'tabnanny.py').write_text('1 / 0')
  (tmp_path / 'hiding.py').write_text('import tabnanny\ntabnanny.check\n' + CONFIG)
  assert config_files.make_config(str(tmp_path / 'hiding.py')).scenario == 'cil'


def test_a_class_of_the_file_itself_is_found_again_by_the_name_of_the_file(tmp_path):
  (tmp_path / 'own_gem.py').write_text(MODULE + OWN + LAST)
  made = config_files.make_config(str(tmp_path / 'own_gem.py'))
  assert methods.name_of(made.method) == 'own_gem:Gem'
  assert type(methods.settings('own_gem:Gem')) is type(made.method)


@pytest.mark.parametrize(
  ('name', 'text', 'says'),
  [
    ('colorsys.py', MODULE + OWN + LAST, "another module 'colorsys'; rename the file"),
    ('my-gem.py', MODULE + OWN + LAST, "another module 'my-gem'; rename the file"),
    ('local.py', 'def get_config():' + textwrap.indent(MODULE, '  ') + LAST,
     'define it at the top level of the file or of a module beside it'),
  ],
)  # fmt: skip
def test_a_class_that_nothing_finds_again_is_refused(name, text, says, tmp_path):
  (tmp_path / name).write_text(text)
  with pytest.raises(UserError, match=re.escape(says)) as error:
    config_files.make_config(str(tmp_path / name))
  assert str(tmp_path / name) in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('given', 'says'),
  [
    ('quikstart', "no config is called 'quikstart'; did you mean quickstart[?] there are "),
    ('configs/quickstart.pyx', 'there is no file .*--config=quickstart:METHOD'),
    ('elsewhere/quickstart.py', 'there is no file .*--config=quickstart:METHOD'),
    ('mine.py', "there is no file 'mine.py'; give FILE.py:METHOD, or NAME:METHOD of one of"),
    ('', "there is no file ''; give FILE.py:METHOD"),
    ('a\0b', 'there is no file'),
  ],
)
def test_what_is_no_config_is_refused(given, says, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=says):
    config_files.make_config(given)
