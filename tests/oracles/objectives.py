"""The objective of every method, written from docs/methods.md in float64: no line of it is jcl's.

An oracle is a function of `Given`, which is plain data: the settings, the rows, and the history of
the run (where each task started and ended, and its examples). It reads no memory, no plan and no
weight of a plan: teachers, Fishers and anchors it works out from the history.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from oracles import adapters, decoder, penalties
from oracles.distillation import distance, divergence, shares, surprise
from oracles.texts import Row


class Given(NamedTuple):
  """Arguments of an objective.

  Attributes:
    settings: of the method, by name.
    task: index of the task under way.
    params: at which it is asked for: a nested dict of float64 arrays.
    rows: of the batch.
    starts: the parameters at the start of tasks 0 … task.
    ends: those at the end of tasks 0 … task - 1.
    examples: of each of these tasks the rows of every example.
    outputs: V, or C of a head.
    head_dim: of a decoder's attention.
    classes_of: of a head the classes of each task, which may share some; None: a vocabulary.
    told: a row is answered with the classes of its own task, and the means of tasks are summed;
      else with those of all tasks so far.
    updates: the parameters after every update of the run so far, float32.
    taught: the teacher of each task so far, where one learns it apart.
    epoch_start: updates of the task before the epoch under way.
    before_task: updates of the run before the task.
  """

  settings: dict[str, Any]
  task: int
  params: dict
  rows: Sequence[Row]
  starts: Sequence[dict]
  ends: Sequence[dict]
  examples: Sequence[Sequence[Sequence[Row]]]
  outputs: int
  head_dim: int
  classes_of: Sequence[Sequence[int]] | None = None
  told: bool = False
  updates: Sequence[dict] = ()
  taught: Sequence[dict] = ()
  epoch_start: int = 0
  before_task: int = 0


def logits(given: Given, params: dict, row: Row) -> np.ndarray:
  """[m, V or C] at the targets of a row."""
  if 'layers' in params:
    return decoder.logits(params, row, given.outputs, given.head_dim)
  return penalties.logits(leaves(params), (row.tokens, row.targets), given.outputs)


def leaves(params: dict) -> dict[str, np.ndarray]:
  """{name: matrix} of the recurrent model, as `penalties` takes it."""
  return {name: leaf['kernel'] for name, leaf in params.items()}


def mean(given: Given, values: Sequence[tuple[int, float]]) -> float:
  """The mean of (task, value), with the task told the sum of each task's mean; 0 of nothing."""
  by_task: dict[int, list[float]] = {}
  for task, value in values:
    by_task.setdefault(task if given.told else 0, []).append(value)
  return sum((sum(each) / len(each) for each in by_task.values()), 0.0)


def ce(given: Given, where: Callable[[Row], bool] = lambda row: True) -> float:
  """The mean cross-entropy of the targets of rows, over the classes that may be answered."""
  found = []
  for row in filter(where, given.rows):
    for z, wanted in zip(logits(given, given.params, row), row.wanted, strict=True):
      classes = allowed_classes(given, row.task, given.task)
      found.append((row.task, surprise(z[classes], classes.index(wanted))))
  return mean(given, found)


def apart(given: Given, difference: Callable, where: Callable[[Row], bool]) -> float:
  """The mean difference from the model at the start of the task, at the targets of rows.

  With a head over the classes that this model had learned; nothing where there are none.
  """
  found = []
  for row in filter(where, given.rows):
    if not (known := known_classes(given, row.task)):
      continue
    both = (logits(given, params, row) for params in (given.params, given.starts[given.task]))
    found += [(row.task, difference(z[known], past[known])) for z, past in zip(*both, strict=True)]
  return mean(given, found)


def allowed_classes(given: Given, task: int, last: int) -> list[int]:
  """Returns the answers open to a row of `task` after task `last`; of a vocabulary all tokens."""
  if given.classes_of is None:
    return list(range(given.outputs))
  tasks = [task] if given.told else range(last + 1)
  return sorted({c for t in tasks for c in given.classes_of[t]})


def known_classes(given: Given, task: int) -> list[int]:
  """Returns the allowed classes that the model at the start of the current task had learned."""
  allowed = allowed_classes(given, task, given.task)
  if given.classes_of is None:
    return allowed
  return [c for c in allowed if any(c in own for own in given.classes_of[: given.task])]


