"""Puts runs that were trained apart into one table, one picture and one page.

    jcl report --runs=runs/quickstart,runs/lora --out=runs/all

--runs names workdirs of `jcl train`, or folders of them as `jcl compare` makes. Nothing is trained.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from jcl.commands import command_line
from jcl.errors import UserError
from jcl.storage import console, metrics_log

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
  runs = {file: found for folder in folders for file, found in _read(folder).items()}
  results = list(runs.values())
  from jcl.reports import report

  print(report.comparison_table(results))
  for line in _differing(runs):
    console.show(f'warning: {line}')
  if given.out:
    folder = pathlib.Path(given.out)
    folder.mkdir(parents=True, exist_ok=True)
    report.comparison_picture(results, folder / 'comparison.png')
    read = {file: metrics_log.read(file.parent / 'metrics.jsonl') for file in runs}
    report.html_report(results, folder / 'report.html', [lines for lines, _ in read.values()])
    for file, (_, damaged) in read.items():
      if damaged:
        place = file.parent / 'metrics.jsonl'
        console.show(f'warning: {place}: damaged lines, which the page leaves out: {damaged}')
    if given.quiet:
      return
    for line in report.picture_notes(results):
      console.show(f'warning: {line}')
    print(f'the picture is {folder / "comparison.png"}, the page {folder / "report.html"}')


def _differing(runs: 'Mapping[pathlib.Path, Results]') -> Iterator[str]:
  """Yields a line for each split that runs of one stream and seed read with different rows.

  Args:
    runs: {results.json: its content}.
  """
  from jcl.training import inputs

  first: dict[tuple[object, ...], tuple[pathlib.Path, bytes]] = {}
  for file, results in runs.items():
    read = inputs.read(file.parent)
    for rows in () if read is None else read.rows:
      if rows.split == 'dev':  # carved where a run needs it
        continue
      key = results['stream'], results['seed'], rows.task, rows.split
      other, digests = first.setdefault(key, (file, rows.digests))
      if change := inputs.difference(digests, rows.digests):
        yield (
          f'task {rows.task!r}, {rows.split}: {file.parent} read other rows than {other.parent} '
          f'({change}): their scores are not of the same data'
        )


def _read(folder: str) -> 'dict[pathlib.Path, Results]':
  """Returns {results.json: results} of the run in a folder, or of the runs in the folders in it.

  Raises:
    UserError: there is none, or a file is damaged.
  """
  path = pathlib.Path(folder)
  from jcl.commands import begun

  folders = [path, *sorted(child for child in path.glob('*') if child.is_dir())]
  read = {folder / 'results.json': begun.read(folder) for folder in folders}
  found = {file: results for file, results in read.items() if results is not None}
  if not found:
    raise UserError(f'--runs: {path} holds no results.json, and no folder in it does')
  return dict(sorted(found.items(), key=lambda item: not item[0].is_file()))  # with a score first
