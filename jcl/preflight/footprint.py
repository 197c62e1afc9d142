"""Bytes that a run will hold, before it starts: its hooks run on shapes, nothing is computed.

Every task is gone through once with one example in place of its training split. Parameters,
teachers, adapters, blocks and Fisher diagonals come out in the shapes that they will have. States
and logits, of which there are some for every example, are counted at the most there can be.
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
from jcl.storage import parts as snapshot_parts
from jcl.streams.stream import TaskPlan
from jcl.training.experiment import Experiment
from jcl.training.run_context import RunContext
from jcl.training.step_inputs import StepInputs, outline_on_devices, step_inputs
from jcl.types import Memory, Params, Tree

SNAPSHOTS = 3  # the two that are kept and the one being written
COPIES = 2  # of what is the same in all snapshots


@dataclasses.dataclass(frozen=True)
class ShapeOnlyTools(RunContext):
  """Tools whose results have the right shapes and are 0: nothing is computed.

  Attributes:
    held: bytes of each tree that the folds of a hook have returned, which a snapshot inside the
      hook keeps.
    shapes: shapes by function and parameters, traced once.
  """

  held: list[int] = dataclasses.field(default_factory=list)
  shapes: dict[Any, Any] = dataclasses.field(default_factory=dict)

  def map_targets(
    self, fn: Callable, params: Params, rows: Sequence[Row], name: str = ''
  ) -> list[np.ndarray]:
    """Returns zeros that take no room, as many as each row has targets."""
    if not rows:
      return []
    one = self._shape(fn, params, rows[:1])
    zero = np.zeros((), one.dtype)
    return [np.broadcast_to(zero, (len(row.targets), *one.shape[1:])) for row in rows]

  def fold_targets(
    self, fn: Callable, params: Params, rows: Sequence[Row], body: Callable, carry: Any,
    name: str = '',
  ) -> Any:  # fmt: skip
    """Returns the carry, whose shapes are final."""
    return carry

  def mean_targets(
    self, fn: Callable, params: Params, examples: Sequence
  ) -> tuple[dict[str, float], int]:
    """Returns a zero for each name."""
    return dict.fromkeys(self._shape(fn, params, self.text.rows(examples[0])), 0.0), 1

  def mean_examples(
    self, fn: Callable, params: Params, examples: Sequence, together: int = 1
  ) -> Tree:
    """Returns a tree of zeros."""
    shapes = self._shape(fn, params, self.rows(examples[:1])[0])
    self.held.append(tree_bytes(shapes))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  def placed(self, params: Params) -> Params:
    """Returns zeros in the shapes of the parameters."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)

  def learn(
    self, params: Params, plan: TaskPlan, loss_fn: Callable, epochs: int, name: str = 'learn'
  ) -> Params:
    """Returns the parameters; a snapshot inside the training holds them and Adam's moments."""
    self.held.append(3 * tree_bytes(params))
    return params

  def fold(
    self, name: str, body: Callable[[Any, Any], Any], carry: Any, chunks: Sequence[Any]
  ) -> Any:
    """Returns the carry, whose shapes are final; without one, that of the first chunk."""
    return body(None, chunks[0]) if carry is None and chunks else carry

  def sample(
    self, params: Params, prompts: Sequence[Sequence[int]], key: jax.Array, first: int = 0,
    k: int = 1, temperature: float = 1.0, max_new: int = 32, name: str = 'sample',
  ) -> np.ndarray:  # fmt: skip
    """Returns samples that are all padding."""
    return np.full((len(prompts), max_new), self.text.pad, np.int32)

  def _shape(self, fn: Callable, params: Params, rows: Sequence[Row]) -> Tree:
    """Returns the shapes of fn(params, batch of rows), traced once for parameters of a shape."""
    leaves, structure = jax.tree.flatten(params)
    same = (fn, structure, tuple(jnp.shape(x) for x in leaves))
    if same not in self.shapes:
      tokens, targets = max(len(r.tokens) for r in rows), sum(len(r.targets) for r in rows)
      ladders = batches.bucket(tokens, batches.LENGTHS), batches.bucket(targets, batches.TARGETS)
      batch = batches.layout(rows, 1, batches.Shape(len(rows), *ladders), heads=self.heads)
      if sharding.parts_of(self.mesh) > 1:  # which a layer needs by name
        whole = sharding.specs(params, self.mesh)
        given, out = (whole, sharding.WHOLE), whole if hasattr(fn, 'becomes') else sharding.WHOLE
        fn = jax.shard_map(fn, mesh=self.mesh, in_specs=given, out_specs=out, check_vma=False)
      self.shapes[same] = jax.eval_shape(fn, params, batch)
    return self.shapes[same]


