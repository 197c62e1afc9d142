"""Sections of a plan's page: rows, tokens, disk and warnings of a run."""

import dataclasses
import json
from collections.abc import Sequence

from jcl.preflight import checks
from jcl.preflight.checks import Checkup
from jcl.preflight.footprint import SNAPSHOTS, short
from jcl.preflight.round_trip import NAMED, RoundTrip, brief, named
from jcl.preflight.split_stats import Split
from jcl.reports.report import align_columns
from jcl.types import Json


@dataclasses.dataclass(frozen=True)
class Section:
  """One part of the page.

  Attributes:
    name: its key in JSON.
    title: its heading.
    values: what it says, as JSON has it.
    rows: the same as cells of a table, the first row its header.
    notes: lines below the table.
  """

  name: str
  title: str
  values: Json
  rows: Sequence[Sequence[str]]
  notes: Sequence[str] = ()


def as_text(sections: Sequence[Section]) -> str:
  """Returns the page as text."""
  return '\n\n'.join('\n'.join([s.title, align_columns(s.rows), *s.notes]) for s in sections)


def as_json(sections: Sequence[Section]) -> str:
  """Returns the page as one JSON object with a key a section."""
  return json.dumps({s.name: s.values for s in sections}, indent=2)


def rows(checkup: Checkup) -> Section:
  """Section: the rows of every split."""
  splits = checkup.splits
  if checkup.parts.score == 'log_perplexity':
    table = [['', 'rows'], *([f'{s.task}, {s.name}', f'{s.rows:,}'] for s in splits)]
    notes = [
      f'rows are blocks of {checkup.parts.text.max_length} tokens',
      *checkup.parts.stream.notes,
    ]
    return Section('rows', 'rows', {'splits': [_values(s, ['rows']) for s in splits]}, table, notes)
  names = ('rows', 'classes', 'cut', 'repeated', 'leaked', 'elsewhere', 'conflicting')
  percent = lambda split: {'cut_percent': round(100 * split.cut / split.rows, 2)}
  values = [_values(s, names) | percent(s) for s in splits]
  header = ('rows', 'classes', 'cut', '%', 'repeat', 'in train', 'in others', 'conflict')
  table = [['', *header]]
  for s in splits:
    counts = [f'{getattr(s, name):,}' for name in names]
    table.append([f'{s.task}, {s.name}', *counts[:3], f'{100 * s.cut / s.rows:.1f}', *counts[3:]])
  notes = [
    'cut: rows that lose the end of their input to stream.max_length',
    'repeat: rows whose text stood in the split before',
    "in train, in others: rows whose text stands in the task's train split, in another task's",
    'conflict: rows whose text is trained with another answer',
    *checkup.parts.stream.notes,
  ]
  return Section('rows', 'rows', {'splits': values}, table, notes)


def tokens(checkup: Checkup) -> Section:
  """Section: the tokens of every split."""
  splits, names = checkup.splits, ('tokens', 'targets', 'unknown', 'changed', 'lossy')
  values = [_values(s, names) for s in splits]
  table = [['', 'tokens', 'a row', 'targets', 'unknown', '%', 'changed', 'lossy']]
  for s in splits:
    table.append([
      f'{s.task}, {s.name}', f'{s.tokens:,}', f'{s.tokens / s.rows:.1f}', f'{s.targets:,}',
      f'{s.unknown:,}', f'{100 * s.unknown / s.tokens:.1f}', f'{s.changed:,}', f'{s.lossy:,}',
    ])  # fmt: skip
  notes = [
    f'in the format {checkup.parts.text.text_format!r}: training rows as trained, others as asked',
    'unknown: tokens that stand for what the tokenizer does not know',
    'changed: inputs that the tokenizer does not give back as they are',
    'lossy: those of them that lose more than case and white space',
  ]
  said, lines = answers(checkup.round_trip)
  return Section('tokens', 'tokens', {'splits': values, 'answers': said}, table, notes + lines)


def answers(found: RoundTrip) -> tuple[Json, list[str]]:
  """Returns the answers after encoding and decoding: as JSON, and as lines."""
  groups = [[said.answer for said in group] for group in found.alike]
  values = {
    'distinct': len(found.answers),
    'changed': len(found.changed),
    'unknown': len(found.unknown),
    'alike': sum(map(len, groups)),
    'examples': [[said.answer, said.back] for said in found.changed[:NAMED]],
    'groups': groups[:NAMED],
  }
  if not found.answers:
    return values, []
  kind = 'labels' if found.classes else 'answers'
  counts = ', '.join(f'{values[name]:,} {name}' for name in ('changed', 'unknown', 'alike'))
  lines = [f'{values["distinct"]:,} distinct {kind}, given back by the tokenizer: {counts}']
  pairs = [(brief(s.answer), brief(s.back)) for s in found.changed[:NAMED]]
  lines += [f'{answer} comes back as {back}' for answer, back in pairs]
  return values, lines + [f'{named(group)} come back alike' for group in groups[:NAMED]]


def disk(checkup: Checkup, workdir: str | None = None) -> Section:
  """Section: bytes that the snapshots of a run take."""
  size = checkup.footprint
  free = None if workdir is None else checks.free_space(workdir)
  values = {
    'snapshot': size.snapshot, 'snapshots': SNAPSHOTS, 'still': size.still, 'kept': size.kept,
    'total': size.disk, 'free': free, 'rehearsed': size.whole,
  }  # fmt: skip
  lines = {
    'parameters': size.snapshot['parameters'],
    'optimiser': size.snapshot['optimizer'],
    "the method's memory": size.snapshot['memory'],
    'inside a phase': size.snapshot['under_way'],
    'a snapshot': size.snapshot['total'],
    f'{SNAPSHOTS} of them': size.rolling,
    'snapshots of tasks': size.kept,
    'total': size.disk,
    **({} if free is None else {'free': free}),
  }
  table = [['', 'bytes', ''], *([k, f'{v:,}', short(v, 'B')] for k, v in lines.items())]
  notes = [
    'a snapshot: at its largest and before compression; plain data, some bytes an example, aside',
    f'{SNAPSHOTS} of them: two are kept while another is written; what never changes, '
    f'{short(size.still, "B")}, is on the disk twice, by links',
  ]
  if not size.whole:
    notes.append('it may be more: the method looks at its parameters, which are not there yet')
  return Section('disk', 'bytes on disk', values, table, notes)


def warnings(checkup: Checkup, workdir: str | None = None) -> Section:
  """Section: the warnings."""
  lines = checks.warnings(checkup, workdir)
  return Section('warnings', 'warnings', {'lines': lines}, [[line] for line in lines or ['none']])


def _values(split: Split, names: Sequence[str]) -> Json:
  """Returns some counts of a split, with its task and its name."""
  return {'task': split.task, 'split': split.name, **{n: getattr(split, n) for n in names}}
