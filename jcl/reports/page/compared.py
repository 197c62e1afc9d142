"""Several methods side by side: ranks, intervals, paired differences, curves and costs."""

from collections.abc import Callable, Sequence

from jcl.reports.comparison import Group, curve, learned_and_kept, summary
from jcl.reports.formatting import MISSING, format_number
from jcl.reports.metrics import mean_and_interval
from jcl.reports.page import charts, costs
from jcl.reports.page.markup import (
  Cell,
  Html,
  Number,
  contents,
  figure,
  join,
  key,
  name,
  note,
  own,
  section,
  table,
  tag,
  text,
)
from jcl.reports.page.source import count_cell, scale, score_axis
from jcl.reports.results import Results, is_number, score_matrix, score_of
from jcl.reports.significance import Paired, by_seed, corrected, paired_difference, ranked
from jcl.reports.tables import comparison_notes

BOUNDS = {'seq': 'lower bound', 'joint': 'upper bound'}  # methods that others lie between
COSTS: tuple[tuple[str, str, Callable[[Results], float | None]], ...] = (
  ('seconds', 'seconds of all work, compilation included', costs.total_seconds),
  ('tokens', 'tokens trained and generated', lambda run: tokens_of(run)),
  ('bytes', 'bytes kept from task to task', costs.bytes_kept),
)  # fmt: skip


def tokens_of(run: Results) -> float | None:
  """Returns the tokens that a run trained and generated; None where they are not known."""
  known = [v for v in (run.get('tokens') or {}).values() if is_number(v)]
  return sum(known) if known else None  # type: ignore[arg-type]


def parts(groups: Sequence[Group]) -> list[Html]:
  """Returns the sections of a comparison: the ranked table, curves, tasks, costs."""
  notes = tag('div', join(note(line) for line in comparison_notes(groups, columns=False)))
  table_, told = _ranking(groups)
  links = [('compared', 'Ranking'), ('curves', 'Curves'), ('by-task', 'By task'),
           ('costs', 'Cost'), ('runs', 'The runs')]  # fmt: skip
  return [
    contents(links, 'Sections of this page'),
    section('Ranking', 'compared', [table_, *told, notes]),
    section('Curves', 'curves', [_curves(groups), _changes(groups)]),
    section('Each task at the end', 'by-task', [_by_task(groups)]),
    section('Cost against accuracy', 'costs', _costs(groups)),
  ]


def _larger(groups: Sequence[Group]) -> bool:
  return score_of(groups[0].runs[0]) == 'accuracy'


def _ranking(groups: Sequence[Group]) -> tuple[Html, list[Html]]:
  """Returns the table of methods from the best to the worst, and what it says in words."""
  summaries, larger = [summary(group) for group in groups], _larger(groups)
  order = ranked(groups, [s['average'][0] for s in summaries], larger)
  scores = [by_seed(group, 'average_accuracy') for group in groups]
  lower = next((i for i, g in enumerate(groups) if g.runs[0]['method'] == 'seq'), None)
  contenders = [i for i in order if groups[i].runs[0]['method'] not in BOUNDS]
  best = (
    contenders[0] if contenders and summaries[contenders[0]]['average'][0] is not None else None
  )
  unit = score_of(groups[0].runs[0])
  to_lower, to_best = (_differences(scores, j, unit) for j in (lower, best))
  rows: list[list[Cell]] = []
  for rank, i in enumerate(order, 1):
    group, found = groups[i], summaries[i]
    label = name(group.label)
    if (bound := BOUNDS.get(group.runs[0]['method'])) is not None:
      label = join([label, Html(f'<em>({bound})</em>')], ' ')
    cells = [_with_interval(*found[k], unit=unit) for k in
             ('average', 'incremental', 'forgetting', 'backward', 'worst')]  # fmt: skip
    against = [MISSING if j == i else of[i] for j, of in ((lower, to_lower), (best, to_best))]
    rows.append([
      label, Number(str(rank), rank), Number(str(len(group.runs)), len(group.runs)), *cells,
      *against, _mean(group, _flips, '{:,.0f}'.format),
      *(_mean(group, of, _shown(kind)) for kind, _, of in COSTS),
    ])  # fmt: skip
  header = ['method', 'rank', 'seeds', 'A_T', 'Ā', 'forgetting', 'BWT', 'worst just learned',
            'A_T − seq', 'A_T − best', 'negative flips', *(kind for kind, *_ in COSTS)]  # fmt: skip
  return table('Methods from the best to the worst A_T', header, rows), [
    _verdicts(groups, order, scores, lower, best, unit)
  ]


