"""An endless line of blocks, turn after turn, from which each epoch takes its exact share."""

import numpy as np

from jcl.seeds import generator


def pieces(
  sizes_N: np.ndarray, wanted: float, seed: int, purpose: str, task: int, epoch: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the block, the first unit and the end of each piece that an epoch takes.

  The blocks of a task form one endless line, turn after turn; each turn has all of them, in the
  order of (seed, purpose, task, turn). Epoch e takes the units e·W … (e + 1)·W of the line, both
  rounded, so no unit comes again before all have come. A block on the border of two epochs is cut.

  Args:
    sizes_N: [N] units (tokens or targets) of each block.
    wanted: W, units of an epoch.
    seed, purpose, task: of the order of blocks.
    epoch: number of the epoch, from 0.

  Returns:
    Indices of blocks [P], and the first unit and the end of each piece in its block, [P].
  """
  turn = int(sizes_N.sum())
  start, stop = round(epoch * wanted), round((epoch + 1) * wanted)
  found = [(np.zeros(0, np.int64),) * 3]
  if turn:
    for number in range(start // turn, -(-stop // turn)):
      order = generator(seed, purpose, task, number).permutation(len(sizes_N))
      ends = number * turn + np.cumsum(sizes_N[order])
      begins = ends - sizes_N[order]
      taken = (ends > start) & (begins < stop)
      order, begins, ends = order[taken], begins[taken], ends[taken]
      found.append((order, np.maximum(begins, start) - begins, np.minimum(ends, stop) - begins))
  blocks, starts, stops = (np.concatenate(parts) for parts in zip(*found, strict=True))
  return blocks, starts, stops
