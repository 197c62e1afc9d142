"""Scores of a run: the key figures, the matrix, every task over time, what was forgotten."""

from collections.abc import Sequence

from jcl.reports.formatting import MISSING
from jcl.reports.history import History
from jcl.reports.metrics import average_so_far
from jcl.reports.page import axes, charts, legend
from jcl.reports.page.markup import (
  Cell,
  Html,
  Number,
  figure,
  join,
  key,
  name,
  note,
  number,
  own,
  section,
  short,
  table,
  tag,
  text,
)
from jcl.reports.page.source import Source, difference, scale, score_axis, score_cell, tasks_axis
from jcl.reports.results import (
  Results,
  is_number,
  metrics_of,
  score_matrix,
  score_of,
  unit_of,
  whole_matrix,
)

CURVES = 60  # tasks whose curves are drawn
DENSE = 12  # tasks from which a matrix has whole per cent
HEAD = 10  # letters of a task's name above its column
Matrix = Sequence[Sequence[float | None]]


def key_figures(source: Source) -> Html:
  """Returns the numbers that a reader wants first, each with its name."""
  run, found = source.results, metrics_of(source.results)
  shown = [
    (legend.METRICS[metric][0], number(found.get(metric), score_of(run)),
     legend.METRICS[metric][1])
    for metric in ('average_accuracy', 'average_incremental_accuracy', 'forgetting',
                   'backward_transfer')
  ]  # fmt: skip
  if flips := run.get('negative_flips'):
    shown.append(
      ('negative flips', f'{flips["count"]:,} of {flips["of"]:,}', legend.OTHERS['negative flip'])
    )
  seconds = sum(v or 0 for v in (run.get('seconds') or {}).values())
  if seconds:
    shown.append(('seconds', f'{seconds:,.0f}', 'wall clock, compilation included'))
  tiles = [
    tag('div', join([tag('dt', word), tag('dd', value)], ''), title=meaning)
    for word, value, meaning in shown
  ]
  return tag('dl', join(tiles), class_='tiles')


def in_words(source: Source) -> Html:
  """Returns in one or two sentences how the run ended; empty before its end."""
  run, found = source.results, metrics_of(source.results)
  tasks, score = len(run['tasks']), score_of(run)
  if found.get('average_accuracy') is None:
    return Html('')  # the line on the state of the run says how far it is
  average = number(found['average_accuracy'], score)
  how = f'{average} %' if score == 'accuracy' else f'{average} nats per token'
  said = f'After {tasks} tasks the mean score over all tasks is {how}.'
  forgetting = found.get('forgetting')
  if forgetting is None:
    return tag('p', said)
  lost = number(abs(forgetting), score)
  if score == 'accuracy' and not any(map(any, run['matrix'][1:])):
    return tag('p', f'{said} Nothing was learned, so nothing could be forgotten.')
  if float(lost) == 0:
    return tag('p', f'{said} Nothing was forgotten.')
  less, more = 'points below', 'points above'
  if score == 'log_perplexity':
    less, more = 'nats per token worse than', 'nats per token better than'
  side = less if forgetting > 0 else more
  return tag('p', f'{said} On average a task ends {lost} {side} its best earlier score.')


def scores(source: Source, past: History) -> Html:
  """Returns the section of the matrix and of every task over time."""
  run = source.results
  parts = [matrix(run, run['matrix'], 'Accuracy matrix' if scale(run) == 100 else 'Score matrix')]
  if run.get('matrix_train'):
    parts.append(matrix(run, run['matrix_train'] or (), 'On the training questions'))
  parts += [average_curve(run), task_curves(run, past), other_metrics(run), *general(run)]
  return section('Scores', f'{source.anchor}scores', parts)


