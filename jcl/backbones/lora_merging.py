"""Merging of K adapters with weights w_k, one projection and one layer at a time.

    linear   Σ w_k ΔW_k, the weighted sum of the adapters' weight changes ΔW_k
    cat      the same sum as one adapter of the sum of their ranks: A and B are concatenated
    svd      the same sum, replaced by the nearest matrix of a lower rank
    factors  the weighted means of A and of B, each by itself. This is cheap, and it is not the mean
             of the products: one adapter's A also meets another's B
    ties     Yadav et al., 2023: keep the largest entries of each ΔW_k (`density`), elect a sign for
             each entry by the sum of the weighted entries, take the weighted mean of the entries
             of that sign
    magmax   Marczak et al., 2024: for each entry the ΔW_k whose |w_k ΔW_k| is largest there, times
             Σ w_k
    dare     Yu et al., 2024: keep a random share `density` of the entries of each ΔW_k, divide by
             the density, sum

The published ties and dare trim all matrices of a model together; these trim each matrix by itself,
as PEFT does. ties, magmax and dare (`FULL`) give a matrix of full rank, which is added to the
weights as it is or replaced by the nearest matrix of a lower rank. With weights c times as large
the result is c times as large.

Letters in shapes: K adapters, L layers, I inputs and O outputs of a projection, R rank.
"""

import dataclasses
import functools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from jcl.backbones import lora
from jcl.backbones.backbone import Params
from jcl.errors import UserError, count_of


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How adapters are merged.

  Attributes:
    how: one of WAYS.
    weights: one for each adapter; empty: 1/K each.
    rank: of the result; where it is lower than the exact rank, the result is the nearest matrix. 0:
      for `linear` the exact rank, for `svd` and the ways in `FULL` the largest rank of an adapter.
      For `cat` and `factors` the rank follows from the adapters, and must be 0 here.
    density: share of the entries that `ties` and `dare` keep, in (0, 1].
    seed: of the draws of `dare`, which also depend on the order of the adapters.
  """

  how: str = 'linear'
  weights: tuple[float, ...] = ()
  rank: int = 0
  density: float = 0.2
  seed: int = 0


Factors = tuple[np.ndarray, np.ndarray]
"""a [R, I] and b [R, O]."""


class Part(NamedTuple):
  """One adapter in one projection of one layer: float64 factors, the scale multiplied into b."""

  a_RI: np.ndarray
  b_RO: np.ndarray
  weight: float

  @property
  def delta_IO(self) -> np.ndarray:
    """ΔW [I, O]."""
    return self.a_RI.T @ self.b_RO


def merge(adapters: Mapping[str, Params], recipe: Recipe) -> dict[str, Any]:
  """Returns one adapter made of several: float32 numpy arrays, scale 1.

  Args:
    adapters: {name for messages: adapter}.
    recipe: how to merge.

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
        factors.append(_projected(delta_IO, recipe.rank or _largest_rank(parts)))
      else:
        factors.append(FACTORED[recipe.how](parts, recipe.rank))
    a_LRI, b_LRO = (np.stack(x).astype(np.float32) for x in zip(*factors, strict=True))
    layers[name] = {'a': a_LRI, 'b': b_LRO, 'scale': np.ones(depth, np.float32)}
  return {'layers': layers}


def merge_into(params: Params, adapters: Mapping[str, Params], recipe: Recipe) -> Params:
  """Returns a model's parameters with the merged adapters added to the kernels.

  With rank 0 the matrices of the ways in `FULL` are added at full rank; in every other case the
  adapter of `merge` is added.

  Args:
    params: of the model, without an adapter.
    adapters: {name for messages: adapter}.
    recipe: how to merge.

  Raises:
    UserError: as in `merge`, or the adapters do not fit the model.
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

  return lora.add_to_kernels(params, deltas())


def _checked(adapters: Mapping[str, Params], recipe: Recipe) -> tuple[float, ...]:
  """Checks adapters and recipe; returns the weights."""
  if recipe.how not in WAYS:
    raise UserError(f'there is no way to merge {recipe.how!r}; there are {", ".join(WAYS)}')
  if not adapters:
    raise UserError('no adapters to merge')
  lora.check_alike(adapters)
  count = len(adapters)
  weights = recipe.weights or (1 / count,) * count
  if len(weights) != count:
    given = count_of(len(weights), 'weight')
    raise UserError(f'{given} for {count_of(count, "adapter")}; give one each')
  if not all(abs(weight) < 1e38 for weight in weights):  # nor NaN
    raise UserError(f'weights {weights}: every one must be finite, below 1e38')
  if recipe.how in ('factors', 'ties', 'magmax') and min(weights) <= 0:
    raise UserError(f'{recipe.how} shares out weights: they must be positive, not {weights}')
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
  """Checks that the adapters have the same rank in each projection."""
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
  """Returns (projection, L) of the adapters, which are alike."""
  first = next(iter(adapters.values()))
  return [(name, part['a'].shape[0]) for name, part in first['layers'].items()]


def _parts(
  adapters: Mapping[str, Params], weights: Sequence[float], name: str, layer: int
) -> list[Part]:
  """Returns every adapter's part in a projection of a layer."""
  parts = []
  for adapter, weight in zip(adapters.values(), weights, strict=True):
    a, b, scale = (
      np.asarray(adapter['layers'][name][leaf][layer], np.float64) for leaf in ('a', 'b', 'scale')
    )
    parts.append(Part(a, scale * b, weight))
  return parts


def _largest_rank(parts: Sequence[Part]) -> int:
  return max(len(part.a_RI) for part in parts)


