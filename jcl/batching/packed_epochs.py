"""The steps of an epoch of raw text: how blocks of new and old text are mixed, exact in tokens.

An epoch has every new block once, in the order of (seed, task, epoch), and for N new tokens
W = ratio · N old tokens. The old blocks of a task form one endless line, turn after turn; each turn
has all of them, in the order of (seed, task, turn). Epoch e takes the tokens e·W … (e + 1)·W of the
line, both rounded. So no old token is repeated before all were trained. A block that lies on the
border of two epochs is cut: its beginning ends one epoch and its rest begins the next.

The pieces of old text are spread evenly: the piece with the old tokens c … c + m stands after the
first new block by which ratio · (new tokens so far) is at least c + m / 2. So after any block the
number of old tokens is less than one block away from their share.
"""

from collections.abc import Sequence
from typing import overload

import numpy as np

from jcl.batching.batch import Row
from jcl.batching.epochs import RowsOf, Step
from jcl.seeds import generator
from jcl.streams.stream import TaskPlan


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
  """

  def __init__(
    self, plan: TaskPlan, sizes: tuple[np.ndarray, np.ndarray], rows_of: RowsOf, seed: int,
    task: int, epoch: int, batch_size: int,
  ):  # fmt: skip
    self._plan, self._rows_of, self._size = plan, rows_of, batch_size
    self._drawn_from = seed, 'keys', task, epoch
    new = generator(seed, 'order', task, epoch).permutation(len(plan.new))
    old, starts, stops = _line(sizes, plan, seed, task, epoch)
    places = _after(sizes[0][new], stops - starts, plan.ratio or 0.0)
    order = np.argsort(np.concatenate([np.arange(len(new)), places]), kind='stable')
    self._is_old = np.repeat([False, True], [len(new), len(old)])[order]
    self._example = np.concatenate([new, old])[order]
    self._start = np.concatenate([np.zeros(len(new), np.int64), starts])[order]
    self._stop = np.concatenate([sizes[0][new], stops])[order]

  @property
  def tokens(self) -> tuple[int, int]:
    """Number of new tokens, and number of old tokens."""
    size = self._stop - self._start
    return int(size[~self._is_old].sum()), int(size[self._is_old].sum())

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
    old, example = bool(self._is_old[i]), int(self._example[i])
    (row,) = self._rows_of((self._plan.old if old else self._plan.new)[example], old)
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


def _line(
  sizes: tuple[np.ndarray, np.ndarray], plan: TaskPlan, seed: int, task: int, epoch: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the block, first token and end of each piece of old text of an epoch.

  Args:
    sizes: tokens of the new and of the old blocks.
    plan: its `ratio` counts old tokens for each new token.
    seed, task, epoch: as in `Epoch`.

  Returns:
    Indices of old blocks [P], and the first token and the end of each piece in its block, [P].
  """
  wanted, turn = (plan.ratio or 0.0) * int(sizes[0].sum()), int(sizes[1].sum())
  start, stop = round(epoch * wanted), round((epoch + 1) * wanted)
  pieces = [(np.zeros(0, np.int64),) * 3]
  if turn:
    for number in range(start // turn, -(-stop // turn)):
      order = generator(seed, 'old', task, number).permutation(len(sizes[1]))
      ends = number * turn + np.cumsum(sizes[1][order])
      begins = ends - sizes[1][order]
      taken = (ends > start) & (begins < stop)
      order, begins, ends = order[taken], begins[taken], ends[taken]
      pieces.append((order, np.maximum(begins, start) - begins, np.minimum(ends, stop) - begins))
  old, starts, stops = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
  return old, starts, stops


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
