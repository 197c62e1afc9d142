"""What a method keeps of the past: pseudo samples, own answers, the buffer."""

from collections.abc import Mapping, Sequence

from jcl.reports.formatting import MISSING
from jcl.reports.page import charts
from jcl.reports.page.markup import (
  Cell,
  Html,
  Number,
  details,
  figure,
  key,
  name,
  number,
  own,
  section,
  short,
  table,
  tag,
  text,
)
from jcl.reports.page.source import Source, count_cell
from jcl.reports.results import is_number
from jcl.types import Json

COUNTS = ('asked', 'drawn', 'kept', 'distinct', 'verbatim', 'valid_label')
COLUMNS = 12  # tasks that have a column each
SHOWN = 60  # bars of a chart, and entries of a list, at most


def pseudo_samples(source: Source) -> Html:
  """Returns the section of pseudo samples: kept, rejected, copied, and what they say."""
  lines = [line for line in source.results.get('pseudo') or () if is_number(line.get('drawn'))]
  if not lines:
    return Html('')
  rows = [[_task(line, 'before'), _task(line, 'task'), *_counts(line)] for line in lines]
  header = ['before', 'of', *(c.replace('_', ' ') for c in COUNTS), 'verbatim %']
  entries = [
    ('kept and distinct', 'c0'), ('kept, the same again', 'c1'), ('rejected', 'c7'),
  ]  # fmt: skip
  bars = [_bar(line) for line in lines[:SHOWN]]
  total = lambda field: sum(line[field] for line in lines if is_number(line.get(field)))
  drawn, kept, copied = total('drawn'), total('kept'), total('verbatim')
  share = lambda part, of: number(part / of if of else None, 'share')
  label = (
    f'Pseudo samples: {kept:,} of {drawn:,} kept ({share(kept, drawn)} %), {copied:,} of those '
    f'kept ({share(copied, kept)} %) are training inputs word for word'
  )
  numbers = table('Pseudo samples by task', header, rows)
  picture = charts.bars(label, bars)
  return section('Pseudo samples', f'{source.anchor}pseudo', [
    tag('p', f'{label}.'),
    figure('Drawn samples, kept and rejected', picture, key(entries), numbers),
    _samples(lines, 'samples', 'answer', 'samples that were kept'),
    _samples(lines, 'rejected', 'why', 'samples that were rejected'),
  ])  # fmt: skip


def _task(line: Mapping[str, object], field: str) -> Html:
  """Returns the task of a line; None means all tasks before."""
  value = line.get(field)
  if value is None:
    return text('all before' if field == 'task' and field in line else MISSING)
  return name(value)


def _counts(line: Json) -> list[Cell]:
  """Returns the counts of a line, and the share of the kept ones that are verbatim."""
  kept, copied = line.get('kept'), line.get('verbatim')
  share = copied / kept if is_number(kept) and is_number(copied) and kept else None
  return [*(count_cell(line.get(c)) for c in COUNTS), Number(number(share, 'share'), share)]


def _bar(line: Json) -> charts.Bar:
  """Returns the bar of the samples that were drawn for one task."""
  count = lambda field: line[field] if is_number(line.get(field)) else 0
  drawn, kept = count('drawn'), count('kept')
  distinct = min(count('distinct') if is_number(line.get('distinct')) else kept, kept)
  parts = [
    (f'distinct {distinct:,}', distinct, 'c0'), (f'the same again {kept - distinct:,}',
     kept - distinct, 'c1'), (f'rejected {drawn - kept:,}', drawn - kept, 'c7'),
  ]  # fmt: skip
  of = 'all before' if line.get('task') is None else short(line['task'])
  title = f'{of}, before {short(line.get("before", MISSING))}'
  return charts.Bar(title, parts, f'{kept:,} of {drawn:,}')


def _samples(lines: Sequence[Json], field: str, second: str, what: str) -> Html:
  """Returns samples in words, closed until opened.

  Args:
    lines: of `pseudo` in results.json.
    field: of the samples in a line.
    second: header of the second part of a sample.
    what: the samples are.
  """
  rows: list[list[Cell]] = []
  for line in lines:
    for sample in line.get(field) or ():
      whole = isinstance(sample, str) or not isinstance(sample, Sequence) or len(sample) < 2
      pair = (sample, None) if whole else sample
      answer = MISSING if pair[1] is None else own(pair[1])
      rows.append([_task(line, 'before'), _task(line, 'task'), own(pair[0]), answer])
  if not rows:
    return Html('')
  header = ['before', 'of', 'text', second]
  return details(f'{len(rows)} {what}', table(what.capitalize(), header, rows, 'words', True))


def own_answers(source: Source) -> Html:
  """Returns the section of the model's own answers that were replayed."""
  lines = [x for x in source.results.get('own_answers') or () if isinstance(x, Mapping)]
  fields = ('asked', 'right', 'kept')
  rows = [[name(x.get('before', MISSING)), *(count_cell(x.get(f)) for f in fields)] for x in lines]
  if not rows:
    return Html('')
  found = table('Own answers to the prompts in the buffer', ['before', *fields], rows)
  return section('Own answers', f'{source.anchor}own', [found])


def buffer(source: Source) -> Html:
  """Returns the section of the buffer by task."""
  lines = [x for x in source.results.get('buffer') or () if isinstance(x, Mapping)]
  tasks = source.results['tasks']
  bars, rows, few = [], [], len(tasks) <= COLUMNS
  for line in lines[:SHOWN]:
    held = line.get('tasks')
    counts = held if isinstance(held, Mapping) else {}
    known = [(t, counts[t]) for t in tasks if is_number(counts.get(t))]
    parts = [(f'{short(t)} {n:,}', float(n), charts.colour(tasks.index(t))) for t, n in known]
    examples, seen = line.get('examples'), line.get('seen')
    shown = f'{examples:,} of {seen:,} seen' if is_number(examples) and is_number(seen) else MISSING
    bars.append(charts.Bar(f'after {short(line.get("after", MISSING))}', parts, shown))
    row = [name(line.get('after', MISSING)), count_cell(examples), count_cell(seen)]
    if few:
      rows.append([*row, *(count_cell(counts.get(t)) for t in tasks)])
    else:
      rows += [[*row, name(t), count_cell(n)] for t, n in known]
  if not bars:
    return Html('')
  label = 'Examples in the buffer: ' + ', '.join(f'{bar.name} {bar.shown}' for bar in bars[:12])
  entries = [(name(t), charts.colour(i)) for i, t in enumerate(tasks[:SHOWN])]
  header = ['after', 'examples', 'seen', *(map(name, tasks) if few else ('task', 'of the task'))]
  numbers = table('Examples in the buffer', header, rows, filtered=not few)
  classes = lines[-1].get('classes')
  listed = (
    [[name(c), count_cell(n)] for c, n in classes.items()]
    if isinstance(classes, Mapping) and classes
    else []
  )
  by_class = details('The newest buffer by class', table(
    'Examples in the newest buffer by class', ['class', 'examples'], listed, filtered=True
  )) if listed else ''  # fmt: skip
  return section('Buffer', f'{source.anchor}buffer', [
    figure('Examples in the buffer by task', charts.bars(label, bars), key(entries), numbers),
    by_class,
  ])  # fmt: skip
