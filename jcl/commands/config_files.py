"""Config files: those that come with jcl, by name, and any other, by path; and folders of runs.

A config file defines `get_config(method)`, or `get_config()` with a method of its own, which
returns a `jcl.config.Config`. It may import modules that stand beside it. A file is run once a
process, however many methods are asked for. The folder of a run stands for the config of the run.
"""

import dataclasses
import functools
import importlib.machinery
import importlib.util
import pathlib
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

import jcl
from jcl.config import Config
from jcl.errors import UserError, nearest
from jcl.storage import paths

if TYPE_CHECKING:
  from jcl.methods import Settings

CONFIG = 'config.json'  # in the folder of a run
FALLBACK = 'jcl_config_file_'  # opens the module name of a file whose own name is taken


def shipped() -> dict[str, pathlib.Path]:
  """Returns {name: file} of the configs that come with jcl."""
  package = pathlib.Path(jcl.__file__).parent
  inside, beside = package / 'configs', package.parent / 'configs'  # a wheel's; a clone's
  folder = inside if inside.is_dir() else beside
  return {file.stem: file for file in sorted(folder.glob('[!_]*.py'))}


def is_shipped(given: str) -> bool:
  """Whether the name or path of a config is that of one that comes with jcl."""
  return given in shipped() or pathlib.Path(given).resolve() in {
    file.resolve() for file in shipped().values()
  }


def split(given: str) -> tuple[str, str]:
  """Splits `NAME:METHOD` or `FILE.py:METHOD` into config and method, which may be empty.

  The method may contain colons: `mine.py:package.module:Class+ewc`.
  """
  found = re.fullmatch(r'(.*?\.py)(?::(.*))?', given, re.DOTALL)
  if found:
    return found[1], found[2] or ''
  name, _, method = given.partition(':')
  return name, method


def make_config(given: str, method: str | None = None) -> Config:
  """Returns the config that a config file gives.

  Args:
    given: name of a config that comes with jcl, or path of a config file or of the folder of a run.
    method: name of a method, methods with `+` between them, or `package.module:Class`; None: the
      config's own.

  Raises:
    UserError: there is no such file, it raises an exception, it gives no `Config`, or the settings
      class of its method could not be imported again.
  """
  from jcl import methods  # imports jax

  if given not in shipped() and '\0' not in given and (pathlib.Path(given) / CONFIG).is_file():
    return _of_run(given, method)
  path = _find(given)
  get_config = _get_config(path.resolve(), str(path))
  try:
    config = get_config() if method is None else get_config(method)
  except (Exception, SystemExit) as error:
    _refuse(str(path), error)
  if not isinstance(config, Config) or not isinstance(config.method, methods.Settings):
    raise UserError(f'{path}: get_config must return a jcl.config.Config with a method')
  _check_importable(path, config.method)
  return config


def _of_run(folder: str, method: str | None) -> Config:
  """Returns the config of a run, of which another method keeps what both have.

  Args:
    folder: of the run.
    method: as in `make_config`; None: that of the run.

  Raises:
    UserError: config.json is damaged, or there is no such method.
  """
  from jcl import methods
  from jcl import workdir as workdirs

  config = workdirs.load_workdir(folder)
  if method is None or method == methods.name_of(config.method):
    return config
  own, config.method = config.method, methods.settings(method)
  before = methods.parts(own)
  for name, part in methods.parts(config.method).items():
    for field in dataclasses.fields(part) if name in before else ():
      setattr(part, field.name, getattr(before[name], field.name))
  if bool(own.adapters) != bool(config.method.adapters):
    config.train.learning_rate = None  # adapters have a rate of their own
  return config


def _example() -> str:
  """Returns where a message sends the author of a config file."""
  return f'{shipped()["quickstart"]} is one that works'


