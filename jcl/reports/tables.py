"""Tables for the terminal: the accuracy matrix of a run, and the comparison of several."""

import functools
import re
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jcl.reports.comparison import Group, group_runs, summary
from jcl.reports.formatting import MISSING, Unit, format_number, one_line, short_method_name
from jcl.reports.labels import unlike
from jcl.reports.results import (
  Results,
  compute_metrics,
  metrics_of,
  score_of,
  tasks_learned,
  unit_of,
  whole_matrix,
)
from jcl.storage.console import painted

Style = Callable[[int, int], str]  # (line, column) of a table -> style of the cell, or ''
WIDTH = 80  # columns that a table may take; see `_fitted` and `comparison_table`
LABEL = 26  # columns of the names of rows, where a matrix would be wider than `WIDTH`
MOST = 30  # tasks whose matrix is printed whole
LOST = {0.3: 'red', 0.1: 'yellow'}  # accuracy lost since the best -> style of the cell
METRICS = {  # how the line below a matrix calls them
  'average_accuracy': 'A_T',
  'average_incremental_accuracy': 'Ā',
  'example_weighted_accuracy': 'A_T by examples',
  'forgetting': 'forgetting',
  'forgetting_first': 'forgetting (first)',
  'forgetting_rate': 'forgetting rate %',
  'backward_transfer': 'BWT',
  'forward_transfer': 'FWT',
}
COLUMNS = {  # of a comparison, by quantity
  'average': 'A_T',
  'incremental': 'Ā',
  'forgetting': 'forgetting',
  'backward': 'BWT',
  'worst': 'worst\njust\nlearned',
  'train': 'train\ns',
  'generate': 'generate\ns',
  'invalid': 'invalid\n%',
  'kept': 'pseudo\nkept %',
  'distinct': 'distinct\n%',
}
# Columns that the terminal leaves out, the first of these first, where the table is too wide.
DROPPED = ('backward', 'distinct', 'kept', 'generate', 'invalid', 'incremental', 'worst')
BOUNDS = {'seq': 'lower bound', 'joint': 'upper bound'}  # methods that others lie between
ALWAYS = ('average', 'incremental', 'forgetting', 'backward', 'worst', 'train')  # even if empty
UNITS: dict[str, Unit] = {  # of the quantities that are no scores
  'train': 'seconds', 'generate': 'seconds', 'invalid': 'share', 'kept': 'share',
  'distinct': 'share',
}  # fmt: skip


class MatrixTable(NamedTuple):
  """A matrix of a run in words.

  Attributes:
    title: the run and the unit of the scores, in one line.
    rows: [T+2][T+1] cells; the first row and the first column are headers.
    metrics: all metrics in one line.
    scores: [T+1, T] the matrix.
  """

  title: str
  rows: list[list[str]]
  metrics: str
  scores: Sequence[Sequence[float | None]]


def matrix_table(results: Results, coloured: bool = False) -> str:
  """Returns the accuracy matrix of a run for the terminal, its metrics below, in `WIDTH` columns.

  Args:
    results: the contents of `results.json`. A matrix on the training questions follows.
    coloured: what was just learned is bold, what is not learned yet faint; of an accuracy, what has
      been lost since the best is yellow or red.

  Returns:
    Lines without a newline at the end.

  Raises:
    UserError: a matrix is malformed.
  """
  unit = score_of(results)
  parts = []
  for table in matrix_tables(results):
    style = functools.partial(_style, table.scores, unit) if coloured else None
    wrap = lambda text: textwrap.fill(text, WIDTH, break_long_words=False)
    parts.append('\n'.join((wrap(table.title), _fitted(table, unit, style), wrap(table.metrics))))
  return '\n\n'.join(parts)


