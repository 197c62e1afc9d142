"""Checks of what a run has learned: its steps, its loss, its answers, what else it can do."""

import math
import statistics
from collections.abc import Collection, Iterator, Sequence

from jcl.reports.doctor.finding import (
  FEWEST,
  HIGH,
  KNOWN,
  LEARNED,
  Finding,
  Run,
  before_and_after,
  longer,
  lower_rate,
  named,
  percent,
  raise_rate,
)
from jcl.reports.doctor.guessing import Answered, guesses
from jcl.reports.doctor.penalties import PENALTIES, share_of_gradient
from jcl.reports.results import score_of
from jcl.types import Json

CROSS_ENTROPIES = ('ce', 'qa', 'new')  # of new rows, before weights
CLIPPED = 20  # largest median gradient norm, in multiples of `train.clip_norm`
INVALID = 0.1  # largest share of answers that are no label
KL = 1.0  # largest KL(base ‖ model), nats per token
PERPLEXITY = 2.0  # largest perplexity of held-out text, in multiples of that after the first task
FALLS = 0.95  # share of its start that a loss falls below if a task is being learned
STILL = 0.8  # share of its third quarter that a loss falls below if more steps would help
FALLEN = 0.5  # share of its start below which a loss has fallen well
STAYS = 0.9  # share of its third quarter that a loss falls below which does not stay up
FITTED = 0.1  # nats per target below which nothing is left to be learned from the training rows
LEFT = 0.5  # nats per target that a loss still has at the end, if more steps would help
RISES = 1.2  # multiple of its start that a loss must not rise above within a task
LEAPS = 2.0  # multiple of its first value that a loss must not reach
NOISE = 0.1  # nats per target by which a loss that is near 0 may rise
LOST = 2.0  # nats per target that a loss ends above twice its start where training diverges


def refused(run: Run) -> Iterator[Finding]:
  """Yields the steps that were not applied."""
  lines = [line for line in run.results.get('refused_steps') or () if line['count']]
  if lines:
    yield Finding(
      'steps not applied',
      f'{sum(line["count"] for line in lines)} steps of {named([line["task"] for line in lines])} '
      'had a loss or gradient that was not finite',
      'their rows taught nothing; metrics.jsonl names them and the term',
      *lower_rate(run),
    )


def diverged(run: Run) -> Iterator[Finding]:
  """Yields tasks that end with a loss far above that of the untrained model."""
  losses = {index: _cross_entropies(lines) for index, lines in sorted(run.steps.items())}
  begun = next((values[0] for values in losses.values() if values), 0.0)
  lost = {
    run.task(index): _last(values) for index, values in losses.items()
    if len(values) > 1 and _last(values) > LEAPS * max(begun, values[0]) + LOST
  }  # fmt: skip
  if lost:
    name, rate, _ = run.rate
    yield Finding(
      'diverged',
      f'the cross-entropy of new rows ends at {max(lost.values()):.3g} nats in {named([*lost])}, '
      f'and the first step of the run had {begun:.3g}',
      f'train.{name}={rate:g} is too high: the model is worse than before training, and no other '
      'figure of the run means anything',
      *lower_rate(run),
    )


def not_learned(run: Run) -> Iterator[Finding]:
  """Yields tasks that gained too little by their training, and tasks that were known before.

  A task whose answers are labels gains too little if they are no better than guesses: to answer
  with any of its labels is to have learned the form alone.
  """
  accuracy = score_of(run.results) == 'accuracy'
  scores = list(before_and_after(run))
  known = [name for name, before, _ in scores if accuracy and before >= KNOWN]
  stuck = [name for name, before, after in scores if after < before + LEARNED and name not in known]
  guessed = guesses(run)
  told = []
  if stuck:
    told.append(f'{_count(stuck, scores)} gained less than {LEARNED:g} when they were learned')
  if also := [name for part in guessed for name in part.tasks if name not in stuck]:
    told.append(_guessed(also, run.results['tasks'], guessed))
  if told:
    yield Finding(
      'not learned',
      ', and '.join(told),
      'what is not learned cannot be forgotten, so low forgetting says nothing here',
      *_learn_more(run, [*stuck, *also], bool(also)),
    )
  if known:
    yield Finding(
      'known before',
      f'{len(known)} of {len(scores)} tasks ({named(known)}) had an accuracy of {percent(KNOWN)} '
      'or more before they were learned',
      'their scores show little of what the method does',
      'give tasks that the model does not know yet; see what it answers wrongly',
      run.wrong_answers(),
    )


def _count(names: Sequence[str], of: Collection[object]) -> str:
  """Returns how many tasks, and which."""
  return f'{len(names)} of {len(of)} tasks ({named(names)})'


