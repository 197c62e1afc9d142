"""Says what is wrong with a run: a bug, a wrong setting, or a weak method.

jcl doctor --workdir=runs/lamol

Each line gives a figure of the run, what the figure means, and one thing to do. The run need not
be finished. Nothing is trained, and the data is not needed.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from jcl.commands import command_line
from jcl.errors import UserError
from jcl.storage import console
from jcl.types import Json

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
    UserError: the folder holds no results.json, or a damaged one.
  """
  from jcl.reports import results

  file = workdir / 'results.json'
  if not file.is_file():
    raise UserError(f'{workdir} has no results.json, which a run writes after its first task')
  found = results.read(file)
  if not found.get('finished'):
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

  lines, damaged = logged(workdir / 'metrics.jsonl')
  if damaged:
    console.show(f'warning: metrics.jsonl: damaged lines, which are left out: {damaged}')
  found = doctor.findings(results, lines)
  for finding in found:
    console.show(f'{finding.name}: {finding}')
  return len(found)


def logged(file: pathlib.Path) -> tuple[list[Json], int]:
  """Returns the lines of a `metrics.jsonl`, and the number of damaged lines; none without a file.

  A last line without a line break, which a run under way is still writing, is neither returned nor
  counted.
  """
  if not file.is_file():
    return [], 0
  lines, damaged = [], 0
  for text in file.read_bytes().split(b'\n')[:-1]:
    try:
      line = json.loads(text)
    except ValueError:
      line = None
    if isinstance(line, dict):
      lines.append(line)
    else:
      damaged += 1
  return lines, damaged
