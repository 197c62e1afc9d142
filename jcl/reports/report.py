"""What people read: tables for the terminal, pictures, and one static HTML page.

`results` is the contents of a run's `results.json`; keys that DESIGN's schema does not have are
optional (`sizes`, `invalid`, `negative_flips`, `mix`, `drift`, `cost`, `config`), and rows that a
run under way has not written are null.
"""

import base64
import html
import json
import pathlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from jcl.reports.comparison import (
  NULL,
  Group,
  Run,
  flat,
  grouped,
  in_one_line,
  metrics_of,
  score_of,
  shown,
  summary,
  whole_matrix,
)
from jcl.reports.plots import comparison_picture, comparison_png, heat_map, heat_map_png
from jcl.storage.atomic import write_atomically

__all__ = ['comparison_picture', 'comparison_table', 'heat_map', 'html_report', 'matrix_table']

WIDTH = 100  # columns of a terminal: a wider matrix has numbers for names
METRICS = {  # as a table calls them
  'average_accuracy': 'A_T',
  'average_incremental_accuracy': 'Ā',
  'example_weighted_accuracy': 'A_T by examples',
  'forgetting': 'forgetting',
  'forgetting_first': 'forgetting (first)',
  'forgetting_rate': 'forgetting rate %',
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


def html_report(results: Sequence[Run], path: str | pathlib.Path) -> None:
  """Writes one page that needs nothing else: tables, pictures, pseudo samples and settings.

  Args:
    results: the contents of the runs' `results.json`; with more than one they are compared first.
    path: of the HTML file; written atomically.

  Raises:
    UserError: the runs cannot be compared, or a matrix is malformed.
  """
  write_atomically(path, page(results).encode())


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
  words = METRICS
  if score == 'log_perplexity':  # its sizes are tokens
    words = METRICS | {'example_weighted_accuracy': 'A_T by tokens'}
  return ', '.join(
    f'{word} {shown(found.get(k), score)}' for k, word in words.items() if k in found
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
    for runs, words in (
      (group.runs, 'is not finished'),
      (group.left_out, 'is left out, not finished'),
    ):
      seeds = [str(run.get('seed')) for run in runs if not run.get('finished', True)]
      if seeds:
        notes.append(f'{group.label} {words}: seed {", ".join(seeds)}')
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


CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70rem; margin: 2rem auto;
  padding: 0 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px;
  margin: .7rem 0; }
th, td { padding: .2rem .5rem; text-align: right; border-bottom: 1px solid #ddd;
  vertical-align: bottom; white-space: nowrap; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
.words td { text-align: left; white-space: pre-wrap; }
.words th { text-align: left; }
summary { cursor: pointer; margin: .4rem 0; }
summary.run { font-size: 1.15rem; font-weight: 600; }
.note { color: #666; margin: .2rem 0; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; }
"""
PSEUDO = ('before', 'task', 'asked', 'drawn', 'kept', 'distinct', 'verbatim', 'valid_label')


def page(results: Sequence[Run]) -> str:
  """The whole page; every word that comes from a run is escaped on its way in."""
  groups = grouped(results)
  where = sorted({f'{r.get("stream", "")} ({r.get("scenario", NULL)})' for r in results})
  title = f'{", ".join(group.label for group in groups)} on {", ".join(where)}'
  parts = [f'<h1>{_escaped(title)}</h1>']
  if len(results) > 1:
    parts += [
      _image(comparison_png(results), 'Average over the tasks learned so far, and each task just '
             'learned and at the end, by method'),
      _table(comparison_rows(groups)),
      *(f'<p class="note">{_escaped(note)}</p>' for note in comparison_notes(groups)),
      '<h2>Runs</h2>',
    ]  # fmt: skip
  labels = {id(run): g.label for g in groups for run in (*g.runs, *g.left_out)}
  for run in results:
    name = f'{labels[id(run)]}, seed {run.get("seed", NULL)}'
    inner = '\n'.join(_run_parts(run))
    parts.append(_details(name, inner, 'run') if len(results) > 1 else inner)
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f'<title>{_escaped(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n'
    + '\n'.join(parts)
    + '\n</body>\n</html>\n'
  )


def _run_parts(run: Run) -> list[str]:
  """What the page says of one run."""
  parts = [_image(heat_map_png(run), f'Accuracy matrix of {run["method"]}')]
  for title, rows, line in matrices(run):
    parts.append(f'<p><b>{_escaped(title)}</b><br>{_escaped(line)}</p>')
    parts.append(_details('The matrix in numbers', _table(rows)))
  parts.append(_table(_facts(run), 'words'))
  parts += _mix_parts(run.get('mix') or [])
  parts += _drift_parts(run.get('drift') or [])
  parts += _pseudo_parts(run.get('pseudo') or [])
  flips = (run.get('negative_flips') or {}).get('examples') or []
  if flips:
    names = f'<p>{_escaped(", ".join(map(str, flips)))}</p>'
    parts.append(_details('Examples right just after their task and wrong at the end', names))
  if run.get('config'):
    lines = [f'{k} = {json.dumps(v, default=str)}' for k, v in flat(run['config']).items()]
    text = '\n'.join(lines)
    parts.append(_details('Settings', f'<pre>{html.escape(text)}</pre>'))
  return parts


def _facts(run: Run) -> list[list[str]]:
  """What a run cost and how it went, in two columns."""
  rows = [['', '']]
  if not run.get('finished', True):
    rows.append(['state', 'not finished'])
  for name in ('seconds', 'tokens', 'cost'):
    words = [f'{kind} {_number(value)}' for kind, value in (run.get(name) or {}).items() if value]
    if words:
      rows.append([name, ', '.join(words)])
  if run.get('invalid'):
    words = [shown(cell, 'share') for cell in whole_matrix(run, 'invalid')[-1]]
    rows.append(['answers that are no known label, %, task by task', ', '.join(words)])
  flips = run.get('negative_flips')
  if flips:
    rows.append(
      ['right just after the task, wrong at the end', f'{flips["count"]} of {flips["of"]}']
    )
  for line in run.get('refused_steps') or []:
    rows.append(['steps not applied: not finite', f'{line["task"]} {line["count"]}'])
  for resume in run.get('resumes') or []:
    rows.append(['resumed', ', '.join(f'{k} {v}' for k, v in resume.items())])
  if run.get('params_sha256'):
    rows.append(['SHA-256 of the parameters', run['params_sha256']])
  return rows


def _number(value: Any) -> str:
  if isinstance(value, float):
    return f'{value:,.1f}'
  return f'{value:,}' if isinstance(value, int) else str(value)


def _mix_parts(lines: Sequence[Mapping[str, Any]]) -> list[str]:
  """What share of the tokens that trained each task came from the past."""
  if not any(line['old'] for line in lines):
    return []
  rows = [['task', 'new tokens', 'old tokens', 'old %']]
  for line in lines:
    share = line['old'] / max(line['new'] + line['old'], 1)
    rows.append([line['task'], f'{line["new"]:,}', f'{line["old"]:,}', f'{100 * share:.3f}'])
  return ['<h3>Trained tokens</h3>', _table(rows)]


def _drift_parts(lines: Sequence[Mapping[str, Any]]) -> list[str]:
  """How far the model is from the one that the run started from, on held-out text."""
  if not lines:
    return []
  rows = [['after', 'KL(base ‖ model), nats per token', 'perplexity']]
  rows += [[line['task'], f'{line["kl"]:.4f}', f'{line["perplexity"]:.2f}'] for line in lines]
  return ['<h3>Drift from the base model on held-out text</h3>', _table(rows)]


def _pseudo_parts(lines: Sequence[Mapping[str, Any]]) -> list[str]:
  """The counts of the pseudo samples, and those that the run wrote out."""
  if not lines:
    return []
  columns = [c for c in PSEUDO if any(c in line for line in lines)]
  rows = [[c.replace('_', ' ') for c in columns]]
  rows += [[_count(line, c) for c in columns] for line in lines]
  samples = [
    [_count(line, 'before'), _count(line, 'task'), *_pair(sample)]
    for line in lines
    for sample in line.get('samples') or []
  ]
  parts = ['<h3>Pseudo samples</h3>', _table(rows)]
  if samples:
    shown_rows = _table([['before', 'of', 'input', 'answer'], *samples], 'words')
    parts.append(_details(f'{len(samples)} of them in words', shown_rows))
  return parts


def _count(line: Mapping[str, Any], column: str) -> str:
  value = line.get(column)
  if value is None:
    return 'all before' if column == 'task' and 'task' in line else NULL
  return str(value)


def _pair(sample: Any) -> tuple[str, str]:
  """Input and answer of a pseudo sample."""
  if isinstance(sample, str):
    return sample, ''
  return str(sample[0]), str(sample[1])


def _table(rows: Sequence[Sequence[str]], style: str = 'numbers') -> str:
  """Cells as an HTML table; the first row is the header."""
  header = ''.join(f'<th scope="col">{_escaped(cell)}</th>' for cell in rows[0])
  body = '\n'.join(
    '<tr>' + ''.join(f'<td>{_escaped(cell)}</td>' for cell in row) + '</tr>' for row in rows[1:]
  )
  head = f'<thead><tr>{header}</tr></thead>\n' if any(rows[0]) else ''
  return f'<div class="wide"><table class="{style}">\n{head}<tbody>\n{body}\n</tbody></table></div>'


def _details(title: str, inner: str, style: str = '') -> str:
  """A part that is closed until it is clicked; `inner` is HTML."""
  return f'<details><summary class="{style}">{_escaped(title)}</summary>\n{inner}\n</details>'


def _image(png: bytes, words: str) -> str:
  data = base64.b64encode(png).decode()
  return f'<p><img alt="{_escaped(words)}" src="data:image/png;base64,{data}"></p>'


def _escaped(words: str) -> str:
  return html.escape(words).replace('\n', '<br>')