def _find(given: str) -> pathlib.Path:
  """Returns the file of a config.

  Raises:
    UserError: no config has this name, and there is no such file.
  """
  if given in shipped():
    return shipped()[given]
  if '\0' not in given and (file := paths.local(given, '--config')).is_file():
    return file
  stem, known = pathlib.PurePath(given).stem, ', '.join(shipped())
  if given.isidentifier():
    raise UserError(
      f'--config: no config is called {given!r}; {nearest(given, shipped())}there are {known}'
    )
  if stem in shipped():
    right = f'the config that comes with jcl is --config={stem}:METHOD'
  else:
    right = f'give FILE.py:METHOD, or NAME:METHOD of one of {known}'
  raise UserError(f'--config: there is no file {given!r}; {right}')


class _Loader(importlib.machinery.SourceFileLoader):
  """Loads a file from its source alone: no `__pycache__` is read or left beside it."""

  def path_stats(self, path: str) -> NoReturn:
    raise OSError('the bytecode is not cached')


def _get_config(path: pathlib.Path, shown: str) -> Callable[..., object]:
  """Runs a config file and returns its `get_config`.

  Args:
    path: the file, resolved.
    shown: the path as messages show it.

  Raises:
    UserError: the file raises an exception, or defines no such function.
  """
  folder = str(path.parent)
  if folder not in sys.path:
    sys.path.append(folder)  # last, so that nothing beside the file hides a package
  try:
    module = _load_module(path)
  except (Exception, SystemExit) as error:
    _refuse(shown, error)
  if not callable(getattr(module, 'get_config', None)):
    raise UserError(f'{shown} defines no get_config(method); {_example()}')
  return module.get_config


@functools.cache
def _load_module(path: pathlib.Path) -> ModuleType:
  """Runs a file as the module that it is when it is imported by its name.

  So a class that it defines is found again by `module:Class`. Where another module has its name,
  the file runs under a name that `FALLBACK` opens.
  """
  name = path.stem if _is_module(path.stem, path) else f'{FALLBACK}{path.stem}'
  if name in sys.modules and not name.startswith(FALLBACK):
    return sys.modules[name]
  loader = _Loader(name, str(path))
  spec = importlib.util.spec_from_file_location(name, path, loader=loader)
  assert spec is not None
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  try:
    loader.exec_module(module)
  except BaseException:
    del sys.modules[name]
    raise
  return module


def _is_module(name: str, path: pathlib.Path) -> bool:
  """Returns whether `import name` gives the file `path`."""
  if not name.isidentifier():
    return False
  try:
    spec = importlib.util.find_spec(name)
  except ValueError:  # a module of that name is loaded and has no spec
    return False
  return (
    spec is not None and spec.origin is not None and pathlib.Path(spec.origin).resolve() == path
  )


def _check_importable(path: pathlib.Path, chosen: 'Settings') -> None:
  """Refuses a method whose settings class another process could not find, as `evaluate` must.

  Raises:
    UserError: naming the class.
  """
  from jcl import methods

  for part in methods.parts(chosen).values():
    name = methods.name_of(part)
    if name.startswith(FALLBACK):
      raise UserError(
        f'{path}: its class {type(part).__name__} could not be imported again, since there is '
        f'another module {path.stem!r}; rename the file'
      )
    try:
      found = methods.settings_class(name)
    except UserError:
      found = None
    if found is not type(part):
      raise UserError(
        f'{path}: the class of its method could not be imported again as {name}; define it at the '
        'top level of the file or of a module beside it'
      )


def _refuse(path: str, error: BaseException) -> NoReturn:
  """Raises what a config file raised as a `UserError` of one line."""
  if isinstance(error, UserError):
    raise error
  if isinstance(error, SyntaxError):
    where = path if error.lineno is None else f'{path}:{error.lineno}'
    raise UserError(f'{where}: {error.msg}; give the Python file of a config') from None
  raise UserError(f'{path}: {type(error).__name__}: {error}; {_example()}') from None
