"""A buffer of real examples, as references: which of those that were offered it keeps.

    fifo            the newest
    reservoir       a uniform sample of all (Vitter 1985)
    class_balanced  of each class size // classes seen, a uniform sample
    herding         of each class as many, with a mean near that of all (Rebuffi et al. 2017)
    importance      a sample without replacement, an example's weight exp(−loss) or exp(+loss)

The last three rank: an example gets a key when it is offered, and the highest keys stay, of all or
of each class. Who was dropped once had no place later either, so nothing is lost by dropping it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jcl.seeds import generator
from jcl.step import losses
from jcl.streams.stream import Example, Reference

POLICIES = ('reservoir', 'fifo', 'class_balanced', 'herding', 'importance')
BY_CLASS = ('class_balanced', 'herding')
BY_MODEL = ('herding', 'importance')

Buffer = dict[str, Any]
"""{'examples': [(task, number), …], 'seen': how many were ever offered, 'labels': [class, …],
'keys': [float, …]}; labels and keys are of the policies that rank, else empty."""


def empty() -> Buffer:
  """A buffer that has seen nothing."""
  return {'examples': [], 'seen': 0, 'labels': [], 'keys': []}


def held(memory: dict[str, Any]) -> list[Reference]:
  """What the buffer of a method's memory holds."""
  return memory['buffer']['examples']


def add(
  buffer: Buffer,
  examples: Sequence[Example],
  size: int,
  policy: str,
  seed: int,
  keys: Sequence[float] = (),
) -> Buffer:
  """The buffer after `examples` were offered to it, one by one.

  Args:
    buffer: before; it is not changed.
    examples: in the order offered.
    size: the most it keeps.
    policy: one of `POLICIES`.
    seed: every draw is a function of it and of the example (for `reservoir`, of its place among
      all ever offered: the i-th takes place j, uniform in [0, i], where j < size).
    keys: of the examples, for `BY_MODEL`.
  """
  before, new = buffer['examples'], [e.reference for e in examples]
  seen = buffer['seen'] + len(new)
  if policy == 'fifo':
    return {**buffer, 'examples': [*before, *new][-size:], 'seen': seen}
  if policy == 'reservoir':
    kept = _reservoir(before, new, buffer['seen'], size, seed)
    return {**buffer, 'examples': kept, 'seen': seen}
  if policy == 'class_balanced':
    keys = [float(generator(seed, policy, e.number).random()) for e in examples]
  columns = {
    'examples': [*before, *new],
    'labels': [*buffer['labels'], *(e.label for e in examples)],
    'keys': [*buffer['keys'], *map(float, keys)],
  }
  groups = columns['labels'] if policy in BY_CLASS else [0] * len(columns['keys'])
  stay = _highest(columns['keys'], groups, size)
  return {'seen': seen, **{name: [column[i] for i in stay] for name, column in columns.items()}}


def _reservoir(
  before: Sequence[Reference], new: Sequence[Reference], seen: int, size: int, seed: int
) -> list[Reference]:
  kept = list(before)
  for place, reference in enumerate(new, seen):
    if len(kept) < size:
      kept.append(reference)
    elif (out := int(generator(seed, 'reservoir', place).integers(place + 1))) < size:
      kept[out] = reference
  return kept


def _highest(keys: Sequence[float], groups: Sequence[int], size: int) -> list[int]:
  """Places, in order, of the size // groups highest keys of each group; of equals the first."""
  quota, count, stay = size // max(len(set(groups)), 1), dict.fromkeys(groups, 0), []
  for i in sorted(range(len(keys)), key=lambda i: -keys[i]):
    count[groups[i]] += 1
    if count[groups[i]] <= quota:
      stay.append(i)
  return sorted(stay)


@dataclasses.dataclass(frozen=True)
class OnlineBuffer:
  """A buffer that the new examples of a task enter while they train; see `TaskPlan`.

  Attributes:
    buffer: so far.
    size, policy: as in `add`; a policy that needs no model.
    every: steps after which their new examples enter; 0: those of the first epoch, at its end.
  """

  buffer: Buffer
  size: int
  policy: str
  every: int = 0

  @property
  def examples(self) -> list[Reference]:
    """What may be drawn now."""
    return self.buffer['examples']

  def take(self, examples: Sequence[Example], seed: int) -> 'OnlineBuffer':
    """Returns the buffer after offering `examples`; draws depend on the run's `seed`."""
    kept = add(self.buffer, examples, self.size, self.policy, seed)
    return dataclasses.replace(self, buffer=kept)


# Keys that a model gives.


