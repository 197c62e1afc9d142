"""Buffers that examples were offered to, and plain examples and rows."""

import numpy as np

from jcl.batching.batch import Row
from jcl.streams.stream import Example


def offered(first, last, classes=3):
  """Examples, ten a task, their classes in turn."""
  return [Example(n, 'x', 'y', n // 10, n % classes) for n in range(first, last)]


def rows_of(example, replay):
  """Two rows an example; example n has n % 4 + 1 tokens in each."""
  ids = np.zeros(example.number % 4 + 1, np.int32)
  return tuple(
    Row(ids, np.array([0]), np.array([0]), 2 * example.number + g, example.task, replay, bool(g))
    for g in range(2)
  )


def examples(step):
  """[(number, replay)] of the examples of a step, which must be whole."""
  pairs = [(r.number // 2, r.replay) for r in step.rows]
  assert pairs[::2] == pairs[1::2]
  assert [r.number % 2 for r in step.rows] == [0, 1] * (len(pairs) // 2)
  return pairs[::2]
