"""The arrays of one step, and how rows are laid out on devices. B rows, T tokens, M targets.

The next-token shift happens here, once: a target is the position of the state that predicts and the
token (or class) it should predict. Rows are right-padded; every shape is one of a small ladder.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jcl.errors import UserError

# Tokens a row: multiples of 8, from 128 on quarters of powers of two.
LENGTHS = (*range(8, 128, 8), *(2**e * q // 4 for e in range(7, 20) for q in (4, 5, 6, 7)))
# Targets a block: powers of two and halfway between them.
TARGETS = (1, *(2**e * q // 2 for e in range(1, 24) for q in (2, 3)))
RARE = 0.25  # a length that fewer of the steps have is not worth a compilation of its own


@dataclasses.dataclass(frozen=True)
class Row:
  """One row on the host: what it says, who it is, and where its targets are.

  Attributes:
    tokens: [t] int32 token ids.
    targets: [m] int32 positions of the states that predict.
    wanted: [m] int32 the token, or the class, to be predicted there.
    number: its identity, the same in every epoch and layout: 2 * example + generative.
    task: index of its task; -1 where unknown.
    replay: it comes from the past.
    generative: it trains generation, not question answering.
  """

  tokens: np.ndarray
  targets: np.ndarray
  wanted: np.ndarray
  number: int
  task: int
  replay: bool = False
  generative: bool = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """The arrays of one step. Fields as in the table of shapes below.

  Attributes:
    tokens: [B, T] int32, right-padded.
    length: [B] int32, real tokens; 0 for a padding row.
    replay, generative: [B] bool.
    task: [B] int32, -1 where unknown.
    key: [B, 2] uint32, key data of the row's draws (dropout, sampled labels, ties).
    target_position: [M] int32 into the device's own flattened [B·T] hidden states.
    target_token: [M] int32, the token or class to be predicted there.
    target_weight: [M] float32, 1, or 0 for padding.
    allowed, known: [M, C] bool, heads only: classes that may be answered, and those of them that
      the teacher had learned; else None.
    fields: {name: [M, …]} what a method's tables add.
    embedding_delta: [B, T, D] added to the input embeddings, or None: adversarial training alone.
  """

  tokens: Any
  length: Any
  replay: Any
  generative: Any
  task: Any
  key: Any
  target_position: Any
  target_token: Any
  target_weight: Any
  allowed: Any = None
  known: Any = None
  fields: dict[str, Any] = dataclasses.field(default_factory=dict)
  embedding_delta: Any = None

  replace = dataclasses.replace

  @property
  def target_row(self) -> jax.Array:
    """[M] the row of each target."""
    return self.target_position // self.tokens.shape[1]

  @property
  def replay_M(self) -> jax.Array:
    """[M] bool, the target's row comes from the past."""
    return self.replay[self.target_row]

  @property
  def generative_M(self) -> jax.Array:
    """[M] bool, the target's row trains generation."""
    return self.generative[self.target_row]

  @property
  def task_M(self) -> jax.Array:
    """[M] int32, the task of the target's row."""
    return self.task[self.target_row]

  def only(self, where_M: jax.Array) -> 'Batch':
    """The batch with the weight of all other targets 0."""
    return self.replace(target_weight=jnp.where(where_M, self.target_weight, 0))

  def row_mean(self, value_M: jax.Array) -> jax.Array:
    """[B] the mean of `value_M` over each row's targets; 0 where it has none."""
    sums = [
      jax.ops.segment_sum(x * self.target_weight, self.target_row, self.tokens.shape[0])
      for x in (value_M, jnp.ones_like(value_M))
    ]
    return sums[0] / jnp.maximum(sums[1], 1)


class Heads(NamedTuple):
  """Which classes of a head may be answered.

  Attributes:
    class_task: [C] the task in which each class first occurs.
    current: the last task seen.
    told: task-incremental: a row's own task alone may answer.
  """

  class_task: np.ndarray
  current: int
  task_id_given: bool

  def allowed(self, task: int) -> np.ndarray:
    """[C] bool, the classes that a row of `task` may be answered with."""
    return self.class_task == task if self.task_id_given else self.class_task <= self.current


class Shape(NamedTuple):
  """The shape of a batch: rows and tokens of the whole, targets of one block."""

  rows: int
  tokens: int
  targets: int


Table = Mapping[str, np.ndarray]
"""Arrays per target, by row, as plain arrays: rows [R] sorted, starts [R+1], values [sum m, …]."""


def table(values: Mapping[int, np.ndarray], shape: Sequence[int]) -> Table:
  """A table of {row number: [m, *shape]}."""
  rows = sorted(values)
  parts = [np.asarray(values[r], np.float32).reshape(-1, *shape) for r in rows]
  return {
    'rows': np.array(rows, np.int64),
    'starts': np.cumsum([0, *map(len, parts)]).astype(np.int64),
    'values': np.concatenate(parts) if parts else np.zeros((0, *shape), np.float32),
  }


def look_up(entries: Table, number: int) -> np.ndarray | None:
  """The [m, …] of one row; None where the table lacks it."""
  i = int(np.searchsorted(entries['rows'], number))
  if i == len(entries['rows']) or entries['rows'][i] != number:
    return None
  return entries['values'][entries['starts'][i] : entries['starts'][i + 1]]


def bucket(size: int, ladder: Sequence[int]) -> int:
  """The smallest rung of `ladder` that holds `size`."""
  for rung in ladder:
    if size <= rung:
      return rung
  raise UserError(f'{size} tokens or targets are more than a batch can hold ({ladder[-1]})')


