"""The report on runs as HTML: tables, pictures, pseudo samples and settings, all in one page.

Every text that comes from a run is escaped where it enters the page.
"""

import base64
import html
import json
from collections.abc import Mapping, Sequence

from jcl.reports.comparison import Group, group_runs
from jcl.reports.comparison_plot import comparison_png
from jcl.reports.formatting import MISSING, flatten, format_number, one_line, short_method_name
from jcl.reports.heat_map import heat_map_png
from jcl.reports.results import Drift, Results, TokenMix, whole_matrix
from jcl.reports.tables import comparison_notes, comparison_rows, matrix_tables
from jcl.streams.escaping import shortened
from jcl.streams.task_order import describe_order
from jcl.types import Json

PAGE_CSS = 'body { max-width: 70rem; margin: 2rem auto; padding: 0 1.5rem; }'
# Each rule names the class, so that a notebook that shows the report keeps its own style.
CSS = """
.jcl { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
.jcl h1 { font-size: 1.6rem; }
.jcl h2 { font-size: 1.25rem; margin-top: 2.5rem; }
.jcl h3 { font-size: 1rem; }
.jcl img { max-width: 100%; height: auto; }
.jcl .wide { overflow-x: auto; }
.jcl table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px;
  margin: .7rem 0; }
.jcl th, .jcl td { padding: .2rem .5rem; text-align: right; border-bottom: 1px solid #ddd;
  vertical-align: bottom; white-space: nowrap; }
.jcl th { font-weight: 600; }
.jcl th:first-child, .jcl td:first-child { text-align: left; padding-left: 0; }
.jcl .words td { text-align: left; white-space: pre-wrap; }
.jcl .words th { text-align: left; }
.jcl summary { cursor: pointer; margin: .4rem 0; }
.jcl summary.run { font-size: 1.15rem; font-weight: 600; }
.jcl .note { color: #666; margin: .2rem 0; }
.jcl pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; }
"""
FLIP = ('task', 'split', 'number', 'id', 'place', 'text', 'answer')
PSEUDO = ('before', 'task', 'asked', 'drawn', 'kept', 'distinct', 'verbatim', 'valid_label')


def document(results: Sequence[Results]) -> str:
  """Returns an HTML document that needs no other file.

  Args:
    results: the contents of the runs' `results.json`; with more than one they are compared first.

  Raises:
    UserError: the runs cannot be compared, or a matrix is malformed.
  """
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f'<title>{_escaped(_title(results, group_runs(results)))}</title>\n'
    f'<style>{PAGE_CSS}</style>\n</head>\n<body>\n{fragment(results)}\n</body>\n</html>\n'
  )


def fragment(results: Sequence[Results]) -> str:
  """Returns the same report as a `div` with its own style, as a notebook shows it.

  Args:
    results: the contents of the runs' `results.json`.

  Raises:
    UserError: the runs cannot be compared, or a matrix is malformed.
  """
  groups = group_runs(results)
  parts = [f'<h1>{_escaped(_title(results, groups))}</h1>']
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
    name = f'{labels[id(run)]}, seed {run.get("seed", MISSING)}'
    inner = '\n'.join(_run_parts(run))
    parts.append(_details(name, inner, 'run') if len(results) > 1 else inner)
  return f'<div class="jcl">\n<style>{CSS}</style>\n' + '\n'.join(parts) + '\n</div>'


def _title(results: Sequence[Results], groups: Sequence[Group]) -> str:
  """Returns the methods and the streams, as a heading."""
  where = sorted({f'{r.get("stream", "")} ({r.get("scenario", MISSING)})' for r in results})
  return f'{", ".join(group.label for group in groups)} on {", ".join(where)}'


def _run_parts(run: Results) -> list[str]:
  """Returns the parts of the page that tell of one run."""
  parts = [_image(heat_map_png(run), f'Accuracy matrix of {run["method"]}')]
  for table in matrix_tables(run):
    parts.append(f'<p><b>{_escaped(table.title)}</b><br>{_escaped(table.metrics)}</p>')
    parts.append(_details('The matrix in numbers', _table(table.rows)))
  parts.append(_table(_facts(run), 'words'))
  parts += _mix_parts(run.get('mix') or [])
  parts += _drift_parts(run.get('drift') or [])
  parts += _pseudo_parts(run.get('pseudo') or [])
  flips = run.get('negative_flips')
  if flips and (examples := flips.get('examples')):
    rows = [list(FLIP), *map(_flip_cells, examples)]
    parts.append(
      _details('Examples right just after their task and wrong at the end', _table(rows, 'words'))
    )
  if config := run.get('config'):
    lines = [
      f'{k} = {json.dumps(v, default=str, ensure_ascii=False)}' for k, v in flatten(config).items()
    ]
    text = '\n'.join(lines)
    parts.append(_details('Settings', f'<pre>{html.escape(text)}</pre>'))
  return parts


