"""The ranked table of a comparison: scores, bounds, paired differences, and what they say."""

from collections.abc import Callable, Sequence

from jcl.reports.comparison import Group, Summary, summary
from jcl.reports.formatting import MISSING, Unit
from jcl.reports.labels import differing, setting
from jcl.reports.metrics import mean_and_interval
from jcl.reports.page import costs
from jcl.reports.page.markup import (
  Cell,
  Html,
  Number,
  details,
  join,
  name,
  note,
  number,
  own,
  section,
  table,
  tag,
  text,
)
from jcl.reports.results import Results, is_number, score_of, unit_of
from jcl.reports.significance import Paired, by_seed, corrected, paired_difference, ranked
from jcl.reports.tables import BOUNDS, UNITS, comparison_notes

COSTS: tuple[tuple[str, str, Callable[[Results], float | None]], ...] = (
  ('seconds', 'seconds of all work, compilation included', costs.total_seconds),
  ('tokens', 'tokens trained and generated', lambda run: tokens_of(run)),
  ('bytes', 'bytes kept from task to task', costs.bytes_kept),
)  # fmt: skip
MORE = {  # quantities of the second table, as its columns call them
  'incremental': 'Ā', 'backward': 'BWT', 'worst': 'worst just learned', 'invalid': 'invalid %',
  'kept': 'pseudo kept %', 'distinct': 'distinct %', 'train': 'train s', 'generate': 'generate s',
}  # fmt: skip


def tokens_of(run: Results) -> float | None:
  """Returns the tokens that a run trained and generated; None where they are not known."""
  known = [v for v in (run.get('tokens') or {}).values() if is_number(v)]
  return sum(known) if known else None  # type: ignore[arg-type]


def larger(groups: Sequence[Group]) -> bool:
  """Whether a larger score is better."""
  return score_of(groups[0].runs[0]) == 'accuracy'


def shown_as(kind: str) -> Callable[[float], str]:
  """Returns how a cost of some kind is written."""
  return costs.in_bytes if kind == 'bytes' else '{:,.0f}'.format


def ranking(groups: Sequence[Group]) -> Html:
  """Returns the section of the table of methods: its terms, the table, what it says in words."""
  summaries = [summary(group) for group in groups]
  order = ranked(groups, [s['average'][0] for s in summaries], larger(groups))
  lower, best = _lower(groups), _best(groups, order)
  told = [f'{method} is the {words}' for method, words in BOUNDS.items()
            if any(g.runs[0]['method'] == method for g in groups)]  # fmt: skip
  means = tag('a', 'What every number means', href='#legend')
  told = [f'{"; ".join(told)}. Bounds have no rank and are not the best.'] if told else []
  told.append(_explained(groups))
  title = 'Methods from the best to the worst A_T'
  if _mixed(groups):
    title = 'Methods by A_T; ranks and differences hold within one model and setting'
  notes = join(map(note, comparison_notes(groups, ())[1:]))  # the first is that of `_explained`
  return section('Ranking', 'compared', [
    note(join([*told, means], ' ')), _main(title, groups, order, summaries, lower, best),
    _verdicts(groups, order, lower, best), tag('div', notes) if notes else '',
    _more(groups, order, summaries), _settings(groups),
  ])  # fmt: skip


def _explained(groups: Sequence[Group]) -> str:
  """Returns what the two scores of the table mean, and their unit."""
  run, better, ends = groups[0].runs[0], '', 'points a task ends below'
  if not larger(groups):
    better, ends = ', smaller is better', 'nats a task ends above'
  said = (
    f'A_T is the mean over all tasks at the end, {unit_of(run)}{better}; forgetting is how many '
    f'{ends} its best earlier score, on average.'
  )
  several = any(len(group.runs) > 1 for group in groups)
  return f'{said} ± is the 95 % interval over seeds.' if several else said


def _mixed(groups: Sequence[Group]) -> bool:
  """Whether models, or settings of the stream, differ."""
  return len({group.identity.conditions for group in groups}) > 1


