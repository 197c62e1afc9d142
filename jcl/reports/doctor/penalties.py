"""Checks of penalties: their share of the gradient, and what a penalty alone cannot do."""

import math
import statistics
from collections.abc import Iterator

from jcl.reports.doctor.finding import FEWEST, LEARNED, Finding, Run, before_and_after, percent

# Terms that hold parameters where they were -> the setting that is their weight.
PENALTIES = {
  'ewc': 'lambda_ewc', 'l2': 'lambda_l2', 'mas': 'lambda_mas', 'overlap': 'lambda_olora',
}  # fmt: skip
FORGOTTEN = 0.1  # forgetting above which a penalty is judged, in accuracy or nats per token
# Share below which a penalty is not felt, and above which it drowns the rest: of the gradient, or
# of the loss where no gradients were measured.
FELT = {'gradient': 1e-2, 'loss': 1e-3}
DROWNED = 0.9
HOLDS = 0.4  # the same where a later task is not learned: its gradient and the penalty's balance
WANTED = 0.5  # share of the gradient that a suggested weight aims at


def penalties(run: Run) -> Iterator[Finding]:
  """Yields penalties that are not felt or drown the rest, in tasks after the first."""
  for term, setting in PENALTIES.items():
    now = run.setting(setting)
    if not now:
      continue
    of, share = 'gradient', share_of_gradient(run, term)
    if share is None:
      of, share = 'loss', _share_of_loss(run, term, now)
    if share is None:
      continue
    seen = f'the {term} penalty is {percent(share)} of the {of}'
    better = _suggested(now, share) if of == 'gradient' else None
    about = 'by powers of ten' if better is None else f'to about {better:.0e}'
    values = [better / 10, better, 10 * better] if better else [now * 10**i for i in (1, 2, 3)]
    if share < FELT[of] and run.forgetting > FORGOTTEN:
      yield Finding(
        'penalty not felt', seen,
        f'it holds nothing back, and an old task loses {run.lost}',
        f'raise {setting}, now {now:g}, {about}', run.sweep(setting, values),
      )  # fmt: skip
    if share > (HOLDS if of == 'gradient' and _held(run) else DROWNED):
      values = values if better else [now / 10**i for i in (3, 2, 1)]
      yield Finding(
        'penalty drowns the loss', seen,
        'the model is held where it was and learns little that is new',
        f'lower {setting}, now {now:g}, {about}', run.sweep(setting, values),
      )  # fmt: skip


def _held(run: Run) -> bool:
  """Whether a task after the first gained too little by its training."""
  scores = {name: (before, after) for name, before, after in before_and_after(run)}
  later = [scores[name] for name in run.results['tasks'][1:] if name in scores]
  return any(after < before + LEARNED for before, after in later)


def share_of_gradient(run: Run, term: str) -> float | None:
  """Returns the share of a term in the gradients of a task, weights included.

  It is the sum of the norms of its gradients over that of the norms of all terms, so that the steps
  count in which much is learned and forgotten: near the end of a task the cross-entropy has hardly
  a gradient, and a penalty of no effect may have the larger one. Of several later tasks the median
  counts. None: no gradients were measured in a later task.
  """
  shares = []
  for index, lines in run.norms.items():
    total = sum(sum(line.values()) for line in lines)
    if index > 0 and total > 0 and any(term in line for line in lines):
      shares.append(sum(line.get(term, 0.0) for line in lines) / total)
  return statistics.median(shares) if shares else None


def _share_of_loss(run: Run, term: str, weight: float) -> float | None:
  """Returns the share of a penalty in the loss; None: it was not logged in a later task.

  It is the median over later tasks of the median over the last half of each task's steps.
  """
  if term == 'ewc' and run.settings.get('method.half', run.settings.get('method.ewc.half')):
    weight /= 2
  shares = []
  for index, lines in run.steps.items():
    late = [line for line in lines[len(lines) // 2 :] if term in line and line['loss'] > 0]
    if index > 0 and len(lines) >= FEWEST and late:
      shares.append(statistics.median(weight * line[term] / line['loss'] for line in late))
  return statistics.median(shares) if shares else None


def _suggested(weight: float, share: float) -> float | None:
  """Returns the power of ten of a weight with which the share of the gradient would be `WANTED`.

  The gradient of a penalty grows with its weight where the parameters stay as they are. They stay
  closer to their anchor under a larger weight, so the share comes out smaller: on the quickstart it
  is 0.12 % with a lambda_ewc of 1e3 and 10 % with 1e6. None: the penalty has no gradient, or no
  other term has one.
  """
  if not 0 < share < 1:
    return None
  wanted = weight * WANTED / (1 - WANTED) * (1 - share) / share
  return 10.0 ** round(math.log10(wanted))


def penalty_alone(run: Run) -> Iterator[Finding]:
  """Yields a finding where a class-incremental run has penalties alone, and forgets."""
  names = set(run.results['method'].split('+'))
  later = (run.results.get('mix') or [])[1:]
  if (
    run.results.get('scenario') == 'cil'
    and names & {'ewc', 'mas', 'l2'} == names
    and not any(line['old'] for line in later)
    and run.forgetting > FORGOTTEN
  ):
    yield Finding(
      'a penalty alone',
      f'{run.results["method"]} in class-incremental learning loses {run.lost} a task',
      'a penalty cannot tell classes apart that are never seen together: it is expected to end '
      'near seq',
      f'compose it with replay: replay+{run.results["method"]}',
      run.again('replay', f'replay+{run.results["method"]}'),
    )
