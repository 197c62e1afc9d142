"""The training of a run: loss, its terms and their shares, gradients, refused steps."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jcl.reports import doctor
from jcl.reports.formatting import MISSING, flatten
from jcl.reports.history import History, Point, loss_shares, shares
from jcl.reports.page import axes, charts
from jcl.reports.page.markup import (
  Html,
  Number,
  figure,
  join,
  key,
  minus,
  name,
  note,
  number,
  own,
  section,
  short,
  table,
  tag,
)
from jcl.reports.page.source import Source, count_cell
from jcl.reports.results import Results, is_number

WIDE = 50.0  # ratio of the largest to the least value from which an axis is logarithmic


def findings(source: Source) -> Html:
  """Returns the section of what looks wrong with the run, and its warnings."""
  found = doctor.findings(source.results, source.lines, source.place or doctor.WORKDIR)
  cards = [
    tag('li', join([
      tag('strong', one.name), tag('p', own(one.figure)),
      tag('p', join([tag('b', 'Meaning:'), own(one.meaning)], ' ')),
      tag('p', join([tag('b', 'To do:'), own(one.advice)], ' ')),
      tag('p', tag('code', own(one.command))) if one.command else '',
    ]), class_=one.kind)
    for one in found
  ]  # fmt: skip
  parts: list[str] = [tag('ul', join(cards), class_='findings')] if cards else []
  if not parts:
    steps = any((line['new'] + line['old']) for line in source.results.get('mix') or ())
    seen = ' in results.json (metrics.jsonl is not at hand)' if steps and not source.lines else ''
    parts = [tag('p', f'Nothing looks wrong{seen}.', class_='fine')]
  if any(one.command for one in found):
    parts.append(_where_commands_run(source.place))
  run = source.results
  warnings = doctor.not_repeated([str(line) for line in run.get('warnings') or ()], found)
  for title, said in (('Notes', run.get('notes')), ('Warnings', warnings)):
    if said:
      listed = tag('ul', join(tag('li', own(str(line))) for line in said[:100]))
      parts.append(tag('div', join([tag('h3', f'{title} of the run ({len(said)})'), listed])))
  return section('Findings', f'{source.anchor}findings', parts)


def _where_commands_run(place: str) -> Html:
  """Returns the note on the folder in which the commands of the findings are run."""
  if not place:
    return note(f'In the commands {doctor.WORKDIR} stands for the folder of the run.')
  if pathlib.PurePath(place).is_absolute():
    return note('The commands name the folder in which the run was made.')
  return note('Run the commands where this run was started: they name its folder from there.')


def training(source: Source, past: History) -> Html:
  """Returns the section of loss, terms and gradients over all steps."""
  parts = [
    _losses(source.results, past), _shares(source.results, past),
    _gradient_shares(source.results, past), _gradients(source.results, past),
    *_refused(source.results), _mix(source.results),
  ]  # fmt: skip
  if not past.values and any(parts):
    parts.insert(0, note('metrics.jsonl is not at hand, so there are no curves of the loss.'))
  return section('Training', f'{source.anchor}training', parts)


def _steps(past: History) -> axes.Axis:
  """Returns the axis of all steps of the run."""
  last = max(sum(past.lengths), 1)
  return axes.Axis(0, last, 'steps of the whole run', '{:,.0f}'.format, whole=True)


def _bounds(run: Results, past: History) -> list[tuple[float, str]]:
  """Returns where tasks with steps begin."""
  rows = zip(past.starts, past.lengths, run['tasks'], strict=True)
  return [(float(start), short(task)) for start, length, task in rows if length]


def _axis(values: Sequence[float]) -> axes.Axis:
  """Returns an axis for values, logarithmic where they are positive and far apart."""
  positive = [v for v in values if v > 0]
  if len(positive) == len(values) and max(values) > WIDE * min(values):
    return _log_axis(positive)
  low, high = axes.range_of(values)
  return axes.Axis(low, high, '', '{:.3g}'.format)


def _log_axis(values: Sequence[float]) -> axes.Axis:
  """Returns a logarithmic axis with powers of ten."""
  low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
  step = max(1, math.ceil((high - low) / 5))
  ticks = [10.0**i for i in range(low, high + 1, step)]
  return axes.Axis(10.0**low, 10.0**high, '', '{:g}'.format, log=True, ticks=ticks)


def _spoken(name: str, points: Sequence[Point]) -> str:
  return minus(f'{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}')


def _losses(run: Results, past: History) -> Html:
  """Returns the curves of the loss and of each of its terms, unweighted."""
  names = [n for n in ('loss', *past.terms) if past.values.get(n)]
  if not names:
    return Html('')
  series = [charts.Line(n, past.values[n], charts.colour(i)) for i, n in enumerate(names)]
  series = [*series[1:], series[0]]
  y = _axis([v for line in series for _, v in charts.thinned(line.points)])
  if y.log:
    series = [line._replace(points=[p for p in line.points if p[1] > 0]) for line in series]
  label = 'Loss and terms: ' + ', '.join(_spoken(one.name, one.points) for one in series)
  entries = [(short(n), charts.colour(i)) for i, n in enumerate(names)]
  picture = charts.lines(label, series, _steps(past), y, _bounds(run, past))
  told = 'terms before their weights' + ('; the axis is logarithmic' if y.log else '')
  return figure(f'Loss and its terms ({told})', picture, key(entries), _by_task(run, past, names))


def _by_task(run: Results, past: History, names: Sequence[str]) -> Html:
  """Returns the first and the last logged values of each task."""
  rows = []
  for start, length, task in zip(past.starts, past.lengths, run['tasks'], strict=True):
    inside = {n: [v for step, v in past.values[n] if start < step <= start + length] for n in names}
    if any(inside.values()):
      cells = [minus(f'{v[0]:.4g} → {v[-1]:.4g}') if v else MISSING for v in inside.values()]
      rows.append([name(task), count_cell(length), *cells])
  return table('First and last logged values of each task', ['task', 'steps', *names], rows)


def _shares(run: Results, past: History) -> Html:
  """Returns the share of each weighted term in the loss over time, where there are several."""
  of_loss = {term: points for term, points in loss_shares(run, past).items() if points}
  told = note('Weight · term over the sum of all weighted terms: of the loss, not of the gradient.')
  return _shares_of(run, past, 'the loss', of_loss, _weights(run, list(of_loss)), told)


def _gradient_shares(run: Results, past: History) -> Html:
  """Returns the share of each term in the gradients over time, where several were measured."""
  told = note(
    'The norm of weight · gradient of a term over the sum of these norms, where it was measured '
    '(train.gradient_norms_every). Where little is left to learn, the cross-entropy has hardly a '
    'gradient, and the share of a penalty says little.'
  )
  rows = []
  for start, length, task in zip(past.starts, past.lengths, run['tasks'], strict=True):
    of_task = {
      term: sum(v for x, v in points if start < x <= start + length)
      for term, points in past.gradients.items()
    }
    if total := sum(of_task.values()):
      cells = [Number(f'{100 * v / total:.3g}', v / total) for v in of_task.values()]
      rows.append([name(task), *cells])
  by_task = table('Share of the sum of the norms in each task, %', ['task', *past.gradients], rows)
  return _shares_of(run, past, 'the gradients', shares(past.gradients), by_task, told)


def _shares_of(
  run: Results, past: History, what: str, found: Mapping[str, Sequence[Point]], more: Html,
  told: Html,
) -> Html:  # fmt: skip
  """Returns a picture of shares over time, with their means; empty for a single term.

  Args:
    run: contents of `results.json`.
    past: what the run logged.
    what: the terms have a share of.
    found: {term: [(step of the whole run, share)]}.
    more: tables to follow that of the means.
    told: what the shares are.
  """
  if len(found) < 2 or not all(found.values()):
    return Html('')
  order = [n for n in ('loss', *past.terms) if past.values.get(n)]
  colour = lambda term: charts.colour(order.index(term) if term in order else len(order))
  series = [
    charts.Line(term, [(x, 100 * v) for x, v in points], colour(term))
    for term, points in found.items()
  ]
  y = axes.Axis(0, 100, '', '{:.0f}'.format, ticks=(0, 25, 50, 75, 100))
  mean = lambda points: sum(v for _, v in points) / len(points)
  means = {term: mean(points) for term, points in found.items()}
  shown = {term: number(v, 'share') for term, v in means.items()}
  rows = [[term, Number(shown[term], v)] for term, v in means.items()]
  spoken = ', '.join(f'{term} {words} % on average' for term, words in shown.items())
  label = f'Share of each term in {what}: {spoken}'
  entries = [(short(line.name), line.style) for line in series]
  picture = charts.shares(label, series, _steps(past), y, _bounds(run, past))
  numbers = join([table(f'Mean share of {what}', ['term', '%'], rows), more])
  return figure(f'Share of each term in {what}, %', picture, key(entries), numbers, told)


def _weights(run: Results, terms: Sequence[str]) -> Html:
  """Returns the weight of each term in each task."""
  rows = [
    [name(x['task']), *(_weight(x['terms'].get(t)) for t in terms)]
    for x in run.get('weights') or ()
  ]
  return table('Weight of each term', ['task', *terms], rows)


def _weight(value: object) -> Number:
  known = float(value) if is_number(value) else None  # type: ignore[arg-type]
  return Number(MISSING if known is None else f'{known:g}', known)


def _gradients(run: Results, past: History) -> Html:
  """Returns the norm of the gradient over time, with the norm at which it is clipped."""
  points = [p for p in past.values.get('gradient_norm', ()) if p[1] > 0]
  if not points:
    return Html('')
  clip: Any = flatten(run.get('config') or {}).get('train.clip_norm')
  series = [charts.Line('gradient norm', points, 'c0')]
  entries = [('gradient norm', 'c0')]
  steps = _steps(past)
  if is_number(clip) and clip > 0:
    series.insert(0, charts.Line('clipped at', [(0.0, clip), (steps.high, clip)], 'c1 dash'))
    entries.append((f'clipped at {clip:g}', 'c1 dash'))
  y = _log_axis([v for line in series for _, v in line.points])
  label = _spoken('Norm of the gradient', points)
  picture = charts.lines(label, series, steps, y, _bounds(run, past), 180)
  title, numbers = 'Norm of the gradient before clipping', _by_task(run, past, ['gradient_norm'])
  return figure(f'{title} (logarithmic)', picture, key(entries), numbers)


def _refused(run: Results) -> list[Html]:
  """Returns the steps that were not applied."""
  lines = run.get('refused_steps') or []
  rows = [[name(line['task']), count_cell(line['count'])] for line in lines]
  title = 'Steps not applied: the loss or the gradient was not finite'
  return [table(title, ['task', 'steps'], rows)] if rows else []


def _mix(run: Results) -> Html:
  """Returns the tokens that trained each task, new and old."""
  lines = run.get('mix') or []
  if not any(line['new'] + line['old'] for line in lines):
    return Html('')
  bars, rows = [], []
  for line in lines:
    new, old = line['new'], line['old']
    share = f'{100 * old / max(new + old, 1):.1f}'
    parts = [(f'new {new:,}', new, 'c0'), (f'old {old:,}', old, 'c1')]
    bars.append(charts.Bar(short(line['task']), parts, f'{share} % old'))
    of_rows = [count_cell(line.get('new_rows')), count_cell(line.get('old_rows'))]
    rows.append(
      [name(line['task']), count_cell(new), count_cell(old), Number(share, float(share)), *of_rows]
    )
  label = 'Tokens that trained each task: ' + ', '.join(f'{b.name} {b.shown}' for b in bars[:12])
  entries = [('new: of the task', 'c0'), ('old: replay, pseudo samples', 'c1')]
  header = ['task', 'new', 'old', 'old %', 'new rows', 'old rows']
  numbers = table('Trained tokens and rows', header, rows)
  return figure(
    'Tokens that trained each task', charts.bars(label, bars[:60]), key(entries), numbers
  )