@dataclasses.dataclass(frozen=True)
class Footprint:
  """Bytes that a run will take, at its largest.

  Attributes:
    snapshot: parts of a snapshot, before compression and without plain data such as references:
      `parameters`, `optimizer`, `memory`, `under_way` (what only one inside a phase has) and
      `total`.
    kept: all snapshots of finished tasks that the settings keep, without what is still.
    still: arrays of a snapshot that no step and no hook ever changes, such as the weights that
      adapters stand beside. A snapshot links them from the one before the last.
    device: on each device beside a step's activations: `parameters`, `gradients`, `optimizer`,
      `teacher`, `start_of_task`, `memory` and `total`.
    whole: whether the hooks of every task could be called; if not, the run may take more.
  """

  snapshot: dict[str, int]
  kept: int
  device: dict[str, int]
  whole: bool
  still: int = 0

  @property
  def rolling(self) -> int:
    """Bytes of the snapshots that are there at once, beside those of tasks."""
    return SNAPSHOTS * self.snapshot['total'] - (SNAPSHOTS - COPIES) * self.still

  @property
  def disk(self) -> int:
    """Bytes that a workdir will hold at once, on a file system that has links."""
    return self.rolling + self.kept


def shape_only(tools: RunContext) -> ShapeOnlyTools:
  """Returns the shape-only twin of a run's tools; what it reports goes nowhere."""
  same = {f.name: getattr(tools, f.name) for f in dataclasses.fields(RunContext)}
  return ShapeOnlyTools(**same | {'reports': {}})


def footprint(parts: Experiment) -> Footprint:
  """Returns the bytes that a run will take, from shapes alone.

  Args:
    parts: the `Experiment`.
  """
  method, stream, tools = parts.method, parts.stream, shape_only(parts.tools)
  brief = tuple(dataclasses.replace(task, train=task.train[:1]) for task in stream.tasks)
  states = _states(parts)
  devices: list[dict[str, int]] = []
  snapshots: list[dict[str, int]] = []
  still: list[int] = []

  def go(params: Params) -> tuple:
    memory, trained, moments = method.init(params, stream, tools), None, _Moments()
    moments.add(params, memory)
    for task in brief:
      here = dataclasses.replace(
        tools, stream=dataclasses.replace(stream, tasks=brief), task_index=task.index, held=[]
      )
      memory, params = method.before_task(memory, params, task, here)
      if method.before_epoch is not None:
        memory = method.before_epoch(memory, params, task, 0, here)
      plan = method.plan(memory, task)
      moments.add(params, memory)
      if plan.new and not plan.takes_steps:
        kept = {name: tree for name, tree in memory.items() if name != 'teacher'}
        trees = {**at_rest(params), 'memory': _on_devices(_trees(kept))}
        devices.append(_bytes_of(parts, trees))
      elif plan.new:
        inputs = outlined_inputs(parts, params, memory['teacher'], plan)
        trained = inputs.state['params']
        moments.changed(parts.split(params, plan)[0], memory, method)
        devices.append(_on_device(parts, params, inputs, memory))
      memory, params = method.after_task(memory, params, task, here)
      moments.add(params, memory)
      snapshots.append(_in_snapshot(parts, params, trained, memory, states(memory), sum(here.held)))
    still.append(moments.still())
    return ()

  whole, start = True, jax.eval_shape(parts.backbone.init, jax.random.key(0))
  try:
    jax.eval_shape(go, start)
  except (jax.errors.JAXTypeError, jax.errors.JAXIndexError):  # a hook looks at the numbers
    whole = False
  plain: Memory = {'teacher': {}}
  devices = devices or [_without_hooks(parts, start)]
  snapshots = snapshots or [_in_snapshot(parts, start, start, plain, 0, 0)]
  settled = sum(sum(found.values()) - found['under_way'] - sum(still) for found in snapshots)
  kept = settled if parts.config.checkpoint.keep_tasks else 0
  return Footprint(_largest(snapshots), kept, _largest(devices), whole, sum(still))


