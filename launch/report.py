"""One table, one picture and one page of runs that were trained apart.

    python launch/report.py --runs=runs/quickstart,runs/lora --out=runs/all

`--runs` names workdirs of train.py, or folders of them as compare.py makes. Nothing is trained.
"""

import pathlib
from typing import Any

from absl import flags

from jcl import cli
from jcl.errors import UserError

flags.DEFINE_string('runs', None, 'workdirs, or folders of workdirs, with commas')
flags.DEFINE_string(
  'out', None, 'folder for comparison.png and report.html; empty: the table alone'
)


def read(folder: str) -> list[dict[str, Any]]:
  """What the runs in a folder say.

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


def run() -> None:
  """Prints the table and writes picture and page."""
  folders, out = cli.required('runs').split(','), flags.FLAGS.out
  results = [found for folder in folders for found in read(folder)]
  from jcl.reports import report

  print(report.comparison_table(results))
  if out:
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    report.comparison_picture(results, folder / 'comparison.png')
    report.html_report(results, folder / 'report.html')
    print(f'the picture is {folder / "comparison.png"}, the page {folder / "report.html"}')


if __name__ == '__main__':
  cli.main(run)
