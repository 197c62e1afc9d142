"""A buffer of real examples, kept as references. A policy decides which offered examples stay:

    fifo            the newest examples
    reservoir       a uniform sample of all examples (Vitter 1985)
    class_balanced  size // classes seen of each class, a uniform sample
    herding         as many of each class, with a mean near that of the class (Rebuffi et al. 2017)
    importance      a sample without replacement, with weights exp(−loss) or exp(+loss)

The last three policies rank: an example gets a key when it is offered, and the examples with the
highest keys stay, of all or of each class. An example that is dropped once would not stay later
either, so dropping it loses nothing.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jcl.backbones import Backbone
from jcl.batching.batch import Batch, Row
from jcl.memory.tools import Tools
from jcl.seeds import generator
from jcl.step import losses
from jcl.streams.stream import Example, Lazy, Reference
from jcl.types import Memory, Params

POLICIES = ('reservoir', 'fifo', 'class_balanced', 'herding', 'importance')
BY_CLASS = ('class_balanced', 'herding')
BY_MODEL = ('herding', 'importance')

Buffer = dict[str, Any]
"""{'examples': [(task, number), …], 'seen': number of examples ever offered, 'labels': [class, …],
'keys': [float, …]}; labels and keys are empty where the policy does not rank."""


def empty() -> Buffer:
  """Returns a buffer to which nothing was offered."""
  return {'examples': [], 'seen': 0, 'labels': [], 'keys': []}


def held(memory: Memory) -> list[Reference]:
  """Returns the examples in the buffer of a method's memory."""
  return memory['buffer']['examples']


def add(
  buffer: Buffer,
  examples: Sequence[Example],
  size: int,
  policy: str,
  seed: int,
  keys: Sequence[float] = (),
) -> Buffer:
  """Returns the buffer after offering `examples` one by one.

  Args:
    buffer: before; it is not changed.
    examples: in the order in which they are offered.
    size: largest number of examples in the buffer.
    policy: one of `POLICIES`.
    seed: every draw is a function of the seed and the example. For `reservoir` it is a function of
      the example's place among all that were ever offered: the i-th example takes place j, uniform
      in [0, i], if j < size.
    keys: of the examples, for the policies `BY_MODEL`.
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
  """Returns the sample after `new` follow the `seen` examples of which `before` is a sample."""
  kept = list(before)
  for place, reference in enumerate(new, seen):
    if len(kept) < size:
      kept.append(reference)
    elif (out := int(generator(seed, 'reservoir', place).integers(place + 1))) < size:
      kept[out] = reference
  return kept


def _highest(keys: Sequence[float], groups: Sequence[int], size: int) -> list[int]:
  """Returns, in order, the places of the size // groups highest keys of each group.

  Of equal keys the first stays.
  """
  quota, count, stay = size // max(len(set(groups)), 1), dict.fromkeys(groups, 0), []
  for i in sorted(range(len(keys)), key=lambda i: -keys[i]):
    count[groups[i]] += 1
    if count[groups[i]] <= quota:
      stay.append(i)
  return sorted(stay)


@dataclasses.dataclass(frozen=True)
class OnlineBuffer:
  """A buffer that the new examples of a task enter while the task trains; see `TaskPlan`.

  Attributes:
    buffer: the buffer so far.
    size, policy: as in `add`; the policy is none of `BY_MODEL`.
    every: number of steps after which the new examples of these steps enter; 0: the new examples of
      the first epoch enter at its end.
  """

  buffer: Buffer
  size: int
  policy: str
  every: int = 0

  @property
  def examples(self) -> list[Reference]:
    """Returns the examples that may be drawn now."""
    return self.buffer['examples']

  def take(self, examples: Sequence[Example], seed: int) -> 'OnlineBuffer':
    """Returns the buffer after offering `examples`; draws depend on the run's `seed`."""
    kept = add(self.buffer, examples, self.size, self.policy, seed)
    return dataclasses.replace(self, buffer=kept)


# Keys that depend on the model.


def keys_of(
  policy: str, backbone: Backbone, params: Params, examples: Sequence[Example], tools: Tools,
  size: int, keep_hard: bool = False,
) -> list[float]:  # fmt: skip
  """Returns a key for each example of one task; empty where the policy is none of `BY_MODEL`.

  Args:
    policy: of the buffer.
    backbone: the model whose features or losses decide.
    params: at the end of the task.
    examples: of the task.
    tools: of the run.
    size: largest number of examples in the buffer.
    keep_hard: `importance` prefers examples of high loss.
  """
  rows = Lazy(tools.rows(examples), lambda _, item: item[0])
  if policy == 'herding':
    final = Lazy(rows, lambda _, row: asked(row))
    features = tools.map_targets(backbone.hidden, params, final, name='features')
    return herding_keys(np.concatenate(features), [e.label for e in examples], size)
  if policy == 'importance':
    nats = [x_m.mean() for x_m in tools.map_targets(_nats(backbone), params, rows)]
    return importance_keys(np.array(nats), [e.number for e in examples], tools.seed, keep_hard)
  return []


