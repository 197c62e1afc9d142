"""The flag `--config` and the flags that override its fields, `--config.SECTION.FIELD=VALUE`.

A field that holds a list takes `a,b` or any other form that `jcl.notation` reads; the entries of a
flag that is given several times are joined.
"""

import dataclasses
import functools
import sys
import typing
from collections.abc import Iterable, Iterator, Sequence

from absl import flags
from ml_collections import config_flags

from jcl import notation
from jcl.commands import command_line
from jcl.config import Config, check_values, entry_type, unread
from jcl.errors import UserError, nearest
from jcl.storage import console

EXAMPLE = '--config=quickstart:lamol'
HELP = 'NAME:METHOD of a config that comes with jcl, FILE.py:METHOD, or WORKDIR:METHOD of a run'
METHOD = 'config.method.'
REPEATED = 'repeated'  # attribute of the flag `--config`: notes on fields that are given twice


def define(
  given: flags.FlagValues, arguments: Sequence[str], several_methods: bool = False
) -> None:
  """Defines `--config` and the fields of the config that the arguments set.

  Args:
    given: where flags are defined.
    arguments: the command line, which names the config.
    several_methods: whether the command trains more than one method; fields of the method are then
      parsed later, against the settings of each.

  Raises:
    UserError: the config cannot be made, or it has no such field.
  """
  named, fields = _read_arguments(arguments)
  config = Config()
  if named is not None:
    from jcl.commands import config_files  # imports jax

    name, method = config_files.split(named)
    if several_methods and method:
      raise UserError(f'--config={named} names a method; give --config={name} --methods={method},…')
    config = config_files.make_config(name, method or None)
  elif fields:
    raise UserError(f'--{fields[0]} needs --config; give {EXAMPLE}')
  for field in fields:
    if not (several_methods and field.startswith(METHOD)):
      _check_field(config, field)
    elif field not in given:
      flags.DEFINE_multi_string(field, [], 'a field of the methods', flag_values=given)
  known = _without_method(arguments) if several_methods else arguments
  _define_fields(given, config, known)
  vars(given['config'])[REPEATED] = list(_repeats(config, known))


def _repeats(config: Config, arguments: Sequence[str]) -> Iterator[str]:
  """Yields a line for each field that flags give twice with different values.

  The last value counts, because scripts append flags to a command. A field that holds several
  values is left out, since each of its flags adds one.
  """
  seen: dict[str, str] = {}
  for argument in arguments:
    name, equals, value = argument.lstrip('-').partition('=')
    if not equals or not name.startswith('config.') or _entry_type(config, name):
      continue
    if (before := seen.get(name, value)) != value:
      yield f'note: --{name} is {before!r} and then {value!r}: the last counts'
    seen[name] = value


def _define_fields(given: flags.FlagValues, config: Config, arguments: Sequence[str]) -> None:
  """Defines `--config`, which gives `config`, and the fields of it that the arguments set."""
  lists = {name for name in map(_name, arguments) if _entry_type(config, name)}
  for name in lists:
    flags.DEFINE_multi_string(name, [], 'a list', flag_values=given)
  others = [argument for argument in arguments if _name(argument) not in lists]
  parse = lambda text: config
  config_flags.DEFINE_config_dataclass('config', config, HELP, given, others, parse_fn=parse)


def define_run_flags(given: flags.FlagValues) -> None:
  """Defines the flags of commands that train: workdir, permitted changes, several processes."""
  command_line.define_path(given, 'workdir', None, 'folder that the run leaves its files in')
  command_line.define_list(
    given, 'allow_config_change', '', 'fields that may differ from those of the run, with commas'
  )
  flags.DEFINE_bool('distributed', False, 'one process of several, all started alike', given)
  page = 'tensorboard, wandb, trackio: write the metrics there too; names with commas'
  command_line.define_list(given, 'sinks', '', page, once='sink')


def read(given: flags.FlagValues) -> Config:
  """Returns the config of `--config`, with the flags that override it.

  What its file sets, and nothing reads beside the flags and the method, is left at its default: a
  file serves several methods. A line on standard error says so.

  Raises:
    UserError: the flag is missing, or a value is not what it must be.
  """
  config = _read(given)
  _leave_unread(config, given)
  config.from_file = _from_file(config, given)
  return config