def comparison_table(results: Sequence[Results]) -> str:
  """Returns a table with a row for each method, in the order given, and notes below it.

  Table and notes take `WIDTH` columns: long labels have several lines, and columns of `DROPPED`
  that do not fit are left out, which a note says; the page has them all.

  Args:
    results: the contents of the runs' `results.json`. Several seeds of a method are shown as their
      mean ± its 95 % interval.

  Returns:
    Lines without a newline at the end.

  Raises:
    UserError: the runs cannot be compared, or a matrix is malformed.
  """
  groups = group_runs(results)
  columns, out = columns_of(groups), []
  for quantity in DROPPED:
    if _width(comparison_rows(groups, columns)) <= WIDTH:
      break
    if quantity in columns:
      columns.remove(quantity)
      out.append(quantity)
  notes = comparison_notes(groups, columns)
  if out:
    names = ', '.join(COLUMNS[k].replace('\n', ' ') for k in COLUMNS if k in out)
    notes.append(f'not shown in {WIDTH} columns, but on the page: {names}')
  lines = [textwrap.fill(line, WIDTH, break_long_words=False) for line in notes]
  return '\n'.join([align_columns(comparison_rows(groups, columns)), *lines])


def matrix_tables(results: Results) -> list[MatrixTable]:
  """Returns each matrix of a run: on test, and in scenario iil on the training questions.

  Raises:
    UserError: a matrix is malformed.
  """
  unit = unit_of(results)
  where = f' on {results["stream"]}' if results.get('stream') else ''
  scenario = f' ({results["scenario"]})' if results.get('scenario') else ''
  name = short_method_name(results['method'])
  title = one_line(f'{name}{where}{scenario}, seed {results.get("seed", MISSING)}: {unit}')
  if not results.get('matrix_train'):
    return [_matrix_table(results, title)]
  return [
    _matrix_table(results, f'{title}, test'),
    _matrix_table(results, f'{title}, training questions', on_train=True),
  ]


def _matrix_table(results: Results, title: str, on_train: bool = False) -> MatrixTable:
  """Returns one matrix of a run in words."""
  compute_metrics(results, on_train)  # refuses a malformed matrix
  names, score = [one_line(task) for task in results['tasks']], score_of(results)
  matrix = whole_matrix(results, results.get('matrix_train') if on_train else results['matrix'])
  rows = [['', *names]]
  for i, row in enumerate(matrix):
    label = f'after {names[i - 1]}' if i else 'before training'
    rows.append([label, *(format_number(cell, score) for cell in row)])
  found, words = metrics_of(results, on_train), METRICS
  if score == 'log_perplexity':  # the sizes of tasks are tokens
    words = METRICS | {'example_weighted_accuracy': 'A_T by tokens'}
  line = [f'{word} {format_number(found.get(k), score)}' for k, word in words.items() if k in found]
  return MatrixTable(title, rows, ', '.join(line), matrix)


def comparison_rows(groups: Sequence[Group], columns: Sequence[str]) -> list[list[str]]:
  """Returns the cells of a comparison; the first row and the first column are headers.

  Args:
    groups: a row each.
    columns: quantities of `COLUMNS`.
  """
  score = score_of(groups[0].runs[0])
  rows = [['method', 'seeds', *(COLUMNS[k] for k in columns)]]
  for group in groups:
    found = summary(group)
    cells = [_cell(*found[k], unit=UNITS.get(k, score)) for k in columns]
    rows.append([_folded(group.label), str(len(group.runs)), *cells])
  return rows


def columns_of(groups: Sequence[Group]) -> list[str]:
  """Returns the quantities of a comparison, without those that no run has."""
  summaries = [summary(group) for group in groups]
  return [k for k in COLUMNS if k in ALWAYS or any(s[k][0] is not None for s in summaries)]


def _folded(label: str) -> str:
  """Returns a label in lines of at most `LABEL` columns, which end after a setting if they can."""
  width = LABEL if _columns(label) == len(label) else LABEL // 2
  held = re.sub(r'(?<!,) (?!\()', '\xa0', label)  # where no line ends
  lines = textwrap.wrap(held, width, subsequent_indent=' ', break_on_hyphens=False)
  return '\n'.join(lines).replace('\xa0', ' ') or label