def _cut(svd: tuple[np.ndarray, np.ndarray, np.ndarray], rank: int) -> Factors:
  """Returns factors a [R, I] and b [R, O], of equal norms, of the nearest matrix of a rank.

  Args:
    svd: (left, singular values, right) of the matrix.
    rank: R.
  """
  left, values, right = svd
  root = np.sqrt(values[:rank])
  return (left[:, :rank] * root).T, root[:, None] * right[:rank]


def _projected(delta_IO: np.ndarray, rank: int) -> Factors:
  """Returns factors of the nearest matrix of a rank: the projection onto leading singular vectors.

  The singular vectors of the shorter side are eigenvectors of ΔW ΔWᵀ, which is far cheaper than an
  SVD. Squaring loses only the singular values below 1e-8 of the largest.
  """
  if delta_IO.shape[0] > delta_IO.shape[1]:
    b_RO, a_RI = _projected(delta_IO.T, rank)
    return a_RI, b_RO
  last = len(delta_IO) - 1
  first = max(0, last + 1 - rank)
  _, basis_IR = scipy.linalg.eigh(delta_IO @ delta_IO.T, subset_by_index=(first, last))
  return basis_IR.T, basis_IR.T @ delta_IO


def _side_by_side(parts: Sequence[Part], rank: int) -> Factors:
  """`cat`: concatenates the ranks and multiplies the weights into b."""
  return (
    np.concatenate([part.a_RI for part in parts]),
    np.concatenate([part.weight * part.b_RO for part in parts]),
  )


def _sum(parts: Sequence[Part], rank: int) -> Factors:
  """`linear`: the sum of a rank, or the exact sum where it is 0.

  The SVD of a product of two tall factors is that of the small product of their R of QR.
  """
  a_RI, b_RO = _side_by_side(parts, 0)
  (in_IS, left_SR), (out_OS, right_SR) = np.linalg.qr(a_RI.T), np.linalg.qr(b_RO.T)
  left, values, right = np.linalg.svd(left_SR @ right_SR.T, False)
  return _cut((in_IS @ left, values, right @ out_OS.T), rank or len(values))


def _nearest(parts: Sequence[Part], rank: int) -> Factors:
  """`svd`: the sum of a rank, by default the largest one among the adapters."""
  return _sum(parts, rank or _largest_rank(parts))


def _means(parts: Sequence[Part], rank: int) -> Factors:
  """`factors`: the weighted mean of A, and the weighted sum of B."""
  total = sum(part.weight for part in parts)
  weighted_a, weighted_b = zip(
    *((part.weight * part.a_RI, part.weight * part.b_RO) for part in parts), strict=True
  )
  return _added(weighted_a) / total, _added(weighted_b)


def _added(arrays: Sequence[np.ndarray]) -> np.ndarray:
  """Returns the sum of arrays of one shape, added one after another."""
  return functools.reduce(np.add, arrays, np.zeros_like(arrays[0]))


def _ties(parts: Sequence[Part], recipe: Recipe, name: str, layer: int) -> np.ndarray:
  """`ties` -> [I, O]; see the formula above."""
  weights_K11 = np.array([part.weight for part in parts])[:, None, None]
  kept_KIO = np.stack([_trimmed(part.delta_IO, recipe.density) for part in parts])
  mass_IO = (weights_K11 * kept_KIO).sum(0)
  elected_IO = np.where(mass_IO >= 0, 1, -1)
  agrees_KIO = np.sign(kept_KIO) == elected_IO
  voices_IO = (weights_K11 * agrees_KIO).sum(0)
  mean_IO = (weights_K11 * kept_KIO * agrees_KIO).sum(0) / np.where(voices_IO > 0, voices_IO, 1)
  return weights_K11.sum() * mean_IO


def _trimmed(delta_IO: np.ndarray, density: float) -> np.ndarray:
  """Returns the matrix with all but its largest entries 0; ties with the last kept one stay."""
  size = np.abs(delta_IO)
  count = max(1, round(density * size.size))
  return np.where(size >= np.partition(size, -count, axis=None)[-count], delta_IO, 0)


def _magmax(parts: Sequence[Part], recipe: Recipe, name: str, layer: int) -> np.ndarray:
  """`magmax` -> [I, O]; see the formula above."""
  weights_K = np.array([part.weight for part in parts])
  delta_KIO = np.stack([part.delta_IO for part in parts])
  weighted_KIO = weights_K[:, None, None] * delta_KIO
  winner_1IO = np.abs(weighted_KIO).argmax(0)[None]
  return weights_K.sum() * np.take_along_axis(delta_KIO, winner_1IO, 0)[0]


def _dare(parts: Sequence[Part], recipe: Recipe, name: str, layer: int) -> np.ndarray:
  """`dare` -> [I, O]; the draws depend on the seed, the adapter's place, projection and layer."""
  total = np.zeros((parts[0].a_RI.shape[1], parts[0].b_RO.shape[1]))
  for place, part in enumerate(parts):
    draw = np.random.default_rng([recipe.seed, place, zlib.crc32(name.encode()), layer])
    delta_IO = part.delta_IO
    kept = draw.random(delta_IO.shape) < recipe.density
    total = total + part.weight / recipe.density * np.where(kept, delta_IO, 0)
  return total


FACTORED = {'linear': _sum, 'cat': _side_by_side, 'svd': _nearest, 'factors': _means}
FULL = {'ties': _ties, 'magmax': _magmax, 'dare': _dare}
WAYS = (*FACTORED, *FULL)
