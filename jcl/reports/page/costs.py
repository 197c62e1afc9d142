"""What a run cost, where it ran and with which settings."""

import json
from collections.abc import Mapping

from jcl.reports.formatting import MISSING, flatten, short_method_name
from jcl.reports.metrics import average_so_far
from jcl.reports.page import axes, charts
from jcl.reports.page.markup import (
  Cell,
  Html,
  Number,
  details,
  figure,
  own,
  section,
  short,
  table,
  tag,
)
from jcl.reports.page.source import Source, count_cell, scale, score_axis, seconds_cell
from jcl.reports.results import Results, is_number, score_matrix, score_of
from jcl.streams.task_order import describe_order

KINDS = ('train', 'generate', 'evaluate', 'memory', 'compile')


def total_seconds(run: Results) -> float | None:
  """Returns the seconds of all kinds of work together; None where none are known."""
  known = [v for v in (run.get('seconds') or {}).values() if is_number(v)]
  return sum(known) if known else None  # type: ignore[arg-type]


def bytes_kept(run: Results) -> float | None:
  """Returns the bytes that the method carries from task to task; None where they are not known."""
  kept = (run.get('cost') or {}).get('memory_bytes')
  return float(kept) if is_number(kept) else None  # type: ignore[arg-type]


def in_bytes(value: float | None) -> str:
  """Returns a number of bytes with its unit."""
  if value is None:
    return MISSING
  for unit in ('B', 'kB', 'MB', 'GB'):
    if value < 1000:
      return f'{value:.3g} {unit}'
    value /= 1000
  return f'{value:,.3g} TB'


def costs(source: Source) -> Html:
  """Returns the section of seconds, tokens and bytes, and of accuracy against them."""
  run = source.results
  return section('Cost', f'{source.anchor}cost', [_seconds(run), _against(run), _table(run)])


def _seconds(run: Results) -> Html:
  """Returns the seconds by kind of work."""
  given = run.get('seconds') or {}
  seconds = {k: v for k, v in given.items() if is_number(v) and v > 0}  # type: ignore[operator]
  if not seconds:
    return Html('')
  bars = [
    charts.Bar(kind, [(kind, float(v or 0), 'c0')], f'{v:,.1f} s') for kind, v in seconds.items()
  ]  # fmt: skip
  label = 'Seconds by kind of work: ' + ', '.join(f'{bar.name} {bar.shown}' for bar in bars)
  return figure('Seconds by kind of work', charts.bars(label, bars))


def _against(run: Results) -> Html:
  """Returns the mean score of the tasks learned so far against the tokens trained by then."""
  by, total = scale(run), 0.0
  tokens = {line['task']: line['new'] + line['old'] for line in run.get('mix') or ()}
  points = []
  for task, mean in zip(
    run['tasks'], average_so_far(score_matrix(run), score_of(run)), strict=True
  ):
    total += tokens.get(task, 0)
    if mean is not None and total:
      points.append((total, by * mean))
  if len(points) < 2:
    return Html('')
  shown = lambda v: f'{v:,.0f}' if v < 1e6 else f'{v / 1e6:g}M'
  x = axes.Axis(0, total, 'tokens trained', shown, whole=True)
  line = charts.Line('mean of the tasks so far', points, 'c0', dots=True)
  unit = '%' if by == 100 else 'nats per token'
  label = f'Mean score so far: {points[0][1]:.3g} {unit} after {points[0][0]:,.0f} tokens, '
  label += f'{points[-1][1]:.3g} after {points[-1][0]:,.0f}'
  axis = score_axis(run, [v for _, v in points])
  return figure(f'Mean score so far against tokens ({unit})', charts.lines(label, [line], x, axis))


