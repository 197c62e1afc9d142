"""The findings of `jcl doctor`: what is wrong with a run, judged by the run's own figures.

A finding has a figure of the run, what the figure means, and one thing to do. Findings tell a wrong
setting from a weak method: a penalty too small to have an effect, hardly any replay, pseudo samples
that are all alike, a task that was never learned and so cannot be forgotten.

All figures come from `results.json` and the lines of `metrics.jsonl`. The limits are the constants
below; they are set so that a healthy run of any method has no finding.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from jcl.reports.formatting import flatten, one_line
from jcl.reports.results import Results, is_number, metrics_of, score_matrix, score_of
from jcl.types import Json

# Terms that hold parameters where they were -> the setting that is their weight.
PENALTIES = {
  'ewc': 'lambda_ewc', 'l2': 'lambda_l2', 'mas': 'lambda_mas', 'overlap': 'lambda_olora',
}  # fmt: skip
CROSS_ENTROPIES = ('ce', 'qa', 'new')  # of new rows, before weights
LEARNED = 0.05  # least gain of a task by its own training, in accuracy or nats per token
KNOWN = 0.9  # accuracy from which a task counts as known before its training
FORGOTTEN = 0.1  # forgetting above which a penalty is judged, in accuracy or nats per token
FELT = 1e-3  # share of the loss below which a penalty is not felt
DROWNED = 0.9  # share of the loss above which a penalty drowns the rest
CLIPPED = 20  # largest median gradient norm, in multiples of `train.clip_norm`
REPLAYED = 0.02  # least share of old tokens among the training tokens of a later task
INVALID = 0.1  # largest share of answers that are no label
KEPT = 0.5  # least share of drawn pseudo samples that are well formed
DISTINCT = 0.5  # least share of kept pseudo samples that differ from each other
VERBATIM = 0.2  # largest share of kept pseudo samples that are training inputs word for word
LABELLED = 0.8  # least share of kept pseudo samples that end in a label of their task
KL = 1.0  # largest KL(base ‖ model), nats per token
PERPLEXITY = 2.0  # largest perplexity of held-out text, in multiples of that after the first task
FALLS = 0.95  # share of its start that a loss falls below if a task is being learned
RISES = 1.2  # multiple of its start that a loss must not rise above within a task
FEWEST = 8  # least number of logged steps of a task whose loss is judged


class Finding(NamedTuple):
  """One thing that is wrong with a run.

  Attributes:
    name: of the check.
    figure: the observation, with its number.
    meaning: what the figure says about the run.
    advice: one thing to do.
  """

  name: str
  figure: str
  meaning: str
  advice: str

  def __str__(self) -> str:
    return one_line(f'{self.figure}: {self.meaning}; {self.advice}')


class Run(NamedTuple):
  """The files of a run that checks read.

  Attributes:
    results: contents of `results.json`.
    steps: {index of a task: its logged steps, in order}.
    settings: every setting by its dotted name, such as `train.clip_norm`.
  """

  results: Results
  steps: Mapping[int, Sequence[Json]]
  settings: Mapping[str, object]

  def setting(self, name: str) -> float | None:
    """Returns a numeric setting by the last part of its dotted name; None where there is none."""
    for path, value in self.settings.items():
      if path.rpartition('.')[2] == name and isinstance(value, int | float):
        return float(value)
    return None

  def task(self, index: int) -> str:
    """Returns the name of a task."""
    return self.results['tasks'][index]


Check = Callable[[Run], Iterator[Finding]]


def findings(results: Results, lines: Sequence[Json] = ()) -> list[Finding]:
  """Returns the findings on a run, in the order of `CHECKS`.

  Args:
    results: contents of `results.json`, of a run that may be under way.
    lines: those of `metrics.jsonl`; without them the checks of losses and gradients find nothing.
  """
  steps: dict[int, list[Json]] = {}
  for line in lines:
    task = line.get('task')
    if not isinstance(task, int) or not 0 <= task < len(results['tasks']):
      continue
    numbers = {name: value for name, value in line.items() if is_number(value)}
    if 'loss' in numbers:
      steps.setdefault(task, []).append(numbers)
  run = Run(results, steps, flatten(results.get('config') or {}))
  return [found for check in CHECKS for found in check(run)]


def _named(names: Sequence[str]) -> str:
  """Returns up to three names, and how many more there are."""
  more = f' and {len(names) - 3} more' if len(names) > 3 else ''
  return ', '.join(names[:3]) + more


def _percent(share: float) -> str:
  """Returns a share in per cent, with three significant digits."""
  return f'{100 * share:.3g} %'


def _before_and_after(run: Run) -> Iterator[tuple[str, float, float]]:
  """Yields (task, score before its training, score right after); a larger score is better."""
  matrix, sign = score_matrix(run.results), 1 if score_of(run.results) == 'accuracy' else -1
  for index, name in enumerate(run.results['tasks']):
    before, after = matrix[index][index], matrix[index + 1][index]
    if before is not None and after is not None:
      yield name, sign * before, sign * after


def _not_learned(run: Run) -> Iterator[Finding]:
  """Yields tasks that gained too little by their training, and tasks that were known before."""
  accuracy = score_of(run.results) == 'accuracy'
  scores = list(_before_and_after(run))
  known = [name for name, before, _ in scores if accuracy and before >= KNOWN]
  stuck = [name for name, before, after in scores if after < before + LEARNED and name not in known]
  if stuck:
    yield Finding(
      'not learned',
      f'{len(stuck)} of {len(scores)} tasks ({_named(stuck)}) gained less than {LEARNED:g} when '
      'they were learned',
      'what is not learned cannot be forgotten, so low forgetting says nothing here',
      'train longer (train.epochs) or at a higher train.learning_rate, and look at the findings '
      'below',
    )
  if known:
    yield Finding(
      'known before',
      f'{len(known)} of {len(scores)} tasks ({_named(known)}) had an accuracy of {_percent(KNOWN)} '
      'or more before they were learned',
      'their scores show little of what the method does',
      'give tasks that the model does not know yet',
    )


def _penalties(run: Run) -> Iterator[Finding]:
  """Yields penalties that are not felt or drown the loss, in the last half of each later task."""
  forgetting = metrics_of(run.results).get('forgetting') or 0.0
  for term, setting in PENALTIES.items():
    weight = run.setting(setting)
    if not weight:
      continue
    if term == 'ewc' and run.settings.get('method.half', run.settings.get('method.ewc.half')):
      weight /= 2
    shares = []
    for index, lines in run.steps.items():
      late = [x for x in lines[len(lines) // 2 :] if term in x and x['loss'] > 0]
      if index > 0 and late:
        shares.append(statistics.median(weight * x[term] / x['loss'] for x in late))
    if not shares:
      continue
    share = statistics.median(shares)
    seen = f'the {term} penalty is {_percent(share)} of the loss'
    if share < FELT and forgetting > FORGOTTEN:
      yield Finding(
        'penalty not felt', seen,
        f'it holds nothing back, and forgetting is {forgetting:.2f}',
        f'raise {setting}, now {run.setting(setting):g}, by powers of ten until it is felt',
      )  # fmt: skip
    if share > DROWNED:
      yield Finding(
        'penalty drowns the loss', seen,
        'the model is held where it was and learns little that is new',
        f'lower {setting}, now {run.setting(setting):g}, by powers of ten',
      )  # fmt: skip


def _clipped(run: Run) -> Iterator[Finding]:
  """Yields a finding where clipping makes most gradients very small."""
  limit = run.setting('clip_norm')
  norms = [
    x['gradient_norm'] for lines in run.steps.values() for x in lines if 'gradient_norm' in x
  ]
  if limit and norms and (times := statistics.median(norms) / limit) > CLIPPED:
    yield Finding(
      'clipped',
      f'the median gradient norm is {statistics.median(norms):.3g}, {times:.0f} times '
      f'train.clip_norm={limit:g}',
      'clipping, not the learning rate, sets the size of every step',
      'look for the term that is so large in metrics.jsonl and lower its weight, or raise '
      'train.clip_norm',
    )


def _curves(run: Run) -> Iterator[Finding]:
  """Yields tasks whose loss on new rows rises, or hardly falls though they are not learned."""
  stuck = {
    name for name, before, after in _before_and_after(run) if after < min(before + LEARNED, KNOWN)
  }
  rising, flat = [], []
  for index, lines in run.steps.items():
    term = next((t for t in CROSS_ENTROPIES if t in lines[0]), None)
    values = [x[term] for x in lines if term in x] if term else []
    if len(values) < FEWEST:
      continue
    quarter = len(values) // 4
    first, last = statistics.fmean(values[:quarter]), statistics.fmean(values[-quarter:])
    if last > RISES * first:
      rising.append(run.task(index))
    elif last > FALLS * first and run.task(index) in stuck:
      flat.append(run.task(index))
  if rising:
    yield Finding(
      'loss rises',
      f'the cross-entropy of new rows rises by more than {_percent(RISES - 1)} in {_named(rising)}',
      'the rate is too high, or the task contradicts what is replayed',
      'lower train.learning_rate by a factor of 3 to 10',
    )
  if flat:
    yield Finding(
      'loss does not fall',
      f'the cross-entropy of new rows falls by less than {_percent(1 - FALLS)} in {_named(flat)}',
      'the rate is too low, too little trains, or the penalty is too strong',
      'raise train.learning_rate by a factor of 3 to 10',
    )


def _replay(run: Run) -> Iterator[Finding]:
  """Yields replay that is too small to matter, and old tasks without an example in the buffer."""
  later = [line for line in run.results.get('mix') or () if line['new'] + line['old']][1:]
  replays = any(line['old'] for line in later)
  if replays:
    share = statistics.fmean(line['old'] / (line['new'] + line['old']) for line in later)
    if share < REPLAYED:
      yield Finding(
        'little replay',
        f'{_percent(share)} of the tokens that train a later task are old',
        'so few old tokens hold off little forgetting',
        'raise the share of old rows (replay_ratio, gamma) or the size of the buffer',
      )
  buffers = [line for line in run.results.get('buffer') or () if isinstance(line, dict)]
  if buffers and len(run.results['tasks']) > 1:
    last, names = buffers[-1], run.results['tasks']
    held = last.get('tasks')
    seen = names[: names.index(last['after']) + 1] if last.get('after') in names else []
    lost = [name for name in seen if not (isinstance(held, dict) and held.get(name))]
    if lost:
      yield Finding(
        'tasks not in the buffer',
        f'the buffer holds {last.get("examples", 0)} examples and none of {_named(lost)}',
        'nothing of these tasks is replayed',
        'raise buffer_size, or take a policy that keeps all tasks or classes alike',
      )


def _pseudo_samples(run: Run) -> Iterator[Finding]:
  """Yields shares of pseudo samples that are rejected, alike, copied or without a label."""
  lines = [line for line in run.results.get('pseudo') or () if line.get('drawn')]
  total = lambda name: sum(line[name] for line in lines if is_number(line.get(name)))
  drawn, kept = total('drawn'), total('kept')
  if not lines:
    return
  if kept < KEPT * max(drawn, 1):
    yield Finding(
      'pseudo samples rejected',
      f'{kept} of {drawn} pseudo samples ({_percent(kept / max(drawn, 1))}) are well formed',
      'the model has not learned to write the form of its tasks, so little of them is replayed',
      'raise lambda_gen or train.epochs, or lower temperature and top_k',
    )
  if kept and total('distinct') < DISTINCT * kept:
    yield Finding(
      'pseudo samples alike',
      f'{total("distinct")} of {kept} kept pseudo samples ({_percent(total("distinct") / kept)}) '
      'differ from each other',
      'a few texts are replayed again and again',
      'raise temperature or top_k, or set deduplicate=true',
    )
  if kept and total('verbatim') > VERBATIM * kept:
    yield Finding(
      'pseudo samples copied',
      f'{total("verbatim")} of {kept} kept pseudo samples ({_percent(total("verbatim") / kept)}) '
      'are training inputs word for word',
      'the model gives its training data away, which matters where old data may not be kept',
      'train for fewer epochs, or raise temperature',
    )
  labelled = [line for line in lines if is_number(line.get('valid_label')) and line.get('kept')]
  if labelled:
    count, of = (sum(line[name] for line in labelled) for name in ('valid_label', 'kept'))
    if count < LABELLED * of:
      yield Finding(
        'pseudo samples without a label',
        f'{count} of {of} kept pseudo samples ({_percent(count / of)}) end in a label of their '
        'task',
        'wrong answers are replayed as right ones',
        'set require_known_label=true',
      )


def _invalid(run: Run) -> Iterator[Finding]:
  """Yields a finding where many of the last answers are no label."""
  rows = [row for row in run.results.get('invalid') or () if any(x is not None for x in row)]
  if len(rows) > 1:  # the first row is from before training
    share = statistics.fmean(x for x in rows[-1] if x is not None)
    if share > INVALID:
      yield Finding(
        'invalid answers',
        f'{_percent(share)} of the last answers are no label',
        'the model has lost, or never learned, how to answer',
        'compare with evaluate.answer=score, which asks for the likeliest label',
      )


def _drift(run: Run) -> Iterator[Finding]:
  """Yields a finding where the model is far from its base model on held-out text."""
  lines = run.results.get('drift') or []
  if not lines:
    return
  first, last = lines[0], lines[-1]
  if last['kl'] > KL or last['perplexity'] > PERPLEXITY * first['perplexity']:
    yield Finding(
      'drift from the base model',
      f'after {last["task"]} KL(base ‖ model) is {last["kl"]:.2f} nats per token, and the '
      f'perplexity of held-out text {last["perplexity"]:.3g} ({first["perplexity"]:.3g} after '
      f'{first["task"]})',
      'general skills of the base model are being lost',
      'lower train.learning_rate, train adapters alone, or replay general text',
    )


def _refused(run: Run) -> Iterator[Finding]:
  """Yields the steps that were not applied."""
  lines = [line for line in run.results.get('refused_steps') or () if line['count']]
  if lines:
    yield Finding(
      'steps not applied',
      f'{sum(line["count"] for line in lines)} steps of {_named([line["task"] for line in lines])} '
      'had a loss or gradient that was not finite',
      'their rows taught nothing; metrics.jsonl names them and the term',
      'lower train.learning_rate, or train in float32',
    )


def _penalty_alone(run: Run) -> Iterator[Finding]:
  """Yields a finding where a class-incremental run has penalties alone, and forgets."""
  names = set(run.results['method'].split('+'))
  later = (run.results.get('mix') or [])[1:]
  if (
    run.results.get('scenario') == 'cil'
    and names & {'ewc', 'mas', 'l2'} == names
    and not any(line['old'] for line in later)
    and (metrics_of(run.results).get('forgetting') or 0) > FORGOTTEN
  ):
    yield Finding(
      'a penalty alone',
      f'{run.results["method"]} in class-incremental learning forgets '
      f'{metrics_of(run.results)["forgetting"]:.2f}',
      'a penalty cannot tell classes apart that are never seen together: it is expected to end '
      'near seq, whatever its weight',
      f'compose it with replay: replay+{run.results["method"]}',
    )


CHECKS: tuple[Check, ...] = (
  _refused, _not_learned, _curves, _clipped, _penalties, _penalty_alone, _replay, _pseudo_samples,
  _invalid, _drift,
)  # fmt: skip