def _from_file(config: Config, given: flags.FlagValues) -> frozenset[str]:
  """Returns the names of the shared settings that no flag sets."""
  groups = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
  names = {
    f'{group}.{field.name}'
    for group, settings in groups.items() if dataclasses.is_dataclass(settings)
    for field in dataclasses.fields(settings)
  }  # fmt: skip
  return frozenset(name for name in names if not overrides(given, name))


def _leave_unread(config: Config, given: flags.FlagValues) -> None:
  """Puts back to its default what a config file sets and nothing reads."""
  named = config_flags.get_config_filename(given['config'])
  for field, default, value in _unread(config):
    if not overrides(given, field):
      _set(config, field, default)
      console.show(f'note: {named} sets {field} to {value!r}, which nothing reads here', sys.stderr)


def _unread(config: Config) -> list[tuple[str, object, object]]:
  """Returns (name, default, value) of the settings that are given and that nothing reads."""
  found = unread(config, whole=config)
  return [(name, field.default, value) for name, field, value in found if value != field.default]


def _read(given: flags.FlagValues) -> Config:
  """Returns the config of `--config` as file and flags have it."""
  if not given['config'].present:
    raise UserError(f'--config is missing; give {EXAMPLE}')
  config = given.config
  for field, entries in _lists(given).items():
    _set(config, field, entries)
  check_values(config)
  for line in vars(given['config'])[REPEATED]:
    console.show(line, sys.stderr)
  name = config_flags.get_config_filename(given['config'])
  if _goes_from_scratch(config, name, given):
    config.train.learning_rate = None
  return config


def _goes_from_scratch(config: Config, named: str, given: flags.FlagValues) -> bool:
  """Whether a flag takes away the pretrained model that the rate of a shipped config is meant for.

  Args:
    config: with the flags that override it.
    named: value of the flag `--config`.
    given: the flags.
  """
  if config.backbone.path or not overrides(given, 'backbone.path'):
    return False
  from jcl.commands import config_files

  name, method = config_files.split(named)
  own = config_files.make_config(name, method or None)
  shipped = config_files.is_shipped(name)
  return bool(shipped and own.backbone.path) and not overrides(given, 'train.learning_rate')


def read_each(given: flags.FlagValues, names: Sequence[str]) -> list[Config]:
  """Returns a config for each method, from the file of `--config`, with the flags that override it.

  A field of the methods, `--config.method.FIELD`, holds for the methods that have it, any other
  for those that read it.

  Args:
    given: flags that `define` defined for several methods.
    names: of the methods.

  Raises:
    UserError: an unknown method, a field that none of the methods has, or a value that does not fit
      its field.
  """
  from jcl.commands import config_files
  from jcl.methods import registry

  _read(given)
  path = config_flags.get_config_filename(given['config'])
  configs = [config_files.make_config(path, name) for name in names]
  shared = {**config_flags.get_override_values(given['config']), **_lists(given)}
  for field, value in shared.items():
    for config in configs:
      if not field.startswith('method.'):
        _set(config, field, value)
  for config in configs:
    if _goes_from_scratch(config, path, given):
      config.train.learning_rate = None
  own: dict[str, list[str]] = {
    flag.removeprefix(METHOD): list(given[flag].value or ()) for flag in given
    if flag.startswith(METHOD)
  }  # fmt: skip
  places = [_places(config, own) for config in configs]
  for field in own:
    if not any(field in found for found in places):
      raise UserError(
        f'--{METHOD}{field}: none of {", ".join(names)} has this field{registry.having(field)}'
      )
  configs = [
    _overridden(config, [f'--{place}={text}' for f, found in fields.items() for place in found
                         for text in own[f]])
    for config, fields in zip(configs, places, strict=True)
  ]  # fmt: skip
  useless = [{field: default for field, default, _ in _unread(config)} for config in configs]
  for config, unread_here in zip(configs, useless, strict=True):
    for field, default in unread_here.items():
      if overrides(given, field) and not all(field in others for others in useless):
        _set(config, field, default)
    _leave_unread(config, given)
    config.from_file = _from_file(config, given)
  return configs


def overrides(given: flags.FlagValues, path: str) -> bool:
  """Returns whether a flag sets the field of the config at `path`, such as `train.seed`."""
  return path in config_flags.get_override_values(given['config']) or path in _lists(given)