# What the methods minimise.


def plain(given: Given) -> float:
  """CE over all rows."""
  return ce(given)


def derpp(given: Given) -> float:
  """CE(new) + beta·CE(old) + alpha·MSE(old)."""
  s, old = given.settings, lambda row: row.replay
  value = ce(given, lambda row: not row.replay) + s['beta'] * ce(given, old)
  return value + s['alpha'] * apart(given, distance, old)


def agem(given: Given) -> float:
  """CE(new) + CE(old); the step follows another direction, see `directions`."""
  return ce(given, lambda row: not row.replay) + ce(given, lambda row: row.replay)


def seq_star(given: Given) -> float:
  """CE over all classes of the stream; with the task told over those of the row's own task."""
  if given.told or given.classes_of is None:
    return ce(given)
  every = [sorted({c for own in given.classes_of for c in own})]
  return ce(given._replace(classes_of=[*given.classes_of[: given.task], *every]))


def cls_er(given: Given) -> float:
  """CE + lambda_cls · MSE(old) to the one of two averages that finds the target likelier."""
  s, found = given.settings, []
  both = [moving_average(given, s[f'{name}_decay']) for name in ('fast', 'slow')]
  for row in (row for row in given.rows if row.replay):
    classes = allowed_classes(given, row.task, given.task)
    every = [logits(given, params, row)[:, classes] for params in (given.params, *both)]
    for z, fast, slow, wanted in zip(*every, row.wanted, strict=True):
      nats = [surprise(y, classes.index(wanted)) for y in (fast, slow)]
      found.append((row.task, distance(z, slow if nats[1] < nats[0] else fast)))
  return ce(given) + s['lambda_cls'] * mean(given, found)


def moving_average(given: Given, decay: float) -> dict:
  """Of the parameters after every update; the n-th has the share max(1 / (n + 1), 1 - decay)."""
  blend = lambda tree, other, share: {
    name: blend(leaf, other[name], share)
    if isinstance(leaf, dict)
    else (1 - share) * leaf + share * np.asarray(other[name], np.float64)
    for name, leaf in tree.items()
  }
  average = given.starts[0]
  for number, params in enumerate(given.updates, 1):
    average = blend(average, params, max(1 / (number + 1), 1 - decay))
  return average


def distill(given: Given) -> float:
  """(1 − alpha)·CE + alpha·KD over all rows; CE in the first task, unless the base teaches."""
  s = given.settings
  if s['anchor'] == 'base':
    given = given._replace(starts=[given.starts[0]] * len(given.starts))
  elif not given.task:
    return ce(given)
  softened = functools.partial(divergence, temperature=s['distill_temperature'])
  value = apart(given, softened, lambda row: True)
  return (1 - s['alpha']) * ce(given) + s['alpha'] * value


def lamol(given: Given) -> float:
  """CE(QA) + lambda_gen·CE(GEN)."""
  generation = ce(given, lambda row: row.generative)
  return ce(given, lambda row: not row.generative) + given.settings['lambda_gen'] * generation


def lamol_kd(given: Given) -> float:
  """LAMOL of the new rows + distill_weight·(KD(old QA) + lambda_gen·KD(old GEN))."""
  s = given.settings
  softened = functools.partial(divergence, temperature=s['distill_temperature'])
  new = lamol(given._replace(rows=[row for row in given.rows if not row.replay]))
  qa = apart(given, softened, lambda row: row.replay and not row.generative)
  gen = apart(given, softened, lambda row: row.replay and row.generative)
  return new + s['distill_weight'] * (qa + s['lambda_gen'] * gen)


def l2kd(given: Given) -> float:
  """LAMOL of old rows, and of new ones mixed with KD to a teacher that knows the task alone."""
  s, task = given.settings, given.task
  softened = functools.partial(divergence, temperature=s['distill_temperature'])
  shown = given._replace(starts=[*given.starts[:task], given.taught[task]])
  old, new = (
    given._replace(rows=[row for row in given.rows if row.replay == replay])
    for replay in (True, False)
  )
  qa = apart(shown, softened, lambda row: not row.replay and not row.generative)
  gen = apart(shown, softened, lambda row: not row.replay and row.generative)
  value = (1 - s['alpha']) * lamol(new) + s['alpha'] * (qa + s['lambda_gen'] * gen)
  return value + lamol(old)