def deal(rows: Sequence[Row], blocks: int) -> list[list[int]]:
  """Which rows each block gets: ordered by number of targets, then dealt in turn."""
  order = sorted(range(len(rows)), key=lambda i: -len(rows[i].targets))
  return [order[b::blocks] for b in range(blocks)]


def _need(step: Sequence[Row], blocks: int) -> tuple[int, int]:
  """The length bucket that a step falls into, and the targets of its fullest block."""
  fullest = max(sum(len(step[i].targets) for i in block) for block in deal(step, blocks))
  return bucket(max(len(r.tokens) for r in step), LENGTHS), fullest


def rungs(steps: Sequence[Sequence[Row]], blocks: int, rows: int) -> list[Shape]:
  """The few shapes that steps are padded to, a function of the rows' lengths alone.

  Steps whose longest row falls into the same length bucket share one number of targets, that of the
  fullest block among them; a bucket that few steps fall into is lifted into the next one.

  Args:
    steps: the rows of each step.
    blocks: devices times microbatches.
    rows: the most rows that a step may have.
  """
  most: dict[int, int] = {}
  count: dict[int, int] = {}
  for tokens, targets in (_need(step, blocks) for step in steps):
    most[tokens] = max(targets, most.get(tokens, 0))
    count[tokens] = count.get(tokens, 0) + 1
  for tokens in sorted(most)[:-1]:
    if count[tokens] < RARE * len(steps):
      above = min(t for t in most if t > tokens)
      most[above] = max(most[above], most.pop(tokens))
      count[above] += count.pop(tokens)
  rows = -(-rows // blocks) * blocks
  return [Shape(rows, tokens, bucket(most[tokens], TARGETS)) for tokens in sorted(most)]


def fit(step: Sequence[Row], blocks: int, shapes: Sequence[Shape]) -> Shape:
  """The first of `shapes` that holds a step; where none does, a larger one of the ladders."""
  tokens, targets = _need(step, blocks)
  for shape in shapes:
    if shape.tokens >= tokens and shape.targets >= targets:
      return shape
  longest = max(tokens, shapes[-1].tokens)
  return Shape(shapes[-1].rows, longest, bucket(targets, TARGETS))


def layout(
  rows: Sequence[Row],
  blocks: int,
  shape: Shape,
  keys: np.ndarray | None = None,
  tables: Mapping[str, Table] | None = None,
  heads: Heads | None = None,
) -> Batch:
  """Lays rows out in `blocks` equal blocks of one batch, on the host.

  Args:
    rows: at most `shape.rows` of them.
    blocks: devices times microbatches; block b of n·k goes to device b // k.
    shape: of the batch.
    keys: [R, 2] uint32 key data, one a row; None: zeros.
    tables: what fills `fields` (and `known`, for stored logits of a head).
    heads: for a classifier, which classes may be answered.

  Returns:
    The batch as numpy arrays; block b has rows b·B/blocks … and targets b·M ….
  """
  size, tokens, targets = shape.rows // blocks, shape.tokens, shape.targets
  zeros = lambda *s, dtype=np.int32: np.zeros((blocks, *s), dtype)
  batch = Batch(
    zeros(size, tokens), zeros(size), zeros(size, dtype=bool), zeros(size, dtype=bool),
    zeros(size) - 1, zeros(size, 2, dtype=np.uint32),
    zeros(targets), zeros(targets), zeros(targets, dtype=np.float32),
  )  # fmt: skip
  tables = dict(tables or {})
  covered = tables.pop('known', None)
  if heads is not None:
    classes = len(heads.class_task)
    batch = batch.replace(
      allowed=zeros(targets, classes, dtype=bool), known=zeros(targets, classes, dtype=bool)
    )
  fields = {
    name: zeros(targets, *t['values'].shape[1:], dtype=np.float32) for name, t in tables.items()
  }
  batch = batch.replace(fields=fields)
  for b, block in enumerate(deal(rows, blocks)):
    start = 0
    for place, i in enumerate(block):
      row, end = rows[i], start + len(rows[i].targets)
      _fill(batch, (b, place), slice(start, end), row)
      if keys is not None:
        batch.key[b, place] = keys[i]
      if heads is not None:
        _fill_classes(batch, b, slice(start, end), row, heads, covered)
      for name, entries in tables.items():
        found = look_up(entries, row.number)
        if found is not None:
          fields[name][b, start:end] = found
      start = end
  if batch.target_position.max(initial=0) >= size * tokens:
    raise AssertionError('a target lies outside its block')  # on the device it would be clamped
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)


def _fill(batch: Batch, at: tuple[int, int], targets: slice, row: Row) -> None:
  """Writes one row and its targets."""
  block, place = at
  length = len(row.tokens)
  batch.tokens[at][:length] = row.tokens
  batch.length[at], batch.replay[at] = length, row.replay
  batch.generative[at], batch.task[at] = row.generative, row.task
  batch.target_position[block, targets] = place * batch.tokens.shape[2] + row.targets
  batch.target_token[block, targets] = row.wanted
  batch.target_weight[block, targets] = 1


def _fill_classes(
  batch: Batch, block: int, targets: slice, row: Row, heads: Heads, covered: Table | None
) -> None:
  """Writes which classes a row may be answered with, and which of them the teacher knows."""
  allowed = heads.allowed(row.task)
  batch.allowed[block, targets] = allowed
  batch.known[block, targets] = allowed & (heads.class_task < heads.current)
  if covered is not None and (found := look_up(covered, row.number)) is not None:
    batch.known[block, targets] = allowed & (found > 0)
