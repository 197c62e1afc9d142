"""Merging adapters: K of them with weights w_k, a projection and a layer at a time.

    linear   Σ w_k ΔW_k, the weighted sum of what they do
    cat      the same sum as one adapter of the sum of their ranks, side by side
    svd      the same sum, cut to a rank: the nearest matrix of that rank
    factors  the weighted mean of A and of B, separately: cheap, and not the mean of the products
             (its cross terms pair one adapter's A with another's B)
    ties     Yadav et al., 2023: the largest entries of each ΔW_k (`density`), a sign for every
             entry by its total weighted mass, the weighted mean of the entries of that sign
    dare     Yu et al., 2024: a random `density` of the entries of each ΔW_k, over density; summed

ties and dare give a full matrix: it is added to the weights as it is, or cut to a rank. Where the
published methods trim all of a model at once, these trim each matrix by itself, as PEFT does.
With all weights c times as large, a merge is c times the merge.
"""

import dataclasses
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg

from jcl.backbones import lora
from jcl.backbones.backbone import Params
from jcl.errors import UserError


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How adapters are merged.

  Attributes:
    how: one of WAYS.
    weights: one an adapter; empty: 1/K each.
    rank: of the result, exact where it suffices; 0: for `linear` as many as are exact, for `svd`,
      `ties` and `dare` the largest of the adapters'. `cat` and `factors` leave no choice.
    density: fraction of the entries that `ties` and `dare` keep.
    seed: of the draws of `dare`, which depend on an adapter's place among the others too.
  """

  how: str = 'linear'
  weights: tuple[float, ...] = ()
  rank: int = 0
  density: float = 0.2
  seed: int = 0


class Part(NamedTuple):
  """One adapter in one projection of one layer, float64, with its scale in b and its weight."""

  a_RI: np.ndarray
  b_RO: np.ndarray
  weight: float

  @property
  def delta_IO(self) -> np.ndarray:
    """ΔW."""
    return self.a_RI.T @ self.b_RO


def merge(adapters: Mapping[str, Params], recipe: Recipe) -> Params:
  """One adapter of several, float32 numpy arrays, its scale 1.

  Args:
    adapters: by a name for messages.
    recipe: how.

  Raises:
    UserError: the adapters are not alike, or the recipe does not fit them.
  """
  weights = _checked(adapters, recipe)
  layers = {}
  for name, depth in _projections(adapters):
    factors = []
    for layer in range(depth):
      parts = _parts(adapters, weights, name, layer)
      if recipe.how in FULL:
        delta_IO = FULL[recipe.how](parts, recipe, name, layer)
        factors.append(_projected(delta_IO, recipe.rank or _largest(parts)))
      else:
        factors.append(FACTORED[recipe.how](parts, recipe.rank))
    a_LRI, b_LRO = (np.stack(x).astype(np.float32) for x in zip(*factors, strict=True))
    layers[name] = {'a': a_LRI, 'b': b_LRO, 'scale': np.ones(depth, np.float32)}
  return {'layers': layers}


def merge_into(params: Params, adapters: Mapping[str, Params], recipe: Recipe) -> Params:
  """The model's parameters with the merged adapters in the kernels.

  Without a rank `ties` and `dare` are added as they are; the other ways as `merge` gives them.

  Args:
    params: the model's, without an adapter.
    adapters: by a name for messages.
    recipe: how.

  Raises:
    UserError: as `merge`, or the adapters do not fit the model.
  """
  weights = _checked(adapters, recipe)
  for name, adapter in adapters.items():
    lora.check_fits(adapter, lora.kernels(params), name)
  if recipe.how not in FULL or recipe.rank:
    return lora.merged({**params, 'lora': merge(adapters, recipe)})

  def deltas() -> Iterator[tuple[str, np.ndarray]]:
    for name, depth in _projections(adapters):
      whole = [
        FULL[recipe.how](_parts(adapters, weights, name, layer), recipe, name, layer)
        for layer in range(depth)
      ]
      yield name, np.stack(whole).astype(np.float32)

  return lora.plus(params, deltas())


def _checked(adapters: Mapping[str, Params], recipe: Recipe) -> tuple[float, ...]:
  """The weights, after everything has been checked."""
  if recipe.how not in WAYS:
    raise UserError(f'there is no way to merge {recipe.how!r}; there are {", ".join(WAYS)}')
  if not adapters:
    raise UserError('no adapters to merge')
  lora.check_alike(adapters)
  count = len(adapters)
  weights = recipe.weights or (1 / count,) * count
  if len(weights) != count:
    raise UserError(f'{len(weights)} weights for {count} adapters; give one each')
  if not np.all(np.isfinite(weights)):
    raise UserError(f'weights {weights}: every one must be finite')
  if recipe.how in ('factors', 'ties') and min(weights) <= 0:
    raise UserError(f'{recipe.how} takes weighted means: weights must be positive, not {weights}')
  if not 0 < recipe.density <= 1:
    raise UserError(f'density {recipe.density} is not in (0, 1]')
  if recipe.rank < 0:
    raise UserError(f'rank {recipe.rank} is negative')
  if recipe.rank and recipe.how in ('cat', 'factors'):
    raise UserError(f'rank {recipe.rank}: the rank of {recipe.how} follows from the adapters')
  if recipe.how == 'factors':
    _check_ranks(adapters)
  return weights


def _check_ranks(adapters: Mapping[str, Params]) -> None:
  (first, wanted), *others = adapters.items()
  for name, adapter in others:
    for projection, part in adapter['layers'].items():
      ranks = part['a'].shape[1], wanted['layers'][projection]['a'].shape[1]
      if ranks[0] != ranks[1]:
        raise UserError(
          f'{name}: {projection} has rank {ranks[0]}, but {ranks[1]} in {first}: factors of '
          'different ranks have no mean; linear takes them'
        )


def _projections(adapters: Mapping[str, Params]) -> list[tuple[str, int]]:
  """(projection, L), alike in all of them."""
  first = next(iter(adapters.values()))
  return [(name, part['a'].shape[0]) for name, part in first['layers'].items()]


def _parts(
  adapters: Mapping[str, Params], weights: Sequence[float], name: str, layer: int
) -> list[Part]:
  parts = []
  for adapter, weight in zip(adapters.values(), weights, strict=True):
    a, b, scale = (
      np.asarray(adapter['layers'][name][leaf][layer], np.float64) for leaf in ('a', 'b', 'scale')
    )
    parts.append(Part(a, scale * b, weight))
  return parts


def _largest(parts: Sequence[Part]) -> int:
  return max(len(part.a_RI) for part in parts)


def _cut(
  svd: tuple[np.ndarray, np.ndarray, np.ndarray], rank: int
) -> tuple[np.ndarray, np.ndarray]:
  """Factors a [r, in] and b [r, out] of the nearest matrix of a rank, equally large."""
  left, values, right = svd
  root = np.sqrt(values[:rank])
  return (left[:, :rank] * root).T, root[:, None] * right[:rank]


def _projected(delta_IO: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
  """Factors of the nearest matrix of a rank, for a full one: onto its foremost singular vectors.

  Those of the shorter side are eigenvectors of a product with itself: far cheaper than an SVD, and
  what squaring blurs are singular values below 1e-8 of the largest.
  """
  if delta_IO.shape[0] > delta_IO.shape[1]:
    b_RO, a_RI = _projected(delta_IO.T, rank)
    return a_RI, b_RO
  last = len(delta_IO) - 1
  first = max(0, last + 1 - rank)
  _, basis_IR = scipy.linalg.eigh(delta_IO @ delta_IO.T, subset_by_index=(first, last))
  return basis_IR.T, basis_IR.T @ delta_IO


def _side_by_side(parts: Sequence[Part], rank: int) -> tuple[np.ndarray, np.ndarray]:
  """All ranks, the weights in b."""
  return (
    np.concatenate([part.a_RI for part in parts]),
    np.concatenate([part.weight * part.b_RO for part in parts]),
  )


def _sum(parts: Sequence[Part], rank: int) -> tuple[np.ndarray, np.ndarray]:
  """The sum, of a rank or (0) exact: an SVD of a product of tall factors, by their QR."""
  a_RI, b_RO = _side_by_side(parts, 0)
  (in_IS, left_SR), (out_OS, right_SR) = np.linalg.qr(a_RI.T), np.linalg.qr(b_RO.T)
  left, values, right = np.linalg.svd(left_SR @ right_SR.T, False)
  return _cut((in_IS @ left, values, right @ out_OS.T), rank or len(values))


def _nearest(parts: Sequence[Part], rank: int) -> tuple[np.ndarray, np.ndarray]:
  return _sum(parts, rank or _largest(parts))


def _means(parts: Sequence[Part], rank: int) -> tuple[np.ndarray, np.ndarray]:
  """The mean of A and, with the sum of the weights, that of B."""
  total = sum(part.weight for part in parts)
  a_RI = sum(part.weight * part.a_RI for part in parts) / total
  return a_RI, sum(part.weight * part.b_RO for part in parts)


def _ties(parts: Sequence[Part], recipe: Recipe, name: str, layer: int) -> np.ndarray:
  weights_K11 = np.array([part.weight for part in parts])[:, None, None]
  kept_KIO = np.stack([_trimmed(part.delta_IO, recipe.density) for part in parts])
  mass_IO = (weights_K11 * kept_KIO).sum(0)
  elected_IO = np.where(mass_IO >= 0, 1, -1)
  agrees_KIO = np.sign(kept_KIO) == elected_IO
  voices_IO = (weights_K11 * agrees_KIO).sum(0)
  mean_IO = (weights_K11 * kept_KIO * agrees_KIO).sum(0) / np.where(voices_IO > 0, voices_IO, 1)
  return weights_K11.sum() * mean_IO


def _trimmed(delta_IO: np.ndarray, density: float) -> np.ndarray:
  """The largest entries; those as large as the last that is kept stay too."""
  size = np.abs(delta_IO)
  count = max(1, round(density * size.size))
  return np.where(size >= np.partition(size, -count, axis=None)[-count], delta_IO, 0)


def _dare(parts: Sequence[Part], recipe: Recipe, name: str, layer: int) -> np.ndarray:
  total = 0
  for place, part in enumerate(parts):
    draw = np.random.default_rng([recipe.seed, place, zlib.crc32(name.encode()), layer])
    delta_IO = part.delta_IO
    kept = draw.random(delta_IO.shape) < recipe.density
    total = total + part.weight / recipe.density * np.where(kept, delta_IO, 0)
  return total


FACTORED = {'linear': _sum, 'cat': _side_by_side, 'svd': _nearest, 'factors': _means}
FULL = {'ties': _ties, 'dare': _dare}
WAYS = (*FACTORED, *FULL)