def _table(run: Results) -> Html:
  """Returns all costs in numbers."""
  rows: list[list[Cell]] = []
  tokens, cost = run.get('tokens') or {}, run.get('cost') or {}
  for kind, value in tokens.items():
    rows.append([f'tokens, {kind}', count_cell(value)])
  if (seconds := total_seconds(run)) is not None:
    rows.append(['seconds of all work', seconds_cell(seconds)])
    trained = (run.get('seconds') or {}).get('train')
    if trained and is_number(tokens.get('train')):
      rows.append(['tokens a second of training', count_cell(round(tokens['train'] / trained))])  # type: ignore[operator]
  if (kept := bytes_kept(run)) is not None:
    rows.append(['bytes kept from task to task', Number(in_bytes(kept), kept)])
  rows += [[short(k), count_cell(v)] for k, v in cost.items() if k != 'memory_bytes']
  return table('Cost in numbers', ['what', 'how much'], rows) if rows else Html('')


def facts(source: Source) -> Html:
  """Returns the section of what was run: stream, versions, machine, resumes, settings."""
  run = source.results
  parts = [table('The run', ['what', 'value'], _facts(run), 'words pairs')]
  if resumes := run.get('resumes'):
    fields = list(dict.fromkeys(field for line in resumes for field in line))
    rows: list[list[Cell]] = [
      [str(i), *(own(line.get(f, MISSING)) for f in fields)] for i, line in enumerate(resumes, 1)
    ]
    parts.append(
      table('Times that the run was resumed', ['', *(f.replace('_', ' ') for f in fields)], rows)
    )
  if changes := run.get('config_changes'):
    said = lambda value: own(json.dumps(value, default=str, ensure_ascii=False))
    made: list[list[Cell]] = [
      [
        own(line.get('time', MISSING)),
        own(line.get('snapshot', MISSING)),
        own(field),
        *map(said, pair),
      ]
      for line in changes
      for field, pair in line['changes'].items()
      if isinstance(pair, list) and len(pair) == 2
    ]
    header = ['time', 'from snapshot', 'setting', 'before', 'after']
    parts.append(table('Settings that were changed in the run', header, made, 'words'))
  if config := run.get('config'):
    shown = lambda value: own(json.dumps(value, default=str, ensure_ascii=False))
    lines: list[list[Cell]] = [[own(k), shown(v)] for k, v in flatten(config).items()]
    whole = table('Settings', ['setting', 'value'], lines, 'words pairs', filtered=True)
    parts.append(details(f'All {len(lines)} settings', whole))
  return section('The run', f'{source.anchor}run', parts)


def _facts(run: Results) -> list[list[Cell]]:
  """Returns what is known of a run in words, two cells a row."""
  rows: list[list[Cell]] = [['method', own(run['method'])]]
  if short_method_name(run['method']) != run['method']:
    rows.append(['short name', own(short_method_name(run['method']))])
  for field in ('stream', 'scenario', 'seed', 'jcl'):
    if run.get(field) is not None:
      rows.append([{'jcl': 'jcl, version'}.get(field, field), own(run[field])])
  finished = run.get('finished', True)
  rows.append(['state', 'finished' if finished else 'not finished'])
  if order := _order(run):
    rows.append(['order of tasks', own(order)])
  if sizes := run.get('sizes'):
    rows.append(['test examples' if scale(run) == 100 else 'test tokens', f'{sum(sizes):,}'])
  if cut := run.get('cut_rows'):
    rows.append(['examples whose input was cut', count_cell(cut).shown])
  overlap = run.get('overlap')
  if isinstance(overlap, Mapping) and any(overlap.values()):
    words = ', '.join(f'{short(t)} {n}' for t, n in overlap.items() if n)
    rows.append(['test examples that stand in training data', own(words)])
  machine = run.get('machine')
  for field, value in machine.items() if isinstance(machine, Mapping) else ():
    shown = ' of '.join(map(str, value)) if isinstance(value, list) else value
    rows.append([f'machine: {short(field)}', own(shown)])
  if digest := run.get('params_sha256'):
    rows.append(['SHA-256 of the parameters', tag('code', own(digest))])
  return rows


def _order(run: Results) -> str:
  """Returns the order of tasks in words; empty where the settings are not at hand."""
  stream = (run.get('config') or {}).get('stream')
  if not isinstance(stream, Mapping) or not is_number(seed := stream.get('order_seed', -1)):
    return ''
  given = str(stream.get('task_order', ''))
  names = [short(task) for task in run['tasks']]
  return describe_order(names, str(stream.get('name')), seed, given)
