"""What a run will hold, before it starts: its hooks are called on shapes, and nothing is computed.

Every task is gone through once with one example in the place of its training split. Parameters,
teachers, adapters, blocks and Fisher diagonals come out in the shapes they will have; states and
logits, of which there are some for every example, are counted at the most that there can be.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jcl import methods
from jcl.batching import batch as batches
from jcl.batching.batch import Row
from jcl.batching.packed_text import PackedText
from jcl.step import sharding
from jcl.training.hook_tools import Tools

SNAPSHOTS = 3  # the two that are kept and the one being written


class ShapeOnlyTools(Tools):
  """The tools of a run whose answers have the right shapes and are 0.

  Attributes:
    held: bytes of the trees that the folds of a hook have given, which a snapshot inside it keeps.
  """

  def __init__(self, tools: Tools):
    vars(self).update(vars(tools))
    self.reports, self.held = {}, 0
    self._shapes: dict[Any, Any] = {}

  def map_targets(
    self, fn: Callable, params: Any, rows: Sequence[Row], name: str = ''
  ) -> list[np.ndarray]:
    """Zeros that take no room, as many as each row has targets."""
    if not rows:
      return []
    one = self._shape(fn, params, rows[:1])
    zero = np.zeros((), one.dtype)
    return [np.broadcast_to(zero, (len(row.targets), *one.shape[1:])) for row in rows]

  def mean_targets(
    self, fn: Callable, params: Any, examples: Sequence
  ) -> tuple[dict[str, float], int]:
    """Zeros by name."""
    return dict.fromkeys(self._shape(fn, params, self.text.rows(examples[0])), 0.0), 1

  def mean_examples(self, fn: Callable, params: Any, examples: Sequence, together: int = 1) -> Any:
    """A tree of zeros."""
    shapes = self._shape(fn, params, self.rows(examples[:1])[0])
    self.held += tree_bytes(shapes)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  def sample(self, params: Any, prompts: Sequence, key: Any, *how: Any, max_new: int = 32, **more):
    """Samples that are all padding."""
    return np.full((len(prompts), max_new), self.text.pad, np.int32)

  def _shape(self, fn: Callable, params: Any, rows: Sequence[Row]) -> Any:
    """The shapes of fn(params, batch of some rows), traced once for the same parameters."""
    leaves, structure = jax.tree.flatten(params)
    same = (fn, structure, tuple(jnp.shape(x) for x in leaves))
    if same not in self._shapes:
      tokens, targets = max(len(r.tokens) for r in rows), sum(len(r.targets) for r in rows)
      ladders = batches.bucket(tokens, batches.LENGTHS), batches.bucket(targets, batches.TARGETS)
      batch = batches.layout(rows, 1, batches.Shape(len(rows), *ladders), heads=self.heads)
      self._shapes[same] = jax.eval_shape(fn, params, batch)
    return self._shapes[same]


@dataclasses.dataclass(frozen=True)
class Footprint:
  """Bytes that a run will take, at its largest.

  Attributes:
    snapshot: parts of a snapshot, before compression and without plain data such as references:
      `parameters`, `optimizer`, `memory`, `under_way` (what only one inside a phase has) and
      `total`.
    kept: all snapshots of finished tasks that the settings keep.
    device: on each device beside a step's activations: `parameters`, `gradients`, `optimizer`,
      `teacher`, `start_of_task`, `memory` and `total`.
    whole: every task could be rehearsed; else it may be more.
  """

  snapshot: dict[str, int]
  kept: int
  device: dict[str, int]
  whole: bool

  @property
  def disk(self) -> int:
    """All that a workdir will hold at once."""
    return SNAPSHOTS * self.snapshot['total'] + self.kept


def footprint(parts: Any) -> Footprint:
  """What a run will take, from shapes alone.

  Args:
    parts: the `Experiment`.
  """
  method, stream, tools = parts.method, parts.stream, ShapeOnlyTools(parts.tools)
  brief = tuple(dataclasses.replace(task, train=task.train[:1]) for task in stream.tasks)
  states = _states(parts)
  devices: list[dict[str, int]] = []
  snapshots: list[dict[str, int]] = []

  def go(params: Any) -> tuple:
    memory, trained = method.init(params, stream, tools), None
    tools.stream = dataclasses.replace(stream, tasks=brief)
    for task in brief:
      tools.current, tools.held = task.index, 0
      memory, params = method.before_task(memory, params, task, tools)
      plan = method.plan(memory, task)
      if plan.new:
        trained = parts.split(params, plan)[0]
        devices.append(_on_device(parts, params, trained, memory))
      memory, params = method.after_task(memory, params, task, tools)
      snapshots.append(_in_snapshot(parts, params, trained, memory, states(memory), tools.held))
    return ()

  whole, start = True, jax.eval_shape(parts.backbone.init, jax.random.key(0))
  try:
    jax.eval_shape(go, start)
  except (jax.errors.JAXTypeError, jax.errors.JAXIndexError):  # a hook looks at the numbers
    whole = False
  plain = {'teacher': {}}
  devices = devices or [_on_device(parts, start, start, plain)]
  snapshots = snapshots or [_in_snapshot(parts, start, start, plain, 0, 0)]
  settled = sum(sum(found.values()) - found['under_way'] for found in snapshots)
  kept = settled if parts.config.checkpoint.keep_tasks else 0
  return Footprint(_largest(snapshots), kept, _largest(devices), whole)


def _largest(found: Sequence[dict[str, int]]) -> dict[str, int]:
  """That of the task which takes most, with its total."""
  most = max(found, key=lambda part: sum(part.values()))
  return {**most, 'total': sum(most.values())}


def _states(parts: Any) -> Callable[[Any], int]:
  """memory -> the most bytes that the states and logits in its tables can come to."""
  items = [0]
  if not isinstance(parts.text, PackedText):
    rows_of = lambda example: sum(len(row.targets) for row in parts.text.rows(example))
    items = [rows_of(e) for task in parts.stream.tasks for e in task.train]
  targets = sum(items) / len(items)  # of an example

  def count(memory: Any) -> int:
    total = 0.0
    for name, settings in methods.parts(parts.config.method).items():
      tables = memory.get(name, memory).get('tables') or {}
      for values in (table['values'] for table in tables.values()):
        entry = math.prod(values.shape[1:]) * values.dtype.itemsize
        total += settings.most(parts.stream) * targets * entry
    return round(total)

  return count


def _in_snapshot(
  parts: Any, params: Any, trained: Any, memory: Any, states: int, folds: int
) -> dict[str, int]:
  """Bytes of a snapshot's parts."""
  best = tree_bytes(params) if parts.config.train.keep_best else 0
  state = jax.eval_shape(parts.optimizer().init, trained) if trained is not None else ()
  return {
    'parameters': tree_bytes(params),
    'optimizer': tree_bytes(state),
    'memory': tree_bytes(_trees(memory)) + states,
    'under_way': max(folds + states, best),
  }