def _lower(groups: Sequence[Group]) -> list[int | None]:
  """Returns for each group the seq that it is held against; None where none is comparable.

  It has the same model and the same settings of the stream, and shares the most other settings.
  """
  found: list[int | None] = []
  for group in groups:
    mine = group.identity
    others = [
      (sum(other.settings.get(k) != v for k, v in mine.settings.items()), i)
      for i, other in enumerate(g.identity for g in groups)
      if groups[i].runs[0]['method'] == 'seq' and other.conditions == mine.conditions
    ]
    found.append(min(others)[1] if others else None)
  return found


def _best(groups: Sequence[Group], order: Sequence[int]) -> list[int | None]:
  """Returns for each group the best comparable one that is no bound; None where there is none."""
  first: dict[tuple[object, ...], int] = {}
  for i in order:
    if groups[i].runs[0]['method'] not in BOUNDS and summary(groups[i])['average'][0] is not None:
      first.setdefault(groups[i].identity.conditions, i)
  return [first.get(group.identity.conditions) for group in groups]


def _main(
  title: str, groups: Sequence[Group], order: Sequence[int], summaries: Sequence[Summary],
  lower: Sequence[int | None], best: Sequence[int | None],
) -> Html:  # fmt: skip
  """Returns the table of what matters first, from the left."""
  unit, places = score_of(groups[0].runs[0]), dict[tuple[object, ...], int]()
  against = [(f'A_T − {what}', _differences(groups, others, unit))
             for what, others in (('seq', lower), ('best', best))]  # fmt: skip
  against = [(header, cells) for header, cells in against if set(cells) != {MISSING}]
  methods = any(group.runs[0]['method'] not in BOUNDS for group in groups)
  rows: list[list[Cell]] = []
  for i in order:
    group, found = groups[i], summaries[i]
    conditions = group.identity.conditions
    label, rank = name(group.label), Number(MISSING, None)
    if (bound := BOUNDS.get(group.runs[0]['method'])) is not None:
      label = join([label, Html(f'<em>({bound})</em>')], ' ')
    else:
      place = places[conditions] = places.get(conditions, 0) + 1
      rank = Number(str(place), place)
    rows.append([
      label, with_interval(*found['average'], unit),
      with_interval(*found['forgetting'], unit), *([rank] if methods else []),
      Number(str(len(group.runs)), len(group.runs)), *(cells[i] for _, cells in against),
      _mean(group, costs.total_seconds, shown_as('seconds')),
    ])  # fmt: skip
  ranks = ['rank'] if methods else []
  header = ['method', 'A_T', 'forgetting', *ranks, 'seeds', *(h for h, _ in against), 'seconds']
  return table(title, header, rows)


def _more(groups: Sequence[Group], order: Sequence[int], summaries: Sequence[Summary]) -> Html:
  """Returns the table of all other quantities of the methods."""
  columns = [k for k in MORE if any(s[k][0] is not None for s in summaries)]
  score = score_of(groups[0].runs[0])
  rows = [
    [
      name(groups[i].label),
      *(with_interval(*summaries[i][k], UNITS.get(k, score)) for k in columns),
      _mean(groups[i], _flips, '{:,.0f}'.format),
      *(_mean(groups[i], of, shown_as(kind)) for kind, _, of in COSTS[1:]),
    ]
    for i in order
  ]
  header = ['method', *(MORE[k] for k in columns), 'negative flips', *(k for k, *_ in COSTS[1:])]
  return table('More of each method', header, rows)


def _settings(groups: Sequence[Group]) -> Html:
  """Returns the settings in which the methods differ, beside those that only one method has."""
  identities = [group.identity.settings for group in groups]
  shared = [k for k in differing(identities) if all(k in one for one in identities)]
  if len(groups) < 2 or not shared:
    return Html('')
  shown = lambda one, k: own(setting(k, one[k]).partition(' ')[2])
  rows = [
    [name(group.label), *(shown(one, k) for k in shared)]
    for group, one in zip(groups, identities, strict=True)
  ]
  inner = table('Settings', ['method', *map(own, shared)], rows, 'words')
  return details(f'Settings that differ ({len(shared)})', inner)