class _Moments:
  """Which arrays are the same in every snapshot: a hook that leaves one returns the same object."""

  def __init__(self) -> None:
    self._there: list[dict[int, Any]] = []
    self._changed: dict[int, Any] = {}

  def add(self, params: Params, memory: Memory) -> None:
    """Adds a moment at which a snapshot may be taken."""
    self._there.append(_by_identity((params, _trees(memory))))

  def changed(self, trained: Tree, memory: Memory, method: methods.Method) -> None:
    """Adds what the steps of a task change: what trains, and a teacher that follows it."""
    self._changed |= _by_identity(trained)
    if method.after_step is not None:
      self._changed |= _by_identity(memory['teacher'])

  def still(self) -> int:
    """Returns the bytes of what never changes and is a part of its own on the disk."""
    same = set[int](self._there[0]).intersection(*self._there)
    sizes = [tree_bytes(self._there[0][key]) for key in same - self._changed.keys()]
    return sum(size for size in sizes if size >= snapshot_parts.LARGE * jax.process_count())


def _by_identity(tree: Tree) -> dict[int, Any]:
  """Returns {id: leaf}; the leaves are held, so that no other object gets the id of one."""
  return {id(x): x for x in jax.tree.leaves(tree)}


def _largest(found: Sequence[dict[str, int]]) -> dict[str, int]:
  """Returns the bytes of the task that takes most, with their total."""
  most = max(found, key=lambda part: sum(part.values()))
  return {**most, 'total': sum(most.values())}


def _states(parts: Experiment) -> Callable[[Memory], int]:
  """Returns a function: memory -> most bytes of the states and logits in its tables."""
  items = [0]
  if not isinstance(parts.text, PackedText):
    rows_of = lambda example: sum(len(row.targets) for row in parts.text.outlines(example))
    items = [rows_of(e) for task in parts.stream.tasks for e in task.train]
  targets = sum(items) / len(items)  # of an example

  def count(memory: Memory) -> int:
    total = 0.0
    for name, settings in methods.parts(parts.config.method).items():
      tables = memory.get(name, memory).get('tables') or {}
      for values in (table['values'] for table in tables.values()):
        entry = math.prod(values.shape[1:]) * values.dtype.itemsize
        total += settings.max_cached_examples(parts.stream) * targets * entry
    return round(total)

  return count


def _in_snapshot(
  parts: Experiment, params: Params, trained: Tree, memory: Memory, states: int, folds: int
) -> dict[str, int]:
  """Returns the bytes of each part of a snapshot."""
  train = parts.config.train
  state = jax.eval_shape(parts.optimizer().init, trained) if trained is not None else ()
  best = tree_bytes(params) if train.keep_best else 0
  if train.keep_best and train.optimizer_between_tasks == 'carried':
    best += tree_bytes(state)
  return {
    'parameters': tree_bytes(params),
    'optimizer': tree_bytes(state),
    'memory': tree_bytes(_trees(memory)) + states,
    'under_way': max(folds + states, best),
  }


