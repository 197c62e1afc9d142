"""The steps of an epoch of raw text: how blocks of new and old text are mixed, exact in tokens.

An epoch has every new block once, in the order of (seed, task, epoch), and for N new tokens
W = ratio · N old tokens, which are the share of the epoch in an endless line of the old blocks
(`jcl.batching.token_lines`): no old token is repeated before all were trained. Text of a corpus
that no task has is mixed in by the same rule, from a line of its own.

The pieces of old text are spread evenly: the piece with the old tokens c … c + m stands after the
first new block by which ratio · (new tokens so far) is at least c + m / 2. So after any block the
number of old tokens is less than one block away from their share.
"""

from collections.abc import Sequence
from typing import overload

import numpy as np

from jcl.batching.batch import Row
from jcl.batching.epochs import RowsOf, Step
from jcl.batching.token_lines import pieces
from jcl.seeds import generator
from jcl.streams.stream import Example, TaskPlan

NOTHING = np.zeros(0, np.int64)  # sizes of no blocks


class Epoch(Sequence[Step]):
  """The steps of one epoch, each made when it is asked for.

  Args:
    plan: new and old examples; `ratio` counts old tokens for each new token.
    sizes: tokens of the new and of the old examples, in their order.
    rows_of: returns the one row of an example.
    seed: seed of the run.
    task: index of the task.
    epoch: number of the epoch, from 0.
    batch_size: number of blocks of a step.
    corpus: blocks of text that no task has, of which `plan.corpus_ratio` counts tokens.
    corpus_sizes: tokens of these blocks.
  """

  def __init__(
    self, plan: TaskPlan, sizes: tuple[np.ndarray, np.ndarray], rows_of: RowsOf, seed: int,
    task: int, epoch: int, batch_size: int, corpus: Sequence[Example] = (),
    corpus_sizes: np.ndarray = NOTHING,
  ):  # fmt: skip
    self._sources, self._rows_of, self._size = (plan.new, plan.old, corpus), rows_of, batch_size
    self._drawn_from = seed, 'keys', task, epoch
    new = generator(seed, 'order', task, epoch).permutation(len(plan.new))
    count, before = int(sizes[0].sum()), sizes[0][new]
    found = [(new, np.zeros_like(before), before, np.arange(len(new)))]
    for purpose, of, ratio in (
      ('old', sizes[1], plan.ratio or 0.0), ('corpus', corpus_sizes, plan.corpus_ratio),
    ):  # fmt: skip
      blocks, starts, stops = pieces(of, ratio * count, seed, purpose, task, epoch)
      found.append((blocks, starts, stops, _after(before, stops - starts, ratio)))
    order = np.argsort(np.concatenate([part[3] for part in found]), kind='stable')
    self._source = np.repeat(np.arange(len(found)), [len(part[0]) for part in found])[order]
    self._example, self._start, self._stop = (
      np.concatenate([part[i] for part in found])[order] for i in range(3)
    )

  @property
  def tokens(self) -> tuple[int, int]:
    """Number of new tokens, and number of old tokens."""
    size, is_new = self._stop - self._start, self._source == 0
    return int(size[is_new].sum()), int(size[~is_new].sum())

  def __len__(self) -> int:
    return -(-len(self._example) // self._size)

  @overload
  def __getitem__(self, number: int) -> Step: ...

  @overload
  def __getitem__(self, number: slice) -> list[Step]: ...

  def __getitem__(self, number: int | slice) -> Step | list[Step]:
    if isinstance(number, slice):
      return [self[i] for i in range(len(self))[number]]
    first = range(len(self))[number] * self._size
    rows = [self._row(i) for i in range(first, min(first + self._size, len(self._example)))]
    noise = generator(*self._drawn_from, first)
    return Step(rows, noise.integers(2**32, size=(len(rows), 2), dtype=np.uint32))

  def _row(self, i: int) -> Row:
    source, example = int(self._source[i]), int(self._example[i])
    (row,) = self._rows_of(self._sources[source][example], source > 0)
    return cut(row, int(self._start[i]), int(self._stop[i]))


def cut(row: Row, start: int, stop: int) -> Row:
  """Returns the row of the tokens `start` … `stop` − 1 of a row, and of their targets."""
  if (start, stop) == (0, len(row.tokens)):
    return row
  inside = (row.targets >= start) & (row.targets < stop)
  return Row(
    row.tokens[start:stop], row.targets[inside] - start, row.wanted[inside], row.number, row.task,
    row.replay, row.generative,
  )  # fmt: skip


def _after(new: np.ndarray, pieces: np.ndarray, ratio: float) -> np.ndarray:
  """Returns where pieces of old text stand among the new blocks: i + ½ is after block i.

  Args:
    new: [N] tokens of the new blocks.
    pieces: [P] tokens of the pieces.
    ratio: old tokens for each new token.
  """
  middles = np.cumsum(pieces) - pieces / 2
  # Rounding of the number of old tokens may leave the last middle beyond the last block.
  place = np.searchsorted(ratio * np.cumsum(new), middles)
  return np.minimum(place, len(new) - 1) + 0.5
