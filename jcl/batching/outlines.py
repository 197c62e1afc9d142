"""Rows of which only the lengths are known: shapes and the order of an epoch depend on no more."""

import functools
from collections.abc import Sized
from typing import NamedTuple, Protocol


class SizedRow(Protocol):
  """A row, or what stands for one where only its numbers of tokens and targets are read."""

  @property
  def tokens(self) -> Sized: ...

  @property
  def targets(self) -> Sized: ...


class Outline(NamedTuple):
  """A row of which only the numbers of tokens and targets are known."""

  tokens: range
  targets: range


@functools.lru_cache(2**16)
def outline(tokens: int, targets: int) -> Outline:
  """Returns the outline of a row with some numbers of tokens and targets."""
  return Outline(range(tokens), range(targets))


def outline_of(row: SizedRow) -> Outline:
  """Returns the outline of a row."""
  return outline(len(row.tokens), len(row.targets))
