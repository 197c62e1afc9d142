"""The commands of the console script `jcl`, one file each.

The docstring of a file is the command's page of help, `define_flags` defines its flags and `run`
does its work. A file is imported when its command is called, and imports jax when it runs.
"""

import importlib
from collections.abc import Sequence
from typing import Protocol, cast

from absl import flags

SUMMARIES: dict[str, str] = {
  'train': 'trains a model on a stream of tasks',
  'compare': 'trains several methods over several seeds: one table, one picture, one page',
  'sweep': 'trains a run again with some values of one setting, and compares them',
  'choose': 'says which method suits a use, what it costs, and the command that runs it',
  'plan': 'says what a run would read and take, and what is wrong with it; trains nothing',
  'evaluate': 'scores a trained run again, on any split',
  'generate': 'shows pseudo samples of a trained run, or how it continues a prompt',
  'predict': 'answers texts with a trained model, with the probability of each label',
  'export': 'writes a trained model as a Hugging Face folder, or its adapter as a PEFT folder',
  'merge': 'merges adapters',
  'report': 'puts runs that were trained apart into one table, one picture, one page',
  'doctor': 'says what is wrong with a run, and what to do about it',
  'benchmark': 'measures speed on this machine, beside torch loops if asked',
  'check': 'checks the numerics of every method (in a clone of the repository)',
  'soak': 'kills and resumes runs and compares their bits (in a clone of the repository)',
}


class Command(Protocol):
  """Functions and docstring that every file of this folder defines."""

  __doc__: str | None

  def define_flags(self, given: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Defines the flags of the command in `given`.

    Args:
      given: the flags of this call; nothing is defined in `absl.flags.FLAGS`.
      arguments: the command line after the command's name; `--config` and its fields depend on it.

    Raises:
      UserError: the arguments name a config that is not there, or a field that it does not have.
    """

  def run(self, given: flags.FlagValues) -> int | None:
    """Does the work of the command.

    Args:
      given: the parsed flags, by attribute.

    Returns:
      The exit status; None is 0.

    Raises:
      UserError: bad input.
    """


def load(name: str) -> Command:
  """Imports the command `name`, a key of `SUMMARIES`."""
  return cast(Command, importlib.import_module(f'jcl.commands.{name}'))