def _lists(given: flags.FlagValues) -> dict[str, tuple]:
  """Returns {field: entries} of the fields that hold lists and that flags set.

  Raises:
    UserError: a text is no such list; names the flag.
  """
  found: dict[str, tuple] = {}
  for name in given:
    entry = _entry_type(given.config, name)
    if entry is None or not given[name].present:
      continue
    for text in given[name].value or ():
      try:
        more = notation.parse(text, entry)
      except ValueError as error:
        raise UserError(f'--{name}={text}: {error}') from None
      found[name.removeprefix('config.')] = (*found.get(name.removeprefix('config.'), ()), *more)
  return found


def _set(config: Config, field: str, value: object) -> None:
  """Sets the field at a path such as `train.seed`."""
  *sections, last = field.split('.')
  setattr(functools.reduce(getattr, sections, config), last, value)


def _entry_type(config: Config, name: str) -> type | None:
  """Returns the type of the entries of the field `config.…`; None where it holds no list."""
  *sections, last = name.split('.')[1:] or ['']
  inside: object = config
  for section in sections:
    inside = getattr(inside, section, None)
  if not name.startswith('config.') or not dataclasses.is_dataclass(inside):
    return None
  return entry_type(typing.get_type_hints(type(inside)).get(last))


def _name(argument: str) -> str:
  """Returns the name of the flag that an argument sets; of a word that is no flag, the word."""
  return argument.lstrip('-').partition('=')[0]


def _read_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
  """Returns what `--config` is given as, or None, and the names `config.…` of the fields set.

  Raises:
    UserError: a field comes before the config.
  """
  named: str | None = None
  fields: list[str] = []
  for place, argument in enumerate(arguments):
    if not argument.startswith('-'):
      continue
    name, equals, value = argument.lstrip('-').partition('=')
    if name == 'config' and (equals or place + 1 < len(arguments)):
      if fields and named is None:
        raise UserError(f'--{fields[0]} comes before --config; give --config first')
      named = value if equals else arguments[place + 1]
    elif name.startswith(('config.', 'noconfig.')):
      fields.append(name.removeprefix('no'))
  return named, fields


def _without_method(arguments: Sequence[str]) -> list[str]:
  """Returns the arguments without those that set fields of the method."""
  return [a for a in arguments if not a.lstrip('-').startswith(METHOD)]


def _places(config: Config, fields: Iterable[str]) -> dict[str, list[str]]:
  """Returns {field: its places in the config of a method, or of methods that are composed}."""
  from jcl import methods

  parts = methods.parts(config.method)
  prefixes = [f'{METHOD}{name}.' for name in parts] if len(parts) > 1 else [METHOD]
  having = {
    field: [
      f'{prefix}{field}' for prefix, part in zip(prefixes, parts.values(), strict=True)
      if field in {f.name for f in dataclasses.fields(part)}
    ] for field in fields
  }  # fmt: skip
  return {field: places for field, places in having.items() if places}


def _overridden(config: Config, arguments: Sequence[str]) -> Config:
  """Returns the config with the fields that the arguments set."""
  given = flags.FlagValues()
  _define_fields(given, config, arguments)
  command_line.parse(given, arguments)
  found = given.config
  for field, entries in _lists(given).items():
    _set(found, field, entries)
  return found


def _check_field(config: Config, name: str) -> None:
  """Refuses the name `config.…` of a field that is not there, or of a group of fields.

  Raises:
    UserError: naming the fields that there are.
  """
  from jcl.methods import Settings, registry

  inside: object = config
  for part in name.split('.')[1:]:
    known = [f.name for f in dataclasses.fields(inside)] if dataclasses.is_dataclass(inside) else []
    if part not in known:
      kind = type(inside).__name__
      has = f'{nearest(part, known)}it has {", ".join(known)}' if known else 'it has none'
      others = registry.having(part) if isinstance(inside, Settings) else ''
      raise UserError(f'--{name}: {kind} has no field {part!r}; {has}{others}')
    inside = getattr(inside, part)
  if dataclasses.is_dataclass(inside):
    first = next((f.name for f in dataclasses.fields(inside)), 'FIELD')
    raise UserError(f'--{name} is a group of settings; set one of its fields, --{name}.{first}=…')