def matrix(run: Results, rows: Matrix, title: str) -> Html:
  """Returns a matrix as a table whose cells are the darker the better, row 0 first."""
  whole, score = whole_matrix(run, rows), score_of(run)
  means = [None, *average_so_far(whole, score)]
  known = [x for row in whole for x in row if x is not None] or [0.0]
  dense = len(run['tasks']) > DENSE
  header = [text('after')] + [
    join([tag('b', i), tag('small', own(task, HEAD), title=short(task))], ' ')
    for i, task in enumerate(run['tasks'], 1)
  ]
  body = []
  for i, (row, mean) in enumerate(zip(whole, means, strict=True)):
    cells: list[Html] = []
    for j, value in enumerate(row):
      shown = _in_cell(value, run, dense)
      cells.append(_matrix_cell(value, shown, _shade(value, known, score), i, j))
    cells.append(tag('td', tag('b', _in_cell(mean, run, dense)), class_='n mean'))
    label = join([tag('b', i), name(run['tasks'][i - 1])], ' ') if i else text('0 before training')
    body.append(tag('tr', join([tag('th', label, scope='row'), *cells], '')))
  heads = [tag('th', words, scope='col') for words in (*header, 'mean so far')]
  inner = join([
    tag('caption', f'{title}: {unit_of(run)}'), tag('thead', tag('tr', join(heads, ''))),
    tag('tbody', join(body)),
  ])  # fmt: skip
  table_ = tag('table', inner, class_='matrix dense' if dense else 'matrix')
  held = tag('div', table_, class_='wide', tabindex='0', role='region', aria_label=title)
  entries = [
    ('just learned', 'cell own'),
    ('not learned yet', 'cell early'),
    ('better', 'cell good'),
  ]
  return tag('figure', join([held, key(entries)]), class_='full' if len(header) > 7 else None)


def _in_cell(value: float | None, run: Results, dense: bool) -> str:
  """Returns a score as a matrix shows it: whole per cent where there are many columns."""
  if dense and value is not None and scale(run) == 100:
    return f'{100 * value:.0f}'
  return number(value, score_of(run))


def _matrix_cell(value: float | None, shown: str, shade: float, i: int, j: int) -> Html:
  """Returns cell (i, j) of a matrix."""
  kind = 'early' if i <= j else 'own' if i == j + 1 else 'later'
  empty = value is None
  style = None if empty or kind == 'early' else f'--v:{shade:.3f}'
  return tag('td', shown, class_=f'n {"none" if empty else kind}', style=style)


def _shade(value: float | None, known: Sequence[float], score: str) -> float:
  """Returns how good a score is, from 0 to 1; nats lie between the worst and the best."""
  if value is None:
    return 0.0
  if score == 'accuracy':
    return value
  return (max(known) - value) / ((max(known) - min(known)) or 1.0)


def average_curve(run: Results) -> Html:
  """Returns the mean score of the tasks learned so far, with the worst and the best of them."""
  rows, by = score_matrix(run), scale(run)
  points, band = [], []
  for i, mean in enumerate(average_so_far(rows, score_of(run)), 1):
    if mean is not None:
      seen = [by * x for x in rows[i][:i] if x is not None]
      points.append((float(i), by * mean))
      band.append((float(i), min(seen), max(seen)))
  if not points:
    return Html('')
  tasks = len(run['tasks'])
  x = tasks_axis(tasks)
  y = score_axis(run, [v for _, *ends in band for v in ends])
  line = charts.Line('mean', points, 'c0', dots=True, band=band)
  label = f'Mean score of the tasks learned so far: {_spoken(points)}'
  picture = charts.lines(label, [line], x, y)
  entries = [
    ('mean over the tasks learned so far', 'c0'),
    ('from the worst to the best task', 'c0 area'),
  ]
  return figure(f'Average over time ({_unit(run)})', picture, key(entries))


