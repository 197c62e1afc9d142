"""Bytes of every phase of a run on each device, and the largest array that stands anywhere.

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

from jcl.batching import batch as batches
from jcl.batching.batch import Batch, Row, Shape
from jcl.preflight.collectives import COMPUTATION, array_bytes
from jcl.preflight.cost import memory
from jcl.preflight.first_step import Outline
from jcl.preflight.footprint import ShapeOnlyTools, device_bytes, shape_only, short
from jcl.preflight.page import Section
from jcl.step import sharding
from jcl.step.numerics import computing
from jcl.training.compiled_maps import CompiledMaps
from jcl.training.evaluate import answer_nats
from jcl.types import Json, Params, Tree

_ARRAY = re.compile(r'\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]')


class Program(NamedTuple):
  """A compiled function of a phase, and its arguments.

  Attributes:
    call: jitted.
    arguments: as shapes with shardings.
  """

  call: Any
  arguments: tuple


@dataclasses.dataclass(frozen=True)
class RecordingTools(ShapeOnlyTools):
  """Tools that compute nothing and keep the programs that they would have called.

  Attributes:
    maps: of the run.
    shape: of a batch of the run.
    programs: {name of the phase: program}.
  """

  maps: CompiledMaps = None  # type: ignore[assignment]
  shape: Shape = None  # type: ignore[assignment]
  programs: dict[str, Program] = dataclasses.field(default_factory=dict)

  def map_targets(
    self, fn: Callable, params: Params, rows: Sequence[Row], name: str = ''
  ) -> list[np.ndarray]:
    """Keeps the map over rows of the batch's length."""
    self.keep(name or getattr(fn, '__name__', 'map'), self.maps.targets(fn), params, self.rows_of())
    return super().map_targets(fn, params, rows, name)

  def fold_targets(
    self, fn: Callable, params: Params, rows: Sequence[Row], body: Callable, carry: Any,
    name: str = '',
  ) -> Any:  # fmt: skip
    """Keeps the map over rows of the batch's length."""
    self.keep(
      name or getattr(fn, '__name__', 'fold'), self.maps.targets(fn), params, self.rows_of()
    )
    return super().fold_targets(fn, params, rows, body, carry, name)

  def mean_targets(
    self, fn: Callable, params: Params, examples: Sequence
  ) -> tuple[dict[str, float], int]:
    """Keeps the map over blocks of raw text."""
    self.keep(getattr(fn, '__name__', 'mean'), self.maps.targets(fn), params, self.rows_of())
    return super().mean_targets(fn, params, examples)

  def mean_examples(
    self, fn: Callable, params: Params, examples: Sequence, together: int = 1
  ) -> Tree:
    """Keeps the sum over examples."""
    items = -(-max(self.batch_size // together, 1) // self.mesh.size) * self.mesh.size
    each = Shape(items * together, self.shape.tokens, together * self._targets())
    batch = batches.layout([], items, each, heads=self.heads)
    counts = np.zeros(items, np.float32)
    self.keep('importance', self.maps.examples(fn), params, batch, counts)
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
    self.keep('sampling', self.maps.generate(new, min(k, self.backbone.vocabulary)), params,
              of_rows, whole=rest)  # fmt: skip
    return super().sample(params, prompts, key, first, k, temperature, max_new, name)

  def _targets(self) -> int:
    """Returns the targets of a row of the batch."""
    return max(self.shape.targets * self.mesh.size // max(self.shape.rows, 1), 1)

  def rows_of(self) -> Batch:
    """Returns a chunk of rows of the batch's length."""
    rows = self.batch_size // self.mesh.size
    shape = Shape(self.batch_size, self.shape.tokens, rows * self._targets())
    return batches.layout([], self.mesh.size, shape, heads=self.heads)

  def keep(self, name: str, call: Any, params: Params, *of_rows: Tree, whole: Tree = None) -> None:
    """Keeps a program, with the parameters as the run places them."""
    if name in self.programs:
      return
    own = sharding.specs(params, self.mesh, self.train.fsdp)
    put = lambda tree, specs: sharding.outline(tree, self.mesh, specs)
    args = [put(params, own), *(put(tree, sharding.ROWS) for tree in of_rows)]
    if whole is not None:
      args.append(put(whole, sharding.WHOLE))
    self.programs[name] = Program(call, tuple(args))


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


def programs(now: Outline) -> dict[str, Program]:
  """Returns the programs of a run's phases but the train step, by name."""
  parts, tasks = now.parts, now.parts.stream.tasks[:2]
  if len(tasks) == 1:  # the stand-in of a plan without text: hooks do most before a second task
    tasks = (*tasks, dataclasses.replace(tasks[0], index=1))
  tasks = tuple(dataclasses.replace(t, train=t.train[:1], test=t.train[:1]) for t in tasks)
  stream = dataclasses.replace(parts.stream, tasks=tasks)
  plain = shape_only(parts.tools)
  same = {f.name: getattr(plain, f.name) for f in dataclasses.fields(ShapeOnlyTools)}
  tools = RecordingTools(**same | {'stream': stream}, maps=parts.tools.maps, shape=now.shape)
  method = parts.method

  def go(params: Params) -> tuple:
    memory = method.init(params, stream, tools)
    for task in tasks:
      here = tools.at(task.index)
      memory, params = method.before_task(memory, params, task, here)
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
def section(now: Outline) -> Section:
  """Section: bytes of each phase on a device, and its largest array.

  Args:
    now: the first step.
  """
  held = {name: device_bytes(tree) for name, tree in now.held.items()}
  between = held['parameters'] + held['optimizer'] + held['teacher']
  values: dict[str, Json] = {}
  if now.inputs is not None:
    total = memory(now).values['per_device']['total']
    size, name = largest_array(now.compiled.as_text() or '')
    values['training'] = {'bytes': total, 'largest': size, 'array': name}
  for phase, program in programs(now).items():
    compiled = program.call.lower(*program.arguments).compile()
    stats = compiled.memory_analysis()
    assert stats is not None, 'XLA reports the memory of every program that it compiles'
    own = stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    size, name = largest_array(compiled.as_text() or '')
    values[phase] = {'bytes': between + own, 'largest': size, 'array': name}
  whole = sum(math.prod(x.shape) * 4 for x in jax.tree.leaves(now.params))
  rows = [['', 'on each device', '', 'largest array', '']]
  for phase, one in values.items():
    sizes = f'{one["bytes"]:,}', short(one['bytes'], 'B')
    rows.append([phase, *sizes, one['array'], short(one['largest'], 'B')])
  notes = [
    f'the whole model is {short(whole, "B")} in float32',
    'bytes of a hook: parameters, optimiser and teacher, and what its program takes beside them',
  ]
  return Section('phases', 'bytes of each phase', {'phases': values, 'model': whole}, rows, notes)