def outlined_inputs(parts: Experiment, params: Params, teacher: Tree, plan: TaskPlan) -> StepInputs:
  """Returns the inputs of a task's first step as shapes with shardings."""
  start = lambda trained: jax.eval_shape(parts.optimizer().init, trained)
  return step_inputs(parts, params, teacher, plan, outline_on_devices(parts), start)


def _on_device(
  parts: Experiment, params: Params, inputs: StepInputs, memory: Memory
) -> dict[str, int]:
  """Returns the bytes on a device: the inputs of a step, and what loop and method keep."""
  rest = {name: value for name, value in memory.items() if name != 'teacher'}
  held = {**resident(parts, params, inputs), 'memory': _on_devices(_trees(rest))}
  return _bytes_of(parts, held)


def at_rest(params: Params) -> dict[str, Tree]:
  """Returns the trees on the devices of a run that takes no step, by the names of `resident`."""
  empty = ('gradients', 'optimizer', 'teacher', 'start_of_task')
  return {'parameters': params, **{name: {} for name in empty}}


def _without_hooks(parts: Experiment, params: Params) -> dict[str, int]:
  """Bytes on a device where the method's hooks cannot be followed: all parameters train."""
  optimizer = jax.eval_shape(parts.optimizer().init, params)
  inputs = StepInputs({'params': params, 'optimizer': optimizer}, ({}, {}, {}), {})
  return _bytes_of(parts, {**resident(parts, params, inputs), 'memory': {}})


def _bytes_of(parts: Experiment, trees: Mapping[str, Tree]) -> dict[str, int]:
  """Bytes of each tree on one device."""
  mesh, fsdp = parts.tools.mesh, parts.config.train.fsdp
  put = lambda tree: sharding.outline(tree, mesh, sharding.specs(tree, mesh, fsdp))
  return {name: device_bytes(put(tree)) for name, tree in trees.items()}


def resident(parts: Experiment, params: Params, inputs: StepInputs) -> dict[str, Tree]:
  """Returns the trees that stand on the devices while a task trains, by what they are.

  Args:
    parts: of the run.
    params: all parameters.
    inputs: of the task's first step.
  """
  trained, optimizer = inputs.state['params'], inputs.state['optimizer']
  carried = parts.config.train.optimizer_between_tasks == 'carried'
  moving = [trained, *([optimizer] if carried else [])]  # what is frozen is not copied
  best = parts.config.train.keep_best and parts.config.train.fsdp  # otherwise on the host
  kept = [inputs.teacher, *moving, *(moving if best else [])]
  return {
    'parameters': params, 'gradients': trained, 'optimizer': optimizer, 'teacher': inputs.teacher,
    'start_of_task': kept,
  }  # fmt: skip


def device_bytes(tree: Tree) -> int:
  """Returns the bytes that one device holds of a tree of shapes with shardings."""
  held = lambda x: math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
  return sum(map(held, jax.tree.leaves(tree)))


def tree_bytes(tree: Tree) -> int:
  """Returns the bytes of a tree of shapes, each leaf counted once."""
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _trees(memory: Tree) -> Tree:
  """Returns the arrays of a method's memory without its tables; None replaces all else."""
  if isinstance(memory, Mapping):
    return {k: _trees(v) for k, v in memory.items() if k != 'tables'}
  return jax.tree.map(lambda x: x if hasattr(x, 'dtype') else None, memory)


def _on_devices(tree: Tree) -> Tree:
  """Returns a tree without the arrays that stay on the host."""
  return jax.tree.map(lambda x: None if isinstance(x, np.ndarray) else x, tree)


def short(number: float, unit: str = '') -> str:
  """'32.1 GB': three digits and a power of a thousand."""
  for power, prefix in ((15, 'P'), (12, 'T'), (9, 'G'), (6, 'M'), (3, 'k')):
    if number >= 0.9995 * 10**power:
      return f'{_three(number / 10**power)} {prefix}{unit}'
  return f'{number:.0f} {unit}'.rstrip()


def _three(number: float) -> str:
  return f'{number:.{max(0, 2 - int(math.log10(max(number, 1))))}f}'
