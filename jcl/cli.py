"""What every launcher shares: flags, one error line, the workdir, many processes."""

import dataclasses
import functools
import os
import pathlib
import re
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from absl import flags
from ml_collections import config_flags

from jcl import distributed, methods
from jcl.config import Config
from jcl.errors import UserError
from jcl.storage import atomic
from jcl.training.signals import STATUS, Stopped


def define_config() -> None:
  """Defines `--config` and `--workdir`, and what may be changed in a run that is there."""
  try:  # --flagfile is read here already
    config_flags.DEFINE_config_file('config', None, 'configs/NAME.py:METHOD', lock_config=True)
  except (flags.Error, OSError, ValueError) as error:
    refuse(f'--flagfile: {str(error).removeprefix("ERROR:: ")}; give a file of flags, one a line')
  flags.DEFINE_string('workdir', None, 'folder that the run leaves its files in')
  flags.DEFINE_list('allow_config_change', [], 'fields that may differ from those of the run')
  flags.DEFINE_bool('distributed', False, 'one process of several, all started alike')


def main(run: Callable[[], int | None]) -> None:
  """Parses flags and calls `run`; bad input of any kind is one line and exit status 2."""
  os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
  try:
    _parse(sys.argv)
    if 'distributed' in flags.FLAGS and flags.FLAGS.distributed:
      distributed.join_processes()
    sys.exit(run() or 0)
  except Stopped as stopped:
    print(f'stopped: {stopped}', file=sys.stderr)
    sys.exit(STATUS)
  except (UserError, flags.Error) as error:
    refuse(str(error))
  except OSError as error:
    refuse(atomic.describe_error(error))


def refuse(message: str) -> NoReturn:
  """Ends the program with one line on standard error and exit status 2."""
  shown = ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in ' '.join(message.split()))
  print(f'error: {shown}', file=sys.stderr)
  sys.exit(2)


def _parse(arguments: Sequence[str]) -> None:
  """Parses the flags, with an error of ours for what `config_flags` meets with a traceback."""
  if {'--help', '-h', '-help'} & set(arguments[1:]):
    print((sys.modules['__main__'].__doc__ or '').strip(), flags.FLAGS.main_module_help(), sep='\n')
    sys.exit(0)
  given = flags.FLAGS.read_flags_from_files(arguments[1:], force_gnu=False)
  _check_config_flags(given)
  try:
    rest = flags.FLAGS(arguments)[1:]
  except flags.IllegalFlagValueError as error:
    raise UserError(_illegal(str(error))) from None
  except flags.UnrecognizedFlagError as error:
    raise UserError(f'{error}; --help lists the flags') from None
  except flags.Error as error:
    raise UserError(f'{error}; flags are written --name=value') from None
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f'a --config.… flag has a value that does not fit its field: {error}') from None
  if rest:
    raise UserError(f'{rest[0]!r} is no flag; flags are written --name=value')


def _check_config_flags(arguments: Sequence[str]) -> None:
  """Makes the config that the arguments name, and looks for the fields that they set in it.

  Raises:
    UserError: there is no such file, it gives no config, there is no such field, or a flag other
      than a field's is given twice with different values.
  """
  paths, fields, seen = [], [], {}
  for place, argument in enumerate(arguments):
    name, equals, value = argument.lstrip('-').partition('=')
    if not argument.startswith('-'):
      continue
    if len(name) > 200:  # absl looks for its like letter by letter
      raise UserError(f'{argument[:60]!r}… is no flag; --help lists the flags')
    if name == 'config' and (equals or place + 1 < len(arguments)):
      paths.append(value if equals else arguments[place + 1])
    if name.startswith('config.') and 'config' in flags.FLAGS:
      fields.append(name.removeprefix('config.'))
    elif equals and seen.setdefault(name, value) != value:
      raise UserError(f'--{name} is given twice, as {seen[name]!r} and {value!r}; give it once')
  if not paths:
    return
  path, _, method = paths[-1].partition(':')
  config = make_config(path, *[method] if method else [])
  for field in fields:
    _check_field(config, field)


def _check_field(config: Config, path: str) -> None:
  """Refuses the path of a field that is not there, or is a group of fields."""
  inside: Any = config
  for name in path.split('.'):
    known = [f.name for f in dataclasses.fields(inside)] if dataclasses.is_dataclass(inside) else []
    if name not in known:
      kind = type(inside).__name__
      has = f'it has {", ".join(known)}' if known else f'a {kind} has no fields'
      raise UserError(f'--config.{path}: {kind} has no field {name!r}; {has}')
    inside = getattr(inside, name)
  if dataclasses.is_dataclass(inside):
    first = next((f.name for f in dataclasses.fields(inside)), 'FIELD')
    raise UserError(
      f'--config.{path} is a group of settings; set one of its fields, --config.{path}.{first}=…'
    )


def _illegal(message: str) -> str:
  """What absl says of a value, in our words where it has only those of a conversion."""
  found = re.fullmatch(r'flag (--[^=]*=.*?): (.*)', message, re.DOTALL)
  if found is None:
    return message
  flag, reason = found.groups()
  for sign, right in (
    ('boolean', 'true or false'),
    ('int()', 'a whole number'),
    ('float', 'a number'),
  ):
    if sign in reason:
      return f'{flag}: give {right}'
  return f'{flag}: {reason}'


