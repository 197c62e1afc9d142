"""The contents of a run's `results.json`: their types, how they are read, and what follows."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from jcl.errors import UserError
from jcl.reports.answer_metrics import EXACT
from jcl.reports.metrics import Score, metrics
from jcl.types import Json

Figures = Mapping[str, float | None]


class NegativeFlips(TypedDict):
  """Test examples that were right just after their task was learned and are wrong at the end.

  Attributes:
    count: how many.
    of: how many were right just after their task.
    examples: each as `task`, `split`, `number`, `id`, `place`, `text` and `answer`, the texts
      escaped and shortened; their names alone in files of older runs.
  """

  count: int
  of: int
  examples: NotRequired[list[Json | str] | None]


class TokenMix(TypedDict):
  """Tokens and rows that trained one task, of its own examples (`new`) and of the past (`old`)."""

  task: str
  new: int
  old: int
  new_rows: NotRequired[int]
  old_rows: NotRequired[int]


class RefusedSteps(TypedDict):
  """Steps of one task that were not applied because a value was not finite."""

  task: str
  count: int


class Drift(TypedDict):
  """Distance from the base model on held-out text, after a task.

  Attributes:
    task: after which it was measured.
    kl: KL(base ‖ model), nats per token.
    perplexity: of the model.
  """

  task: str
  kl: float
  perplexity: float


class Probe(TypedDict):
  """General ability after a task, see `jcl.training.probe`.

  Attributes:
    task: after which it was measured; None: before any training.
    nats: per token of the probe text.
    kl: KL(first model ‖ model) there, nats per token.
    kl_prompts, kl_next_prompts: the same on prompts of that task and of the next; None without one.
  """

  task: str | None
  nats: float
  kl: float
  kl_prompts: float | None
  kl_next_prompts: float | None


class Results(TypedDict):
  """Contents of `results.json`, which a run writes after every task; T tasks.

  Attributes:
    method: its name, `package.module:Class` for one of another package.
    tasks: names, in the order learned.
    matrix: [T+1][T] scores on test: row 0 before any training, row i after task i; None where not
      evaluated. Rows that a run under way has not written may be missing.
    score: the unit of the matrix: `accuracy` in [0, 1], or `log_perplexity` in nats per target.
    matrix_train: the same on the training questions, in scenario iil.
    invalid: [T+1][T] share of the answers that are no known label.
    task_metrics: [T] metric of each task's column; None for raw text.
    answer_scores: {metric: [T+1][T]} of the answers on test, in [0, 1].
    sizes: [T] test examples of each task; tokens for raw text.
    metrics, metrics_train: what `reports.metrics` makes of the two matrices.
    seconds, tokens: by kind of work.
    by_class: answers to the newest test splits by class: `task`, `class`, `examples`, `right` and
      `wrong`, pairs of the class that was answered (None: no label) and how often.
    weights: weight of each term of the loss, for each task: `task`, `terms`.
    machine: versions, system and devices.
    cost: what the method keeps, such as `models`.
    finished: whether the run has learned all tasks.
  """

  method: str
  tasks: list[str]
  matrix: list[list[float | None]]
  jcl: NotRequired[str]
  stream: NotRequired[str | None]
  scenario: NotRequired[str | None]
  seed: NotRequired[int | None]
  score: NotRequired[Score | None]
  sizes: NotRequired[list[int] | None]
  matrix_train: NotRequired[list[list[float | None]] | None]
  metrics: NotRequired[Figures | None]
  metrics_train: NotRequired[Figures | None]
  invalid: NotRequired[list[list[float | None]] | None]
  task_metrics: NotRequired[list[str] | None]
  answer_scores: NotRequired[Mapping[str, list[list[float | None]]] | None]
  negative_flips: NotRequired[NegativeFlips | None]
  seconds: NotRequired[Figures | None]
  tokens: NotRequired[Figures | None]
  cost: NotRequired[Figures | None]
  by_class: NotRequired[list[Json] | None]
  weights: NotRequired[list[Json] | None]
  machine: NotRequired[Json | None]
  own_answers: NotRequired[list[Json] | None]
  mix: NotRequired[list[TokenMix] | None]
  refused_steps: NotRequired[list[RefusedSteps] | None]
  drift: NotRequired[list[Drift] | None]
  probe: NotRequired[list[Probe] | None]
  pseudo: NotRequired[list[Json] | None]
  buffer: NotRequired[list[Json]]
  notes: NotRequired[list[str] | None]
  state: NotRequired[list[Json] | None]
  warnings: NotRequired[list[str]]
  cut_rows: NotRequired[int]
  overlap: NotRequired[Json]
  resumes: NotRequired[list[Json] | None]
  config_changes: NotRequired[list[Json] | None]
  config: NotRequired[Json | None]
  params_sha256: NotRequired[str | None]
  finished: NotRequired[bool | None]


def score_of(run: Results) -> Score:
  """Returns the unit of a run's matrix; `accuracy` where the run does not say."""
  return run.get('score') or 'accuracy'


