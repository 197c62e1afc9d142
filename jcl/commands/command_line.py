"""The command line of one command: flags are parsed, explained, and refused in one line."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from absl import flags

from jcl import notation
from jcl.config import Config
from jcl.errors import UserError, nearest
from jcl.storage import paths

WIDTH = 100  # columns of a page of help
LONGEST_NAME = 200  # characters; absl compares a longer name with all others letter by letter


class PathParser(flags.ArgumentParser[str]):
  """Parser of a flag that is a path: `~` is expanded, a URL is refused."""

  def __init__(self, flag: str):
    self.syntactic_help, self._flag = '', flag

  def parse(self, argument: str) -> str:
    """Returns the path; an empty text stays empty."""
    return str(paths.local(argument, f'--{self._flag}')) if argument else ''


class ListParser(flags.ArgumentParser[tuple]):
  """Parser of a flag that is a list, in any form that `jcl.notation` reads.

  Args:
    kind: of the entries: `str`, `int` or `float`.
    once: what an entry is called that may stand there once; empty: it may stand there twice.
    path: name of the flag if the entries are paths, in which `~` is expanded and a URL is refused.
  """

  def __init__(self, kind: type, once: str, path: str):
    self.syntactic_help, self._kind, self._once, self._path = '', kind, once, path

  def parse(self, argument: str) -> tuple:
    """Returns the entries."""
    found = notation.parse(argument, self._kind)
    if self._path:
      found = tuple(str(paths.local(entry, f'--{self._path}')) for entry in found)
    twice = [entry for place, entry in enumerate(found) if entry in found[:place]]
    if self._once and twice:
      raise ValueError(f'it names the {self._once} {twice[0]} twice')
    return found


def define_path(given: flags.FlagValues, name: str, default: str | None, page: str) -> None:
  """Defines a flag that is a path of this machine.

  Args:
    given: where flags are defined.
    name: of the flag.
    default: its value where it is not given.
    page: what it says in the help.
  """
  flags.DEFINE(PathParser(name), name, default, page, given)


def define_list(
  given: flags.FlagValues, name: str, default: str, page: str, kind: type = str, once: str = '',
  of_paths: bool = False,
) -> None:  # fmt: skip
  """Defines a flag that is a list, whose value is a tuple.

  Args:
    given: where flags are defined.
    name: of the flag.
    default: the list where it is not given.
    page: what it says in the help.
    kind: of the entries: `str`, `int` or `float`.
    once: what an entry is called that may stand there once; empty: it may stand there twice.
    of_paths: whether the entries are paths of this machine.
  """
  flags.DEFINE(ListParser(kind, once, name if of_paths else ''), name, default, page, given)


def define_output_flags(given: flags.FlagValues) -> None:
  """Defines the flags that every command has: how much it says."""
  page = 'print errors and what was asked for: no progress, no notes'
  flags.DEFINE_bool('quiet', False, page, given)
  page = 'log messages of jax and other libraries, as absl counts: -2 errors, -1 warnings, 0 info, '
  flags.DEFINE_integer('verbosity', None, page + '1 debug', -3, None, given)


def set_verbosity(verbosity: int | None) -> None:
  """Lets libraries log at a level of absl; None: as Python has it, warnings and errors."""
  if verbosity is not None:
    from absl import logging

    logging.use_absl_handler()
    logging.set_verbosity(verbosity)


def define_family(given: flags.FlagValues, model: str) -> None:
  """Defines the flag that names the family of a model from another package.

  Args:
    given: where flags are defined.
    model: what the help calls the model.
  """
  page = f'package.module:name of the Family of the {model}; empty: by its model_type'
  flags.DEFINE_string('family', '', page, given)


def define_places(given: flags.FlagValues, several: bool = True) -> None:
  """Defines flags of commands that look at a run whose data or base model may have moved.

  Args:
    given: where flags are defined.
    several: whether the command reads the data too.
  """
  page = 'folder, GGUF file or hub name of the base model, if it is no longer where the run had it'
  define_path(given, 'base', '', page)
  if several:
    page = 'folder or manifest of the data, if it is no longer where the run had it'
    define_path(given, 'stream', '', page)
    page = 'inputs that may differ from those of the run, such as stream.data'
    flags.DEFINE_list('allow_config_change', [], page, given)


def expand_flag_files(arguments: Sequence[str]) -> list[str]:
  """Returns the arguments with each `--flagfile=FILE` replaced by the flags in that file.

  Raises:
    UserError: a file cannot be read.
  """
  try:
    return flags.FlagValues().read_flags_from_files(arguments, force_gnu=False)
  except (flags.Error, OSError, ValueError) as error:
    reason = str(error).removeprefix('ERROR:: ')
    raise UserError(f'--flagfile: {reason}; give a file of flags, one a line') from None


def check_names(arguments: Sequence[str]) -> None:
  """Refuses a flag that is given twice with different values, and a name of absurd length.

  Fields of the config are left out: a tuple is given by repeating its flag.

  Raises:
    UserError: naming the flag.
  """
  seen: dict[str, str] = {}
  for argument in arguments:
    if not argument.startswith('-'):
      continue
    name, equals, value = argument.lstrip('-').partition('=')
    if len(name) > LONGEST_NAME:
      raise UserError(f'{argument[:60]!r}… is no flag; --help lists the flags')
    if equals and not name.startswith('config.') and seen.setdefault(name, value) != value:
      raise UserError(f'--{name} is given twice, as {seen[name]!r} and {value!r}; give it once')


def parse(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Parses the arguments into `given`.

  Raises:
    UserError: an unknown flag, a value that does not fit its flag, or a word that is no flag.
  """
  try:
    rest = given(['jcl', *arguments])[1:]
  except flags.IllegalFlagValueError as error:
    if isinstance(error.__context__, UserError):  # it names the flag already
      raise error.__context__ from None
    raise UserError(_illegal_value(str(error))) from None
  except flags.UnrecognizedFlagError as error:
    raise UserError(_unknown(error.flagname, given)) from None
  except flags.Error as error:
    raise UserError(f'{error}; flags are written --name=value') from None
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f'a --config.… flag has a value that does not fit its field: {error}') from None
  if rest:
    raise UserError(f'{rest[0]!r} is no flag; flags are written --name=value')


