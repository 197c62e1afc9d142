"""How many rows, of which each is computed once, are cut into chunks of few shapes."""

from collections.abc import Sequence

import numpy as np

from jcl.batching.batch import LENGTHS, TARGETS, Shape, bucket
from jcl.batching.batch_shapes import LESS, cost_of, fit, holds, rungs, shortest_line
from jcl.batching.epochs import in_parts
from jcl.batching.outlines import SizedRow

Chunk = tuple[Shape, Sequence[int]]
"""A shape, and the indices of the rows that it is filled with."""

FILLED = 0.98  # share of the places of a packed chunk up to which it is tried to be filled
ROOM = 1.2  # places for targets in a packed chunk, by those of rows on average


def chunked(
  rows: Sequence[SizedRow], size: int, blocks: int, packing: str, width: int
) -> list[Chunk]:
  """Returns all rows in chunks, a function of the rows' lengths and targets alone.

  Unpacked, a chunk has `size` rows of one length bucket. Packed, it has as many as fit into as many
  places as `size` rows take on average, and all chunks have one shape.

  Args:
    rows: of any lengths.
    size: rows a chunk; the number of blocks divides it.
    blocks: number of devices.
    packing: `on`, `off`, or `auto`: packed where it costs less, attention in long lines included.
    width: D of the model.
  """
  plain = [] if packing == 'on' else _by_length(rows, size, blocks)
  if packing == 'off' or not rows:
    return plain
  packed = _packed(rows, size, blocks)
  cost = lambda chunks: sum(cost_of(shape, width) for shape, _ in chunks)
  return packed if packing == 'on' or cost(packed) < LESS * cost(plain) else plain


def _by_length(rows: Sequence[SizedRow], size: int, blocks: int) -> list[Chunk]:
  """Returns chunks of rows of one length bucket."""
  groups: dict[int, list[int]] = {}
  for i, row in enumerate(rows):
    groups.setdefault(bucket(len(row.tokens), LENGTHS), []).append(i)
  chunks: list[Chunk] = []
  for tokens, members in sorted(groups.items()):
    most = max(len(rows[i].targets) for i in members) * size // blocks
    shape = Shape(size, tokens, bucket(most, TARGETS))
    chunks += [(shape, part) for part in in_parts(members, size)]
  return chunks


def _packed(rows: Sequence[SizedRow], size: int, blocks: int) -> list[Chunk]:
  """Returns chunks of several rows a line, all in one shape, of rows that follow each other."""
  tokens = np.array([len(row.tokens) for row in rows])
  targets = np.array([len(row.targets) for row in rows])
  line = bucket(shortest_line(int(tokens.max())), LENGTHS)
  lines = max(round(size * tokens.mean() / blocks / line), 1)
  share = targets.sum() / max(tokens.sum(), 1)
  most = bucket(int(max(targets.max(), ROOM * share * lines * line)), TARGETS)
  shape = Shape(2 * size, line, most, lines * blocks)
  chunks: list[Chunk] = []
  ends, first = np.cumsum(tokens), 0
  while first < len(rows):
    done = ends[first - 1] if first else 0
    last = int(np.searchsorted(ends, done + FILLED * shape.places, 'right'))
    last = max(min(last, first + shape.rows, len(rows)), first + 1)
    while last > first + 1 and not holds(rows[first:last], blocks, shape):
      last -= max((last - first) // 20, 1)
    chunks.append((shape, list(range(first, last))))
    first = last
  return chunks


def item_chunks(items: Sequence[Sequence[SizedRow]], size: int, packing: str) -> list[Chunk]:
  """Returns items, of which each becomes a block of its own, in chunks of at most `size` items.

  All have one shape; or, unless `packing` is `off`, those of about one length have one, where less
  is padding then. The shape is that of a block.

  Args:
    items: the rows of each.
    size: items a chunk, to which each is filled up.
    packing: as in `chunked`.
  """
  rows = max(map(len, items))
  shapes = rungs(items, 1, rows)
  targets = max(shape.targets for shape in shapes)
  whole = _of_shapes(items, size, [Shape(rows, shapes[-1].tokens, targets)])
  if packing == 'off':
    return whole
  apart = _of_shapes(items, size, shapes)
  places = lambda chunks: sum(shape.places for shape, _ in chunks)
  return apart if places(apart) < LESS * places(whole) else whole


def _of_shapes(
  items: Sequence[Sequence[SizedRow]], size: int, shapes: Sequence[Shape]
) -> list[Chunk]:
  """Returns chunks of items of one shape each, the smallest that holds them."""
  groups: dict[Shape, list[int]] = {shape: [] for shape in shapes}
  for i, item in enumerate(items):
    groups[fit(item, 1, shapes)].append(i)
  return [(shape, part) for shape, members in groups.items() for part in in_parts(members, size)]
