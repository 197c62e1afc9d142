"""The rows of a whole stream in flat arrays: a row object is made where it is asked for.

A million `Row` objects take a gigabyte; their tokens alone a tenth of it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Values = Sequence[int] | np.ndarray
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


class Frame(NamedTuple):
  """Ids before an input, between it and the answer, and after the answer."""

  before: Sequence[int]
  between: Sequence[int]
  after: Sequence[int]


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
    starts, firsts = self.starts.item, self.first_targets.item  # a Python int slices faster
    return Entry(self.tokens[starts(i) : starts(i + 1)], self.targets[firsts(i) : firsts(i + 1)])


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

  def add(
    self, ids: np.ndarray, inputs: np.ndarray, answers: np.ndarray, frame: Frame, one: int | None
  ) -> None:
    """Adds a part whose N rows are a frame around ids; all parts but the last have `PART` rows.

    Args:
      ids: [n] of the input and, after it, of the answer of each row, one after another.
      inputs, answers: [N] number of ids of each.
      frame: ids around them.
      one: position of the only target, -1 for the last; None: all tokens of the answer are targets.
    """
    before, between, after = map(len, frame)
    sizes = before + inputs + between + answers + after
    starts, heads = _starts(sizes), before + inputs + between
    first = starts[:-1]
    tokens = np.empty(starts[-1], self._dtype)
    for at, some in ((first, frame.before), (first + before + inputs, frame.between),
                     (first + heads + answers, frame.after)):  # fmt: skip
      for place, token in enumerate(some):
        tokens[at + place] = token
    lengths = np.stack([inputs, answers], 1).ravel()
    ahead = np.stack([first + before, first + heads], 1).ravel() - _starts(lengths)[:-1]
    tokens[np.arange(len(ids)) + np.repeat(ahead, lengths)] = ids
    if one is None:
      count, targets = answers + after, heads - 1
    else:
      count, targets = np.ones_like(sizes), np.where(one < 0, sizes - 1, one)
    ends = _starts(count)
    places = np.arange(ends[-1]) + np.repeat(targets - ends[:-1], count)
    self._parts.append(_Part(tokens, starts, places.astype(np.int32), ends))
    self._count += len(sizes)

  def replace(self, number: int, rows: Mapping[int, Kept]) -> None:
    """Puts others in place of some rows of a part.

    Args:
      number: of the part.
      rows: by their place in the part.
    """
    if rows:
      part = self._parts[number]
      own = lambda i: (rows[i].tokens, rows[i].targets) if i in rows else part.entry(i)
      self._parts[number] = self._flat([own(i) for i in range(len(part.starts) - 1)])

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
    starts, firsts = self._parts[part].starts.item, self._parts[part].first_targets.item
    return starts(i + 1) - starts(i), firsts(i + 1) - firsts(i)

  def _place(self, number: int) -> int | None:
    if self._places is not None:
      return self._places.get(number)
    place = number - self._first
    return place if 0 <= place < self._count else None

  def _flat(self, rows: Sequence[tuple[Values, Values]]) -> _Part:
    tokens, targets = ([one[k] for one in rows] for k in range(2))
    return _Part(*_joined(tokens, self._dtype), *_joined(targets, np.dtype(np.int32)))


def _joined(values: Sequence[Values], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
  """Returns sequences one after another, and where each starts, the end included."""
  starts = _starts([len(x) for x in values])
  flat = np.empty(starts[-1], dtype)
  for x, start, stop in zip(values, starts[:-1].tolist(), starts[1:].tolist(), strict=True):
    flat[start:stop] = x
  return flat, starts


def _starts(sizes: Sequence[int] | np.ndarray) -> np.ndarray:
  """Returns where each of some pieces starts, and where the last one ends."""
  starts = np.zeros(len(sizes) + 1, np.int32)
  np.cumsum(sizes, out=starts[1:])
  return starts
