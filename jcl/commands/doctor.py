"""Says what is wrong with a run: a bug, a wrong setting, or a weak method.

jcl doctor --workdir=runs/lamol

Each line gives a figure of the run, what the figure means, and one thing to do; where a command
does that, it stands on the next line. The run need not be finished. Nothing is trained, and the
data is not needed.
"""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from jcl.commands import command_line
from jcl.errors import UserError
from jcl.storage import console

if TYPE_CHECKING:
  from jcl.reports.results import Results


def define_flags(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Defines the flags of the command."""
  command_line.define_path(given, 'workdir', None, 'folder of a run')


def run(given: flags.FlagValues) -> None:
  """Prints the findings, or that there are none."""
  show(pathlib.Path(command_line.required(given, 'workdir')))


def show(workdir: pathlib.Path) -> None:
  """Prints what is wrong with the run in a folder.

  Raises:
    UserError: the folder holds no run, or a damaged results.json.
  """
  from jcl.reports import results
  from jcl.training import run_folders

  found = run_folders.read(workdir)
  if found is None:
    raise UserError(f'{workdir} has no results.json and is no run; give the --workdir of one')
  if not results.tasks_learned(found['matrix']):
    console.show('no task is done yet: what follows is of the steps that were taken')
  elif not found.get('finished'):
    console.show('the run is not finished: what follows is of the tasks that are')
  if not say(found, workdir):
    console.show('nothing looks wrong')


def say(results: 'Results', workdir: pathlib.Path) -> int:
  """Prints the findings on a run, and returns their number.

  Args:
    results: contents of the run's results.json.
    workdir: folder of the run, from which metrics.jsonl is read.
  """
  from jcl.reports import doctor
  from jcl.storage import metrics_log

  lines, damaged = metrics_log.read(workdir / 'metrics.jsonl')
  if damaged:
    console.show(f'warning: metrics.jsonl: damaged lines, which are left out: {damaged}')
  found = doctor.findings(results, lines, str(workdir))
  for line in found.lines():
    console.show(line)
  return len(found)