def keys_of(
  policy: str, backbone: Any, params: Any, examples: Sequence[Example], tools: Any,
  keep_hard: bool = False,
) -> list[float]:  # fmt: skip
  """The keys of examples of one task under a policy of `BY_MODEL`; of the others none.

  Args:
    policy: of the buffer.
    backbone: whose features or losses decide.
    params: at the end of the task.
    examples: of the task.
    tools: the run's.
    keep_hard: `importance` prefers what the model finds hard.
  """
  rows = [row for item in tools.rows(examples) for row in item[:1]]
  if policy == 'herding':
    first = [dataclasses.replace(r, targets=r.targets[:1], wanted=r.wanted[:1]) for r in rows]
    features = tools.map_targets(backbone.hidden, params, first, name='features')
    features_ND = np.concatenate(features)
    return herding_keys(features_ND, [e.label for e in examples])
  if policy == 'importance':
    nats = [x_m.mean() for x_m in tools.map_targets(_nats(backbone), params, rows)]
    return importance_keys(np.array(nats), [e.number for e in examples], tools.seed, keep_hard)
  return []


def herding_keys(features_ND: np.ndarray, labels: Sequence[int]) -> list[float]:
  """−place of each example in the herding order of its class.

  The order is iCaRL's: the k-th is argmin_x ‖μ − (φ(x) + Σ_{j<k} φ(p_j)) / k‖, φ the features on
  the unit sphere and μ their mean. A prefix of it is the best choice of its length, so that a
  smaller quota only cuts. Where a class comes again in a later task, both orders give in turn.

  Args:
    features_ND: the final state at each example's first target, or what its head reads.
    labels: [N] classes.
  """
  length_N1 = np.linalg.norm(features_ND.astype(np.float64), axis=1, keepdims=True)
  unit_ND = features_ND / np.maximum(length_N1, 1e-12)
  keys = np.zeros(len(labels))
  for label in set(labels):
    members = np.flatnonzero(np.equal(labels, label))
    keys[members[herding_order(unit_ND[members])]] = -np.arange(len(members))
  return keys.tolist()


def herding_order(unit_ND: np.ndarray) -> list[int]:
  """The order of `herding_keys` of one class, of equals the first.

  Of unit vectors the argmin is that of −φ(x)·(kμ − Σ_{j<k} φ(p_j)).
  """
  mean_D, total_D, order = unit_ND.mean(0), np.zeros(unit_ND.shape[1]), []
  left_N = np.ones(len(unit_ND), bool)
  for k in range(1, len(unit_ND) + 1):
    nearness_N = np.where(left_N, unit_ND @ (k * mean_D - total_D), -np.inf)
    order.append(int(nearness_N.argmax()))
    total_D, left_N[order[-1]] = total_D + unit_ND[order[-1]], False
  return order


def importance_keys(
  nats_N: np.ndarray, numbers: Sequence[int], seed: int, keep_hard: bool = False
) -> list[float]:
  """log w + Gumbel noise: the k highest are a draw of k without replacement, chances ∝ w.

  Self-normalised importance sampling: the examples of a task stand for its distribution Q, which is
  uniform, and w(x) ∝ P̂(x) / Q(x) with P̂(x) ∝ exp(−loss(x)), over their mean. So the examples of
  every task weigh 1 on average, and tasks share the buffer as they share what was ever offered,
  however well each was learned. Key and example stay together: the k highest of the kept and the
  new are those of all ever offered.

  Args:
    nats_N: each example's loss, the mean over its targets, at the end of its task.
    numbers: [N] of the examples; the noise is a function of (seed, number).
    seed: of the run.
    keep_hard: w ∝ exp(+loss).
  """
  log_N = np.asarray(nats_N, np.float64) * (1 if keep_hard else -1)
  log_N = log_N - log_N.max()
  log_N = log_N - np.log(np.exp(log_N).mean())
  noise = [generator(seed, 'importance', number).gumbel() for number in numbers]
  return (log_N + noise).tolist()


@functools.cache
def _nats(backbone: Any) -> Callable:
  """(params, batch) -> [M]; one function a backbone, so that it compiles once."""

  def nats(params, batch):
    return losses.target_cross_entropy(backbone, params, batch, train=False)

  return nats


def shares(buffer: Buffer, tools: Any) -> dict[str, Any]:
  """How many of its examples are of each task, and of each class where there are any."""
  examples, stream = [tools.example(e) for e in buffer['examples']], tools.stream
  tasks, labels = [e.task for e in examples], [e.label for e in examples]
  return {
    'examples': len(examples),
    'seen': buffer['seen'],
    'tasks': {stream.tasks[i].name: tasks.count(i) for i in sorted(set(tasks))},
    'classes': {stream.classes[c]: labels.count(c) for c in sorted({*labels} - {-1})},
  }
