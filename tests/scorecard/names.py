"""Names of cells and of methods, and the oracle of each method."""

import os
from collections.abc import Callable

from oracles import objectives

from jcl import methods, plugins
from jcl.errors import UserError

SHARED_ROW = '(shared)'  # of the columns that belong to no method
CELLS = 'JCL_SCORECARD_CELLS'  # the cells to run, 'check/method' with commas; '*' is every check


def asked() -> list[tuple[str, str]]:
  """(check, method) of the cells to run; empty: every check of every method of the package."""
  return [tuple(cell.split('/')) for cell in os.environ.get(CELLS, '').split(',') if cell]


def outside() -> list[str]:
  """Methods among `asked` that belong to other packages, `package.module:Class` or entry points."""
  own = (*methods.BUILT_IN, SHARED_ROW)
  return list(dict.fromkeys(name for _, name in asked() if name not in own))


def oracle(name: str) -> Callable[[objectives.Given], float]:
  """The oracle of a method: one of `oracles.objectives`, or the one that its settings name.

  Raises:
    UserError: there is none.
  """
  if name in objectives.ORACLES:
    return objectives.ORACLES[name]
  if name in methods.BUILT_IN:
    raise UserError(f'method: {name} has no oracle in tests/oracles/objectives.py')
  place = methods.settings(name).oracle
  if not place:
    raise UserError(
      f"method: {name} names no oracle; give its settings oracle = 'package.module:function'"
    )
  return plugins.load(f'oracle of {name}', place)
