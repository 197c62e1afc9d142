"""Puts runs that were trained apart into one table, one picture and one page.

    jcl report --runs=runs/quickstart,runs/lora --out=runs/all

--runs names workdirs of `jcl train`, or folders of them as `jcl compare` makes. Nothing is trained.
"""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from jcl.commands import command_line
from jcl.errors import UserError

if TYPE_CHECKING:
  from jcl.reports.results import Results


def define_flags(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Defines the flags of the command."""
  command_line.define_list(
    given, 'runs', '', 'workdirs, or folders of workdirs, with commas', of_paths=True
  )
  command_line.define_path(
    given, 'out', None, 'folder for comparison.png and report.html; empty: the table alone'
  )


def run(given: flags.FlagValues) -> None:
  """Prints the table and writes picture and page."""
  folders = command_line.required(given, 'runs')
  results = [found for folder in folders for found in _read(folder)]
  from jcl.reports import report

  print(report.comparison_table(results))
  if given.out:
    folder = pathlib.Path(given.out)
    folder.mkdir(parents=True, exist_ok=True)
    report.comparison_picture(results, folder / 'comparison.png')
    report.html_report(results, folder / 'report.html')
    print(f'the picture is {folder / "comparison.png"}, the page {folder / "report.html"}')


def _read(folder: str) -> 'list[Results]':
  """Returns the results of the run in a folder, or of the runs in the folders in it.

  Raises:
    UserError: there is none, or a file is damaged.
  """
  path = pathlib.Path(folder)
  files = [path / 'results.json', *sorted(path.glob('*/results.json'))]
  found = [file for file in files if file.is_file()]
  if not found:
    raise UserError(f'--runs: {path} holds no results.json, and no folder in it does')
  from jcl.reports import results as results_json

  return [results_json.read(file) for file in found]