def _with_interval(mean: float | None, half: float | None, unit: str) -> Number:
  """Returns a mean over seeds ± the half-width of its 95 % interval."""
  shown = format_number(mean, unit)  # type: ignore[arg-type]
  if half is not None:
    shown += f' ± {format_number(half, unit)}'  # type: ignore[arg-type]
  return Number(shown, mean)


def _differences(scores: Sequence[dict], other: int | None, unit: str) -> list[Cell]:
  """Returns the difference of each method to another one, with p-values for all of these tests."""
  if other is None:
    return [MISSING] * len(scores)
  found = [None if i == other else paired_difference(mine, scores[other])
           for i, mine in enumerate(scores)]  # fmt: skip
  ps = corrected([None if one is None else one.p for one in found])
  return [
    _difference(None if one is None else one._replace(p=p), unit)
    for one, p in zip(found, ps, strict=True)
  ]


def _difference(found: Paired | None, unit: str) -> Cell:
  """Returns a paired difference: mean ± interval, p."""
  if found is None:
    return Number('no seed in common', None)
  shown = format_number(found.mean, unit)  # type: ignore[arg-type]
  if found.half is None or found.p is None:
    return Number(f'{shown} (one seed)', found.mean)
  p = 'p < 0.001' if found.p < 0.001 else f'p = {found.p:.3f}'
  return Number(f'{shown} ± {format_number(found.half, unit)}, {p}', found.mean)  # type: ignore[arg-type]


def _verdicts(
  groups: Sequence[Group], order: Sequence[int], scores: Sequence[dict], lower: int | None,
  best: int | None, unit: str,
) -> Html:  # fmt: skip
  """Returns which methods differ from the lower bound and from the best, in words."""
  lines = []
  for other, what in ((lower, 'seq, the lower bound'), (best, 'the best')):
    for i in order if other is not None else ():
      if i == other or groups[i].runs[0]['method'] in BOUNDS:
        continue
      found = paired_difference(scores[i], scores[other])  # type: ignore[index]
      if found is None or found.half is None:
        continue
      side = 'above' if (found.mean > 0) == _larger(groups) else 'below'
      verdict = (
        f'{side} {what}, and the interval leaves out 0' if found.differs
        else f'not told apart from {what} by {found.seeds} seeds'
      )  # fmt: skip
      lines.append(tag('li', join([name(groups[i].label), text(f'is {verdict}.')], ' ')))
  told = note(
    'Differences are means over the seeds that both have, ± 95 % interval, with the p-value of the '
    'paired t-test, corrected for the number of methods in the column (Holm). Intervals and the '
    'words above are not corrected. The best leaves out the bounds.'
  )
  few = max(len(group.runs) for group in groups) < 2
  more = note('One seed has no interval; give several, such as --seeds=0,1,2.') if few else ''
  return tag('div', join([tag('ul', join(lines)) if lines else '', told, more]))


def _flips(run: Results) -> float | None:
  found = run.get('negative_flips')
  return None if not found else float(found['count'])


def _mean(
  group: Group, of: Callable[[Results], float | None], shown: Callable[[float], str]
) -> Number:
  """Returns the mean of a quantity over the runs of a group."""
  mean, _ = mean_and_interval([of(run) for run in group.runs])
  return Number(MISSING if mean is None else shown(mean), mean)


def _shown(kind: str) -> Callable[[float], str]:
  """Returns how a cost of some kind is written."""
  return costs.in_bytes if kind == 'bytes' else '{:,.0f}'.format


def _styles(groups: Sequence[Group]) -> list[str]:
  return [charts.colour(i) for i in range(len(groups))]


