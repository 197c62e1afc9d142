"""A buffer of real examples, as references; its counter is part of it."""

from collections.abc import Sequence
from typing import Any, Literal

from jcl.streams.rows import generator
from jcl.streams.stream import Reference

Buffer = dict[str, Any]
"""{'examples': [(task, number), …], 'seen': how many were ever offered}."""


def empty() -> Buffer:
  """A buffer that has seen nothing."""
  return {'examples': [], 'seen': 0}


def add(
  buffer: Buffer,
  examples: Sequence[Reference],
  size: int,
  policy: Literal['reservoir', 'fifo'],
  seed: int,
) -> Buffer:
  """The buffer after `examples` were offered to it, one by one.

  Args:
    buffer: before; it is not changed.
    examples: in the order offered.
    size: the most it keeps.
    policy: `fifo` drops the oldest; `reservoir` keeps a uniform sample of all ever offered
      (Vitter 1985): the i-th takes place j, uniform in [0, i], where j < size.
    seed: draw i is a function of (seed, i) alone.
  """
  kept, seen = list(buffer['examples']), buffer['seen']
  if policy == 'fifo':
    kept = [*kept, *examples][-size:]
    return {'examples': kept, 'seen': seen + len(examples)}
  for reference in examples:
    if len(kept) < size:
      kept.append(reference)
    elif (place := int(generator(seed, 'reservoir', seen).integers(seen + 1))) < size:
      kept[place] = reference
    seen += 1
  return {'examples': kept, 'seen': seen}
