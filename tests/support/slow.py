"""Which cells of a table of tests are slow: the default tests have some of each table."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def but(kept: Collection[Any], values: Iterable[Any]) -> list[Any]:
  """Returns the values as parameters of a test, slow but for those that are kept.

  Raises:
    ValueError: one that is kept is none of them.
  """
  values = list(values)
  if missing := [one for one in kept if one not in values]:
    raise ValueError(f'{missing[0]!r} is none of the values')
  return [
    pytest.param(*one, marks=mark) if isinstance(one, tuple) else pytest.param(one, marks=mark)
    for one in values
    for mark in [() if one in kept else pytest.mark.slow]
  ]
