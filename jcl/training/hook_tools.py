"""What a method's hooks may ask for, all of it in deterministic mode.

The rule of re-entry: a hook that was killed is called again from its start with the memory and
parameters it was first given; each fold it had finished answers at once from the journal, the one
under way goes on from its carry. So a hook need only be a function of its arguments that asks for
the same folds in the same order: no clock, no set order, no change of `memory` in place.
"""

import contextlib
import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jcl import distributed
from jcl.backbones import Backbone, generate
from jcl.batching import batch as batches
from jcl.batching import epochs as row_order
from jcl.batching.text_formats import Text
from jcl.config import TrainConfig
from jcl.failures import explain_oom
from jcl.seeds import generator
from jcl.step import device_maps, sharding
from jcl.streams.stream import Example, Reference, Stream, Task, TaskPlan

LESS = 'evaluate.batch_size or stream.max_length'
WIDTHS = tuple(2**e for e in range(18))  # of prompts: few, for each is a compilation


@dataclasses.dataclass
class Journal:
  """The folds of the phase under way.

  Attributes:
    entries: [name, chunks done, carry, chunks, rows a chunk] of each fold, in the order asked for.
    asked: folds asked for since the hook was (re-)entered.
  """

  entries: list[list] = dataclasses.field(default_factory=list)
  asked: int = 0

  def next(self, name: str, chunks: int, rows: int) -> list:
    """The entry of the next fold, known from before a kill or new.

    One that was finished stays so. One that was cut into other chunks, for another number of
    devices or batch size, starts again: its carry is not that of these chunks.
    """
    self.asked += 1
    if self.asked > len(self.entries):
      self.entries.append([name, 0, None, chunks, rows])
    entry = self.entries[self.asked - 1]
    if entry[0] != name:
      raise RuntimeError(f'fold {self.asked} was {entry[0]} before and is {name} now')
    if entry[3:] != [chunks, rows]:
      finished = entry[1] == entry[3]
      entry[1:] = [chunks if finished else 0, entry[2] if finished else None, chunks, rows]
    return entry


