"""The directions of steps that follow no gradient of one objective, in float64 NumPy.

A direction is a function of `objectives.Given`, flat, its leaves in the order of their names.
"""

from collections.abc import Callable

import numpy as np
from oracles.objectives import Given, slope


def agem(given: Given) -> np.ndarray:
  """g_new, less its share along g_old where the two point apart: of unit length e, (g·e) e."""
  of = lambda replay: slope(
    given._replace(rows=[row for row in given.rows if row.replay == replay]), given.params
  )
  flat = lambda tree: np.concatenate([np.ravel(tree[name]) for name in sorted(tree)])
  new, old = flat(of(False)), flat(of(True))
  length = np.sqrt(np.sum(old**2))
  if length == 0:
    return new
  along = np.sum(new * old) / length
  return new - min(along, 0.0) * old / length


DIRECTIONS: dict[str, Callable[[Given], np.ndarray]] = {'agem': agem}
