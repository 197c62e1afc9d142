"""Reports of runs for people: tables for the terminal, pictures, and one static HTML page.

`results` is always the contents of a run's `results.json`, with the types of `results.Results`;
rows of a matrix that a run under way has not written are None.
"""

import pathlib
from collections.abc import Sequence

from jcl.reports import fonts
from jcl.reports.comparison import group_runs
from jcl.reports.comparison_plot import comparison_png
from jcl.reports.formatting import one_line
from jcl.reports.heat_map import heat_map_png
from jcl.reports.page import document
from jcl.reports.results import Results
from jcl.reports.tables import align_columns, comparison_table, matrix_table
from jcl.storage import paths
from jcl.storage.atomic import write_atomically
from jcl.types import Json

__all__ = [
  'Report', 'align_columns', 'comparison_picture', 'comparison_table', 'heat_map', 'html_report',
  'matrix_table', 'picture_notes',
]  # fmt: skip


class Report:
  """The report on one run or on several; a notebook shows it, `print` gives its tables.

  Args:
    results: the contents of the runs' `results.json`; with more than one they are compared first.
    logs: the lines of their `metrics.jsonl`, a list for each run; without them the page has no
      curves of loss and dev scores.

  Raises:
    UserError: the runs cannot be compared.
  """

  def __init__(self, *results: Results, logs: Sequence[Sequence[Json]] = ()):
    group_runs(results)
    self.results, self.logs = results, logs

  def save(self, path: str | pathlib.Path) -> None:
    """Writes the report as one HTML file that needs no other file.

    Args:
      path: of the file; it is written whole or not at all.

    Raises:
      UserError: a matrix is malformed.
    """
    write_atomically(paths.local(path, 'path'), self.html().encode())

  def html(self) -> str:
    """Returns the report as an HTML document, its pictures in it as SVG."""
    return document.document(self.results, self.logs)

  def _repr_html_(self) -> str:
    return document.fragment(self.results, self.logs)

  def __str__(self) -> str:
    tables = [matrix_table(run) for run in self.results]
    return '\n\n'.join([comparison_table(self.results), *tables] if len(tables) > 1 else tables)

  def __repr__(self) -> str:
    return str(self)


def html_report(
  results: Sequence[Results], path: str | pathlib.Path, logs: Sequence[Sequence[Json]] = ()
) -> None:
  """Writes the report on some runs as one HTML file; see `Report`.

  Args:
    results: the contents of the runs' `results.json`.
    logs: the lines of their `metrics.jsonl`, a list for each run; empty: none are at hand.
    path: of the HTML file; it is written whole or not at all.

  Raises:
    UserError: the runs cannot be compared, or a matrix is malformed.
  """
  Report(*results, logs=logs).save(path)


def heat_map(results: Results, path: str | pathlib.Path) -> None:
  """Writes the accuracy matrix of a run as an annotated heat map.

  Args:
    results: the contents of `results.json`.
    path: of the PNG file; it is written whole or not at all.

  Raises:
    UserError: the matrix is malformed.
  """
  write_atomically(path, heat_map_png(results))


def picture_notes(results: Sequence[Results]) -> list[str]:
  """Returns lines about names in the pictures of some runs that no installed font can draw."""
  names = [
    name for run in results for name in (*run['tasks'], run['method'], run.get('stream', ''))
  ]
  return fonts.notes(one_line(name) for name in names if not str(name).isascii())


def comparison_picture(results: Sequence[Results], path: str | pathlib.Path) -> None:
  """Writes a picture that compares runs: scores over the stream, and what each method forgets.

  Args:
    results: the contents of the runs' `results.json`; seeds of one method are averaged.
    path: of the PNG file; it is written whole or not at all.

  Raises:
    UserError: the runs cannot be compared, or a matrix is malformed.
  """
  write_atomically(path, comparison_png(results))
