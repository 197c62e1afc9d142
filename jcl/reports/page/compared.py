"""Several methods side by side: the ranked table, curves, each task, costs."""

from collections.abc import Sequence

from jcl.reports.comparison import Group, curve, learned_and_kept, summary
from jcl.reports.metrics import mean_and_interval
from jcl.reports.page import axes, charts
from jcl.reports.page.costs import total_seconds
from jcl.reports.page.markup import (
  Cell,
  Html,
  contents,
  figure,
  join,
  key,
  name,
  note,
  number,
  own,
  section,
  table,
  text,
)
from jcl.reports.page.ranking import COSTS, ranking, shown_as, with_interval
from jcl.reports.page.source import scale, score_axis, score_cell, seconds_cell, tasks_axis
from jcl.reports.results import score_matrix, score_of


def parts(groups: Sequence[Group]) -> list[Html]:
  """Returns the sections of a comparison: the ranked table, curves, tasks, costs."""
  links = [('compared', 'Ranking'), ('curves', 'Curves'), ('by-task', 'By task'),
           ('costs', 'Cost'), ('runs', 'The runs'),
           ('legend', 'What the numbers mean')]  # fmt: skip
  return [
    contents(links, 'Sections of this page'),
    ranking(groups),
    section('Curves', 'curves', [_curves(groups), _changes(groups)]),
    section('Each task at the end', 'by-task', [_by_task(groups)]),
    section('Cost against accuracy', 'costs', _costs(groups)),
  ]


def _styles(groups: Sequence[Group]) -> list[str]:
  """Returns the classes of each method, as in the picture: in ink where only its end is known."""
  return ['ink dash' if g.end_only else charts.colour(i) for i, g in enumerate(groups)]


def _curves(groups: Sequence[Group]) -> Html:
  """Returns the mean score of the tasks learned so far, a line for each method."""
  run, by = groups[0].runs[0], scale(groups[0].runs[0])
  last = max(len(group.runs[0]['tasks']) for group in groups)
  series, entries, several = [], [], False
  measured: dict[str, dict[int, float]] = {}
  for group, style in zip(groups, _styles(groups), strict=True):
    spreads = curve(group)
    known = [(i, s) for i, s in enumerate(spreads, 1) if s is not None]
    if not known:
      continue
    points = [(float(i), by * s.mean) for i, s in known]
    measured[group.label] = {i: s.mean for i, s in known}
    words = text('')
    if len(points) == 1 and last > 1:  # only the end is known, as for joint training
      points, words = [(1.0, points[0][1]), (float(last), points[0][1])], text(' (the end alone)')
    band = [(float(i), by * s.least, by * s.greatest) for i, s in known]
    several |= len(group.runs) > 1
    dots = not words
    series.append(
      charts.Line(group.label, points, style, dots, band if len(group.runs) > 1 else ())
    )
    entries.append((join([name(group.label), words], ''), style))
  if not series:
    return Html('')
  y = score_axis(run, [v for line in series for _, v in line.points])
  x = tasks_axis(last)
  label = 'Mean score of the tasks learned so far at the end: ' + ', '.join(
    f'{line.name} {line.points[-1][1]:.3g}' for line in series
  )
  unit = '%' if by == 100 else 'nats per token, smaller is better'
  told = note('Bands: from the least to the greatest seed.') if several else ''
  counts = sorted({n for means in measured.values() for n in means})
  rows = [[str(n), *(score_cell(run, means.get(n)) for means in measured.values())] for n in counts]
  numbers = table('Mean over seeds', ['tasks learned', *map(name, measured)], rows)
  return figure(
    f'Average over the tasks learned so far ({unit})', charts.lines(label, series, x, y),
    key(entries), numbers, told,
  )  # fmt: skip