def _curves(groups: Sequence[Group]) -> Html:
  """Returns the mean score of the tasks learned so far, a line for each method."""
  run, by = groups[0].runs[0], scale(groups[0].runs[0])
  last = max(len(group.runs[0]['tasks']) for group in groups)
  series, entries, several = [], [], False
  for group, style in zip(groups, _styles(groups), strict=True):
    spreads = curve(group)
    known = [(i, s) for i, s in enumerate(spreads, 1) if s is not None]
    if not known:
      continue
    points = [(float(i), by * s.mean) for i, s in known]
    words = text('')
    if len(points) == 1 and last > 1:  # only the end is known, as for joint training
      points, words = [(1.0, points[0][1]), (float(last), points[0][1])], text(' (the end alone)')
      style = f'{style} dash'
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
  x = charts.Axis(1, max(last, 2), 'tasks learned', '{:g}'.format)
  label = 'Mean score of the tasks learned so far at the end: ' + ', '.join(
    f'{line.name} {line.points[-1][1]:.3g}' for line in series
  )
  unit = '%' if by == 100 else 'nats per token, smaller is better'
  told = note('Bands: from the least to the greatest seed.') if several else ''
  counts = sorted({n for line in series for n, _ in line.points})
  rows = [[f'{n:g}', *(_at(line.points, n) for line in series)] for n in counts]
  numbers = table('Mean over seeds', ['tasks learned', *(s.name for s in series)], rows)
  return figure(
    f'Average over the tasks learned so far ({unit})', charts.lines(label, series, x, y),
    key(entries), numbers, told,
  )  # fmt: skip


def _at(points: Sequence[tuple[float, float]], count: float) -> str:
  """Returns the value of a curve after so many tasks."""
  return next((f'{y:.3g}' for x, y in points if x == count), MISSING)


def _changes(groups: Sequence[Group]) -> Html:
  """Returns for each method the mean score just learned and at the end."""
  run, by = groups[0].runs[0], scale(groups[0].runs[0])
  mean = lambda values: mean_and_interval(values)[0]
  rows = []
  for group in groups:
    pairs = learned_and_kept(group)
    learned, end = mean([p[0] for p in pairs]), mean([p[1] for p in pairs])
    scaled = [None if v is None else by * v for v in (learned, end)]
    shown = f'{format_number(learned, score_of(run))} → {format_number(end, score_of(run))}'
    rows.append(charts.Span(group.label, scaled[0], scaled[1], None, shown))
  known = [v for row in rows for v in (row.before, row.after) if v is not None]
  if not known:
    return Html('')
  x = score_axis(run, known)
  x = x if by == 100 else x._replace(low=x.high, high=x.low)
  label = 'Mean score just learned and at the end: ' + ', '.join(
    f'{r.name} {r.shown}' for r in rows
  )
  entries = [('mean just learned', 'ring c0'), ('mean at the end', 'dot c0')]
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
      cells.append(_with_interval(*mean_and_interval(ends), unit=unit))
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
    shown = _shown(kind) if kind == 'bytes' else _in_short
    x = charts.Axis(0, 1.08 * max(dot.x for dot in dots) or 1.0, words, shown)
    label = f'A_T against {words}: ' + ', '.join(
      f'{d.name} {d.y:.3g} at {_shown(kind)(d.x)}' for d in dots
    )
    entries = [(own(dot.name, 60), f'dot {dot.style}') for dot in dots]
    pictures.append(figure(f'A_T against {kind}', charts.scatter(label, dots, x, y), key(entries)))
  rows: list[list[Cell]] = []
  for group in groups:
    kinds = dict.fromkeys(k for one in group.runs for k in one.get('seconds') or {})
    for k in kinds:
      known = [(one.get('seconds') or {}).get(k) for one in group.runs]
      rows.append([name(group.label), k, count_cell(_rounded(mean_and_interval(known)[0]))])
  numbers = table('Mean seconds by kind of work', ['method', 'work', 'seconds'], rows)
  return [*pictures, numbers] if rows else pictures


def _in_short(value: float) -> str:
  """Returns a large number with its thousands or millions as a letter."""
  for unit, size in (('M', 1e6), ('k', 1e3)):
    if abs(value) >= size:
      return f'{value / size:g}{unit}'
  return f'{value:g}'


def _rounded(value: float | None) -> float | None:
  return None if value is None else round(value, 1)
