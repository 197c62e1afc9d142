"""Sums over the features of rows by class, and the linear heads that are solved from them.

All is NumPy in float64 on the host. A sum does not depend on the order of its terms, to rounding,
so a head is a function of the set of rows seen, whatever the order of tasks. Of a class without
rows kernel and bias are 0; no task so far has it, so it may not be answered.

Letters in shapes: N rows, P features, C classes, S shares (the rows that fit, and those held out).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg

GRID = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4)  # ridges, in mean eigenvalues
ALIKE = 1.02  # errors up to so many times the least are as good
UNCHOSEN = 1e-2  # ridge where no row is held out
LADDER = (1e-8, 1e-6, 1e-4, 1e-2, 1.0)  # of a shrinkage that must be raised
NOTHING = 1e-12  # share of the second moment below which a scatter is rounding

Sums = dict[str, np.ndarray]
"""float64: count [S, C] rows; total [S, P, C] Σ φ; gram [S, P, P] Σ φ φᵀ, where it is needed."""


class Solved(NamedTuple):
  """A linear head.

  Attributes:
    kernel_PC, bias_C: float64.
    strength: shrinkage or ridge that was used; 0: the solver has none.
    singular: whether the scatter has no inverse by itself.
  """

  kernel_PC: np.ndarray
  bias_C: np.ndarray
  strength: float = 0.0
  singular: bool = False


def nothing(size: tuple[int, int], shares: int, second: bool) -> Sums:
  """Returns the sums of no rows, packed.

  Args:
    size: P and C, the shape of the head's kernel.
    shares: S.
    second: whether `gram` is needed.
  """
  features, classes = size
  shapes = {'count': (shares, classes), 'total': (shares, features, classes)}
  if second:
    shapes['gram'] = (shares, features * (features + 1) // 2)
  return {name: np.zeros(shape) for name, shape in shapes.items()}


def unpacked(sums: Sums) -> Sums:
  """Returns new sums whose `gram` is [S, P, P]; zeros are made without being touched."""
  new = {name: x.copy() for name, x in sums.items() if name != 'gram'}
  if 'gram' not in sums:
    return new
  features = sums['total'].shape[1]
  gram_SPP = np.zeros((len(sums['gram']), features, features))
  if new['count'].any():
    below = np.tri(features, dtype=bool)
    for full_PP, half_K in zip(gram_SPP, sums['gram'], strict=True):
      full_PP[below] = half_K
      full_PP += np.tril(full_PP, -1).T
  return {**new, 'gram': gram_SPP}


def packed(sums: Sums) -> Sums:
  """Returns sums whose `gram` [S, P (P + 1) / 2] holds the lower triangles alone."""
  if 'gram' not in sums:
    return sums
  below = np.tri(sums['gram'].shape[1], dtype=bool)
  return {**sums, 'gram': np.stack([full_PP[below] for full_PP in sums['gram']])}


def add(sums: Sums, features_NP: np.ndarray, class_N: np.ndarray, share_N: np.ndarray) -> Sums:
  """Adds rows to unpacked sums and returns them; arrays that can be written are filled in place.

  Args:
    sums: unpacked.
    features_NP: of the rows.
    class_N: int, of each row.
    share_N: int, of each row.
  """
  sums = {k: x if x.flags.writeable else x.copy() for k, x in sums.items()}
  classes = np.arange(sums['count'].shape[1])
  for share in range(len(sums['count'])):
    own_N = share_N == share
    if not own_N.any():
      continue
    rows_NP = np.asarray(features_NP[own_N], np.float64)
    is_NC = (class_N[own_N, None] == classes[None]).astype(np.float64)
    sums['count'][share] += is_NC.sum(0)
    sums['total'][share] += rows_NP.T @ is_NC
    if 'gram' in sums:
      sums['gram'][share] += rows_NP.T @ rows_NP
  return sums


def nearest_mean(sums: Sums) -> Solved:
  """Cosine to the mean of each class: w_c = μ_c / ‖μ_c‖, b = 0."""
  count_C, total_PC = (sums[name].sum(0) for name in ('count', 'total'))
  length_C = np.linalg.norm(total_PC, axis=0)
  kernel_PC = total_PC / np.where(length_C > 0, length_C, 1)
  return Solved(kernel_PC, np.zeros(len(count_C)))


def discriminant(sums: Sums, shrinkage: float) -> Solved:
  """Linear discriminant with one covariance for all classes, shrunk towards a sphere.

      w_c = Σ_s⁻¹ μ_c    b_c = −½ μ_cᵀ Σ_s⁻¹ μ_c + log π_c
      Σ_s = (1 − s) Σ_w + s tr(Σ_w) / P I

  Σ_w is the scatter within classes over N, π_c the share of class c. A scatter of 0 becomes I.

  Args:
    sums: of rows.
    shrinkage: s; where Σ_s has no inverse, it is raised to the least of `LADDER` that gives one.
  """
  count_C, total_PC, gram_PP = (sums[name].sum(0) for name in ('count', 'total', 'gram'))
  seen, rows = count_C > 0, count_C.sum()
  mean_PK = total_PC[:, seen] / count_C[seen]
  scatter_PP = (gram_PP - (mean_PK * count_C[seen]) @ mean_PK.T) / rows
  features = len(scatter_PP)
  sphere = np.trace(scatter_PP) / features
  singular = rows - seen.sum() < features
  if sphere <= NOTHING * np.trace(gram_PP) / (rows * features):
    strength, singular, solved_PK = 1.0, True, mean_PK
  else:
    strength, solved_PK = _shrunk(scatter_PP, sphere, shrinkage, mean_PK)
    singular = bool(singular or strength != shrinkage)
  kernel_PC, bias_C = np.zeros_like(total_PC), np.zeros(len(count_C))
  kernel_PC[:, seen] = solved_PK
  bias_C[seen] = -0.5 * (mean_PK * solved_PK).sum(0) + np.log(count_C[seen] / rows)
  return Solved(kernel_PC, bias_C, strength, singular)


def ridge(sums: Sums, strength: float) -> Solved:
  """Ridge regression on one-hot classes: W = (G + λ I)⁻¹ C, λ = strength · tr(G) / P, b = 0.

  Args:
    sums: of rows. With two shares the first fits and the second is held out to choose.
    strength: λ in units of the mean eigenvalue of G; 0: the weakest of `GRID` whose fit to the
      first share has nearly the least squared error on the second. The least error itself wants a
      stronger one than the best answers do.
  """
  if not strength:
    strength = _chosen(sums)
  count_C, total_PC = sums['count'].sum(0), sums['total'].sum(0)
  seen = count_C > 0
  kernel_PC = np.zeros_like(total_PC)
  kernel_PC[:, seen] = _ridge(sums['gram'].sum(0), total_PC[:, seen], strength)
  return Solved(kernel_PC, np.zeros(len(count_C)), strength)


def _chosen(sums: Sums) -> float:
  """Returns the weakest of `GRID` whose error on the share held out is at most `ALIKE` · the least.

  ‖Y − H W‖² = N − 2 tr(Wᵀ C) + tr(Wᵀ G W), with N, C and G of that share. The grid is gone through
  from the strongest on, until the error has risen.
  """
  seen = sums['count'].sum(0) > 0
  if not sums['count'].any(1).all():
    return UNCHOSEN
  fit_PK, held_PK = sums['total'][:, :, seen]

  def error(strength: float) -> float:
    kernel_PK = _ridge(sums['gram'][0], fit_PK, strength)
    squares = np.sum(kernel_PK * (sums['gram'][1] @ kernel_PK))
    return float(sums['count'][1].sum() + squares - 2 * np.sum(kernel_PK * held_PK))

  errors: dict[float, float] = {}
  for strength in GRID:
    errors[strength] = error(strength)
    if errors[strength] > ALIKE * min(errors.values()):
      break
  return min(s for s, found in errors.items() if found <= ALIKE * min(errors.values()))


def _ridge(gram_PP: np.ndarray, total_PK: np.ndarray, strength: float) -> np.ndarray:
  """(G + strength · tr(G) / P · I)⁻¹ C."""
  mean = np.trace(gram_PP) / len(gram_PP)
  if mean <= 0:  # all features are 0
    return np.zeros_like(total_PK)
  matrix_PP = gram_PP.copy()
  matrix_PP[np.diag_indices_from(matrix_PP)] += strength * mean
  factor = scipy.linalg.cho_factor(matrix_PP, lower=True, overwrite_a=True, check_finite=False)
  return scipy.linalg.cho_solve(factor, total_PK, check_finite=False)


def _shrunk(
  scatter_PP: np.ndarray, sphere: float, shrinkage: float, right_PK: np.ndarray
) -> tuple[float, np.ndarray]:
  """Returns the least shrinkage from the one given on that has an inverse, and Σ_s⁻¹ · right."""
  tries: Sequence[float] = (shrinkage, *(s for s in LADDER if s > shrinkage))
  for strength in tries:
    matrix_PP = (1 - strength) * scatter_PP
    matrix_PP[np.diag_indices_from(matrix_PP)] += strength * sphere
    least = len(matrix_PP) * np.finfo(np.float64).eps * matrix_PP.diagonal().max()
    try:
      factor = scipy.linalg.cho_factor(matrix_PP, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
      continue
    if np.square(factor[0].diagonal()).min() > least:
      break
  return strength, scipy.linalg.cho_solve(factor, right_PK, check_finite=False)
