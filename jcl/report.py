"""What people read: tables for the terminal, pictures, and one static HTML page.

`results` is the contents of a run's `results.json`; keys that DESIGN's schema does not have are
optional (`sizes`, `invalid`, `negative_flips`, `cost`, `config`), and rows that a run under way has
not written are null.
"""

import unicodedata
from collections.abc import Sequence

from jcl.comparison import (
  NULL,
  Group,
  Run,
  grouped,
  in_one_line,
  metrics_of,
  score_of,
  shown,
  summary,
  whole_matrix,
)
from jcl.pictures import comparison_picture, heat_map

__all__ = ['comparison_picture', 'comparison_table', 'heat_map', 'matrix_table']

WIDTH = 100  # columns of a terminal: a wider matrix has numbers for names
METRICS = {  # as a table calls them
  'average_accuracy': 'A_T',
  'average_incremental_accuracy': 'Ā',
  'example_weighted_accuracy': 'weighted by examples',
  'forgetting': 'forgetting',
  'forgetting_first': 'from first',
  'forgetting_rate': 'rate',
  'backward_transfer': 'BWT',
  'forward_transfer': 'FWT',
}
COLUMNS = {  # of a comparison; those that no run fills are left out
  'average': 'A_T',
  'incremental': 'Ā',
  'forgetting': 'forgetting',
  'backward': 'BWT',
  'worst': 'worst just\nlearned',
  'train': 'train\ns',
  'generate': 'generate\ns',
  'invalid': 'invalid\n%',
  'kept': 'pseudo\nkept %',
  'distinct': 'distinct\n%',
}
ALWAYS = ('average', 'incremental', 'forgetting', 'backward', 'worst', 'train')
UNITS = {'train': 'seconds', 'generate': 'seconds'} | dict.fromkeys(
  ('invalid', 'kept', 'distinct'), 'share'
)  # all else has the score's


def matrix_table(results: Run) -> str:
  """A run's accuracy matrix for the terminal, with its metrics below in one line.

  Args:
    results: the contents of `results.json`. A matrix on the training questions follows.

  Returns:
    Lines without a newline at the end.

  Raises:
    UserError: a matrix is malformed.
  """
  return '\n\n'.join(
    '\n'.join((title, aligned(_fitting(rows)), line)) for title, rows, line in matrices(results)
  )


def comparison_table(results: Sequence[Run]) -> str:
  """One row per method, in the order given; several seeds are a mean ± its 95 % interval.

  Args:
    results: the contents of the runs' `results.json`.

  Returns:
    Lines without a newline at the end.

  Raises:
    UserError: the runs cannot be compared, or a matrix is malformed.
  """
  groups = grouped(results)
  return '\n'.join([aligned(comparison_rows(groups)), *comparison_notes(groups)])


def matrices(results: Run) -> list[tuple[str, list[list[str]], str]]:
  """(title, cells with a header row, metrics in one line) of each matrix of a run."""
  score = score_of(results)
  unit = 'accuracy in %' if score == 'accuracy' else 'log-perplexity in nats per target'
  where = f' on {results["stream"]}' if results.get('stream') else ''
  scenario = f' ({results["scenario"]})' if results.get('scenario') else ''
  title = f'{results["method"]}{where}{scenario}, seed {results.get("seed", NULL)}: {unit}'
  found = [(title, '')]
  if results.get('matrix_train'):
    found = [(f'{title}, test', ''), (f'{title}, training questions', '_train')]
  return [
    (in_one_line(title), matrix_rows(results, suffix), metrics_line(results, suffix))
    for title, suffix in found
  ]


def matrix_rows(results: Run, suffix: str = '') -> list[list[str]]:
  """The cells of a matrix in words; the first row and column are headers."""
  names, score = [in_one_line(task) for task in results['tasks']], score_of(results)
  metrics_of({**results, 'metrics' + suffix: None}, suffix)  # refuses a malformed matrix
  rows = [['', *names]]
  for i, row in enumerate(whole_matrix(results, 'matrix' + suffix)):
    label = f'after {names[i - 1]}' if i else 'before training'
    rows.append([label, *(shown(cell, score) for cell in row)])
  return rows