def asked(row: Row) -> Row:
  """Returns a row whose one target is the first of its last answer: the state that was asked."""
  gaps = np.flatnonzero(np.diff(row.targets) != 1)  # between the turns of a conversation
  place = slice(gaps[-1] + 1, gaps[-1] + 2) if len(gaps) else slice(1)
  return dataclasses.replace(row, targets=row.targets[place], wanted=row.wanted[place])


def herding_keys(features_ND: np.ndarray, labels: Sequence[int], size: int) -> list[float]:
  """Returns −place of each example in the herding order of its class.

  The order of a class ends at its quota, the most examples of it that a buffer of `size` keeps;
  those behind all have the place of the quota.

  In the order of iCaRL (Rebuffi et al. 2017) the k-th example is
  argmin_x ‖μ − (φ(x) + Σ_{j<k} φ(p_j)) / k‖, with features φ on the unit sphere and their mean μ. A
  prefix of the order is the choice for its length, so a smaller quota only cuts the end. Where a
  class occurs in a later task too, its two orders take turns.

  Args:
    features_ND: the final state at the first target of each answer, or the state that a head
      reads.
    labels: [N] classes.
    size: largest number of examples in the buffer.
  """
  length_N1 = np.linalg.norm(features_ND.astype(np.float64), axis=1, keepdims=True)
  unit_ND = features_ND / np.maximum(length_N1, 1e-12)
  by_class = np.argsort(labels, kind='stable')
  ends = np.flatnonzero(np.diff(np.asarray(labels)[by_class])) + 1
  classes = np.split(by_class, ends)
  quota = size // len(classes)
  keys = np.full(len(labels), -float(quota))
  for members in classes:
    order = herding_order(unit_ND[members], quota)
    keys[members[order]] = -np.arange(len(order))
  return keys.tolist()


def herding_order(unit_ND: np.ndarray, count: int) -> list[int]:
  """Returns the first `count` places in the order of `herding_keys` for one class.

  Of equal examples the first comes first. For unit vectors the argmin is that of
  −φ(x)·(kμ − Σ_{j<k} φ(p_j)).
  """
  mean_D, total_D, order = unit_ND.mean(0), np.zeros(unit_ND.shape[1]), []
  left_N = np.ones(len(unit_ND), bool)
  for k in range(1, min(count, len(unit_ND)) + 1):
    nearness_N = np.where(left_N, unit_ND @ (k * mean_D - total_D), -np.inf)
    order.append(int(nearness_N.argmax()))
    total_D, left_N[order[-1]] = total_D + unit_ND[order[-1]], False
  return order


def importance_keys(
  nats_N: np.ndarray, numbers: Sequence[int], seed: int, keep_hard: bool = False
) -> list[float]:
  """Returns log w + Gumbel noise; the k highest are k draws without replacement, chances ∝ w.

  Self-normalised importance sampling: the examples of a task represent its distribution Q, which is
  uniform, and w(x) ∝ P̂(x) / Q(x) with P̂(x) ∝ exp(−loss(x)), divided by the mean w of the task. The
  examples of every task therefore weigh 1 on average, and tasks share the buffer in proportion to
  the examples they offered, however well each task was learned. An example keeps its key, so the k
  highest keys among kept and new examples are the k highest of all that were ever offered.

  Args:
    nats_N: loss of each example at the end of its task, the mean over its targets, in nats.
    numbers: [N] numbers of the examples; the noise is a function of (seed, number).
    seed: of the run.
    keep_hard: w ∝ exp(+loss).
  """
  log_N = np.asarray(nats_N, np.float64) * (1 if keep_hard else -1)
  log_N = log_N - log_N.max()
  log_N = log_N - np.log(np.exp(log_N).mean())
  noise = [generator(seed, 'importance', number).gumbel() for number in numbers]
  return (log_N + noise).tolist()


@functools.cache
def _nats(backbone: Backbone) -> Callable[[Params, Batch], jax.Array]:
  """Returns (params, batch) -> [M] nats; one function a backbone, so that it compiles once."""

  def nats(params: Params, batch: Batch) -> jax.Array:
    return losses.target_cross_entropy(backbone, params, batch, train=False)

  return nats


def shares(buffer: Buffer, tools: Tools) -> dict[str, Any]:
  """Returns the numbers of a buffer's examples: all, ever offered, by task and by class."""
  examples, stream = [tools.example(e) for e in buffer['examples']], tools.stream
  tasks, labels = [e.task for e in examples], [e.label for e in examples]
  return {
    'examples': len(examples),
    'seen': buffer['seen'],
    'tasks': {stream.tasks[i].name: tasks.count(i) for i in sorted(set(tasks))},
    'classes': {stream.classes[c]: labels.count(c) for c in sorted({*labels} - {-1})},
  }