def unit_of(run: Results) -> str:
  """Returns in words the metric and the unit of a run's matrix."""
  if score_of(run) == 'log_perplexity':
    return 'log-perplexity in nats per target'
  own = run.get('task_metrics') or []
  if set(own) <= {EXACT}:
    return 'accuracy in %'
  if len(set(own)) == 1:
    return f'{own[0]} in %'
  columns = zip(run['tasks'], own, strict=False)
  return f'scores in %: {", ".join(f"{task} {metric}" for task, metric in columns)}'


def whole_matrix(
  run: Results, rows: Sequence[Sequence[float | None]] | None
) -> list[list[float | None]]:
  """Returns a matrix of the run with all its T+1 rows, None where nothing was written yet.

  Args:
    run: its results.
    rows: the matrix as far as it is written.
  """
  tasks = len(run['tasks'])
  matrix = [list(row) for row in rows or ()]
  while len(matrix) < tasks + 1:
    matrix.append([None] * tasks)
  return matrix


def score_matrix(run: Results) -> list[list[float | None]]:
  """Returns the [T+1][T] scores on test."""
  return whole_matrix(run, run['matrix'])


def tasks_learned(matrix: Sequence[Sequence[float | None]]) -> int:
  """Returns the number of the last row with a score, of a matrix whose row 0 is before training."""
  return max((i for i, row in enumerate(matrix) if any(x is not None for x in row)), default=0)


def metrics_of(run: Results, on_train: bool = False) -> Figures:
  """Returns the metrics as the run wrote them, else those of its matrix.

  Args:
    run: its results.
    on_train: the metrics on the training questions, not those on test.

  Raises:
    UserError: the matrix is malformed.
  """
  found = run.get('metrics_train') if on_train else run.get('metrics')
  return found or compute_metrics(run, on_train)


def compute_metrics(run: Results, on_train: bool = False) -> Figures:
  """Returns the metrics of a run's matrix.

  Raises:
    UserError: the matrix is malformed.
  """
  matrix = run.get('matrix_train') if on_train else run['matrix']
  return metrics(whole_matrix(run, matrix), score_of(run), run.get('sizes'))


class Optional:
  """In `SCHEMA`: a part that may be missing or null."""

  def __init__(self, inner: object):
    self.inner = inner


class Each:
  """In `SCHEMA`: a dict with any keys, whose values are of one kind."""

  def __init__(self, inner: object):
    self.inner = inner