def metrics_line(results: Run, suffix: str = '') -> str:
  """All metrics of a run, `A_T 94.4, Ā 95.0, …`."""
  found, score = metrics_of(results, suffix), score_of(results)
  return ', '.join(
    f'{word} {shown(found.get(k), score)}' for k, word in METRICS.items() if k in found
  )


def comparison_rows(groups: Sequence[Group]) -> list[list[str]]:
  """The cells of a comparison in words; the first row and column are headers."""
  score, summaries = score_of(groups[0].runs[0]), [summary(group) for group in groups]
  columns = [k for k in COLUMNS if k in ALWAYS or any(s[k][0] is not None for s in summaries)]
  rows = [['method', 'seeds', *(COLUMNS[k] for k in columns)]]
  for group, found in zip(groups, summaries, strict=True):
    cells = [_cell(*found[k], unit=UNITS.get(k, score)) for k in columns]
    rows.append([group.label, str(len(group.runs)), *cells])
  return rows


def comparison_notes(groups: Sequence[Group]) -> list[str]:
  """What must be known to read the numbers: their unit, unfinished runs, methods of many models."""
  accuracy = score_of(groups[0].runs[0]) == 'accuracy'
  notes = ['accuracy in %' if accuracy else 'log-perplexity in nats per target, lower is better']
  if any(len(group.runs) > 1 for group in groups):
    notes[0] += '; mean ± 95 % interval over seeds'
  if any(run.get('pseudo') for group in groups for run in group.runs):
    notes.append('pseudo samples: kept % of those drawn, distinct % of those kept')
  for group in groups:
    models = max((run.get('cost') or {}).get('models') or 1 for run in group.runs)
    if models > 1:
      notes.append(f'{group.label} keeps {models} models')
    under_way = [str(run.get('seed')) for run in group.runs if not run.get('finished', True)]
    if under_way:
      notes.append(f'{group.label} is not finished: seed {", ".join(under_way)}')
  return notes


def aligned(rows: Sequence[Sequence[str]]) -> str:
  """Cells as lines of text: the first column to the left, the others to the right.

  A cell may have several lines; they stand at the foot of its row.
  """
  split = []
  for row in rows:
    cells = [cell.split('\n') for cell in row]
    height = max(map(len, cells))
    split += zip(*([''] * (height - len(cell)) + cell for cell in cells), strict=True)
  widths = [max(map(_width, column)) for column in zip(*split, strict=True)]
  lines = []
  for row in split:
    pads = [' ' * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
    cells = [row[0] + pads[0], *(p + cell for p, cell in zip(pads[1:], row[1:], strict=True))]
    lines.append('  '.join(cells).rstrip())
  return '\n'.join(lines)


def _width(text: str) -> int:
  """Columns of a terminal: East Asian characters take two, combining ones none."""
  wide = sum(unicodedata.east_asian_width(c) in 'WF' for c in text)
  return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _fitting(rows: list[list[str]]) -> list[list[str]]:
  """Numbers for the names of columns where the table is too wide; the rows tell what they mean."""
  if max(map(_width, aligned(rows).splitlines())) <= WIDTH:
    return rows
  header = ['', *(str(i) for i in range(1, len(rows[0])))]
  numbered = [[f'{i} {row[0]}' if i else row[0], *row[1:]] for i, row in enumerate(rows[1:])]
  return [header, *numbered]


def _cell(mean: float | None, half: float | None, unit: str) -> str:
  """`94.4 ± 1.2`; costs and shares without the interval."""
  if half is None or unit in ('seconds', 'share'):
    return shown(mean, unit)
  return f'{shown(mean, unit)} ± {shown(half, unit)}'
