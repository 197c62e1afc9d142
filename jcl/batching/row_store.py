"""The rows of a whole stream in flat arrays: a row object is made where it is asked for.

A million `Row` objects take a gigabyte; their tokens alone a tenth of it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

PART = 1024  # examples that stand together in one array


class Kept(NamedTuple):
  """A row as it is kept.

  Attributes:
    tokens: ids of the row.
    targets: positions of the states that predict.
    prompt, answer: number of tokens of each.
  """

  tokens: Sequence[int]
  targets: Sequence[int]
  prompt: int
  answer: int


class Entry(NamedTuple):
  """The row of an example as it is kept.

  Attributes:
    tokens: [t] token ids.
    targets: [m] positions of the states that predict.
  """

  tokens: np.ndarray
  targets: np.ndarray


class _Part(NamedTuple):
  """Rows that follow each other: the tokens of row i are tokens[starts[i] : starts[i + 1]]."""

  tokens: np.ndarray
  starts: np.ndarray
  targets: np.ndarray
  first_targets: np.ndarray

  def entry(self, i: int) -> Entry:
    (t, t_end), (m, m_end) = self.starts[i : i + 2], self.first_targets[i : i + 2]
    return Entry(self.tokens[t:t_end], self.targets[m:m_end])


class RowStore:
  """The rows of some examples, added in their order and in parts of `PART`.

  Args:
    numbers: of the examples.
    vocabulary: greatest token id plus one, which decides how many bytes a token takes.
  """

  def __init__(self, numbers: Sequence[int] = (), vocabulary: int = 0):
    self._first, self._dtype = min(numbers, default=0), np.min_scalar_type(max(vocabulary - 1, 0))
    in_turn = all(n == self._first + i for i, n in enumerate(numbers))
    self._places = None if in_turn else {number: i for i, number in enumerate(numbers)}
    self._parts: list[_Part] = []
    self._count = 0

  def part(self, number: int) -> list[Entry]:
    """Returns the rows of a part."""
    part = self._parts[number]
    return [part.entry(i) for i in range(len(part.starts) - 1)]

  def add(self, rows: Iterable[tuple[Sequence[int], Sequence[int]]]) -> None:
    """Adds a part, (tokens, targets) of each row; all parts but the last have `PART` rows."""
    self._parts.append(self._flat(list(rows)))
    self._count += len(self._parts[-1].starts) - 1

  def replace(self, number: int, rows: Iterable[tuple[Sequence[int], Sequence[int]]]) -> None:
    """Puts other rows in place of those of a part, as many."""
    self._parts[number] = self._flat(list(rows))

  def find(self, number: int) -> Entry | None:
    """Returns the row of an example by its number; None where it was not added."""
    if (place := self._place(number)) is None:
      return None
    part, i = divmod(place, PART)
    return self._parts[part].entry(i)

  def sizes(self, number: int) -> tuple[int, int] | None:
    """Returns the numbers of tokens and targets of a row; None where it was not added."""
    if (place := self._place(number)) is None:
      return None
    part, i = divmod(place, PART)
    starts, targets = self._parts[part].starts, self._parts[part].first_targets
    return int(starts[i + 1] - starts[i]), int(targets[i + 1] - targets[i])

  def _place(self, number: int) -> int | None:
    if self._places is not None:
      return self._places.get(number)
    place = number - self._first
    return place if 0 <= place < self._count else None

  def _flat(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> _Part:
    tokens, targets = ([one[k] for one in rows] for k in range(2))
    return _Part(*_joined(tokens, self._dtype), *_joined(targets, np.dtype(np.int32)))


def _joined(values: Sequence[Sequence[int]], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
  """Returns sequences one after another, and where each starts, the end included."""
  starts = np.zeros(len(values) + 1, np.int32)
  np.cumsum([len(x) for x in values], out=starts[1:])
  flat = np.empty(starts[-1], dtype)
  for x, start, stop in zip(values, starts[:-1].tolist(), starts[1:].tolist(), strict=True):
    flat[start:stop] = x
  return flat, starts
