"""Merging adapters: K of them with weights w_k, a projection and a layer at a time.

    linear   Σ w_k ΔW_k, the weighted sum of what they do; in place of factors or in the weights
    cat      the same sum as one adapter of the sum of their ranks, side by side
    svd      the same sum, cut to a rank: the nearest matrix of that rank
    factors  the weighted mean of A and of B, separately: cheap, and not the mean of the products
             (its cross terms mix one adapter's A with another's B)
    ties     Yadav et al., 2023: of each ΔW_k its largest entries (`density`), a sign for every
             entry by the total weighted mass, and the weighted mean of those that have that sign
    dare     Yu et al., 2024: of each ΔW_k a random `density` of its entries, over density; summed

ties and dare give a full matrix: it is added to the weights as it is, or cut to a rank. Where the
published methods trim all of a model at once, these trim every matrix by itself, as PEFT does.
A merge with all weights c times as large is c times the merge.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jcl.backbones import Params, lora
from jcl.errors import UserError

RANKED = ('linear', 'svd', 'ties', 'dare')
POSITIVE = ('factors', 'ties')  # they take means


class Part(NamedTuple):
  """One adapter's part of one projection in one layer, float64: a [r, in], b [r, out], scaled."""

  a: np.ndarray
  b: np.ndarray

  @property
  def delta(self) -> np.ndarray:
    """ΔW [in, out]."""
    return self.a.T @ self.b


def merge(
  adapters: Mapping[str, Params],
  how: str = 'linear',
  weights: Sequence[float] = (),
  rank: int = 0,
  density: float = 0.2,
  seed: int = 0,
) -> Params:
  """One adapter of several, its scale 1.

  Args:
    adapters: by a name for messages.
    how: one of WAYS.
    weights: one an adapter; empty: 1/K each.
    rank: of the result, exact where that suffices. 0: for `linear` as many as are exact, for `svd`,
      `ties` and `dare` the largest of the adapters'; `cat` and `factors` have no choice.
    density: fraction of entries that `ties` and `dare` keep.
    seed: of `dare`'s draws, which depend on the adapter's place among the others, too.

  Returns:
    Its tree, float32 numpy arrays.

  Raises:
    UserError: the adapters are not alike, or a setting does not fit.
  """
  weights = _checked(adapters, how, weights, rank, density)
  layers = {}
  for name, parts_LK in _parts(adapters):
    top = max(part.a.shape[0] for part in parts_LK[0])
    merged = []
    for layer, parts in enumerate(parts_LK):
      if how in FULL:
        delta_IO = FULL[how](parts, weights, density, (seed, zlib.crc32(name.encode()), layer))
        merged.append(_cut(*_svd(delta_IO), rank or top))
      else:
        merged.append(WAYS[how](parts, weights, rank, top, name))
    stacked = [np.stack(x).astype(np.float32) for x in zip(*merged, strict=True)]
    layers[name] = {'a': stacked[0], 'b': stacked[1], 'scale': np.ones(len(merged), np.float32)}
  return {'layers': layers}