def sdft(given: Given) -> float:
  """alpha·KL(own answers) + (1 − alpha)·CE(others); the teacher reads the right answer first."""
  s, found = given.settings, []
  teacher = {
    'average': lambda: _followed(given, s['average_rate']),
    'current': lambda: (given.updates[: _begun(given)] or [given.starts[given.task]])[-1],
    'last': lambda: given.starts[given.task],
    'base': lambda: given.starts[0],
  }[s['anchor']]()
  for row in (row for row in given.rows if row.shown):
    moved = [len(row.shown) + place for place in range(len(row.wanted))]
    read = row._replace(tokens=[*row.shown, *row.wanted], targets=[place - 1 for place in moved])
    both = logits(given, given.params, row), logits(given, teacher, read)
    for z, y in zip(*both, strict=True):
      found.append((row.task, between(z, y, s['direction'] == 'reverse', s['top_k_logits'])))
  real = ce(given, lambda row: not row.shown)
  return s['alpha'] * mean(given, found) + (1 - s['alpha'] or 1) * real


def between(z: np.ndarray, teacher: np.ndarray, reverse: bool, top_k: int) -> float:
  """KL(teacher ‖ model) or its reverse; all but the model's `top_k` likeliest tokens are one."""
  p, q = np.array(shares(list(teacher))), np.array(shares(list(z)))
  if 0 < top_k < len(q):
    order = np.argsort(-q, kind='stable')
    p, q = (np.append(x[order[:top_k]], x[order[top_k:]].sum()) for x in (p, q))
  first, second = (q, p) if reverse else (p, q)
  return float(np.sum(first * np.log(first / second)))


def _begun(given: Given) -> int:
  """Returns the updates of the run before the epoch under way."""
  return given.before_task + given.epoch_start


def _followed(given: Given, rate: float) -> dict:
  """Returns the average at the start of the epoch: it began at the start of the task."""
  blend = lambda mean, now: {
    name: blend(leaf, now[name])
    if isinstance(leaf, dict)
    else (1 - rate) * leaf + rate * np.asarray(now[name], np.float64)
    for name, leaf in mean.items()
  }
  average = given.starts[given.task]
  for params in given.updates[given.before_task : _begun(given)]:
    average = blend(average, params)
  return average


def maml(given: Given) -> float:
  """CE of all rows after `inner_steps` steps of gradient descent on that of the new ones."""
  new = given._replace(rows=[row for row in given.rows if not row.replay])
  params = given.params
  for _ in range(given.settings['inner_steps']):
    grads = slope(new, params)
    step = lambda leaf, grad: {'kernel': leaf['kernel'] - given.settings['inner_lr'] * grad}
    params = {name: step(leaf, grads[name]) for name, leaf in params.items()}
  return ce(given._replace(params=params))


def slope(given: Given, params: dict) -> dict[str, np.ndarray]:
  """The gradient of CE of all rows of the recurrent model, 0 without rows."""
  theta = leaves(params)
  if not given.rows:
    return {name: np.zeros_like(leaf) for name, leaf in theta.items()}
  if given.told and len(tasks := sorted({row.task for row in given.rows})) > 1:
    alone = lambda t: given._replace(rows=[row for row in given.rows if row.task == t])
    parts = [slope(alone(task), params) for task in tasks]
    return {name: sum(part[name] for part in parts) for name in theta}
  classes = allowed_classes(given, given.rows[0].task, given.task)
  if given.classes_of is not None:
    theta = {**theta, 'head': theta['head'][:, classes]}
  rows = [(row.tokens, row.targets, [classes.index(w) for w in row.wanted]) for row in given.rows]
  found = penalties.nats_gradient(theta, rows, len(classes))
  ends = np.cumsum([theta[name].size for name in sorted(theta)])[:-1]
  parts = dict(zip(sorted(theta), np.split(found, ends), strict=True))
  grads = {name: parts[name].reshape(theta[name].shape) for name in theta}
  if given.classes_of is not None:
    whole = np.zeros_like(params['head']['kernel'])
    whole[:, classes] = grads['head']
    grads['head'] = whole
  return grads