def _facts(run: Results) -> list[list[str]]:
  """Returns the costs and events of a run, two cells a row; the first row is an empty header."""
  rows = [['', '']]
  if short_method_name(run['method']) != run['method']:
    rows.append(['method', run['method']])
  if not run.get('finished', True):
    rows.append(['state', 'not finished'])
  if stream := (run.get('config') or {}).get('stream'):
    names = [one_line(task) for task in run['tasks']]
    seed, given = stream.get('order_seed', -1), str(stream.get('task_order', ''))
    order = describe_order(names, str(stream.get('name')), seed, given)
    rows.append(['order of tasks', order])
  for name, figures in (
    ('seconds', run.get('seconds')), ('tokens', run.get('tokens')), ('cost', run.get('cost')),
  ):  # fmt: skip
    words = [f'{kind} {_number(value)}' for kind, value in (figures or {}).items() if value]
    if words:
      rows.append([name, ', '.join(words)])
  if invalid := run.get('invalid'):
    words = [format_number(cell, 'share') for cell in whole_matrix(run, invalid)[-1]]
    rows.append(['answers that are no known label, %, task by task', ', '.join(words)])
  if flips := run.get('negative_flips'):
    rows.append(
      ['right just after the task, wrong at the end', f'{flips["count"]} of {flips["of"]}']
    )
  for line in run.get('refused_steps') or []:
    rows.append(['steps not applied: not finite', f'{line["task"]} {line["count"]}'])
  for resume in run.get('resumes') or []:
    rows.append(['resumed', ', '.join(f'{k} {v}' for k, v in resume.items())])
  if digest := run.get('params_sha256'):
    rows.append(['SHA-256 of the parameters', digest])
  return rows


def _number(value: object) -> str:
  """Returns a number with commas between thousands; a float with one decimal."""
  if isinstance(value, float):
    return f'{value:,.1f}'
  return f'{value:,}' if isinstance(value, int) else str(value)


def _mix_parts(lines: Sequence[TokenMix]) -> list[str]:
  """Returns a table of the share of the past in the tokens that trained each task."""
  if not any(line['old'] for line in lines):
    return []
  rows = [['task', 'new tokens', 'old tokens', 'old %']]
  for line in lines:
    share = line['old'] / max(line['new'] + line['old'], 1)
    rows.append([line['task'], f'{line["new"]:,}', f'{line["old"]:,}', f'{100 * share:.3f}'])
  return ['<h3>Trained tokens</h3>', _table(rows)]


def _drift_parts(lines: Sequence[Drift]) -> list[str]:
  """Returns a table of the distance from the base model on held-out text."""
  if not lines:
    return []
  rows = [['after', 'KL(base ‖ model), nats per token', 'perplexity']]
  rows += [[line['task'], f'{line["kl"]:.4f}', f'{line["perplexity"]:.2f}'] for line in lines]
  return ['<h3>Drift from the base model on held-out text</h3>', _table(rows)]


def _pseudo_parts(lines: Sequence[Json]) -> list[str]:
  """Returns the counts of the pseudo samples, and the samples that the run wrote out."""
  if not lines:
    return []
  columns = [c for c in PSEUDO if any(c in line for line in lines)]
  rows = [[c.replace('_', ' ') for c in columns]]
  rows += [[_count(line, c) for c in columns] for line in lines]
  samples = [
    [_count(line, 'before'), _count(line, 'task'), *_input_and_answer(sample)]
    for line in lines
    for sample in line.get('samples') or []
  ]
  parts = ['<h3>Pseudo samples</h3>', _table(rows)]
  if samples:
    table = _table([['before', 'of', 'input', 'answer'], *samples], 'words')
    parts.append(_details(f'{len(samples)} of them in words', table))
  return parts


def _flip_cells(example: object) -> list[str]:
  """Returns a row of the table of flips; files of older runs have the name of the row alone."""
  found = example if isinstance(example, Mapping) else {'id': example}
  return [shortened(str(found.get(column, MISSING))) for column in FLIP]


def _count(line: Mapping[str, object], column: str) -> str:
  """Returns a cell of the table of pseudo samples; no task means all tasks before."""
  value = line.get(column)
  if value is None:
    return 'all before' if column == 'task' and 'task' in line else MISSING
  return str(value)


def _input_and_answer(sample: str | Sequence[object]) -> tuple[str, str]:
  """Returns input and answer of a pseudo sample; a sample without form has no answer."""
  if isinstance(sample, str):
    return sample, ''
  return str(sample[0]), str(sample[1])


def _table(rows: Sequence[Sequence[str]], style: str = 'numbers') -> str:
  """Returns cells as an HTML table; the first row is the header."""
  header = ''.join(f'<th scope="col">{_escaped(cell)}</th>' for cell in rows[0])
  body = '\n'.join(
    '<tr>' + ''.join(f'<td>{_escaped(cell)}</td>' for cell in row) + '</tr>' for row in rows[1:]
  )
  head = f'<thead><tr>{header}</tr></thead>\n' if any(rows[0]) else ''
  return f'<div class="wide"><table class="{style}">\n{head}<tbody>\n{body}\n</tbody></table></div>'


def _details(title: str, inner: str, style: str = '') -> str:
  """Returns a part that stays closed until it is clicked; `inner` is HTML."""
  return f'<details><summary class="{style}">{_escaped(title)}</summary>\n{inner}\n</details>'


def _image(png: bytes, description: str) -> str:
  """Returns a picture embedded in the page."""
  data = base64.b64encode(png).decode()
  return f'<p><img alt="{_escaped(description)}" src="data:image/png;base64,{data}"></p>'


def _escaped(text: str) -> str:
  """Returns a text as HTML shows it, its line breaks kept."""
  return html.escape(text).replace('\n', '<br>')
