"""Bytes of every phase of a run on each device and on the host, and the largest array of each.

The hooks of the first two tasks run on shapes and say which programs they would call; each program
is compiled for the devices of the mesh. Nothing is computed.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jcl.batching import batch as batches
from jcl.batching.batch import Batch, Row, Shape
from jcl.preflight import host_phases
from jcl.preflight.collectives import COMPUTATION, array_bytes
from jcl.preflight.cost import memory
from jcl.preflight.first_step import Outline
from jcl.preflight.footprint import ShapeOnlyTools, device_bytes, shape_only, short
from jcl.preflight.page import Section
from jcl.step import sharding
from jcl.step.numerics import computing
from jcl.training.compiled_maps import UNKNOWN, CompiledMaps
from jcl.training.evaluate import answer_nats
from jcl.types import Json, Params, Tree

_ARRAY = re.compile(r'\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]')


class Program(NamedTuple):
  """A compiled function of a phase, and its arguments.

  Attributes:
    call: jitted.
    arguments: as shapes with shardings.
    whole: bytes of the parameters that the phase gathers once, on each device; 0: a layer at a
      time, or they are whole anyway.
  """

  call: Any
  arguments: tuple
  whole: int = 0


@dataclasses.dataclass(frozen=True)
class RecordingTools(ShapeOnlyTools):
  """Tools that compute nothing and keep the programs that they would have called.

  Attributes:
    maps: of the run.
    shape: of a batch of the run.
    device_memory: bytes of a device; None: unknown.
    programs: {name of the phase: program}.
  """

  maps: CompiledMaps = None  # type: ignore[assignment]
  shape: Shape = None  # type: ignore[assignment]
  device_memory: float | None = None
  programs: dict[str, Program] = dataclasses.field(default_factory=dict)

  def map_targets(
    self, fn: Callable, params: Params, rows: Sequence[Row], name: str = ''
  ) -> list[np.ndarray]:
    """Keeps the map over rows of the batch's length."""
    self.keep_map(name or getattr(fn, '__name__', 'map'), fn, params)
    return super().map_targets(fn, params, rows, name)

  def fold_targets(
    self, fn: Callable, params: Params, rows: Sequence[Row], body: Callable, carry: Any,
    name: str = '',
  ) -> Any:  # fmt: skip
    """Keeps the map over rows of the batch's length."""
    self.keep_map(name or getattr(fn, '__name__', 'fold'), fn, params)
    return super().fold_targets(fn, params, rows, body, carry, name)

  def mean_targets(
    self, fn: Callable, params: Params, examples: Sequence
  ) -> tuple[dict[str, float], int]:
    """Keeps the map over blocks of raw text."""
    self.keep_map(getattr(fn, '__name__', 'mean'), fn, params)
    return super().mean_targets(fn, params, examples)

  def mean_examples(
    self, fn: Callable, params: Params, examples: Sequence, together: int = 1
  ) -> Tree:
    """Keeps the sum over examples."""
    items = -(-max(self.batch_size // together, 1) // self.row_blocks) * self.row_blocks
    each = Shape(items * together, self.shape.tokens, together * self._targets())
    batch = batches.layout([], items, each, heads=self.heads)
    counts = np.zeros(items, np.float32)
    self.keep('importance', lambda maps: maps.examples(fn), params, batch, counts, apart=True)
    return super().mean_examples(fn, params, examples, together)

  def sample(
    self, params: Params, prompts: Sequence[Sequence[int]], key: jax.Array, first: int = 0,
    k: int = 1, temperature: float = 1.0, max_new: int = 32, name: str = 'sample',
  ) -> np.ndarray:  # fmt: skip
    """Keeps the sampling of rows as long as the batch's."""
    new = min(batches.bucket(min(max_new, self.shape.tokens), batches.TARGETS), self.shape.tokens)
    width, rows = self.shape.tokens - new, self.batch_size
    of_rows = (
      np.zeros((rows, width), np.int32), np.zeros((rows, width), bool), np.zeros(rows, bool),
      np.zeros((rows, 2), np.uint32),
    )  # fmt: skip
    rest = (np.zeros((1, 1), np.int32), np.zeros((1, 1), bool), np.float32(1), np.int32(new))
    few = min(k, self.backbone.vocabulary)
    self.keep('sampling', lambda maps: maps.generate(new, few), params, of_rows, rest=rest)
    return super().sample(params, prompts, key, first, k, temperature, max_new, name)

  def _targets(self) -> int:
    """Returns the targets of a row of the batch."""
    return max(self.shape.targets * self.row_blocks // max(self.shape.rows, 1), 1)

  def rows_of(self) -> Batch:
    """Returns a chunk of rows of the batch's length."""
    rows = self.batch_size // self.row_blocks
    shape = Shape(self.batch_size, self.shape.tokens, rows * self._targets())
    return batches.layout([], self.row_blocks, shape, heads=self.heads)

  def keep_map(self, name: str, fn: Callable, params: Params) -> None:
    """Keeps a map over targets."""
    self.keep(name, lambda maps: maps.targets(fn), params, self.rows_of())

  def keep(
    self, name: str, of: Callable, params: Params, *of_rows: Tree, rest: Tree = None,
    apart: bool = False,
  ) -> None:  # fmt: skip
    """Keeps a program, with the parameters as the run places or gathers them.

    Args:
      name: of the phase.
      of: maps of the model -> the program.
      params: shapes of the parameters.
      *of_rows: arguments that are split over the devices.
      rest: an argument that every device has; None: there is none.
      apart: whether the program takes whole parameters beside those that are sharded.
    """
    if name in self.programs:
      return
    size = self.maps.gathers(params, self.device_memory)
    put = lambda tree, specs: sharding.outline(tree, self.mesh, specs)
    own = put(params, sharding.specs(params, self.mesh, self.train.fsdp))
    args: list[Tree] = [own, *(put(tree, sharding.ROWS) for tree in of_rows)]
    if rest is not None:
      args.append(put(rest, sharding.WHOLE))
    maps = self.maps
    if size:
      shapes = jax.eval_shape(maps.gathered(True), own)
      whole = put(shapes, sharding.specs(shapes, self.mesh))
      if apart:
        args.append(whole)
      else:
        args[0], maps = whole, maps.whole or maps
    self.programs[name] = Program(of(maps), tuple(args), size)


def largest_array(text: str) -> tuple[int, str]:
  """Returns bytes and name, such as `f32[32,4096]`, of a program's largest array on a device.

  What stands inside a fused operation is no array and is left out.

  Args:
    text: of the compiled program.
  """
  best, fused = (0, ''), False
  for line in text.splitlines():
    if found := COMPUTATION.match(line):
      fused = 'fused' in found[2] or 'wrapped' in found[2]
      continue
    if fused:
      continue
    for name, dims in _ARRAY.findall(line.split(', metadata=')[0]):
      best = max(best, (array_bytes(name, dims), f'{name}[{dims}]'))
  return best


def _named(leaf: jax.ShapeDtypeStruct, mesh: Mesh, spec: P) -> tuple[int, str]:
  """Returns bytes and name of a device's part of a leaf, as `largest_array` does."""
  name = {'bfloat16': 'bf16', 'float32': 'f32'}.get(leaf.dtype.name, leaf.dtype.name)
  dims = ','.join(map(str, NamedSharding(mesh, spec).shard_shape(leaf.shape)))
  return array_bytes(name, dims), f'{name}[{dims}]'


def programs(now: Outline, device_memory: float | None = None) -> dict[str, Program]:
  """Returns the programs of a run's phases but the train step, by name.

  Args:
    now: the first step.
    device_memory: bytes of a device; None: unknown.
  """
  parts, tasks = now.parts, now.parts.stream.tasks[:2]
  if len(tasks) == 1:  # the stand-in of a plan without text: hooks do most before a second task
    tasks = (*tasks, dataclasses.replace(tasks[0], index=1))
  tasks = tuple(dataclasses.replace(t, train=t.train[:1], test=t.train[:1]) for t in tasks)
  stream = dataclasses.replace(parts.stream, tasks=tasks)
  plain = shape_only(parts.tools)
  same = {f.name: getattr(plain, f.name) for f in dataclasses.fields(ShapeOnlyTools)}
  given = {'stream': stream, 'maps': parts.tools.maps, 'device_memory': device_memory}
  tools = RecordingTools(**same | given, shape=now.shape)
  method = parts.method

  def go(params: Params) -> tuple:
    memory = method.init(params, stream, tools)
    for task in tasks:
      here = tools.at(task.index)
      memory, params = method.before_task(memory, params, task, here)
      if method.before_epoch is not None:
        memory = method.before_epoch(memory, params, task, 0, here)
      memory, params = method.after_task(memory, params, task, here)
    return ()

  jax.eval_shape(go, jax.eval_shape(parts.backbone.init, jax.random.key(0)))
  how = parts.config.evaluate.answer
  if parts.tools.heads is not None:
    tools.map_targets(parts.backbone.logits, now.params, [], 'evaluation')
  elif how == 'score' or parts.score == 'log_perplexity':
    tools.map_targets(answer_nats(parts.backbone), now.params, [], 'evaluation')
  elif 'sampling' not in tools.programs:
    tools.sample(now.params, [], jax.random.key(0))
  return tools.programs


@computing
def section(now: Outline, device_memory: float | None = None) -> Section:
  """Section: bytes of each phase on device or host, largest array, how parameters are gathered.

  Args:
    now: the first step.
    device_memory: bytes of a device; None: unknown.
  """
  held = {name: device_bytes(tree) for name, tree in now.held.items()}
  between = held['parameters'] + held['optimizer'] + held['teacher']
  values: dict[str, Json] = {}
  if now.inputs is not None:
    total = memory(now).values['per_device']['total']
    size, name = largest_array(now.compiled.as_text() or '')
    values['training'] = {'bytes': total, 'largest': size, 'array': name, 'gathered': 0}
  maps, mesh = now.parts.tools.maps, now.parts.tools.mesh
  # By layers whatever the memory: XLA's CPU compiler would keep whole kernels in float32 too.
  for phase, program in programs(now, device_memory=0).items():
    compiled = program.call.lower(*program.arguments).compile()
    stats = compiled.memory_analysis()
    assert stats is not None, 'XLA reports the memory of every program that it compiles'
    own = stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    largest = largest_array(compiled.as_text() or '')
    if once := maps.gathers(program.arguments[0], device_memory):
      gathered = jax.eval_shape(maps.gathered(True), program.arguments[0])
      each = lambda leaf, spec: _named(leaf, mesh, spec)
      named = jax.tree.map(each, gathered, sharding.specs(gathered, mesh))
      largest = max(largest, *jax.tree.leaves(named, is_leaf=lambda x: isinstance(x, tuple)))
    values[phase] = {
      'bytes': between + own + once,
      'largest': largest[0],
      'array': largest[1],
      'gathered': once,
    }
  whole = sum(math.prod(x.shape) * 4 for x in jax.tree.leaves(now.params))
  sharded = maps.whole is not None
  rows = [['', 'on each device', '', 'largest array', '', *['parameters gathered'] * sharded]]
  for phase, one in values.items():
    sizes = f'{one["bytes"]:,}', short(one['bytes'], 'B')
    how = f'once, {short(one["gathered"], "B")}' if one['gathered'] else 'a layer at a time'
    rows.append([phase, *sizes, one['array'], short(one['largest'], 'B'), *[how] * sharded])
  on_host = host_phases.on_host(now)
  rows.append(['on the host of a process', *[''] * (4 + sharded)])
  for phase, one in on_host.items():
    sizes = f'{one["bytes"]:,}', short(one['bytes'], 'B')
    rows.append([phase, *sizes, one['array'], short(one['largest'], 'B'), *[''] * sharded])
  notes = [
    f'the whole model is {short(whole, "B")} in float32',
    'bytes of a hook: parameters, optimiser and teacher, and what its program takes beside them',
    f'a process has {min(host_phases.LOCAL, now.parts.tools.mesh.size)} of the devices',
  ]
  if sharded:
    notes.append(
      f'parameters are gathered once where they take at most a fourth of '
      f'{short(device_memory or UNKNOWN, "B")}, the memory of a device (--device_memory)'
    )
  found = {'phases': values, 'host': on_host, 'model': whole}
  return Section('phases', 'bytes of each phase', found, rows, notes)