def _spoken(points: Sequence[tuple[float, float]]) -> str:
  """Returns the values of a short line in words."""
  shown = points if len(points) <= 12 else [points[0], points[len(points) // 2], points[-1]]
  return ', '.join(f'{y:.4g} after {x:g}' for x, y in shown)


def _unit(run: Results) -> str:
  """Returns the unit of scores in a caption."""
  return '%' if scale(run) == 100 else 'nats per token, smaller is better'


def task_curves(run: Results, past: History) -> Html:
  """Returns a small chart for each task: test scores after every task, dev scores inside tasks."""
  rows, by, tasks = score_matrix(run), scale(run), len(run['tasks'])
  sign = 1 if by == 100 else -1  # dev scores of raw text are −nats, so that larger is better
  known = [by * x for row in rows for x in row if x is not None]
  if len(known) < 2 and not past.dev:
    return Html('')
  dev = {task: [(x, sign * by * v) for x, v in points] for task, points in past.dev.items()}
  y = score_axis(run, known + [v for points in dev.values() for _, v in points])
  y = y if by == 100 else y._replace(shown='{:.3g}'.format)
  x = axes.Axis(0, tasks, '', '{:g}'.format)
  pictures, taken = [], False
  for j, task in enumerate(run['tasks'][:CURVES]):
    points = [(float(i), by * v) for i, row in enumerate(rows) if (v := row[j]) is not None]
    series = [charts.Line('test', points, 'c0', dots=True)] if points else []
    if inside := dev.get(task):
      series.insert(0, charts.Line('dev', inside, 'c1'))
      taken = True
    last = number(rows[source_row(run)][j], score_of(run))
    label = f'{short(task)}: {_spoken(points)}' if points else short(task)
    pictures.append(charts.small(label[:300], task, last, series, x, y, j + 1))
  entries = [('test split, after every task', 'c0'), ('just learned', 'bound')]
  if taken:
    entries.insert(1, ('dev split, inside tasks', 'c1'))
  more = note(f'The first {CURVES} of {tasks} tasks.') if tasks > CURVES else Html('')
  return tag('figure', join([
    tag('figcaption', f'Every task over time ({_unit(run)}; across: tasks learned)'), key(entries),
    tag('div', join(pictures), class_='many'), more,
  ]), class_='full')  # fmt: skip


def other_metrics(run: Results) -> Html:
  """Returns every metric that the run measured of its last answers, where there are several."""
  measured = run.get('answer_scores') or {}
  if len(measured) < 2:
    return Html('')
  rows: list[list[Cell]] = []
  for j, task in enumerate(run['tasks']):
    newest = [whole_matrix(run, rows_)[source_row(run)] for rows_ in measured.values()]
    cells = [row[j] if j < len(row) else None for row in newest]
    rows.append([name(task), *(Number(number(c, 'share'), c) for c in cells)])
  return table('Every metric of the newest answers, %', ['task', *measured], rows)


def source_row(run: Results) -> int:
  """Returns the newest row of the matrix that is filled."""
  return Source(run).learned


def general(run: Results) -> list[Html]:
  """Returns how far the model is from where it started, on text that no task has."""
  parts = []
  cell = lambda value: Number(MISSING if value is None else f'{value:.4f}', value)
  if lines := run.get('drift'):
    rows = [[name(x['task']), cell(x['kl']), cell(x['perplexity'])] for x in lines]
    parts.append(
      table(
        'Drift from the base model on held-out text',
        ['after', 'KL(base ‖ model), nats per token', 'perplexity'],
        rows,
      )
    )
  if probes := run.get('probe'):
    rows = [
      [text('before training') if x.get('task') is None else name(x['task']),
       *(cell(_number(x.get(k))) for k in ('nats', 'kl', 'kl_prompts', 'kl_next_prompts'))]
      for x in probes
    ]  # fmt: skip
    header = ['after', 'nats of the probe text', 'KL on it', 'KL on prompts of the task',
              'KL on those of the next']  # fmt: skip
    parts.append(table('General abilities: the probe text, nats per token', header, rows))
  return parts


def _number(value: object) -> float | None:
  return value if is_number(value) else None  # type: ignore[return-value]


def forgotten(source: Source) -> Html:
  """Returns the section of what each task lost."""
  run, rows, by = source.results, score_matrix(source.results), scale(source.results)
  sign, bars, body = (1 if by == 100 else -1), [], []
  last = rows[source.learned] if source.learned else rows[0]
  for j, task in enumerate(run['tasks'][: source.learned]):
    learned, end = rows[j + 1][j], last[j]
    between = [sign * v for row in rows[j + 1 : source.learned] if (v := row[j]) is not None]
    best = sign * max(between) if between else None
    lost = None if best is None or end is None else sign * (end - best)
    lost_shown = difference(run, lost)
    first, newest, most = (None if v is None else by * v for v in (learned, end, best))
    bars.append(charts.Span(short(task), first, newest, most, lost_shown))
    body.append([
      name(task), *(score_cell(run, v) for v in (rows[0][j], learned, best, end)),
      Number(lost_shown, lost),
    ])  # fmt: skip
  if not body or source.learned < 2:
    return Html('')
  x = score_axis(run, [v for b in bars for v in (b.before, b.after, b.best) if v is not None])
  x = x if by == 100 else x._replace(low=x.high, high=x.low)
  said = '; '.join(f'{b.name} {b.shown}' for b in bars[:12])
  header = ['task', 'before training', 'just learned', 'best before the end', 'newest', 'change']
  entries = [('just learned', 'ring c0'), ('best before the end', 'mark c0'), ('newest', 'dot c0')]
  return section('Forgetting', f'{source.anchor}forgetting', [
    figure(
      f'From just learned to the newest score ({_unit(run)}); at the right: change from the best',
      charts.spans(f'Change of each task: {said}', bars[:CURVES], x), key(entries),
      table('Each task before, just after and at the end', header, body),
    ),
  ])  # fmt: skip