def olora(given: Given) -> float:
  """CE + lambda_olora · Σ_earlier Σ_ij |(A_earlierᵀ A_own)_ij|."""
  overlap = adapters.overlap(given.params['lora'], given.task, given.settings['r'])
  return ce(given) + given.settings['lambda_olora'] * overlap


def ewc(given: Given) -> float:
  """CE + lambda_ewc · Σ_tasks Σ_p F_p (θ_p − θ*_p)²."""
  value = _held(given, penalties.fisher, penalties.separate)
  return ce(given) + given.settings['lambda_ewc'] * value


def mas(given: Given) -> float:
  """CE + lambda_mas · Σ_p (Σ_tasks Ω_p) (θ_p − θ*_p)², θ* the last end."""
  value = _held(given, penalties.importance, penalties.online)
  return ce(given) + given.settings['lambda_mas'] * value


def l2(given: Given) -> float:
  """CE + lambda_l2 · ‖θ − θ*‖², θ* the last end; CE in the first task."""
  theta, ends = (leaves(given.params), [leaves(end) for end in given.ends[-1:]])
  value = sum(np.sum((penalties.flat(theta) - penalties.flat(end)) ** 2) for end in ends)
  return ce(given) + given.settings['lambda_l2'] * value


def _held(given: Given, importance: Callable, over_tasks: Callable) -> float:
  """A pull to where the old tasks ended."""
  theta, ends = (leaves(given.params), [leaves(end) for end in given.ends])
  if not ends:
    return 0.0
  rows = [
    [[(row.tokens, row.targets, row.wanted) for row in example] for example in task]
    for task in given.examples
  ]
  fishers = [
    _over_classes(given, importance, end, examples, task)
    for task, (end, examples) in enumerate(zip(ends, rows, strict=True))
  ]
  value, _ = over_tasks(penalties.flat(theta), fishers, [penalties.flat(end) for end in ends])
  return value


def _over_classes(
  given: Given, importance: Callable, end: dict, examples: list, task: int
) -> np.ndarray:
  """The importance at the end of a task; other classes have none, and no part in it."""
  if given.classes_of is None:
    return importance(end, examples, given.outputs)
  classes = allowed_classes(given, task, task)
  seen = {**end, 'head': end['head'][:, classes]}
  place = lambda row: (*row[:2], [classes.index(wanted) for wanted in row[2]])
  examples = [list(map(place, example)) for example in examples]
  found = importance(seen, examples, given.outputs)
  sizes = [seen[name].size for name in sorted(seen)]
  parts = dict(zip(sorted(seen), np.split(found, np.cumsum(sizes)[:-1]), strict=True))
  whole = np.zeros_like(end['head'])
  whole[:, classes] = parts['head'].reshape(-1, len(classes))
  return penalties.flat({**parts, 'head': whole})


ORACLES: dict[str, Callable[[Given], float]] = {
  'seq': plain,
  'joint': plain,
  'single': plain,
  'seq_star': seq_star,
  'replay': plain,
  'derpp': derpp,
  'agem': agem,
  'cls_er': cls_er,
  'distill': distill,
  'sdft': sdft,
  'lamol': lamol,
  'lamol_kd': lamol_kd,
  'l2kd': l2kd,
  'pretrain': plain,
  'lora': plain,
  'olora': olora,
  'slao': plain,
  'osft': plain,
  'expand': plain,
  'reptile': plain,
  'ema': plain,
  'maml': maml,
  'ewc': ewc,
  'l2': l2,
  'mas': mas,
  'closed_form': plain,
}


def slao(given: Given) -> dict:
  """The model whose adapter has the last A, and of all B a mean in which the t-th counts 1/√t."""
  ends, layers = [*given.ends, given.params], {}
  for name, last in given.params['lora']['layers'].items():
    mean = ends[0]['lora']['layers'][name]['b']
    for number, end in enumerate(ends[1:], 2):
      share = number**-0.5
      mean = (1 - share) * mean + share * end['lora']['layers'][name]['b']
    layers[name] = {**last, 'b': mean}
  return {**given.params, 'lora': {'layers': layers}}


AVERAGES: dict[str, Callable[[Given], dict]] = {
  'ema': lambda given: moving_average(given, given.settings['decay']),
  'cls_er': lambda given: moving_average(given, given.settings['slow_decay']),
  'slao': slao,
}
