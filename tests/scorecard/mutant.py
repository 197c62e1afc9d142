"""One broken version of the code, and the cells that it must turn red."""

from typing import NamedTuple


class Mutant(NamedTuple):
  """A defect.

  Attributes:
    name: what is wrong.
    file: under `jcl/`.
    old, new: the text and what takes its place.
    cells: (check, method), …
  """

  name: str
  file: str
  old: str
  new: str
  cells: tuple[tuple[str, str], ...]


def cells(*cells: str) -> tuple[tuple[str, str], ...]:
  """'check/method', …"""
  return tuple(tuple(cell.split('/')) for cell in cells)
