"""Puts runs that were trained apart into one table, one picture and one page.

    jcl report --runs=runs/quickstart,runs/lora --out=runs/all

--runs names workdirs of `jcl train`, or folders of them as `jcl compare` makes. Nothing is trained.
"""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from jcl.commands import command_line
from jcl.storage import console

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
  from jcl.reports import comparison, report
  from jcl.training import run_folders

  runs: dict[pathlib.Path, Results] = {}
  for folder in folders:
    runs |= run_folders.read_all(pathlib.Path(folder), '--runs')
  results = list(runs.values())
  places = [str(file.parent) for file in runs]
  comparison.group_runs(results, places)
  print(report.comparison_table(results))
  for line in run_folders.differing(runs):
    console.show(f'warning: {line}')
  if given.out:
    folder = pathlib.Path(given.out)
    folder.mkdir(parents=True, exist_ok=True)
    report.comparison_picture(results, folder / 'comparison.png')
    read = {file: run_folders.log_of(file) for file in runs}
    logs = [log.lines for log in read.values()]
    report.html_report(results, folder / 'report.html', logs, places)
    for file, log in read.items():
      if log.damaged:
        place = file.parent / 'metrics.jsonl'
        console.show(f'warning: {place}: damaged lines, which the page leaves out: {log.damaged}')
    if given.quiet:
      return
    for line in report.picture_notes(results):
      console.show(f'warning: {line}')
    print(f'the picture is {folder / "comparison.png"}, the page {folder / "report.html"}')