class Tools:
  """Long work for hooks: maps, means and samples, each a fold over chunks.

  Attributes:
    backbone, text, stream, mesh, seed: of the run.
    batch_size: rows (examples, for `mean_examples`) a chunk, on all devices together.
    heads: for a classifier, task index -> `batch.Heads`; else None.
    journal: of the phase under way.
    before_chunk: called before every chunk.
    on_chunk: called as (name, chunks done, chunks) after every chunk.
    reports: what hooks said with `report`, by kind; the loop takes them when the hook returns.
    generated: tokens sampled so far, up to the end of each row.
    timed: kind -> a context whose seconds are charged to that kind.
  """

  def __init__(
    self, backbone: Backbone, text: Text, stream: Stream, mesh: Any, seed: int, batch_size: int,
    class_task: np.ndarray | None = None, task_id_given: bool = False,
    train: TrainConfig | None = None,
  ):  # fmt: skip
    self.backbone, self.text, self.stream, self.mesh, self.seed = backbone, text, stream, mesh, seed
    self.batch_size = -(-batch_size // mesh.size) * mesh.size
    self.class_task, self.task_id_given = class_task, task_id_given
    self._train = TrainConfig() if train is None else train
    self.current = 0
    self.journal = Journal()
    self.before_chunk: Callable[[], None] = lambda: None
    self.on_chunk: Callable[[str, int, int], None] = lambda name, done, chunks: None
    self.reports: dict[str, list] = {}
    self.generated = 0
    self.timed: Callable[[str], Any] = lambda kind: contextlib.nullcontext()
    self._map = functools.cache(lambda fn: device_maps.map_targets(fn, mesh))
    self._sum = functools.cache(lambda fn: device_maps.sum_examples(fn, mesh))
    self._generate = functools.cache(self._make_generate)

  @property
  def heads(self) -> batches.Heads | None:
    """Which classes may be answered now; None without a head."""
    if self.class_task is None:
      return None
    return batches.Heads(self.class_task, self.current, self.task_id_given)

  def fold(self, name: str, body: Callable, carry: Any, chunks: Sequence) -> Any:
    """carry = body(carry, chunk) over `chunks`, losing none of it to a kill.

    Args:
      name: of the work, for the progress bar and the journal.
      body: (carry, chunk) -> carry, a function of its arguments.
      carry: a tree of arrays in their final shapes (None: `body` makes it from the first chunk).
      chunks: any sequence.
    """
    entry = self.journal.next(name, len(chunks), self.batch_size)
    if entry[2] is not None:
      carry = entry[2]
    for i in range(entry[1], len(chunks)):
      self.before_chunk()
      with explain_oom(lambda: f'{name or "a fold"}, {self.batch_size} rows a chunk', LESS):
        carry = body(carry, chunks[i])
      entry[1:3] = i + 1, carry
      self.on_chunk(name, i + 1, len(chunks))
    return carry

  def key(self, purpose: str, *numbers: int) -> jax.Array:
    """The key of (seed, purpose, numbers)."""
    key = jax.random.key(self.seed)
    for number in (zlib.crc32(purpose.encode()), *numbers):
      key = jax.random.fold_in(key, number)
    return key

  def report(self, **lines: Any) -> None:
    """Adds lines to lists of `results.json`, by kind; written when the hook returns."""
    for kind, line in lines.items():
      self.reports.setdefault(kind, []).append(line)

  def example(self, one: Example | Reference) -> Example:
    """An example from itself or from its reference."""
    return one if isinstance(one, Example) else self.stream.example(one)

  def rows(self, examples: Sequence[Example | Reference], replay: bool = False) -> list[tuple]:
    """The rows of each example, in the method's text format."""
    return [self.text.rows(self.example(e), replay) for e in examples]

  def trained(self, plan: TaskPlan, task: Task) -> list[Example]:
    """The new examples of a task's plan in the order in which they are first trained on.

    Fewer than the plan has where `train.steps` end before they all had their turn.
    """
    plan = plan._replace(new=[self.example(e) for e in plan.new])
    rows_of = lambda example, replay: self.text.rows(self.example(example), replay)
    first = row_order.steps(plan, rows_of, self.seed, task.index, 0, self._train.batch_size)
    return row_order.trained(plan, first[: self._train.steps or None])

  def map_targets(
    self, fn: Callable, params: Any, rows: Sequence[batches.Row], name: str = ''
  ) -> list[np.ndarray]:
    """fn(params, batch) -> [M, …] over rows => one array [m, …] a row, in the order of `rows`.

    Every row is computed in its own smallest length bucket with a fixed number of rows.

    Args:
      fn: compiles once for as long as it is the same function, such as `backbone.hidden`.
      params: what `fn` takes.
      rows: of any lengths.
      name: of the fold; empty: that of `fn`.
    """
    params = sharding.place(params, self.mesh)
    starts = np.cumsum([0, *(len(r.targets) for r in rows)])
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
      groups.setdefault(batches.bucket(len(row.tokens), batches.LENGTHS), []).append(i)
    chunks = []
    for tokens, members in sorted(groups.items()):
      most = max(len(rows[i].targets) for i in members) * self.batch_size // self.mesh.size
      shape = batches.Shape(self.batch_size, tokens, batches.bucket(most, batches.TARGETS))
      chunks += [(shape, chunk) for chunk in _cut(members, self.batch_size)]

    def part(carry, shape_and_chunk):
      shape, chunk = shape_and_chunk
      values = self._map_chunk(fn, params, [rows[i] for i in chunk], shape)
      if carry is None:
        carry = np.zeros((starts[-1], *values[0].shape[1:]), values[0].dtype)
      carry = carry.copy()
      for i, value in zip(chunk, values, strict=True):
        carry[starts[i] : starts[i + 1]] = value
      return carry

    flat = self.fold(name or getattr(fn, '__name__', 'map'), part, None, chunks)
    return [] if flat is None else np.split(flat, starts[1:-1])

  def mean_targets(
    self, fn: Callable, params: Any, examples: Sequence[Example]
  ) -> tuple[dict[str, float], int]:
    """Means over the targets of many blocks of raw text, and how many targets there are.

    Rows are made a chunk at a time, in one shape for all, and only sums are kept.

    Args:
      fn: (params, batch) -> {name: [M]}.
      params: what `fn` takes.
      examples: blocks, of one row each.
    """
    most, params = self.text.max_length, sharding.place(params, self.mesh)
    targets = batches.bucket(most * self.batch_size // self.mesh.size, batches.TARGETS)
    shape = batches.Shape(self.batch_size, batches.bucket(most, batches.LENGTHS), targets)

    def part(sums, first):
      rows = [row for e in examples[first : first + self.batch_size] for row in self.text.rows(e)]
      batch = batches.layout(rows, self.mesh.size, shape)
      counts = batch.target_weight > 0
      values = self._map(fn)(params, sharding.place_batch(batch, self.mesh))
      new = {k: distributed.fetch(v)[counts].sum(dtype=np.float64) for k, v in values.items()}
      new['targets'] = counts.sum(dtype=np.float64)
      return new if sums is None else {k: sums[k] + new[k] for k in new}

    name = getattr(fn, '__name__', 'mean')
    sums = dict(self.fold(name, part, None, range(0, len(examples), self.batch_size)))
    count = int(sums.pop('targets'))
    return {k: float(v) / count for k, v in sums.items()}, count

  def _map_chunk(
    self, fn: Callable, params: Any, rows: list[batches.Row], shape: batches.Shape
  ) -> list[np.ndarray]:
    blocks = self.mesh.size
    batch = batches.layout(rows, blocks, shape, heads=self.heads)
    values = distributed.fetch(self._map(fn)(params, sharding.place_batch(batch, self.mesh)))
    out: list[Any] = [None] * len(rows)
    for block, members in enumerate(batches.deal(rows, blocks)):
      at = block * shape.targets
      for i in members:
        out[i] = values[at : at + len(rows[i].targets)]
        at += len(rows[i].targets)
    return out

  def mean_examples(self, fn: Callable, params: Any, examples: Sequence, together: int = 1) -> Any:
    """Mean over `examples` of fn(params, batch of the rows of one example) -> tree.

    Args:
      fn: sees one example at a time, whatever the chunk.
      params: of the backbone.
      examples: in any order.
      together: examples that `fn` sees in one batch, drawn by the seed; its value then counts for
        each of them.
    """
    order = range(len(examples))
    if together > 1:
      order = generator(self.seed, 'together', self.current).permutation(len(examples))
    groups = _cut(self.rows([examples[i] for i in order]), together)
    items = [([row for rows in group for row in rows], len(group)) for group in groups]
    most = max(self.batch_size // together, 1)
    size = -(-most // self.mesh.size) * self.mesh.size
    longest = max(len(r.tokens) for item, _ in items for r in item)
    targets = max(sum(len(r.targets) for r in item) for item, _ in items)
    shape = batches.Shape(
      max(len(item) for item, _ in items),
      batches.bucket(longest, batches.LENGTHS),
      batches.bucket(targets, batches.TARGETS),
    )
    labels = self.key('labels', self.current)

    def part(carry, chunk):
      chunk = chunk + [([], 0)] * (size - len(chunk))
      batch = self._blocks([item for item, _ in chunk], shape, labels)
      counts = np.array([count for _, count in chunk], np.float32)
      new = self._sum(fn)(params, *sharding.place_batch((batch, counts), self.mesh))
      return new if carry is None else jax.tree.map(jnp.add, carry, new)

    total = self.fold(getattr(fn, '__name__', 'mean'), part, None, _cut(items, size))
    return jax.tree.map(lambda x: x / len(examples), total)

  def _blocks(self, items: list, shape: batches.Shape, key: jax.Array) -> batches.Batch:
    """A batch with one block of `shape` an item."""
    parts = []
    for item in items:
      keys = [jax.random.key_data(jax.random.fold_in(key, r.number)) for r in item]
      keys = np.array(keys, np.uint32).reshape(-1, 2)
      parts.append(batches.layout(item, 1, shape, keys, heads=self.heads))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)

  def _make_generate(self, max_new: int, k: int) -> Callable:
    text = self.text
    fn = functools.partial(generate.generate, self.backbone, max_new, k, text.eos, text.pad)
    return device_maps.map_rows(fn, self.mesh)

  def sample(
    self, params: Any, prompts: Sequence[Sequence[int]], key: jax.Array, first: int = 0,
    k: int = 1, temperature: float = 1.0, max_new: int = 32, name: str = 'sample',
  ) -> np.ndarray:  # fmt: skip
    """Continues prompts by top-k sampling; `k` 1 is greedy.

    Args:
      params: of the backbone.
      prompts: [R] lists of ids.
      key: prompt i draws from fold_in(key, first + i), whatever its chunk or device.
      first: see `key`.
      k: candidates a token.
      temperature: of the softmax over them.
      max_new: tokens at most, end-of-sequence included.
      name: of the fold.

    Returns:
      [R, max_new] int32, the padding token after the first end-of-sequence.
    """
    rung = batches.bucket(max_new, batches.TARGETS)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    run = self._generate(rung, min(k, self.backbone.vocabulary))

    def part(out, chunk):
      ids, valid = self._left_padded([prompts[i] for i in chunk])
      numbers = np.zeros(self.batch_size, np.int32)
      numbers[: len(chunk)] = np.array(chunk) + first
      keys = np.asarray(_row_keys(key, numbers))
      scalars = (np.float32(temperature), np.int32(max_new))
      tokens = distributed.fetch(
        run(params, sharding.place_batch((ids, valid, keys), self.mesh), scalars)
      )
      out = out.copy()
      out[chunk] = tokens[: len(chunk), :max_new]
      ended = np.cumsum(out[chunk] == self.text.eos, 1) - (out[chunk] == self.text.eos)
      self.generated += int((ended == 0).sum())
      return out

    out = np.full((len(prompts), max_new), self.text.pad, np.int32)
    with self.timed('generate'):
      return self.fold(name, part, out, _cut(by_length, self.batch_size))

  def _left_padded(self, prompts: list) -> tuple[np.ndarray, np.ndarray]:
    width = batches.bucket(max(map(len, prompts)), WIDTHS)
    ids = np.full((self.batch_size, width), self.text.pad, np.int32)
    valid = np.zeros((self.batch_size, width), bool)
    for i, prompt in enumerate(prompts):
      ids[i, width - len(prompt) :] = prompt
      valid[i, width - len(prompt) :] = True
    return ids, valid


@jax.jit
def _row_keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
  """[R, 2] uint32 key data of fold_in(key, number)."""
  return jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, numbers))


def _cut(items: Sequence, size: int) -> list:
  return [items[i : i + size] for i in range(0, len(items), size)]