def _on_device(parts: Any, params: Any, trained: Any, memory: Any) -> dict[str, int]:
  """Bytes of what a step takes, and of what the loop and the method keep beside it."""
  mesh, train = parts.tools.mesh, parts.config.train
  optimizer, rest = jax.eval_shape(parts.optimizer().init, trained), dict(memory)
  carried = train.optimizer_between_tasks == 'carried'
  trees = resident(params, trained, optimizer, rest.pop('teacher'), carried)
  trees['memory'] = _trees(rest)
  put = lambda tree: sharding.outline(tree, mesh, sharding.specs(tree, mesh, train.fsdp))
  return {name: device_bytes(put(tree)) for name, tree in trees.items()}


def resident(
  params: Any, trained: Any, optimizer: Any, teacher: Any, carried: bool
) -> dict[str, Any]:
  """The trees that stand on the devices while a task trains, by what they are.

  Args:
    params: all parameters.
    trained: those that train.
    optimizer: their state.
    teacher: `teacher_params`.
    carried: the optimiser's state goes on from task to task.
  """
  kept = [trained, teacher, *([optimizer] if carried else [])]  # frozen ones are not copied
  return {
    'parameters': params, 'gradients': trained, 'optimizer': optimizer, 'teacher': teacher,
    'start_of_task': kept,
  }  # fmt: skip


def device_bytes(tree: Any) -> int:
  """That one device holds of a tree of shapes with shardings."""
  held = lambda x: math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
  return sum(map(held, jax.tree.leaves(tree)))


def tree_bytes(tree: Any) -> int:
  """That a tree of shapes holds on all devices together, each leaf once."""
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _trees(memory: Any) -> Any:
  """The arrays of a method's memory but those of its tables; None in the place of all else."""
  if isinstance(memory, Mapping):
    return {k: _trees(v) for k, v in memory.items() if k != 'tables'}
  return jax.tree.map(lambda x: x if hasattr(x, 'dtype') else None, memory)


def short(number: float, unit: str = '') -> str:
  """'32.1 GB': three digits and a power of a thousand."""
  for power, prefix in ((15, 'P'), (12, 'T'), (9, 'G'), (6, 'M'), (3, 'k')):
    if number >= 0.9995 * 10**power:
      return f'{_three(number / 10**power)} {prefix}{unit}'
  return f'{number:.0f} {unit}'.rstrip()


def _three(number: float) -> str:
  return f'{number:.{max(0, 2 - int(math.log10(max(number, 1))))}f}'
