"""The console script `jcl`: calls a command, and turns bad input of any kind into one line."""

import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from absl import flags

import jcl
from jcl import commands
from jcl.commands import command_line, config_files
from jcl.errors import UserError, nearest
from jcl.storage import atomic, console, progress
from jcl.streams.escaping import escaped
from jcl.training.signals import STATUS, Stopped

HELP = {'--help', '-h', '-help'}
BAD_FLAG = re.compile('[Ii]nvalid .*value .* for (?:JAX flag|environment) \\W?(\\w+)')  # of jax
NO_BACKEND = 'Unable to initialize backend'  # opens jax's message about a missing device
LONGEST = 3000  # characters of an error message
EXAMPLE = 'jcl train --config=quickstart:lamol --workdir=runs/lamol'


def main(arguments: Sequence[str] | None = None) -> NoReturn:
  """Runs a command and exits.

  The exit status is 0, or what the command returns; 2 for bad input, after one line on standard
  error; 75 for a run that was asked to stop and can go on.

  Args:
    arguments: the command and its flags; None: those of the process.
  """
  os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
  console.make_outputs_plain()
  console.name_outputs()
  try:
    status = _call(sys.argv[1:] if arguments is None else arguments)
    console.finish()
    sys.exit(status)
  except Stopped as stopped:
    print(f'stopped: {stopped.for_a_shell()}', file=sys.stderr)
    sys.exit(STATUS)
  except UserError as error:
    _refuse(str(error))
  except OSError as error:
    if error.filename == 'stdout':
      console.give_up(sys.stdout)
    _refuse(atomic.describe_error(error))
  except MemoryError as error:
    more = f' ({error})' if str(error) else ''
    _refuse(f'this machine has too little memory for it{more}; free some, or give less at once')
  except RuntimeError as error:
    if not str(error).startswith(NO_BACKEND):
      raise
    _refuse(f'JAX_PLATFORMS is {os.environ.get("JAX_PLATFORMS", "")!r}: {error}')
  except ValueError as error:
    found = BAD_FLAG.match(str(error))
    if found is None:
      raise
    name = found[1].upper()
    _refuse(f'{name} is {os.environ.get(name, "")!r}, which jax does not take; correct or unset it')


def _refuse(message: str) -> NoReturn:
  """Ends the process with one line on standard error and exit status 2."""
  line = escaped(' '.join(message.split()))
  if len(line) > LONGEST:  # the message quotes a long input of the user
    line = f'{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}'
  try:
    console.show(f'error: {line}', sys.stderr)
  except OSError:
    console.give_up(sys.stderr)
  sys.exit(2)


def _call(arguments: Sequence[str]) -> int:
  """Calls the command that the arguments name and returns the exit status.

  Raises:
    UserError: there is no such command, or its flags are wrong.
  """
  if not arguments:
    print(_overview())
    raise UserError(f'no command is given; give one, such as {EXAMPLE}')
  name, *rest = arguments
  if name in HELP:
    print(_overview())
    return 0
  if name == '--version':
    print(f'jcl {jcl.__version__}')
    return 0
  if name not in commands.SUMMARIES:
    raise UserError(_no_command(name))
  command, given = commands.load(name), flags.FlagValues()
  if HELP & set(rest):
    command.define_flags(given, [])
    command_line.define_output_flags(given)
    print(command_line.help_page(command.__doc__ or '', given))
    return 0
  rest = command_line.expand_flag_files(rest)
  command_line.check_names(rest)
  command.define_flags(given, rest)
  command_line.define_output_flags(given)
  command_line.parse(given, rest)
  command_line.set_verbosity(given.verbosity)
  with progress.session(hidden=given.quiet):
    return command.run(given) or 0


def _no_command(name: str) -> str:
  """Returns what is wrong with the name of a command, and the nearest one or all that there are."""
  if name.startswith('-'):
    return f'{name[:60]!r} stands before the command; a command comes first, such as {EXAMPLE}'
  right = nearest(name, commands.SUMMARIES).strip() or f'there are {", ".join(commands.SUMMARIES)}'
  return f'jcl has no command {name[:60]!r}; {right}'


def _overview() -> str:
  """Returns the page of the commands and of the configs that come with jcl."""
  about = (jcl.__doc__ or '').partition('\n')[0]
  width = max(map(len, commands.SUMMARIES))
  rows = [f'  {name.ljust(width)}  {what}' for name, what in commands.SUMMARIES.items()]
  configs = config_files.shipped()
  return '\n'.join([
    f'jcl {jcl.__version__}: {about}', '', '  jcl COMMAND --flag=value …', '', *rows, '',
    'jcl COMMAND --help explains a command and its flags. To begin:', '', f'  {EXAMPLE}', '',
    f'Configs that come with jcl, in {next(iter(configs.values())).parent}:', '',
    textwrap.indent(textwrap.fill(', '.join(configs), command_line.WIDTH - 2), '  '),
  ])  # fmt: skip


if __name__ == '__main__':
  main()
