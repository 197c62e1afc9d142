"""The arrays of one training step, and how rows are laid out on devices.

R rows, B lines of T tokens, M targets, C classes, D width. The next-token shift happens here, once:
a target is the position of the state that predicts, and the token (or class) that it must predict.
A line is a row, right-padded, or holds several rows. Every shape is one of a short ladder, so that
few programs are compiled.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jcl.batching.outlines import SizedRow
from jcl.batching.packing import first_fit
from jcl.errors import UserError, count_of

# Tokens of a row: multiples of 8, from 128 on quarters of powers of two.
LENGTHS = (*range(8, 128, 8), *(2**e * q // 4 for e in range(7, 20) for q in (4, 5, 6, 7)))
# Targets of a block: powers of two and halfway between them.
TARGETS = (1, *(2**e * q // 2 for e in range(1, 24) for q in (2, 3)))


@dataclasses.dataclass(frozen=True)
class Row:
  """One row on the host.

  Attributes:
    tokens: [t] int32 token ids.
    targets: [m] int32 positions of the states that predict.
    wanted: [m] int32 tokens, or classes, to be predicted there.
    number: identity of the row, the same in every epoch and layout: 2 * example + generative.
    task: index of the task; -1 where unknown.
    replay: whether the row comes from the past.
    generative: whether the row trains generation rather than question answering.
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
  """The arrays of one training step; NumPy arrays on the host, JAX arrays on devices.

  B lines hold R rows. Unpacked, a line is a row, right-padded: R = B. Packed, several rows stand in
  one line, one after another, and `segment` and `position` tell them apart.

  Attributes:
    tokens: [B, T] int32 token ids.
    length: [R] int32 real tokens of each row; 0 for a padding row.
    replay: [R] bool, the row comes from the past.
    generative: [R] bool, the row trains generation rather than question answering.
    task: [R] int32 index of the row's task; -1 where unknown.
    key: [R, 2] uint32 key data of the row's random draws (dropout, sampled labels, ties).
    target_row: [M] int32 row of each target within the device's block.
    target_position: [M] int32 index into the flattened [B·T] hidden states of the device's block.
    target_token: [M] int32 token, or class, to be predicted there.
    target_weight: [M] float32, 1 for a target and 0 for padding.
    allowed: [M, C] bool, classes that may be answered; None without a head.
    known: [M, C] bool, the allowed classes that the teacher had learned; None without a head.
    fields: {name: [M, …] float32}, what the tables of a method add.
    segment: [B, T] int32, row of each token within the device's block, -1 for padding; None where
      the batch is unpacked.
    position: [B, T] int32, place of each token in its row, from 0; None where it is unpacked.
    embedding_delta: [B, T, D], added to the input embeddings in adversarial training; else None.
  """

  tokens: jax.Array
  length: jax.Array
  replay: jax.Array
  generative: jax.Array
  task: jax.Array
  key: jax.Array
  target_row: jax.Array
  target_position: jax.Array
  target_token: jax.Array
  target_weight: jax.Array
  allowed: jax.Array | None = None
  known: jax.Array | None = None
  fields: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
  segment: jax.Array | None = None
  position: jax.Array | None = None
  embedding_delta: jax.Array | None = None

  replace = dataclasses.replace

  @property
  def real_BT(self) -> jax.Array:
    """[B, T] bool, the token belongs to a row and is no padding."""
    if self.segment is None:
      return jnp.arange(self.tokens.shape[1])[None] < self.length[:, None]
    return self.segment >= 0

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
    """[M] int32, task of the target's row."""
    return self.task[self.target_row]

  def only(self, where_M: jax.Array) -> 'Batch':
    """Returns the batch with weight 0 for the targets where `where_M` is false."""
    return self.replace(target_weight=jnp.where(where_M, self.target_weight, 0))

  def row_mean(self, value_M: jax.Array) -> jax.Array:
    """Returns the mean of `value_M` over the targets of each row, [R]; 0 for a row without any."""
    sums = [
      jax.ops.segment_sum(x * self.target_weight, self.target_row, self.length.shape[0])
      for x in (value_M, jnp.ones_like(value_M))
    ]
    return sums[0] / jnp.maximum(sums[1], 1)


def membership(classes_of: Sequence[Sequence[int]], classes: int) -> np.ndarray | None:
  """Returns the table of membership [tasks, C] bool: which classes each task has; None for C = 0.

  Args:
    classes_of: classes of each task, which may share some or all of them.
    classes: C, number of classes that a head has; 0: there is no head.
  """
  if not classes:
    return None
  table_TC = np.zeros((len(classes_of), classes), bool)
  for task, own in enumerate(classes_of):
    table_TC[task, list(own)] = True
  return table_TC


