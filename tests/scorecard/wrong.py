"""Errors of a red cell: a wrong figure, never an exception of the code under test."""

from typing import Any

import numpy as np


class Wrong(AssertionError):
  """A check found another figure than it should have."""


def near(what: str, found: Any, wanted: Any, tolerance: float, least: float = 0.0) -> None:
  """Raises unless all of `found` is within `tolerance` of the largest entry of `wanted`.

  Args:
    what: is compared.
    found, wanted: numbers or arrays.
    tolerance: share of the largest entry, or of `least` where that is larger.
    least: size of what cancels in a small value, such as the logs in a small divergence.
  """
  found, wanted = (np.asarray(x, np.float64) for x in (found, wanted))
  if found.shape != wanted.shape:
    raise Wrong(f'{what}: of shape {found.shape}, not {wanted.shape}')
  if not found.size:
    return
  largest = max(np.abs(wanted).max(), least)
  off = np.abs(found - wanted)
  worst = int(np.argmax(np.where(np.isfinite(off), off, np.inf)))
  if not off.max() <= tolerance * largest:
    share = off.ravel()[worst] / max(largest, 1e-300)
    raise Wrong(
      f'{what}: {found.ravel()[worst]:.8g}, not {wanted.ravel()[worst]:.8g} '
      f'({share:.1e} of the largest; rounding is {tolerance:.0e})'
    )


def nothing(what: str, found: Any) -> None:
  """Raises unless all of `found` is 0."""
  found = np.abs(np.asarray(found, np.float64))
  if found.size and not found.max() == 0:
    raise Wrong(f'{what}: {found.max():.8g}, not 0')


def above(what: str, found: float, bound: float) -> None:
  """Raises unless `found` is above `bound`."""
  if not found > bound:
    raise Wrong(f'{what}: {found:.8g}, not above {bound:.8g}')


def equal(what: str, found: Any, wanted: Any) -> None:
  """Raises unless they are equal."""
  if found != wanted:
    raise Wrong(f'{what}: {found}, not {wanted}')