def _changes(groups: Sequence[Group]) -> Html:
  """Returns for each method the mean score just learned and at the end."""
  run, by = groups[0].runs[0], scale(groups[0].runs[0])
  mean = lambda values: mean_and_interval(values)[0]
  rows = []
  for group, style in zip(groups, _styles(groups), strict=True):
    pairs = learned_and_kept(group)
    learned, end = mean([p[0] for p in pairs]), mean([p[1] for p in pairs])
    scaled = [None if v is None else by * v for v in (learned, end)]
    shown = f'{number(learned, score_of(run))} → {number(end, score_of(run))}'
    rows.append(charts.Span(group.label, scaled[0], scaled[1], None, shown, style))
  known = [v for row in rows for v in (row.before, row.after) if v is not None]
  if not known:
    return Html('')
  x = score_axis(run, known)
  x = x if by == 100 else x._replace(low=x.high, high=x.low)
  label = 'Mean score just learned and at the end: ' + ', '.join(
    f'{r.name} {r.shown}' for r in rows
  )
  entries = [('mean just learned', 'ring ink'), ('mean at the end', 'dot ink')]
  return figure('Learned and kept', charts.spans(label, rows, x), key(entries))


def _by_task(groups: Sequence[Group]) -> Html:
  """Returns the score of each task at the end, a row for each method."""
  unit = score_of(groups[0].runs[0])
  tasks = list(dict.fromkeys(t for group in groups for run in group.runs for t in run['tasks']))
  rows: list[list[Cell]] = []
  for group in groups:
    cells: list[Cell] = []
    for task in tasks:
      of = [run for run in group.runs if task in run['tasks']]  # a seed may have other tasks
      ends = [score_matrix(run)[-1][run['tasks'].index(task)] for run in of]
      cells.append(with_interval(*mean_and_interval(ends), unit=unit))
    rows.append([name(group.label), *cells])
  unit_ = '%' if unit == 'accuracy' else 'nats per token'
  return table(f'Score at the end, {unit_}', ['method', *map(name, tasks)], rows)


def _costs(groups: Sequence[Group]) -> list[Html]:
  """Returns accuracy against each kind of cost, and the costs in numbers."""
  run, by = groups[0].runs[0], scale(groups[0].runs[0])
  ends = [summary(group)['average'] for group in groups]
  pictures: list[Html] = []
  for kind, words, of in COSTS:
    dots = []
    for group, style, (mean, half) in zip(groups, _styles(groups), ends, strict=True):
      cost = mean_and_interval([of(one) for one in group.runs])[0]
      if mean is not None and cost is not None:
        dots.append(
          charts.Dot(group.label, cost, by * mean, None if half is None else by * half, style)
        )
    if len(dots) < 2:
      continue
    y = score_axis(run, [dot.y for dot in dots])
    shown = shown_as(kind) if kind == 'bytes' else _in_short
    x = axes.Axis(0, 1.08 * max(dot.x for dot in dots) or 1.0, words, shown)
    label = f'A_T against {words}: ' + ', '.join(
      f'{d.name} {d.y:.3g} at {shown_as(kind)(d.x)}' for d in dots
    )
    entries = [(own(dot.name, 60), f'dot {dot.style.split()[0]}') for dot in dots]
    pictures.append(figure(f'A_T against {kind}', charts.scatter(label, dots, x, y), key(entries)))
  kinds = dict.fromkeys(k for g in groups for one in g.runs for k in one.get('seconds') or {})
  rows: list[list[Cell]] = []
  for group in groups:
    of_kinds = [[(one.get('seconds') or {}).get(k) for one in group.runs] for k in kinds]
    means = [mean_and_interval(v)[0] for v in (*of_kinds, list(map(total_seconds, group.runs)))]
    rows.append([name(group.label), *map(seconds_cell, means)])
  numbers = table('Mean seconds by kind of work', ['method', *kinds, 'all'], rows)
  return [*pictures, numbers] if kinds else pictures


def _in_short(value: float) -> str:
  """Returns a large number with its thousands or millions as a letter."""
  for unit, size in (('M', 1e6), ('k', 1e3)):
    if abs(value) >= size:
      return f'{value / size:g}{unit}'
  return f'{value:g}'