class Heads(NamedTuple):
  """Classes of a head that may be answered.

  Attributes:
    membership: [tasks, C] bool, the classes of each task; see `membership`.
    current: index of the last task seen.
    task_id_given: whether a row may be answered with the classes of its own task alone.
  """

  membership: np.ndarray
  current: int
  task_id_given: bool

  def allowed(self, task: int) -> np.ndarray:
    """Returns the classes that a row of `task` may be answered with, [C] bool.

    Raises:
      UserError: the task id is given, and the row is of no task of the stream.
    """
    if not self.task_id_given:
      return np.asarray(self.membership[: self.current + 1].any(0))
    if not 0 <= task < len(self.membership):
      raise UserError(
        f'a row has task {task}; where the task id is given it must be the index of one of the '
        f'{count_of(len(self.membership), "task")}'
      )
    return self.membership[task]

  def known(self, task: int) -> np.ndarray:
    """Returns those of the allowed classes that earlier tasks have, [C] bool."""
    return self.allowed(task) & self.membership[: self.current].any(0)


class Shape(NamedTuple):
  """Shape of a batch.

  Attributes:
    rows: R, of the whole batch.
    tokens: T, of a line.
    targets: M, of one block.
    lines: B, of the whole batch where it is packed; 0: unpacked, every row has a line of its own.
  """

  rows: int
  tokens: int
  targets: int
  lines: int = 0

  @property
  def places(self) -> int:
    """Number of tokens, padding included, of the whole batch."""
    return (self.lines or self.rows) * self.tokens

  @property
  def words(self) -> str:
    """Rows, lines and tokens in words."""
    rows, tokens = count_of(self.rows, 'row'), count_of(self.tokens, 'token')
    if not self.lines:
      return f'{rows} of {tokens}'
    return f'{rows} in {count_of(self.lines, "line")} of {tokens}'


Table = Mapping[str, np.ndarray]
"""Values per target of some rows, as plain arrays: rows [R], sorted, starts [R+1] and values
[sum m, …]; the values of rows[i] are values[starts[i] : starts[i+1]]."""


def table(values: Mapping[int, np.ndarray], shape: Sequence[int]) -> Table:
  """Returns the table of {row number: [m, *shape]}."""
  rows = sorted(values)
  parts = [np.asarray(values[r], np.float32).reshape(-1, *shape) for r in rows]
  return {
    'rows': np.array(rows, np.int64),
    'starts': np.cumsum([0, *map(len, parts)]).astype(np.int64),
    'values': np.concatenate(parts) if parts else np.zeros((0, *shape), np.float32),
  }


def look_up(entries: Table, number: int) -> np.ndarray | None:
  """Returns the values of one row, [m, …]; None if the table has no such row."""
  i = int(np.searchsorted(entries['rows'], number))
  if i == len(entries['rows']) or entries['rows'][i] != number:
    return None
  return entries['values'][entries['starts'][i] : entries['starts'][i + 1]]


def bucket(size: int, ladder: Sequence[int]) -> int:
  """Returns the smallest rung of `ladder` that holds `size`.

  Raises:
    UserError: no rung does.
  """
  for rung in ladder:
    if size <= rung:
      return rung
  raise UserError(f'{size} tokens or targets are more than a batch can hold ({ladder[-1]})')


