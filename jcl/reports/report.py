"""Reports of runs for people: tables for the terminal, pictures, and one static HTML page.

`results` is always the contents of a run's `results.json`, with the types of `results.Results`;
rows of a matrix that a run under way has not written are None.
"""

import pathlib
from collections.abc import Iterable, Sequence

from jcl.errors import UserError
from jcl.reports import fonts
from jcl.reports.comparison import group_runs
from jcl.reports.comparison_plot import comparison_png
from jcl.reports.formatting import one_line
from jcl.reports.heat_map import heat_map_png
from jcl.reports.metrics import mean_and_interval
from jcl.reports.page import document
from jcl.reports.page.markup import Html, join, tag
from jcl.reports.results import Results, metrics_of
from jcl.reports.tables import (
  align_columns,
  columns_of,
  comparison_notes,
  comparison_rows,
  comparison_table,
  matrix_table,
  matrix_tables,
)
from jcl.storage import console, paths
from jcl.storage.atomic import write_atomically
from jcl.types import Json

__all__ = [
  'Comparison', 'Report', 'align_columns', 'comparison_picture', 'comparison_table',
  'heat_map', 'html_report', 'matrix_html', 'matrix_table', 'picture_notes',
]  # fmt: skip


class Report:
  """The report on one run or on several; a notebook shows it, `print` gives its tables.

  Args:
    results: the contents of the runs' `results.json`; with more than one they are compared first.
    logs: the lines of their `metrics.jsonl`, a list for each run; without them the page has no
      curves of loss and dev scores.
    places: folder of each run as commands name it; '' for a run: it is not known.

  Raises:
    UserError: the runs cannot be compared.
  """

  def __init__(
    self, *results: Results, logs: Sequence[Sequence[Json]] = (), places: Sequence[str] = ()
  ):
    group_runs(results, places)
    self.results, self.logs, self.places = results, logs, places

  def save(self, path: str | pathlib.Path) -> None:
    """Writes the report as one HTML file that needs no other file.

    Args:
      path: of the file; it is written whole or not at all.

    Raises:
      UserError: a matrix is malformed, `path` is a folder, or the file's folder does not exist.
    """
    file = paths.local(path, 'path')
    if file.is_dir():
      raise UserError(f'path is {file}: that is a folder; give a file, {file / "report.html"}')
    if not file.parent.is_dir():
      raise UserError(f'path is {file}: there is no folder {file.parent}; make it first')
    write_atomically(file, self.html().encode())

  def html(self) -> str:
    """Returns the report as an HTML document, its pictures in it as SVG."""
    return document.document(self.results, self.logs, self.places)

  def _repr_html_(self) -> str:
    return document.fragment(self.results, self.logs, self.places)

  def __str__(self) -> str:
    tables = [matrix_table(run) for run in self.results]
    return '\n\n'.join([comparison_table(self.results), *tables] if len(tables) > 1 else tables)

  def __repr__(self) -> str:
    return str(self)


class Comparison:
  """Several runs side by side; `print` and a notebook show the table of methods.

  Args:
    results: the contents of the runs' `results.json`.
    logs: the lines of their `metrics.jsonl`, a list for each run.
    warnings: lines on why the runs are no fair comparison.
    places: folder of each run, as messages and commands name it; '' for a run without one.

  Raises:
    UserError: the runs cannot be compared.
  """

  def __init__(
    self, results: Sequence[Results], logs: Sequence[Sequence[Json]] = (),
    warnings: Sequence[str] = (), places: Sequence[str] = (),
  ):  # fmt: skip
    self._groups = group_runs(results, places)
    self.results, self.logs, self.warnings, self.places = results, logs, warnings, places

  @property
  def metrics(self) -> dict[str, dict[str, tuple[float | None, float | None]]]:
    """{method: {metric: (mean over seeds, half-width of its 95 % interval)}}.

    Methods are named as in the table, metrics as in `results.json`, in its units. The half-width is
    None for one seed, both are None where a seed has no value.
    """
    found = {}
    for group in self._groups:
      rows = [metrics_of(run) for run in group.runs]
      found[group.label] = {
        name: mean_and_interval([row.get(name) for row in rows]) for name in rows[0]
      }
    return found

  def report(self) -> Report:
    """Returns the report on all runs: `.save(file)` writes the page."""
    return Report(*self.results, logs=self.logs, places=self.places)

  def __str__(self) -> str:
    lines = [comparison_table(self.results), *(f'warning: {line}' for line in self.warnings)]
    return console.sayable('\n'.join(lines))

  def __repr__(self) -> str:
    return str(self)

  def _repr_html_(self) -> str:
    columns = columns_of(self._groups)
    notes = comparison_notes(self._groups, columns)
    notes += [f'warning: {line}' for line in self.warnings]
    return _html_table('', comparison_rows(self._groups, columns), notes)


def matrix_html(results: Results) -> str:
  """Returns the accuracy matrix of a run as a notebook shows it; arguments as of `matrix_table`."""
  parts = [_html_table(t.title, t.rows, [t.metrics]) for t in matrix_tables(results)]
  return '\n'.join(parts)


def _html_table(title: str, rows: Sequence[Sequence[str]], notes: Iterable[str]) -> str:
  """Returns a table for a notebook, in the notebook's own style; its first row is the header."""
  lines = [
    tag('tr', join((tag('td' if i and j else 'th', cell) for j, cell in enumerate(row)), ''))
    for i, row in enumerate([[cell.replace('\n', ' ') for cell in row] for row in rows])
  ]
  table = tag('table', join([tag('thead', lines[0]), tag('tbody', join(lines[1:]))]))
  parts: list[Html] = [tag('div', title)] if title else []
  return tag('div', join([*parts, table, *(tag('div', line) for line in notes)]))


def html_report(
  results: Sequence[Results], path: str | pathlib.Path, logs: Sequence[Sequence[Json]] = (),
  places: Sequence[str] = (),
) -> None:  # fmt: skip
  """Writes the report on some runs as one HTML file; see `Report`.

  Args:
    results: the contents of the runs' `results.json`.
    logs: the lines of their `metrics.jsonl`, a list for each run; empty: none are at hand.
    path: of the HTML file; it is written whole or not at all.
    places: folder of each run as commands name it; empty: they are not known.

  Raises:
    UserError: the runs cannot be compared, or a matrix is malformed.
  """
  Report(*results, logs=logs, places=places).save(path)


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
