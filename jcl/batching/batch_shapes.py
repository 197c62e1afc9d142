"""The few shapes to which the steps of a task are padded: functions of the rows' lengths alone."""

from collections.abc import Sequence

from jcl.batching.batch import LENGTHS, TARGETS, Row, Shape, bucket, deal

RARE = 0.25  # share of the steps below which a length is not worth a compilation of its own


def _need(step: Sequence[Row], blocks: int) -> tuple[int, int]:
  """Returns the length bucket of a step, and the number of targets of its fullest block."""
  fullest = max(sum(len(step[i].targets) for i in block) for block in deal(step, blocks))
  return bucket(max(len(r.tokens) for r in step), LENGTHS), fullest


def rungs(steps: Sequence[Sequence[Row]], blocks: int, rows: int) -> list[Shape]:
  """Returns the few shapes that steps are padded to, a function of the rows' lengths alone.

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


def fit(step: Sequence[Row], blocks: int, shapes: Sequence[Shape]) -> Shape:
  """Returns the first of `shapes` that holds a step; if none does, a larger one of the ladders."""
  tokens, targets = _need(step, blocks)
  for shape in shapes:
    if shape.tokens >= tokens and shape.targets >= targets:
      return shape
  longest = max(tokens, shapes[-1].tokens)
  return Shape(shapes[-1].rows, longest, bucket(targets, TARGETS))
