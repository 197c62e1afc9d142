"""References to whole splits of a stream."""

import bisect
import itertools
from collections.abc import Sequence
from typing import overload

from jcl.streams.stream import Reference


class References(Sequence[Reference]):
  """References to whole splits, kept as [task, first number, count] of each."""

  def __init__(self, spans: Sequence[Sequence[int]]):
    self._spans = spans
    self._ends = list(itertools.accumulate(count for *_, count in spans))

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  @overload
  def __getitem__(self, place: int) -> Reference: ...

  @overload
  def __getitem__(self, place: slice) -> list[Reference]: ...

  def __getitem__(self, place: int | slice) -> Reference | list[Reference]:
    if isinstance(place, slice):
      return [self[i] for i in range(len(self))[place]]
    place = range(len(self))[place]
    at = bisect.bisect_right(self._ends, place)
    task, first, count = self._spans[at]
    return task, first + place - (self._ends[at] - count)