def _guessed(names: Sequence[str], of: Collection[object], guessed: Sequence[Answered]) -> str:
  """Returns that some tasks are answered by guesses, and the counts of the worst."""
  worst = min((part for part in guessed if set(part.tasks) & {*names}), key=lambda p: p.excess)
  label = 'its most frequent class' if len(worst.tasks) == 1 else 'the most frequent class of each'
  return (
    f'{_count(names, of)} are answered no better than by guessing when they are learned: '
    f'{percent(worst.right / worst.rows)} of the {worst.rows} test rows of {named(worst.tasks)}, '
    f'where {label} alone gives {percent(worst.chance)}'
  )


def _learn_more(run: Run, stuck: Sequence[str], guessed: bool) -> tuple[str, str]:
  """Returns advice on tasks that were not learned, and the command.

  Args:
    run: the run.
    stuck: names of the tasks.
    guessed: whether some have learned the form of the answer, by which their loss falls.
  """
  curves = {run.task(index): _cross_entropies(lines) for index, lines in run.steps.items()}
  known = [curves[name] for name in stuck if len(curves.get(name, ())) >= FEWEST]
  falls = bool(known) and all(
    _last(values) < (FITTED if guessed else FALLEN * _first(values)) for values in known
  )
  if falls or not (run.steps or run.results.get('mix')):  # more steps are no help
    return 'look at what it answers in place of the right answer', run.wrong_answers()
  return longer(run)


def curves(run: Run) -> Iterator[Finding]:
  """Yields tasks whose loss on new rows rises, stays up, hardly falls, or falls to the very end.

  The last three only where the task is not learned by then. A loss that stays up is one that falls
  as the form of the answer is learned and then no more, at a rate above the default.
  """
  guessed = {name for part in guesses(run) for name in part.tasks}
  _, rate, default = run.rate
  stuck, weak = set(), set()
  for name, before, after in before_and_after(run):
    stuck |= {name} if after < min(before + LEARNED, KNOWN) else set()
    weak |= {name} if score_of(run.results) == 'accuracy' and after < KNOWN else set()
  rising, staying, flat, falling = [], [], [], []
  for index, lines in run.steps.items():
    values = _cross_entropies(lines)
    if len(values) < FEWEST:
      continue
    if _rises(values):
      rising.append(run.task(index))
    elif rate > default and run.task(index) in guessed and _stays_up(values):
      staying.append(index)
    elif _last(values) > FALLS * _first(values) and run.task(index) in stuck:
      flat.append(run.task(index))
    elif _falls_still(values) and run.task(index) in weak:
      falling.append(run.task(index))
  if rising:
    yield Finding(
      'loss rises',
      f'the cross-entropy of new rows rises in {named(rising)}: it ends more than '
      f'{percent(RISES - 1)} above its start, or leaps to {LEAPS:g} times its first value',
      'the rate is too high, or the task contradicts what is replayed',
      *lower_rate(run),
    )
  if staying:
    level = max(_last(_cross_entropies(run.steps[index])) for index in staying)
    names = [run.task(index) for index in staying]
    yield Finding(
      'loss stays up',
      f'{_guessed(names, run.steps, guesses(run))}; their cross-entropy of new rows falls at first '
      f'and stays up, at as much as {level:.3g} nats',
      'the rate is too high, so that the form of the answers is learned and nothing else',
      *lower_rate(run),
    )
  if flat:
    far_above = rate >= HIGH * default
    yield Finding(
      'loss does not fall',
      f'the cross-entropy of new rows falls by less than {percent(1 - FALLS)} in {named(flat)}',
      f'the rate is too {"high" if far_above else "low"}, or too little trains, so the task is not '
      'learned',
      *(lower_rate(run) if far_above else raise_rate(run)),
    )
  if falling:
    yield Finding(
      'loss still falls',
      f'the cross-entropy of new rows falls by more than {percent(1 - STILL)} in the last quarter '
      f'of {named(falling)}, and is above {LEFT:g} nats at the end',
      'the training ends before the task is learned: the rate is low for so few steps',
      *(raise_rate(run) if rate <= default / 10 else longer(run)),
    )


def _cross_entropies(lines: Sequence[Json]) -> list[float]:
  """Returns the cross-entropy of new rows at the logged steps of a task."""
  term = next((t for t in CROSS_ENTROPIES if any(t in line for line in lines)), None)
  return [line[term] for line in lines if term in line] if term else []