NUMBER = 'a finite number'
CELLS = [[Optional(NUMBER)]]
FIGURES = Optional(Each(Optional(NUMBER)))
SCHEMA = {
  'method': str, 'tasks': [str], 'matrix': CELLS, 'stream': Optional(str),
  'scenario': Optional(str), 'seed': Optional(NUMBER), 'score': Optional(str),
  'matrix_train': Optional(CELLS), 'invalid': Optional(CELLS), 'sizes': Optional([NUMBER]),
  'task_metrics': Optional([str]), 'answer_scores': Optional(Each(CELLS)),
  'metrics': FIGURES, 'metrics_train': FIGURES, 'seconds': FIGURES, 'tokens': FIGURES,
  'cost': FIGURES, 'config': Optional(dict), 'finished': Optional(bool),
  'params_sha256': Optional(str), 'resumes': Optional([dict]),
  'config_changes': Optional([{'changes': dict}]),
  'negative_flips': Optional({'count': NUMBER, 'of': NUMBER, 'examples': Optional(list)}),
  'refused_steps': Optional([{'task': str, 'count': NUMBER}]),
  'by_class': Optional([{'task': str, 'class': str, 'examples': NUMBER, 'right': NUMBER,
                         'wrong': Optional([list])}]),
  'weights': Optional([{'task': str, 'terms': Each(NUMBER)}]), 'machine': Optional(dict),
  'buffer': Optional([dict]), 'own_answers': Optional([dict]), 'warnings': Optional(list),
  'notes': Optional(list), 'state': Optional([dict]),
  'mix': Optional([{'task': str, 'new': NUMBER, 'old': NUMBER, 'new_rows': Optional(NUMBER),
                    'old_rows': Optional(NUMBER)}]),
  'drift': Optional([{'task': str, 'kl': NUMBER, 'perplexity': NUMBER}]),
  'probe': Optional([{'nats': NUMBER, 'kl': NUMBER}]),
  'pseudo': Optional([{'drawn': Optional(NUMBER), 'kept': Optional(NUMBER),
                       'distinct': Optional(NUMBER), 'samples': Optional(list),
                       'rejected': Optional(list)}]),
}  # fmt: skip


def read(file: pathlib.Path) -> Results:
  """Returns the contents of a `results.json`, which may be old, damaged or of another program.

  Raises:
    UserError: the file is damaged, or holds something else; the message names the part.
  """
  try:
    found = json.loads(file.read_text('utf-8'))
  except (ValueError, RecursionError):
    raise UserError(f'{file} is not JSON; leave this run out') from None
  if fault := _fault(found, SCHEMA, ''):
    raise UserError(f'{file}: {fault}; leave this run out')
  if not found['tasks'] or len(found['matrix']) > len(found['tasks']) + 1:
    raise UserError(f'{file}: tasks and matrix do not fit together; leave this run out')
  try:
    compute_metrics(found)
    if found.get('matrix_train'):
      compute_metrics(found, on_train=True)
  except UserError as error:
    raise UserError(f'{file}: {error}; leave this run out') from None
  return found


def is_number(value: object) -> bool:
  """Whether a value that was read from a file is a finite number, within float64's range."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return False
  return abs(value) < 1e300 and math.isfinite(value)


def _fault(value: Any, wanted: Any, path: str) -> str:
  """Returns in words what is wrong with a part, or an empty text.

  Args:
    value: the part.
    wanted: its entry in `SCHEMA`.
    path: its dotted name; empty for the whole file.
  """
  if isinstance(wanted, Optional):
    return '' if value is None else _fault(value, wanted.inner, path)
  if wanted is NUMBER:
    return '' if is_number(value) else f'{path} is not {NUMBER}'
  if isinstance(wanted, type):
    return '' if isinstance(value, wanted) else f'{path or "it"} is not of type {wanted.__name__}'
  if isinstance(wanted, list):
    parts = list(enumerate(value)) if isinstance(value, list) else None
    kinds = {i: wanted[0] for i, _ in parts or ()}
  else:
    parts = list(value.items()) if isinstance(value, dict) else None
    kinds = {k: wanted.inner for k, _ in parts or ()} if isinstance(wanted, Each) else wanted
  if parts is None:
    kind = 'a list' if isinstance(wanted, list) else 'an object'
    return f'{path or "it"} is not {kind}'
  inner: Mapping[object, object] = dict(parts)
  faults = (
    _fault(inner.get(key), kind, f'{path}.{key}'.lstrip('.')) for key, kind in kinds.items()
  )
  return next(filter(None, faults), '')