def comparison_notes(groups: Sequence[Group], columns: Sequence[str]) -> list[str]:
  """Returns lines that explain a comparison: terms, unfinished runs, runs of several models.

  Args:
    groups: of the comparison.
    columns: those whose terms are explained; none for the page, which explains its own.
  """
  raw = score_of(groups[0].runs[0]) == 'log_perplexity'
  notes = [unit_of(groups[0].runs[0]) + (', lower is better' if raw else '')]
  if any(len(group.runs) > 1 for group in groups):
    notes[0] += '; mean ± 95 % interval over seeds'
  if 'average' in columns:
    mean = ', Ā: its mean over time' if 'incremental' in columns else ''
    methods = {group.runs[0]['method'] for group in groups}
    bounds = ', '.join(f'{name}: {words}' for name, words in BOUNDS.items() if name in methods)
    what = 'score' if raw else 'accuracy'
    ends = f'; {bounds}' if bounds else ''
    notes.append(f'A_T: {what} over all tasks at the end{mean}{ends}')
  if 'train' in columns:
    notes.append('train s: steps alone; compilation and other work are counted apart')
  identities = [group.identity for group in groups]
  if len({i.model for i in identities}) > 1:
    notes.append('the models differ: compare scores and times of one model alone')
  elif len({i.conditions for i in identities}) > 1:
    notes.append(
      f'streams or scenarios differ in {", ".join(unlike(identities))}: compare scores of one '
      'setting alone'
    )
  orders = {tuple(run['tasks']) for group in groups for run in group.runs}
  if len(orders) > 1 and len(set(map(frozenset, orders))) == 1:
    notes.append('the order of tasks is not the same in all runs')
  pseudo = {'kept': 'kept % of those drawn', 'distinct': 'distinct % of those kept'}
  if words := ', '.join(text for k, text in pseudo.items() if k in columns):
    notes.append(f'pseudo samples: {words}')
  for group in groups:
    models = max((run.get('cost') or {}).get('models') or 1 for run in group.runs)
    if models > 1:
      notes.append(f'{group.label} keeps {models} models')
    for runs, words in (
      (group.runs, 'is not finished'),
      (group.left_out, 'is left out, not finished'),
    ):
      seeds = [str(run.get('seed')) for run in runs if not run.get('finished', True)]
      if seeds:
        notes.append(f'{group.label} {words}: seed {", ".join(seeds)}')
  return notes


def _cell(mean: float | None, half_width: float | None, unit: Unit) -> str:
  """Returns `94.4 ± 1.2`; seconds and shares without their interval."""
  if half_width is None or unit in ('seconds', 'share'):
    return format_number(mean, unit)
  return f'{format_number(mean, unit)} ± {format_number(half_width, unit)}'


def align_columns(rows: Sequence[Sequence[str]], style: Style | None = None) -> str:
  """Returns cells as lines of text, the first column flush left, the others flush right.

  Args:
    rows: of equally many cells. The lines of a cell that has several stand at the foot of its row.
    style: (line, column) -> style of a cell, or '' for none; of rows whose cells have one line.
  """
  lines: list[tuple[str, ...]] = []
  for row in rows:
    cells = [cell.split('\n') for cell in row]
    height = max(map(len, cells))
    lines += zip(*([''] * (height - len(cell)) + cell for cell in cells), strict=True)
  widths = [max(map(_columns, column)) for column in zip(*lines, strict=True)]
  padded = []
  for i, line in enumerate(lines):
    pads = [' ' * (width - _columns(cell)) for cell, width in zip(line, widths, strict=True)]
    styles = [style(i, j) if style else '' for j in range(len(line))]
    shown = [painted(c, kind) if kind else c for c, kind in zip(line, styles, strict=True)]
    right = [pad + cell for pad, cell in zip(pads[1:], shown[1:], strict=True)]
    padded.append('  '.join([shown[0] + pads[0], *right]).rstrip())
  return '\n'.join(padded)