def deal(rows: Sequence[SizedRow], blocks: int) -> list[list[int]]:
  """Returns the indices of the rows of each block: sorted by number of targets, dealt in turn."""
  order = sorted(range(len(rows)), key=lambda i: -len(rows[i].targets))
  return [order[b::blocks] for b in range(blocks)]


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
    rows: rows of the step, at most `shape.rows`.
    blocks: number of devices times number of microbatches; with k microbatches, block b belongs to
      device b // k.
    shape: shape of the batch.
    keys: [R, 2] uint32 key data, one key for each row; None: zeros.
    tables: values that fill `fields`; the table `known` (stored logits of a head) fills `known`.
    heads: for a head, which classes may be answered.

  Returns:
    The batch as NumPy arrays; block b has rows b·R/blocks … and targets b·M ….

  Raises:
    UserError: with a head, a row wants a class that may not be answered.
    ValueError: the rows of a block do not fit into its lines.
  """
  tables = dict(tables or {})
  covered = tables.pop('known', None)
  arrays = _zeros(blocks, shape, None if heads is None else heads.membership.shape[1])
  fields = {
    name: np.zeros((blocks, shape.targets, *entries['values'].shape[1:]), np.float32)
    for name, entries in tables.items()
  }
  for b, block in enumerate(deal(rows, blocks)):
    start, starts = 0, _starts([len(rows[i].tokens) for i in block], blocks, shape)
    for place, i in enumerate(block):
      row, end = rows[i], start + len(rows[i].targets)
      _fill(arrays, (b, place), starts[place], slice(start, end), row)
      if keys is not None:
        arrays['key'][b, place] = keys[i]
      if heads is not None:
        _fill_classes(arrays, b, slice(start, end), row, heads, covered)
      for name, entries in tables.items():
        found = look_up(entries, row.number)
        if found is not None:
          fields[name][b, start:end] = found
      start = end
  if arrays['target_position'].max(initial=0) >= shape.places // blocks:
    raise AssertionError('a target lies outside its block')  # a device would clamp it silently
  whole = lambda x: cast(jax.Array, x.reshape(-1, *x.shape[2:]))
  return Batch(
    **{name: whole(x) for name, x in arrays.items()},
    fields={name: whole(x) for name, x in fields.items()},
  )


def _starts(lengths: Sequence[int], blocks: int, shape: Shape) -> Sequence[tuple[int, int]]:
  """Returns (line, token of the line) at which each row of a block starts."""
  if not shape.lines:
    return [(place, 0) for place in range(len(lengths))]
  starts = first_fit(lengths, shape.lines // blocks, shape.tokens)
  if starts is None:
    raise ValueError(f'rows of {list(lengths)} tokens do not fit into a block of {shape}')
  return starts


def _zeros(blocks: int, shape: Shape, classes: int | None) -> dict[str, np.ndarray]:
  """Returns the arrays of an empty batch by field, [blocks, R/blocks or M, …]."""
  size, tokens, targets = shape.rows // blocks, shape.tokens, shape.targets
  of_tokens = ((shape.lines or shape.rows) // blocks, tokens), np.int32
  shapes: dict[str, tuple[tuple[int, ...], type]] = {
    'tokens': of_tokens,
    'length': ((size,), np.int32),
    'replay': ((size,), np.bool_),
    'generative': ((size,), np.bool_),
    'task': ((size,), np.int32),
    'key': ((size, 2), np.uint32),
    'target_row': ((targets,), np.int32),
    'target_position': ((targets,), np.int32),
    'target_token': ((targets,), np.int32),
    'target_weight': ((targets,), np.float32),
  }
  if shape.lines:
    shapes |= dict.fromkeys(('segment', 'position'), of_tokens)
  if classes is not None:
    shapes |= dict.fromkeys(('allowed', 'known'), ((targets, classes), np.bool_))
  arrays: dict[str, np.ndarray] = {
    name: np.zeros((blocks, *sizes), kind) for name, (sizes, kind) in shapes.items()
  }
  for name in {'task', 'segment'} & arrays.keys():
    arrays[name] -= 1
  return arrays


def _fill(
  arrays: dict[str, np.ndarray],
  at: tuple[int, int],
  start: tuple[int, int],
  targets: slice,
  row: Row,
) -> None:
  """Writes one row and its targets.

  Args:
    arrays: of the batch by field.
    at: block, and number of the row in it.
    start: line, and token of the line, at which the row starts.
    targets: places of its targets in the block.
    row: the row.
  """
  block, place = at
  line, first = start
  length = len(row.tokens)
  own = block, line, slice(first, first + length)
  arrays['tokens'][own] = row.tokens
  if 'segment' in arrays:
    arrays['segment'][own], arrays['position'][own] = place, np.arange(length)
  arrays['length'][at], arrays['replay'][at] = length, row.replay
  arrays['generative'][at], arrays['task'][at] = row.generative, row.task
  arrays['target_row'][block, targets] = place
  arrays['target_position'][block, targets] = line * arrays['tokens'].shape[2] + first + row.targets
  arrays['target_token'][block, targets] = row.wanted
  arrays['target_weight'][block, targets] = 1


def _fill_classes(
  arrays: dict[str, np.ndarray],
  block: int,
  targets: slice,
  row: Row,
  heads: Heads,
  covered: Table | None,
) -> None:
  """Writes which classes a row may be answered with, and which of them the teacher knows.

  Raises:
    UserError: the class that the row wants is none of them.
  """
  allowed = heads.allowed(row.task)
  for wanted in row.wanted:
    if not (0 <= wanted < len(allowed) and allowed[wanted]):
      raise UserError(
        f'example {row.number // 2} of task {row.task} has class {wanted}; in task '
        f'{heads.current} it must be one of {np.flatnonzero(allowed).tolist()} (indices of '
        'classes), or its loss would have no meaning'
      )
  arrays['allowed'][block, targets] = allowed
  arrays['known'][block, targets] = heads.known(row.task)
  if covered is not None and (found := look_up(covered, row.number)) is not None:
    arrays['known'][block, targets] = allowed & (found > 0)