def _unknown(name: str, given: flags.FlagValues) -> str:
  """Returns what is wrong with the name of a flag, and what would be right."""
  own = sorted(flag for flag in given if '.' not in flag)
  if 'config' in own:  # a setting may be given without the name of its group
    setting = name.replace('-', '_')
    groups = ((g.name, g.type) for g in fields(Config) if is_dataclass(g.type))
    if found := [group for group, kind in groups if setting in {f.name for f in fields(kind)}]:
      return f'--{name} is no flag; did you mean --config.{found[0]}.{setting}?'
  near = nearest(name, own).replace('mean ', 'mean --')
  return f'--{name} is no flag; {near}there are --{", --".join(own)}'


def _illegal_value(message: str) -> str:
  """Returns absl's message about a value, its reason in plain words where it is a conversion's."""
  found = re.fullmatch(r'flag (--[^=]*=.*?): (.*)', message, re.DOTALL)
  if found is None:
    return message
  flag, reason = found.groups()
  for sign, right in (
    ('Non-boolean', 'true or false'),
    ('int()', 'a whole number'),
    ('to float', 'a number'),
  ):
    if sign in reason:
      return f'{flag}: give {right}'
  if one := re.fullmatch(r'value should be one of <(.*)>', reason):
    return f'{flag}: give one of {one[1].replace("|", ", ")}'
  if least := re.search(r'is not number >= (.*)', reason):
    return f'{flag}: give a number of at least {least[1]}'
  return f'{flag}: {reason}'


def help_page(page: str, given: flags.FlagValues) -> str:
  """Returns the page of a command: its docstring, then a line for each flag.

  Args:
    page: the docstring of the command's file.
    given: the flags that the command defines.
  """
  labels = {name: f'--{name}' + ('' if given[name].boolean else '=…') for name in given}
  indent = 4 + max(map(len, labels.values()), default=0)
  lines = [page.strip(), '', 'flags:']
  for name, label in labels.items():
    flag = given[name]
    default = flag.default
    default = ','.join(map(str, default)) if isinstance(default, tuple) else default
    known = isinstance(default, str | int | float) and default not in ('', False)
    text = (flag.help or '') + (f' (default: {default})' if known else '')
    lines.append(
      textwrap.fill(
        text, WIDTH, initial_indent=f'  {label}'.ljust(indent), subsequent_indent=' ' * indent
      )
    )
  return '\n'.join(lines)


def required(given: flags.FlagValues, name: str) -> Any:
  """Returns the value of a flag that must be given.

  Raises:
    UserError: it is not, or it is empty.
  """
  value = given[name].value
  if not value:
    raise UserError(f'--{name} is missing; give --{name}=…')
  return value