def _columns(text: str) -> int:
  """Returns the columns of a terminal: two for East Asian characters, none for combining ones."""
  wide = sum(unicodedata.east_asian_width(c) in 'WF' for c in text)
  return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _width(rows: Sequence[Sequence[str]]) -> int:
  """Returns the columns that aligned cells take."""
  return max(map(_columns, align_columns(rows).splitlines()))


def _fitted(table: MatrixTable, unit: Unit, style: Style | None) -> str:
  """Returns a matrix in `WIDTH` columns.

  Where names make it wider, numbers stand for the columns and before the names of the rows; where
  that is wider, the columns stand in blocks, of which a later one leaves out the rows without
  scores. Of more than `MOST` tasks each has one line.

  Args:
    table: the matrix.
    unit: of its scores.
    style: (row, column) of the matrix's cells -> style; None: no colours.
  """
  if _width(table.rows) <= WIDTH:
    return align_columns(table.rows, style)
  if len(table.rows) - 2 > MOST:
    return align_columns(_task_lines(table, unit))
  header, *rows = table.rows
  labels = [header[0], *(f'{i} {row[0]}' if i else row[0] for i, row in enumerate(rows))]
  labels = [_cut(label, LABEL) for label in labels]
  cells = [[str(j) for j in range(1, len(header))], *(row[1:] for row in rows)]
  blocks, first = [], 0
  while first < len(header) - 1:
    last = len(header) - 1
    while True:
      kept = [i for i, row in enumerate(cells) if set(row[first:last]) != {MISSING} or not first]
      block = [[labels[i], *cells[i][first:last]] for i in kept]
      if _width(block) <= WIDTH or last == first + 1:
        break
      last -= 1
    blocks.append(align_columns(block, _moved(style, kept, first)))
    first = last
  return '\n\n'.join(blocks)


def _moved(style: Style | None, kept: Sequence[int], first: int) -> Style | None:
  """Returns the style of a block: the rows `kept`, and the columns from `first` on."""
  if style is None:
    return None
  return lambda i, j: style(kept[i], j + first if j else 0)


def _task_lines(table: MatrixTable, unit: Unit) -> list[list[str]]:
  """Returns a row for each task: its score when it was learned, the best, and at the end."""
  best_of: Callable = max if unit == 'accuracy' else min
  last = tasks_learned(table.scores)
  rows = [['', 'just learned', 'best', f'after {last}']]
  for j, name in enumerate(table.rows[0][1:]):
    since = [row[j] for row in table.scores[j + 1 :] if row[j] is not None]
    values = table.scores[j + 1][j], best_of(since) if since else None, table.scores[last][j]
    label = _cut(f'{j + 1} {name}', WIDTH - 40)
    rows.append([label, *(format_number(value, unit) for value in values)])
  return rows


def _style(
  scores: Sequence[Sequence[float | None]], unit: Unit, line: int, column: int
) -> str:  # fmt: skip
  """Returns the style of a cell of a matrix whose first line and column are headers."""
  i, j = line - 1, column - 1
  if i < 0 or j < 0 or (value := scores[i][j]) is None:
    return ''
  if i <= j:
    return 'faint'
  known = [row[j] for row in scores[j + 1 : i + 1]]
  best = max(x for x in known if x is not None)
  for least, style in LOST.items():
    if unit == 'accuracy' and best - value >= least:
      return style
  return 'bold' if i == j + 1 else ''


def _cut(text: str, most: int) -> str:
  """Returns the beginning of a text, in at most so many columns of a terminal."""
  if _columns(text) <= most:
    return text
  while _columns(text) > most - 1:
    text = text[:-1]
  return f'{text}…'