def with_interval(mean: float | None, half: float | None, unit: Unit) -> Number:
  """Returns a mean over seeds ± the half-width of its 95 % interval."""
  shown = number(mean, unit)
  if half is not None:
    shown += f' ± {number(half, unit)}'
  return Number(shown, mean)


def _paired(groups: Sequence[Group], others: Sequence[int | None]) -> list[Paired | None]:
  """Returns the difference of each group to another one; None where there is none."""
  scores = [by_seed(group, 'average_accuracy') for group in groups]
  return [
    None if j is None or j == i else paired_difference(scores[i], scores[j])
    for i, j in enumerate(others)
  ]


def _differences(
  groups: Sequence[Group], others: Sequence[int | None], unit: Unit
) -> list[Cell]:  # fmt: skip
  """Returns the difference of each method to another one, with p-values for all of these tests."""
  found = _paired(groups, others)
  ps = corrected([None if one is None else one.p for one in found])
  several = any(one is not None and one.half is not None for one in found)
  return [
    MISSING if j is None or j == i
    else _difference(None if one is None else one._replace(p=p), unit, several)
    for i, (j, one, p) in enumerate(zip(others, found, ps, strict=True))
  ]  # fmt: skip


def _difference(found: Paired | None, unit: Unit, several: bool) -> Cell:
  """Returns a paired difference: mean ± interval, p; one of one seed says so beside others."""
  if found is None:
    return Number('no seed in common', None)
  shown = number(found.mean, unit)
  if found.half is None or found.p is None:
    return Number(f'{shown} (one seed)' if several else shown, found.mean)
  p = 'p < 0.001' if found.p < 0.001 else f'p = {found.p:.3f}'
  return Number(f'{shown} ± {number(found.half, unit)}, {p}', found.mean)


def _verdicts(
  groups: Sequence[Group], order: Sequence[int], lower: Sequence[int | None],
  best: Sequence[int | None],
) -> Html:  # fmt: skip
  """Returns which methods differ from the lower bound and from the best, in words."""
  lines, tested = [], False
  for others, what in ((lower, 'seq, the lower bound'), (best, 'the best')):
    found = _paired(groups, others)
    tested |= any(one is not None and one.half is not None for one in found)
    for i in order:
      one = found[i]
      if one is None or one.half is None or groups[i].runs[0]['method'] in BOUNDS:
        continue
      side = 'above' if (one.mean > 0) == larger(groups) else 'below'
      verdict = (
        f'{side} {what}, and the interval leaves out 0' if one.differs
        else f'not told apart from {what} by {one.seeds} seeds'
      )  # fmt: skip
      lines.append(tag('li', join([name(groups[i].label), text(f'is {verdict}.')], ' ')))
  few = max(len(group.runs) for group in groups) < 2
  parts = [tag('ul', join(lines)) if lines else '']
  if tested:
    words = ' and the words above' if lines else ''
    parts.append(note(
      'Differences are means over the seeds that both have, ± 95 % interval, with the p-value of '
      'the paired t-test, corrected for the number of methods in the column (Holm). Intervals'
      f'{words} are not corrected.'
    ))  # fmt: skip
  if few:
    parts.append(note('One seed has no interval; give several, such as 0, 1 and 2 (train.seed).'))
  return tag('div', join(parts)) if any(parts) else Html('')


def _flips(run: Results) -> float | None:
  found = run.get('negative_flips')
  return None if not found else float(found['count'])


def _mean(
  group: Group, of: Callable[[Results], float | None], shown: Callable[[float], str]
) -> Number:
  """Returns the mean of a quantity over the runs of a group."""
  mean, _ = mean_and_interval([of(run) for run in group.runs])
  return Number(MISSING if mean is None else shown(mean), mean)
