"""How blocks of new and old text make up the steps of an epoch: exact in tokens, even throughout.

An epoch has every new block once, in the order of (seed, task, epoch), and for N new tokens
W = ratio · N old ones. The old blocks of a task stand in one endless line, turn after turn, each
turn all of them in the order of (seed, task, turn); epoch e takes the tokens e·W … (e + 1)·W of
that line, both rounded. So no old token comes again before all have come, and where the border of
two epochs falls into a block its beginning ends the one and its rest begins the other.

The pieces of old text are spread evenly: the piece of the old tokens c … c + m comes after the
first new block by which ratio · (new tokens so far) is at least c + m / 2. After any block the old
tokens are less than one block away from their share of all.
"""

from collections.abc import Callable, Sequence

import numpy as np

from jcl.batching.batch import Row
from jcl.batching.epochs import Step
from jcl.seeds import generator
from jcl.streams.stream import TaskPlan


class Epoch(Sequence):
  """The steps of one epoch, each made when it is asked for.

  Args:
    plan: new and old examples; `ratio` counts old tokens for each new one.
    sizes: tokens of the new and of the old examples, in their order.
    rows_of: (example, replay) -> its one row.
    seed, task, epoch: what the order is a function of.
    batch_size: blocks a step.
  """

  def __init__(
    self, plan: TaskPlan, sizes: tuple[np.ndarray, np.ndarray], rows_of: Callable, seed: int,
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
    """Those of new and those of old blocks."""
    size = self._stop - self._start
    return int(size[~self._is_old].sum()), int(size[self._is_old].sum())

  def __len__(self) -> int:
    return -(-len(self._example) // self._size)

  def __getitem__(self, number: int) -> Step:
    first = range(len(self))[number] * self._size
    rows = [self._row(i) for i in range(first, min(first + self._size, len(self._example)))]
    noise = generator(*self._drawn_from, first)
    return Step(rows, noise.integers(2**32, size=(len(rows), 2), dtype=np.uint32))

  def _row(self, i: int) -> Row:
    old, example = bool(self._is_old[i]), int(self._example[i])
    (row,) = self._rows_of((self._plan.old if old else self._plan.new)[example], old)
    return cut(row, int(self._start[i]), int(self._stop[i]))


def cut(row: Row, start: int, stop: int) -> Row:
  """The tokens `start` … `stop` − 1 of a row, and the targets at them."""
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
  """-> index, first token and end of each piece of old text of an epoch."""
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
  """For each piece the place among the new blocks after which it comes, and a half."""
  middles = np.cumsum(pieces) - pieces / 2
  # Rounding of the wanted number may leave the last middle beyond the last block.
  place = np.searchsorted(ratio * np.cumsum(new), middles)
  return np.minimum(place, len(new) - 1) + 0.5