def _first(values: Sequence[float]) -> float:
  """Returns the mean of the first quarter."""
  return statistics.fmean(values[: max(len(values) // 4, 1)])


def _last(values: Sequence[float]) -> float:
  """Returns the mean of the last quarter."""
  return statistics.fmean(values[-max(len(values) // 4, 1) :])


def _rises(values: Sequence[float]) -> bool:
  """Whether a loss ends above its start, or leaps up and does not come down again.

  A rate that is far too high throws the model off in its first steps, and a mean over these does
  not see where the loss began.
  """
  start = min(values[0], _first(values))
  leaps = max(values) > LEAPS * values[0] + NOISE and _last(values) > FALLS * values[0]
  return leaps or _last(values) > RISES * start + NOISE


def _stays_up(values: Sequence[float]) -> bool:
  """Whether a loss falls to a level early, far above 0, and stays there."""
  last = _last(values)
  return max(STAYS * _third(values), FITTED) < last < FALLEN * values[0]


def _falls_still(values: Sequence[float]) -> bool:
  """Whether a loss falls in its last quarter, and has far to go."""
  return LEFT < _last(values) < STILL * _third(values)


def _third(values: Sequence[float]) -> float:
  """Returns the mean of the third quarter."""
  return statistics.fmean(values[-(len(values) // 2) : -(len(values) // 4)])


def clipped(run: Run) -> Iterator[Finding]:
  """Yields a finding where clipping makes most gradients very small, in tasks not well learned."""
  limit, accuracy = run.setting('clip_norm'), score_of(run.results) == 'accuracy'
  learned = {name for name, _, after in before_and_after(run) if accuracy and after >= KNOWN}
  of_tasks = [
    [line['gradient_norm'] for line in lines if 'gradient_norm' in line]
    for index, lines in run.steps.items()
    if run.task(index) not in learned
  ]
  medians = [statistics.median(norms) for norms in of_tasks if len(norms) >= FEWEST]
  if not limit or not medians or (times := max(medians) / limit) <= CLIPPED:
    return
  terms = {term for lines in run.norms.values() for line in lines for term in line}
  shares = {t: share_of_gradient(run, t) or 0.0 for t in terms.difference(CROSS_ENTROPIES)}
  largest = max(shares, key=lambda term: shares[term], default='')
  weight = PENALTIES.get(largest, '')
  if shares.get(largest, 0.0) > 0.5 and (now := run.setting(weight)):
    advice = f'{largest} is {percent(shares[largest])} of the gradient: lower {weight}, now {now:g}'
    command = run.sweep(weight, [now / 100, now / 10])
  else:
    better = 10.0 ** math.ceil(math.log10(max(medians)))
    advice = f'raise train.clip_norm, now {limit:g}, to {better:g}'
    command = run.sweep('clip_norm', [better])
  yield Finding(
    'clipped',
    f'the median gradient norm of a task is {max(medians):.3g}, {times:.0f} times '
    f'train.clip_norm={limit:g}',
    'clipping, not the learning rate, sets the size of every step',
    advice, command,
  )  # fmt: skip


def invalid(run: Run) -> Iterator[Finding]:
  """Yields a finding where many of the last answers are no label."""
  rows = [row for row in run.results.get('invalid') or () if any(x is not None for x in row)]
  if len(rows) > 1:  # the first row is from before training
    share = statistics.fmean(x for x in rows[-1] if x is not None)
    if share > INVALID:
      yield Finding(
        'invalid answers',
        f'{percent(share)} of the last answers are no label',
        'the model has lost, or never learned, how to answer',
        'look at what it answers; evaluate.answer=score asks for the likeliest label',
        run.wrong_answers(),
      )


def drift(run: Run) -> Iterator[Finding]:
  """Yields a finding where the model is far from its base model on held-out or probe text."""
  lines = run.results.get('drift') or []
  if lines:
    first, last = lines[0], lines[-1]
    if last['kl'] > KL or last['perplexity'] > PERPLEXITY * first['perplexity']:
      yield _drifted(
        run,
        f'after {last["task"]} KL(base ‖ model) is {last["kl"]:.2f} nats per token, and the '
        f'perplexity of held-out text {last["perplexity"]:.3g} ({first["perplexity"]:.3g} after '
        f'{first["task"]})',
      )
  probes = run.results.get('probe') or []
  if len(probes) > 1:
    first_probe, last_probe = probes[0], probes[-1]
    times = math.exp(min(last_probe['nats'] - first_probe['nats'], 100.0))
    if last_probe['kl'] > KL or times > PERPLEXITY:
      yield _drifted(
        run,
        f'after {last_probe["task"]} KL(first model ‖ model) is {last_probe["kl"]:.2f} nats per '
        f'token on the probe text, whose perplexity is {times:.3g} times that before training',
      )


def _drifted(run: Run, figure: str) -> Finding:
  """Returns the finding that a model is far from its base model."""
  return Finding(
    'drift from the base model', figure, 'general skills of the base model are being lost',
    *lower_rate(run),
  )  # fmt: skip
