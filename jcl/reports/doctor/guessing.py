"""What guessing among the labels of a task gives, and what few test rows leave open."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jcl.reports.answer_metrics import EXACT
from jcl.reports.doctor.finding import KNOWN, LEARNED, Finding, Run, before_and_after, named
from jcl.reports.results import score_matrix, score_of, tasks_learned

ERROR = 0.025  # share of tasks that are judged wrongly by the noise of their test rows
FEWEST_ROWS = 16  # of a task's test split: two standard deviations are 25 points at 50 %


class Answered(NamedTuple):
  """How the test rows of some tasks are answered just after these tasks were learned.

  Attributes:
    tasks: their names.
    rows: number of test rows.
    right: how many of them are answered right.
    chance: the share that is right if the most frequent label of each task is always answered. It
      is never below 1 / number of labels, which a uniform guess gives.
  """

  tasks: tuple[str, ...]
  rows: int
  right: int
  chance: float

  @property
  def guessed(self) -> bool:
    """Whether the answers are no better than guesses, which the number of rows suffices to say.

    They are where guessing gives as many right in more than `ERROR` of cases, or where they are
    less than `LEARNED` above it; a task that is known to `KNOWN` must give so few in less than
    `ERROR` of cases. Both shares are exact, of binomial distributions.
    """
    from scipy.special import bdtr, bdtrc  # slow to import, and few pages need it

    by_guessing = bdtrc(self.right - 1, self.rows, self.chance) if self.right else 1.0
    low = by_guessing > ERROR or self.right < (self.chance + LEARNED) * self.rows
    return bool(low and bdtr(self.right, self.rows, KNOWN) < ERROR)

  @property
  def excess(self) -> float:
    """The share of right answers above that of guessing."""
    return self.right / self.rows - self.chance


def together(parts: Sequence[Answered]) -> Answered:
  """Returns the counts of several tasks as one.

  The spread of a binomial with the mean chance is at least that of the sum of the tasks.
  """
  rows = sum(part.rows for part in parts)
  return Answered(
    tuple(name for part in parts for name in part.tasks),
    rows,
    sum(part.right for part in parts),
    sum(part.rows * part.chance for part in parts) / rows,
  )


def guesses(run: Run) -> list[Answered]:
  """Returns tasks whose answers just after their training are no better than guesses.

  Tasks of fewer test rows than `FEWEST_ROWS` that cannot be judged alone are judged together.
  """
  found, few = [], []
  for part in _answered(run):
    if part.guessed:
      found.append(part)
    elif part.rows < FEWEST_ROWS:
      few.append(part)
  if len(few) > 1 and (all_few := together(few)).guessed:
    found.append(all_few)
  return found


def _answered(run: Run) -> Iterator[Answered]:
  """Yields the counts of each learned task whose test rows all have one of two or more labels."""
  if score_of(run.results) != 'accuracy':
    return
  classes: dict[str, list[int]] = {}
  for line in run.results.get('by_class') or ():
    if line['examples'] >= 1:
      classes.setdefault(line['task'], []).append(int(line['examples']))
  rows, metrics = _by_task(run, 'sizes'), _by_task(run, 'task_metrics')
  for name, after in _learned(run).items():
    counts = classes.get(name, [])
    total = sum(counts)
    if len(counts) > 1 and rows.get(name, total) == total and metrics.get(name, EXACT) == EXACT:
      right = min(max(round(after * total), 0), total)
      yield Answered((name,), total, right, max(counts) / total)


def _learned(run: Run) -> dict[str, float]:
  """Returns {task: score just after its training}; `joint` trains all before it is evaluated."""
  found = {name: after for name, _, after in before_and_after(run)}
  rows = score_matrix(run.results)
  if run.results['method'] == 'joint' and (row := tasks_learned(rows)):
    newest = zip(run.results['tasks'], rows[row], strict=True)
    found = {name: score for name, score in newest if score is not None} | found
  return found


def _by_task(run: Run, field: str) -> Mapping[str, object]:
  """Returns {task: its entry} of a list of the results; empty where there is none."""
  entries = run.results.get(field)
  return dict(zip(run.results['tasks'], entries if isinstance(entries, list) else (), strict=False))


def few_rows(run: Run) -> Iterator[Finding]:
  """Yields, as information, tasks with so few test rows that their scores decide nothing."""
  sizes = {n: int(size) for n, size in _by_task(run, 'sizes').items() if isinstance(size, int)}
  learned = [name for name in _learned(run) if sizes.get(name, 0) > 0]
  few = [name for name in learned if sizes[name] < FEWEST_ROWS]
  if not few or score_of(run.results) != 'accuracy':
    return
  least = min(sizes[name] for name in few)
  noise = 100 / math.sqrt(least)  # twice the standard deviation of the score at 50 %, in points
  if run.setting('max_test_per_task'):
    advice = 'test on all rows: stream.max_test_per_task=0'
    command = run.again('more-rows', max_test_per_task=0)
  else:
    advice = 'add test rows to the data; see which are answered wrongly'
    command = run.wrong_answers()
  yield Finding(
    'few test rows',
    f'{len(few)} of {len(learned)} tasks ({named(few)}) have fewer than {FEWEST_ROWS} test rows: '
    f'one of {least} is {100 / least:.3g} points',
    f'their scores decide nothing, for chance moves one by up to {noise:.0f} points',
    advice, command, kind='information',
  )  # fmt: skip
