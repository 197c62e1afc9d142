"""The answers of a run: examples that flipped, accuracy by class, which classes are confused."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from jcl.reports.formatting import MISSING
from jcl.reports.page import charts
from jcl.reports.page.markup import (
  Cell,
  Html,
  Number,
  details,
  figure,
  join,
  name,
  note,
  number,
  own,
  section,
  short,
  table,
  tag,
)
from jcl.reports.page.source import Source
from jcl.reports.results import Results, is_number, whole_matrix
from jcl.types import Json

ROWS = 200  # examples and confusions that a page shows at most
WORST = 12  # classes whose bars are drawn, and that stand in the picture of confusions


def flips(source: Source) -> Html:
  """Returns the section of test examples that were right after their task and are wrong now."""
  found = source.results.get('negative_flips')
  if not found or not found['of']:
    return Html('')
  said = note(
    f'{found["count"]:,} of {found["of"]:,} test answers that were right just after their task are '
    'wrong now.'
  )
  examples = [e if isinstance(e, Mapping) else {'id': e} for e in found.get('examples') or ()]
  if not examples:
    return section('Negative flips', f'{source.anchor}flips', [said])
  header = ['task', 'input', 'before (wanted)', 'now', 'where it stands']
  rows = [_flip(example) for example in examples[:ROWS]]
  more = f'The first {ROWS} of {len(examples):,}; all stand in results.json.'
  return section('Negative flips', f'{source.anchor}flips', [
    said, table('Examples that flipped', header, rows, 'words', filtered=True),
    note(more) if len(examples) > ROWS else '',
  ])  # fmt: skip


def _flip(example: Mapping[str, object]) -> list[Cell]:
  """Returns a row of the table of flips; files of older runs lack some of its cells."""
  shown = lambda field: own(example[field]) if example.get(field) is not None else MISSING
  place, given, split, number = (example.get(f) for f in ('place', 'id', 'split', 'number'))
  where = [] if place in (None, '') else [str(place)]
  if given not in (None, '', place):
    where.append(f'id {given}')
  if split is not None and f'/{split}[' not in str(place):
    where.append(f'split {split}')
  where += [f'number {number}'] if number is not None else []
  task = example.get('task')
  return [
    name(task) if task is not None else MISSING, shown('text'), shown('answer'), shown('answered'),
    own(', '.join(where)) if where else MISSING,
  ]  # fmt: skip


def classes(source: Source) -> Html:
  """Returns the section of classes: how many answers of each are right, what is taken for what."""
  entries = [e for e in source.results.get('by_class') or () if _counts(e)]
  invalid = _invalid(source.results)
  if not entries:
    return section('Answers', f'{source.anchor}classes', [invalid])
  share = lambda entry: entry['right'] / entry['examples']
  rows, confused = [], []
  for entry in entries:
    wrong = [pair for pair in entry.get('wrong') or () if _is_pair(pair)]
    most = max(wrong, key=lambda pair: pair[1], default=None)
    taken = MISSING if most is None else join([_class(most[0]), f'{most[1]:,}'], ' ')
    rows.append([
      name(entry['class']), name(entry['task']), _count(entry['examples']), _count(entry['right']),
      Number(number(share(entry), 'share'), share(entry)), taken,
    ])  # fmt: skip
    confused += [(entry, *pair) for pair in wrong]
  ill = sorted((e for e in entries if e['right'] < e['examples']), key=share)
  bars = [
    charts.Bar(
      short(entry['class']), [('right', share(entry), 'c0')],
      f'{entry["right"]:,} of {entry["examples"]:,}',
    )
    for entry in ill[:WORST]
  ]  # fmt: skip
  label = 'Share of right answers of the classes with the fewest: ' + ', '.join(
    f'{bar.name} {bar.shown}' for bar in bars
  )
  header = ['class', 'task', 'test examples', 'right', 'right %', 'most often taken for']
  whole = table('Newest answers by class', header, rows, 'words', filtered=True)
  title = f'Classes with wrong answers ({len(ill)} of {len(entries)})'
  if len(ill) > WORST:
    title = f'The {WORST} classes of lowest accuracy '
    title += f'({len(ill)} of {len(entries)} have wrong answers)'
  picture = figure(title, charts.bars(label, bars, 1.0), numbers=whole)
  if not ill:
    picture = join([note('All newest answers are right.'), details('The numbers', whole)])
  return section('Answers by class', f'{source.anchor}classes', [
    invalid, picture, _picture(entries), _confusions(confused),
  ])  # fmt: skip


def _counts(entry: object) -> bool:
  """Returns whether an entry of `by_class` has the counts that it must have."""
  if not isinstance(entry, Mapping) or not {'class', 'task'} <= entry.keys():
    return False
  examples, right = entry.get('examples'), entry.get('right')
  return is_number(examples) and is_number(right) and 0 <= right <= examples and examples > 0  # type: ignore[operator]


def _is_pair(pair: object) -> bool:
  """Returns whether an entry of `wrong` is [class or None, count]."""
  return isinstance(pair, Sequence) and len(pair) == 2 and is_number(pair[1])


def _class(label: object) -> Html:
  """Returns the name of a class that was answered; None is an answer that is no label."""
  return Html('<em>no label</em>') if label is None else name(label)


def _count(value: float) -> Number:
  return Number(f'{value:,}', value)


def _picture(entries: Sequence[Json]) -> Html:
  """Returns a matrix of the classes with most wrong answers, the darker the more answers."""
  wrong = lambda entry: entry['examples'] - entry['right']
  rows = [e for e in sorted(entries, key=wrong, reverse=True)[:WORST] if wrong(e)]
  counts = [{json.dumps(c): n for c, n in filter(_is_pair, e.get('wrong') or ())} for e in rows]
  answered: Counter[str] = Counter()
  for found in counts:
    answered.update({label: int(n) for label, n in found.items()})
  wanted = [json.dumps(e['class']) for e in rows]
  columns = [*dict.fromkeys(wanted), *(c for c, _ in answered.most_common() if c not in wanted)]
  columns = columns[:WORST]
  if not rows or not any(answered[c] for c in columns):
    return Html('')
  body = []
  for entry, found, mine in zip(rows, counts, wanted, strict=True):
    cells = [_cell(entry, c == mine, found.get(c, 0)) for c in columns]
    body.append(tag('tr', join([tag('th', name(entry['class']), scope='row'), *cells], '')))
  heads = [tag('th', 'wanted ↓ answered →', scope='col')]
  heads += [tag('th', _class(json.loads(c)), scope='col') for c in columns]
  title = 'Share of the test examples of a class (row) that are answered with another, %'
  inner = join([
    tag('caption', title), tag('thead', tag('tr', join(heads, ''))), tag('tbody', join(body)),
  ])  # fmt: skip
  held = tag('div', tag('table', inner, class_='matrix'), class_='wide', tabindex='0',
             role='region', aria_label=title)  # fmt: skip
  told = note(f'At most {WORST} classes, those with most wrong answers; all stand in the table.')
  return tag(
    'figure', join([tag('figcaption', 'What is taken for what'), held, told]), class_='full'
  )


def _cell(entry: Json, right: bool, wrong: float) -> Html:
  """Returns a cell of the picture of confusions."""
  share = (entry['right'] if right else wrong) / entry['examples']
  kind = 'n own' if right else 'n later' if share else 'n none'
  shown = f'{100 * share:.0f}' if share or right else ''
  return tag('td', shown, class_=kind, style=f'--v:{min(share, 1):.3f}' if share else None)


def _confusions(confused: Sequence[tuple[Json, object, float]]) -> Html:
  """Returns the table of the pairs that are confused most.

  Args:
    confused: (entry of `by_class`, the class that was answered, how often).
  """
  if not confused:
    return Html('')
  pairs = sorted(confused, key=lambda one: -one[2])
  rows: list[list[Cell]] = [
    [name(entry['class']), _class(answered), name(entry['task']), _count(count)]
    for entry, answered, count in pairs[:ROWS]
  ]
  header = ['wanted', 'answered', 'task', 'test examples']
  more = note(f'The {ROWS} most frequent of {len(pairs):,} pairs.') if len(pairs) > ROWS else ''
  return join([table('Confusions', header, rows, 'words', filtered=True), more])


def _invalid(run: Results) -> Html:
  """Returns the share of the newest answers that are no label, task by task."""
  newest = [row for row in whole_matrix(run, run.get('invalid')) if any(x is not None for x in row)]
  if not newest or not any(newest[-1]):
    return Html('')
  rows: list[list[Cell]] = [
    [name(task), Number(number(x, 'share'), x)]
    for task, x in zip(run['tasks'], newest[-1], strict=False)
    if x is not None
  ]
  return table('Newest answers that are no label, %', ['task', '%'], rows)
