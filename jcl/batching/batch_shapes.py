"""The few shapes to which the steps of a task are padded: functions of the rows' lengths alone."""

from collections.abc import Iterator, Sequence

from jcl.batching.batch import LENGTHS, TARGETS, Shape, bucket, deal
from jcl.batching.outlines import SizedRow
from jcl.batching.packing import first_fit

RARE = 0.25  # share of the steps below which a length is not worth a compilation of its own
SHORTEST = 64  # places of a line at least; shorter lines fill worse, longer ones cost attention
MUCH = 0.1  # share of padding above which `auto` looks at packing
LESS = 0.95  # share of a cost below which another layout is worth while
PRICE = 1  # steps of a task that one more packed shape, which is one more compilation, must save
# Targets of a packed block: models are packed whose projection onto the vocabulary costs much.
FINE_TARGETS = (*range(8, 64, 8), *(2**e * q // 8 for e in range(6, 24) for q in range(8, 16)))
SAMPLE = 4096  # steps that are looked at, at most, to choose shapes


def _sampled(steps: Sequence[Sequence[SizedRow]]) -> Sequence[Sequence[SizedRow]]:
  """Returns at most `SAMPLE` of the steps, spread evenly over all of them."""
  return steps[:: -(-len(steps) // SAMPLE)]


def _need(step: Sequence[SizedRow], blocks: int) -> tuple[int, int]:
  """Returns the length bucket of a step, and the number of targets of its fullest block."""
  return bucket(max(len(r.tokens) for r in step), LENGTHS), _fullest(step, blocks)


def _fullest(step: Sequence[SizedRow], blocks: int) -> int:
  """Returns the number of targets of a step's fullest block."""
  return max(sum(len(step[i].targets) for i in block) for block in deal(step, blocks))


def rungs(steps: Sequence[Sequence[SizedRow]], blocks: int, rows: int) -> list[Shape]:
  """Returns the few shapes that unpacked steps are padded to, the smallest first.

  Steps whose longest row falls into the same length bucket share one number of targets, that of the
  fullest block among them. A bucket that few steps fall into is merged with the next longer one.

  Args:
    steps: rows of each step.
    blocks: number of devices times number of microbatches.
    rows: largest number of rows that a step may have.
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


def packed_rungs(
  steps: Sequence[Sequence[SizedRow]], blocks: int, rows: int, width: int
) -> list[Shape]:
  """Returns the few shapes that packed steps are padded to, the smallest first.

  A block has a power of two of lines, and a line one of a few lengths (`_sizes`), so that tasks
  whose steps have about as many tokens share their shapes; all have the targets of the fullest
  block, which at most an eighth more, or 8, pad. Of the shapes that steps need, those are
  taken that cost least together, where one more shape costs as much as `PRICE` steps.

  Args:
    steps: rows of each step.
    blocks: number of devices times number of microbatches.
    rows: largest number of rows that a step may have.
    width: D of the model, by which the cost of attention in long lines is weighed.
  """
  steps = _sampled(steps)
  parts = [_lengths(step, blocks) for step in steps]
  longest = max((n for step in parts for block in step for n in block), default=1)
  targets = bucket(max(_fullest(step, blocks) for step in steps), FINE_TARGETS)
  shortest = shortest_line(longest)
  (short, sizes), (long, others) = (_cheapest(parts, b, width) for b in (shortest, 2 * shortest))
  sizes = others if long < LESS * short else sizes  # of one base, where nothing speaks for another
  rows = -(-rows // blocks) * blocks
  return [Shape(rows, tokens, targets, lines * blocks) for lines, tokens in sizes]


def shortest_line(longest: int) -> int:
  """Returns the length of the shortest lines: a power of two, or one and a half times one.

  Args:
    longest: tokens of the longest row, for which a line has room.
  """
  ladder = sorted(2**e * q // 2 for e in range(6, 20) for q in (2, 3))
  return bucket(max(longest, SHORTEST), ladder)


def _sizes(base: int) -> Iterator[tuple[int, int]]:
  """Yields (lines, places of a line) of a block, ever larger, each 3 % to 13 % above the last.

  Lines are 1, 2, 4, …; their places are from `base` to below twice as many, in steps of a sixteenth
  of it that is rounded up to a multiple of 4.
  """
  for power in range(24):
    for tokens in range(base, 2 * base, -(-base // 64) * 4):
      yield 2**power, tokens


def _lengths(step: Sequence[SizedRow], blocks: int) -> list[list[int]]:
  """Returns the lengths in tokens of the rows of each block."""
  return [[len(step[i].tokens) for i in block] for block in deal(step, blocks)]


def _fits(size: tuple[int, int], lengths: Sequence[Sequence[int]]) -> bool:
  """Whether each block of rows of these lengths fits into `size`, (lines, places of a line)."""
  lines, tokens = size
  return all(
    sum(block) <= lines * tokens and first_fit(block, lines, tokens) is not None
    for block in lengths
  )


def _smallest(lengths: Sequence[Sequence[int]], base: int) -> tuple[int, int]:
  """Returns the smallest size that holds the blocks of a step."""
  tokens = max(map(sum, lengths))
  large = (size for size in _sizes(base) if size[0] * size[1] >= tokens)
  return next(size for size in large if _fits(size, lengths))


def _cheapest(
  parts: Sequence[Sequence[Sequence[int]]], base: int, width: int
) -> tuple[float, list[tuple[int, int]]]:
  """Returns the cost of the steps in the sizes that cost least together, and these sizes.

  Args:
    parts: for each step the lengths of the rows of each block.
    base: length of the shortest lines.
    width: D of the model.
  """
  order = {size: i for i, size in enumerate(_sizes(base))}
  needs = [_smallest(lengths, base) for lengths in parts]
  count = {size: needs.count(size) for size in sorted(set(needs), key=order.__getitem__)}
  cost = lambda size: cost_of(Shape(0, size[1], 0, size[0]), width)
  price = PRICE * sum(cost(size) for size in needs) / len(needs)
  sizes = list(count)
  best: list[tuple[float, tuple]] = [(0.0, ())]
  for j, last in enumerate(sizes):
    taken = lambda i, j=j, last=last: sum(count[s] for s in sizes[i : j + 1]) * cost(last)
    best.append(min((best[i][0] + taken(i) + price, (*best[i][1], last)) for i in range(j + 1)))
  chosen = set(best[-1][1])
  for need, lengths in zip(needs, parts, strict=True):
    if not any(_fits(size, lengths) for size in chosen):  # first fit may fail in a larger size
      chosen.add(need)
  return best[-1][0], sorted(chosen, key=order.__getitem__)


def fit(step: Sequence[SizedRow], blocks: int, shapes: Sequence[Shape]) -> Shape:
  """Returns the first of `shapes` that holds a step; if none does, a larger shape."""
  if shapes[0].lines:
    return _packed_fit(step, blocks, shapes)
  tokens, targets = _need(step, blocks)
  for shape in shapes:
    if shape.tokens >= tokens and shape.targets >= targets:
      return shape
  longest = max(tokens, shapes[-1].tokens)
  return Shape(shapes[-1].rows, longest, bucket(targets, TARGETS))


def _packed_fit(step: Sequence[SizedRow], blocks: int, shapes: Sequence[Shape]) -> Shape:
  """Does the work of `fit` for packed shapes."""
  for shape in shapes:
    if holds(step, blocks, shape):
      return shape
  lengths, targets = _lengths(step, blocks), _fullest(step, blocks)
  longest = max((n for block in lengths for n in block), default=1)
  lines, tokens = _smallest(lengths, shortest_line(longest))
  targets = max(bucket(targets, FINE_TARGETS), shapes[-1].targets)
  return Shape(shapes[-1].rows, tokens, targets, lines * blocks)


def chosen(
  steps: Sequence[Sequence[SizedRow]], blocks: int, rows: int, packing: str, width: int
) -> list[Shape]:
  """Returns the shapes of a task's steps, packed or unpacked.

  Args:
    steps: rows of each step.
    blocks: number of devices times number of microbatches.
    rows: largest number of rows that a step may have.
    packing: `on`, `off`, or `auto`: packed where the padding of unpacked steps is above `MUCH` and
      packing costs less, attention in long lines included.
    width: D of the model.
  """
  if packing == 'on':
    return packed_rungs(steps, blocks, rows, width)
  plain = rungs(steps, blocks, rows)
  if packing == 'off' or padding(steps, blocks, plain) <= MUCH:
    return plain
  packed = packed_rungs(steps, blocks, rows, width)
  steps = _sampled(steps)
  cost = lambda shapes: sum(cost_of(fit(step, blocks, shapes), width) for step in steps)
  return packed if cost(packed) < LESS * cost(plain) else plain


def cost_of(shape: Shape, width: int) -> float:
  """Returns the cost of a batch, in places of a batch with short lines.

  Attention costs 4·T·D operations for each place and layer, the rest of a layer about 24·D².
  """
  return shape.places * (1 + shape.tokens / (6 * width))


def holds(step: Sequence[SizedRow], blocks: int, shape: Shape) -> bool:
  """Whether the rows and targets of a step fit into a packed shape."""
  size = shape.lines // blocks, shape.tokens
  return _fullest(step, blocks) <= shape.targets and _fits(size, _lengths(step, blocks))


def padding(steps: Sequence[Sequence[SizedRow]], blocks: int, shapes: Sequence[Shape]) -> float:
  """Returns the share of the places of all steps that is padding."""
  steps = _sampled(steps)
  places = sum(fit(step, blocks, shapes).places for step in steps)
  return 1 - sum(len(row.tokens) for step in steps for row in step) / places
