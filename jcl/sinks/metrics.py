"""What a run reports, as numbers by name, and the unit of each."""

from collections.abc import Mapping
from typing import cast

from jcl.reports.formatting import flatten
from jcl.reports.results import is_number
from jcl.types import Json

SCORE = 'score'  # stands in `UNITS` for the unit of the matrix
UNITS = {  # of a metric by its name, else by its group
  'train/loss': 'the objective: sum of weight x term',
  'train/rate': 'learning rate',
  'train/gradient_norm': 'norm of the whole gradient, before clipping',
  'train/refused': 'terms that were not finite: the step was not applied',
  'train/*': 'nats per target; a penalty as its method defines it',
  'gradient/*': 'norm of weight x gradient of the term',
  'speed/seconds_per_step': 's',
  'speed/tokens_per_second': 'real tokens per second, on all devices',
  'speed/mfu': "share of the devices' peak",
  'dev/*': SCORE,
  'test/*': SCORE,
  'metrics/*': SCORE,
  'seconds/*': 's, since the beginning of the run',
  'tokens/*': 'tokens, since the beginning of the run',
  'probe/*': 'nats per token',
  'drift/kl': 'nats per token',
  'drift/perplexity': 'exp of nats per token',
  'pseudo/*': 'samples',
  'own_answers/*': 'answers',
  'sdft/*': 'answers',
  'buffer/*': 'examples',
}
TOTALS = ('metrics', 'seconds', 'tokens')  # objects of results.json
OTHER = ('task', 'step', 'run_step', 'tasks_done')  # fields of events that are no metric


def unit(name: str, score: str) -> str:
  """Returns the unit of a metric; empty: none is known.

  Args:
    name: such as `train/ewc`.
    score: what the matrix holds: `accuracy` or `log_perplexity`.
  """
  group = name.partition('/')[0]
  found = UNITS.get(name, UNITS.get(f'{group}/*', ''))
  if found != SCORE:
    return found
  if score == 'accuracy':
    return 'accuracy, a share from 0 to 1'
  return 'minus nats per token' if group == 'dev' else 'nats per token'


def of_step(line: Mapping[str, object]) -> dict[str, float]:
  """Returns the metrics of a line of `metrics.jsonl`."""
  if isinstance(terms := line.get('refused'), list):
    return {'train/refused': float(len(terms))}
  if isinstance(norms := line.get('gradient_norms'), Mapping):
    return {f'gradient/{term}': float(norm) for term, norm in norms.items()}
  group = 'speed' if 'seconds_per_step' in line else 'train'
  if 'loss' not in line and group == 'train':
    return {}  # a doubtful loss, whose step has a line of its own
  numbers = {k: cast(float, v) for k, v in line.items() if is_number(v) and k not in OTHER}
  return {f'{group}/{name}': float(value) for name, value in numbers.items()}


def of_scores(row: Mapping[str, object]) -> dict[str, float]:
  """Returns the metrics of an evaluation: the score of each task."""
  scores = row['scores']
  assert isinstance(scores, Mapping)
  return {f'{row["split"]}/{task}': float(value) for task, value in scores.items()}


def of_results(results: Json) -> dict[str, float]:
  """Returns the metrics of the results after a task.

  Of a list that the method reports the last entry counts; entries that were made before one task
  are added up.
  """
  found = {f'{group}/{k}': v for group in TOTALS for k, v in (results.get(group) or {}).items()}
  for group, entries in results.items():
    if not (isinstance(entries, list) and entries and f'{group}/' in _GROUPS):
      continue
    last = entries[-1]
    for entry in entries if 'before' in last else [last]:
      for name, value in entry.items() if entry.get('before') == last.get('before') else ():
        if is_number(value):
          found[f'{group}/{name}'] = found.get(f'{group}/{name}', 0.0) + value
  return {name: float(value) for name, value in found.items() if is_number(value)}


def of_settings(config: Mapping[str, object]) -> dict[str, bool | int | float | str]:
  """Returns every setting by its dotted name, as plain values."""
  plain = lambda v: v if isinstance(v, bool | int | float | str) else str(v)
  return {name: plain(value) for name, value in flatten(config).items()}


_GROUPS = {f'{name.partition("/")[0]}/' for name in UNITS}
