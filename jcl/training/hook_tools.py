"""Tools of a method's hooks: rows, keys, maps over targets, means, samples.

Everything here computes without dropout. Long work is a fold, of which a kill loses no chunk; the
module `folds` says which rule a hook keeps for that.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jcl import distributed
from jcl.backbones import Backbone
from jcl.batching import batch as batches
from jcl.batching import epochs, prompt_arrays
from jcl.batching.chunks import Chunk, chunked, item_chunks
from jcl.batching.outlines import SizedRow, outline_of
from jcl.batching.text_formats import Text
from jcl.distributed import fetch
from jcl.seeds import generator
from jcl.step import sharding
from jcl.streams.stream import Example, Lazy, Stream, TaskPlan
from jcl.training import learning_apart
from jcl.training.compiled_maps import CompiledMaps, compiled_maps
from jcl.training.folds import FoldRunner
from jcl.training.run_context import RunContext
from jcl.types import Params, Tree

CPU_BLOCK, BLOCK = 64, 512  # rows that a CPU, or another device, computes at once in `fold_targets`
KEPT = 2**26  # most numbers in the states that `logits` keeps: 256 MB of float32
TOGETHER = 1024  # rows whose values `fold_targets` holds at once, and at least a block a device


@dataclasses.dataclass(frozen=True)
class HookTools(RunContext):
  """Long work for hooks: maps, means and samples, each a fold over chunks.

  Attributes:
    maps: the compiled functions of the run.
    folds: the runner of the phase's folds.
    steps: {loss_fn: the train step of `learn`}, each compiled once in a run.
    states: {number of a row: states at its targets [m, D]} that `logits` has computed, where the
      head alone changes in most phases; None: it keeps none.
    device_memory: bytes of a device, by which a phase gathers sharded parameters once or a layer at
      a time (`CompiledMaps.gathers`); None: unknown.
  """

  maps: CompiledMaps = None  # type: ignore[assignment]
  folds: FoldRunner = dataclasses.field(default_factory=FoldRunner)
  steps: dict[Callable, Callable] = dataclasses.field(default_factory=dict)
  states: dict[int, np.ndarray] | None = None
  device_memory: int | None = None

  def fold(self, name: str, body: Callable, carry: Tree, chunks: Sequence) -> Tree:
    """Returns carry = body(carry, chunk) over `chunks`, losing no chunk to a kill.

    Args:
      name: of the work, for the progress bar and the journal.
      body: (carry, chunk) -> carry, a function of its arguments; it may fill NumPy arrays of the
        carry in place.
      carry: a tree of arrays in their final shapes; None: `body` makes it from the first chunk.
      chunks: any sequence.
    """
    return self.folds.run(name, body, carry, chunks, self.batch_size)

  def placed(self, params: Params) -> Params:
    """Returns parameters where every compiled function expects them; those in place stay."""
    return sharding.place(params, self.mesh, sharding.specs(params, self.mesh, self.train.fsdp))

  def _of_phase(self, params: Params) -> tuple[CompiledMaps, Params]:
    """Returns the compiled functions of a phase, and the parameters as they take them."""
    return self.maps.of_phase(self.placed(params), self.device_memory)

  def map_targets(
    self, fn: Callable, params: Params, rows: Sequence[batches.Row], name: str = ''
  ) -> list[np.ndarray]:
    """Maps fn(params, batch) -> [M, …] over rows; returns an array [m, …] for each, in their order.

    Where `train.packing` says so, rows are packed, all in one shape. Otherwise every row is
    computed in its own smallest length bucket, with a fixed number of rows.

    Args:
      fn: function such as `backbone.hidden`; give the same one each time, or it compiles again.
      params: first argument of `fn`.
      rows: of any lengths.
      name: of the fold; empty: that of `fn`.
    """
    maps, params = self._of_phase(params)
    values_of = lambda chunk, shape: self._map_chunk(maps.targets(fn), params, chunk, shape)
    return self._mapped(values_of, rows, name or getattr(fn, '__name__', 'map'))

  def logits(self, params: Params, rows: Sequence[batches.Row]) -> list[np.ndarray]:
    """Returns the logits [m, C] of each row; for a row whose states are kept, the head alone runs.

    Args:
      params: parameters of the backbone.
      rows: rows of any lengths; rows of equal `number` are taken for equal.
    """
    if self.states is None:
      return self.map_targets(self.backbone.logits, params, rows)
    (maps, params), kept = self._of_phase(params), self.states
    hidden = maps.targets(self.backbone.hidden)
    kernel = fetch(params['head']['kernel'])
    untaught = not np.any(kernel)  # the logits do not depend on the states

    def values_of(chunk, shape):
      places = shape.targets * self.row_blocks
      if untaught:
        states = [np.zeros((len(row.targets), self.backbone.width), kernel.dtype) for row in chunk]
        return self._projected(params, states, places)
      new = [row for row in chunk if row.number not in kept]
      found = self._map_chunk(hidden, params, new, shape) if new else []
      here = dict(zip((row.number for row in new), found, strict=True))
      if sum(map(np.size, here.values())) + len(kept) * self.backbone.width <= KEPT:
        kept.update(here)
      ordered = [here[n] if n in here else kept[n] for n in (row.number for row in chunk)]
      return self._projected(params, ordered, places)

    return self._mapped(values_of, rows, 'logits')

  def forget_states(self) -> None:
    """Forgets the states that `logits` has kept: another backbone gives others."""
    if self.states:
      self.states.clear()

  def _projected(
    self, params: Params, states: Sequence[np.ndarray], places: int
  ) -> list[np.ndarray]:  # fmt: skip
    """Returns the logits [m, C] of each of `states`, computed together in the shape [places, D]."""
    flat = np.zeros((places, self.backbone.width), states[0].dtype)
    ends = np.cumsum([len(state) for state in states])
    flat[: ends[-1]] = np.concatenate(states)
    project = self.maps.project(self.backbone.project)
    return np.split(fetch(project(params, flat))[: ends[-1]], ends[:-1])

  def _mapped(
    self, values_of: Callable, rows: Sequence[batches.Row], name: str
  ) -> list[np.ndarray]:  # fmt: skip
    """Returns values_of(rows of a chunk, its shape) of all rows, in their order, by one fold."""
    sizes = [outline_of(row) for row in rows]
    starts = np.cumsum([0, *(len(r.targets) for r in sizes)])
    width = self.backbone.width
    chunks = chunked(sizes, self.batch_size, self.row_blocks, self.packing, width)

    def part(carry, shape_and_chunk):
      shape, chunk = shape_and_chunk
      values = values_of([rows[i] for i in chunk], shape)
      if carry is None:
        carry = np.zeros((starts[-1], *values[0].shape[1:]), values[0].dtype)
      carry = _writable(carry)
      for i, value in zip(chunk, values, strict=True):
        carry[starts[i] : starts[i + 1]] = value
      return carry

    flat = self.fold(name, part, None, chunks)
    return [] if flat is None else np.split(flat, starts[1:-1])

  def fold_targets(
    self, fn: Callable, params: Params, rows: Sequence[batches.Row], body: Callable, carry: Tree,
    name: str = '',
  ) -> Tree:  # fmt: skip
    """Returns carry = body(carry, members, values) over rows, some rows at a time.

    A device always computes blocks of the same number of rows, whatever `evaluate.batch_size` and
    the number of devices, so that the values of a row do not depend on them.

    Args:
      fn: (params, batch) -> [M, …]; give the same one each time, or it compiles again.
      params: first argument of `fn`.
      rows: rows of any lengths, each made when it is needed.
      body: (carry, indices of rows, their arrays [m, …]) -> carry.
      carry: a tree of arrays in their final shapes.
      name: name of the fold; empty: that of `fn`.
    """
    maps, params = self._of_phase(params)
    pieces = self.blocks([outline_of(row) for row in rows])
    size = self._block()

    def part(carry, pieces):
      members = [i for _, chunk in pieces for i in chunk]
      values = [
        value
        for shape, chunk in pieces
        for value in self._map_chunk(maps.targets(fn), params, [rows[i] for i in chunk], shape)
      ]
      return body(carry, members, values)

    chunks = epochs.in_parts(pieces, -(-TOGETHER // size))
    return self.folds.run(name or getattr(fn, '__name__', 'fold'), part, carry, chunks, size)

  def blocks(self, sizes: Sequence[SizedRow]) -> list[Chunk]:
    """Returns rows in the blocks in which `fold_targets` computes them."""
    return chunked(sizes, self._block(), self.row_blocks, 'off', self.backbone.width)

  def _block(self) -> int:
    """Returns the number of rows of a block of `fold_targets`, on all devices together."""
    cpu = self.mesh.devices.flat[0].platform == 'cpu'
    return self.row_blocks * (CPU_BLOCK if cpu else BLOCK)

  def mean_targets(
    self, fn: Callable, params: Params, examples: Sequence[Example]
  ) -> tuple[dict[str, float], int]:
    """Returns means over the targets of many blocks of raw text, and the number of targets.

    Rows are made a chunk at a time, all in one shape, and only sums are kept.

    Args:
      fn: (params, batch) -> {name: [M]}.
      params: first argument of `fn`.
      examples: blocks; each makes one row.
    """
    most, (maps, params) = self.text.max_length, self._of_phase(params)
    targets = batches.bucket(most * self.batch_size // self.row_blocks, batches.TARGETS)
    shape = batches.Shape(self.batch_size, batches.bucket(most, batches.LENGTHS), targets)

    def part(sums, first):
      rows = [row for e in examples[first : first + self.batch_size] for row in self.text.rows(e)]
      batch = batches.layout(rows, self.row_blocks, shape)
      counts = batch.target_weight > 0
      values = maps.targets(fn)(params, sharding.place_batch(batch, self.mesh))
      new = {k: fetch(v)[counts].sum(dtype=np.float64) for k, v in values.items()}
      new['targets'] = counts.sum(dtype=np.float64)
      return new if sums is None else {k: sums[k] + new[k] for k in new}

    name = getattr(fn, '__name__', 'mean')
    sums = dict(self.fold(name, part, None, range(0, len(examples), self.batch_size)))
    count = int(sums.pop('targets'))
    return {k: float(v) / count for k, v in sums.items()}, count

  def _map_chunk(
    self, mapped: Callable, params: Params, rows: list[batches.Row], shape: batches.Shape
  ) -> list[np.ndarray]:
    """Returns the values of each row, computed together by a compiled map over targets."""
    blocks = self.row_blocks
    batch = batches.layout(rows, blocks, shape, heads=self.heads)
    values = fetch(mapped(params, sharding.place_batch(batch, self.mesh)))
    out = [np.zeros(0)] * len(rows)
    for block, members in enumerate(batches.deal(rows, blocks)):
      at = block * shape.targets
      for i in members:
        out[i] = values[at : at + len(rows[i].targets)]
        at += len(rows[i].targets)
    return out

  def mean_examples(
    self, fn: Callable, params: Params, examples: Sequence, together: int = 1
  ) -> Tree:
    """Returns the mean over `examples` of fn(params, batch of the rows of one example) -> tree.

    Args:
      fn: function that gets the rows of one example at a time, whatever the size of a chunk.
      params: first argument of `fn`.
      examples: examples, in any order.
      together: number of examples that `fn` gets in one batch, drawn by the seed; its value then
        counts for each of them.
    """
    order: Sequence[int] = range(len(examples))
    if together > 1:
      order = generator(self.seed, 'together', self.task_index).permutation(len(examples)).tolist()
    groups = epochs.in_parts(Lazy(order, lambda _, i: self.example(examples[i])), together)
    sizes = [[size for e in group for size in self.text.outlines(e)] for group in groups]
    most = max(self.batch_size // together, 1)
    size = -(-most // self.row_blocks) * self.row_blocks
    labels = self.key('labels', self.task_index)

    params = self.placed(params)
    whole = None
    if self.maps.whole is not None and not hasattr(fn, 'becomes'):
      params = self.maps.gathered(False)(params)
    elif self.maps.gathers(params, self.device_memory):
      whole = self.maps.gathered(True)(params)
    examples_of = self.maps.examples(fn)

    def part(carry, shape_and_chunk):
      shape, members = shape_and_chunk
      chunk = [*(groups[i] for i in members), *[()] * (size - len(members))]
      batch = self._blocks([self._all_rows(group) for group in chunk], shape, labels)
      counts = np.array(list(map(len, chunk)), np.float32)
      new = examples_of(params, *sharding.place((batch, counts), self.mesh, sharding.ROWS), whole)
      return new if carry is None else jax.tree.map(jnp.add, carry, new)

    chunks = item_chunks(sizes, size, self.packing)
    total = self.fold(getattr(fn, '__name__', 'mean'), part, None, chunks)
    return jax.tree.map(lambda x: x / len(examples), total)

  def _blocks(self, items: list, shape: batches.Shape, key: jax.Array) -> batches.Batch:
    """Returns a batch with one block of `shape` for each item, the rows of an item."""
    numbers = np.zeros(shape.rows * len(items), np.int32)  # of one length, so that it compiles once
    found = [r.number for item in items for r in item]
    numbers[: len(found)] = found
    keys, first, parts = np.asarray(_row_keys(key, numbers)), 0, []
    for item in items:
      own, first = keys[first : first + len(item)], first + len(item)
      parts.append(batches.layout(item, 1, shape, own, heads=self.heads))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)

  def _all_rows(self, examples: Sequence[Example]) -> list[batches.Row]:
    """Returns the rows of some examples, one after another."""
    return [row for example in examples for row in self.text.rows(example)]

  def learn(
    self, params: Params, plan: TaskPlan, loss_fn: Callable, epochs: int, name: str = 'learn'
  ) -> Params:
    """Returns parameters that have learned a plan apart from the run; see `Tools.learn`."""
    train = dataclasses.replace(self.train, epochs=epochs, steps=0)
    return learning_apart.learned(self, params, plan, loss_fn, train, name)

  def sample(
    self, params: Params, prompts: Sequence[Sequence[int]], key: jax.Array, first: int = 0,
    k: int = 1, temperature: float = 1.0, max_new: int = 32, name: str = 'sample',
  ) -> np.ndarray:  # fmt: skip
    """Continues prompts by top-k sampling; `k` 1 is greedy.

    Args:
      params: of the backbone.
      prompts: R lists of token ids.
      key: prompt i draws from fold_in(key, first + i), whatever its chunk or device.
      first: see `key`.
      k: candidates of each token.
      temperature: divides the logits of the candidates.
      max_new: new tokens at most, end-of-sequence included.
      name: of the fold.

    Returns:
      [R, max_new] int32, the padding token after the first end-of-sequence.
    """
    rung = batches.bucket(max_new, batches.TARGETS)
    common = prompt_arrays.shared(prompts, self.backbone.shares)
    shared = prompt_arrays.left_padded([prompts[0][:common]] if prompts else [[]], 1, self.text.pad)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    maps, params = self._of_phase(params)
    run = maps.generate(rung, min(k, self.backbone.vocabulary))

    def part(out, chunk):
      ids, valid = prompt_arrays.left_padded(
        [prompts[i][common:] for i in chunk], self.batch_size, self.text.pad
      )
      numbers = np.zeros(self.batch_size, np.int32)
      numbers[: len(chunk)] = np.array(chunk) + first
      real = np.zeros(self.batch_size, bool)
      real[: len(chunk)] = [len(prompts[i]) > 0 for i in chunk]
      keys = np.asarray(_row_keys(key, numbers))
      rows = sharding.place((ids, valid, real, keys), self.mesh, sharding.ROWS)
      tokens = fetch(run(params, rows, (*shared, np.float32(temperature), np.int32(max_new))))
      out = _writable(out)
      out[chunk] = tokens[: len(chunk), :max_new]
      ended = np.cumsum(out[chunk] == self.text.eos, 1) - (out[chunk] == self.text.eos)
      self.folds.generated += int((ended == 0).sum())
      return out

    out = np.full((len(prompts), max_new), self.text.pad, np.int32)
    with self.folds.timed('generate'):
      return self.fold(name, part, out, epochs.in_parts(by_length, self.batch_size))


def make_tools(
  backbone: Backbone, text: Text, stream: Stream, mesh: Mesh, seed: int, batch_size: int,
  **more: Any,
) -> HookTools:  # fmt: skip
  """Returns the tools of a run.

  Args:
    backbone, text, stream, mesh, seed: see `RunContext`.
    batch_size: rows of a chunk; it is rounded up to a multiple of the number of devices.
    **more: the other fields of `RunContext`.
  """
  blocks = sharding.blocks_of(mesh)
  whole = -(-batch_size // blocks) * blocks
  fsdp = more['train'].fsdp if 'train' in more else False
  maps = compiled_maps(backbone, text.eos, text.pad, mesh, fsdp)
  memory = distributed.least_memory(mesh) if maps.whole is not None else None
  return HookTools(
    backbone, text, stream, mesh, seed, whole, maps=maps, device_memory=memory, **more
  )


@jax.jit
def _row_keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
  """Returns [R, 2] uint32 key data of fold_in(key, number) for each of R numbers."""
  return jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, numbers))


def _writable(array: Tree) -> np.ndarray:
  """Returns the array that a fold fills; a copy of one that was read from a snapshot."""
  own = isinstance(array, np.ndarray) and array.flags.writeable
  return array if own else np.array(array)