def make_config(path: str, *method: str) -> Config:
  """What `get_config` of a config file gives for a method, or for its own.

  Raises:
    UserError: there is no such file, it raises something, or gives no `Config`.
  """
  config = _run_file(path, lambda: _load_file(path)(*method))
  if not isinstance(config, Config) or not isinstance(config.method, methods.Settings):
    raise UserError(f'{path}: get_config must return a jcl.config.Config with a method')
  return config


def _load_file(path: str) -> Callable[..., Config]:
  """`get_config` of a config file.

  Raises:
    UserError: there is no such file, or it is not a config.
  """
  if '\0' in path or not pathlib.Path(path).is_file():
    raise UserError(f'--config: there is no file {path!r}; give configs/NAME.py:METHOD')
  found = _run_file(path, lambda: runpy.run_path(path))
  if not callable(found.get('get_config')):
    raise UserError(f'{path} defines no get_config(method); see configs/quickstart.py')
  return found['get_config']


def _run_file(path: str, run: Callable[[], Any]) -> Any:
  """What `run` gives, which runs the user's own file."""
  try:
    return run()
  except SyntaxError as error:
    where = path if error.lineno is None else f'{path}:{error.lineno}'
    raise UserError(f'{where}: {error.msg}; give configs/NAME.py') from None
  except UserError:
    raise
  except (Exception, SystemExit) as error:  # whatever the file raises
    raise UserError(
      f'{path}: {type(error).__name__}: {error}; see configs/quickstart.py for a config that works'
    ) from None


def required(name: str) -> str:
  """The value of a flag that must be given."""
  value = flags.FLAGS[name].value
  if not value:
    raise UserError(f'--{name} is missing; give --{name}=…')
  return value


def read_config() -> Config:
  """The config of `--config`, with the flags that override it.

  Raises:
    UserError: the flag is missing.
  """
  if flags.FLAGS['config'].value is None:
    raise UserError('--config is missing; give --config=configs/quickstart.py')
  return flags.FLAGS.config


def take_method_flags(arguments: list[str]) -> dict[str, str]:
  """Takes `--config.method.FIELD=VALUE` out of the arguments: {FIELD: VALUE}.

  A comparison has several methods, and the flags are parsed against the settings of one.
  """
  taken = {}
  for argument in list(arguments):
    name, equals, value = argument.lstrip('-').partition('=')
    if argument.startswith('-') and equals and name.startswith('config.method.'):
      taken[name.removeprefix('config.method.')] = value
      arguments.remove(argument)
  return taken


def _as_type_of(old: Any, text: str, field: str) -> Any:
  """`text` as a value of the type that `old` has."""
  try:
    if isinstance(old, bool):
      return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    return type(old)(text)
  except (KeyError, ValueError):
    kind = type(old).__name__
    raise UserError(f'--config.method.{field}={text}: give a value of type {kind}') from None


def read_configs(names: Sequence[str], method_flags: Mapping[str, str]) -> list[Config]:
  """The config of each method, from the file of `--config`, with the flags that override it.

  Args:
    names: of the methods.
    method_flags: fields of the methods' own settings; each holds for the methods that have it.

  Raises:
    UserError: an unknown method, or a field that none of the methods has.
  """
  read_config()
  flag = flags.FLAGS['config']
  path = config_flags.get_config_filename(flag)
  configs = [make_config(path, name) for name in names]
  for path, value in config_flags.get_override_values(flag).items():
    *sections, field = path.split('.')
    for config in configs:
      setattr(functools.reduce(getattr, sections, config), field, value)
  for field, text in method_flags.items():
    parts = [part for c in configs for part in methods.parts(c.method).values()]
    having = [part for part in parts if hasattr(part, field)]
    if not having:
      raise UserError(f'--config.method.{field}: none of {", ".join(names)} has this field')
    for method in having:
      setattr(method, field, _as_type_of(getattr(method, field), text, field))
  return configs


def overridden(path: str) -> bool:
  """Whether a flag sets the field of the config at `path`."""
  return path in config_flags.get_override_values(flags.FLAGS['config'])


def use_compile_cache() -> None:
  """Keeps compiled programs between runs, in JAX_COMPILATION_CACHE_DIR or the user's cache."""
  import jax

  default = pathlib.Path.home() / '.cache' / 'jcl' / 'xla'
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    jax.config.update('jax_compilation_cache_dir', str(default))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def use_fake_devices(count: int) -> None:
  """Gives jax `count` CPU devices to compile for; nothing may have asked for a device before."""
  import jax

  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', count)


def numbers(text: str, flag: str) -> list[int]:
  """'0,1,2' as numbers."""
  try:
    found = [int(part) for part in text.split(',')]
  except ValueError:
    raise UserError(f'--{flag}={text} is no list of numbers such as 0,1,2') from None
  if len(set(found)) != len(found):
    raise UserError(f'--{flag}={text} names a number twice')
  return found


def fractions(text: str, flag: str) -> list[float]:
  """'0.5,0.25' as numbers."""
  try:
    return [float(part) for part in text.split(',')]
  except ValueError:
    raise UserError(f'--{flag}={text} is no list of numbers such as 0.5,0.25') from None
