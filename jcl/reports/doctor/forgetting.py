"""Checks of forgetting itself: of a method that is there to hold it off, and of one that is not."""

from collections.abc import Iterator

from jcl.reports.doctor.finding import Finding, Run, percent
from jcl.reports.doctor.past import better_generator, more_old_rows
from jcl.reports.doctor.penalties import FORGOTTEN
from jcl.reports.results import score_matrix, score_of, tasks_learned

HELD = 0.25  # largest share of what tasks gained that a method may lose which holds forgetting off
AS_SEQ = 0.75  # share from which the loss is that of plain fine-tuning
BOUNDS = {'seq', 'joint', 'single'}  # hold nothing off, or have nothing to hold off


def not_held(run: Run) -> Iterator[Finding]:
  """Yields a finding where old tasks lose much although the method is there to keep them."""
  gained, lost = _gained_and_lost(run)
  if set(run.results['method'].split('+')) <= BOUNDS or run.forgetting <= FORGOTTEN:
    return
  if not gained or (share := lost / gained) <= HELD:
    return
  meaning = (
    'plain fine-tuning (seq) loses about as much, so the method has next to no effect here'
    if share >= AS_SEQ
    else 'the method holds forgetting off in part only'
  )
  yield Finding(
    'forgets all the same',
    f'{run.results["method"]} loses {percent(share)} of what the old tasks had gained, '
    f'{run.lost} a task',
    meaning,
    *_more(run),
  )


def _gained_and_lost(run: Run) -> tuple[float, float]:
  """Returns the sums over old tasks of what they gained by training, and lost by the newest row."""
  rows, sign = score_matrix(run.results), 1 if score_of(run.results) == 'accuracy' else -1
  learned = tasks_learned(rows)
  gained = lost = 0.0
  for j in range(learned - 1):
    before, end = rows[0][j], rows[learned][j]
    scores = [sign * v for row in rows[j + 1 : learned] if (v := row[j]) is not None]
    if before is not None and end is not None and scores:
      gained += max(max(scores) - sign * before, 0.0)
      lost += max(scores) - sign * end
  return gained, lost


def _more(run: Run) -> tuple[str, str]:
  """Returns advice that is of use where nothing else looks wrong, and the command."""
  if run.setting('gamma') is not None:
    return better_generator(run)
  if any(line['old'] for line in run.results.get('mix') or ()):
    return more_old_rows(run)
  return (
    'train replay with the same settings, which shows whether old examples are what is missing',
    run.again('replay', 'replay'),
  )


def lower_bound(run: Run) -> Iterator[Finding]:
  """Yields, of a run that holds nothing off, that forgetting is what it is there to show."""
  if run.results['method'] == 'seq' and run.forgetting > FORGOTTEN:
    yield Finding(
      'forgets as expected',
      f'seq loses {run.lost} a task',
      'it does nothing against forgetting, and is the lower bound for the methods that do',
      'train one of them with the same settings, such as replay',
      run.again('replay', 'replay'),
      kind='information',
    )
