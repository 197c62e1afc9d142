"""Sums over the features of rows by class, and the linear heads that are solved from them.

All arrays are NumPy float64 on the host. Up to rounding a sum does not depend on the order of its
terms, so a head is a function of the set of rows seen, whatever the order of tasks. Kernel and bias
of a class without rows are 0; no task so far has such a class, so it may not be answered.

Letters in shapes: N rows, P features, C classes, S shares (the rows that fit, and those held out).
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg

GRID = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4)  # ridges, in mean eigenvalues of G
ALIKE = 1.02  # multiple of the least error up to which an error counts as good as the least
UNCHOSEN = 1e-2  # ridge where no row is held out, in mean eigenvalues of G
LADDER = (1e-8, 1e-6, 1e-4, 1e-2, 1.0)  # values that a too small shrinkage is raised to, in turn
NOTHING = 1e-12  # share of the second moment below which a scatter is rounding error

Sums = dict[str, np.ndarray]
"""float64: count [S, C] rows; total [S, P, C] Σ φ; gram [S, P, P] Σ φ φᵀ, if a solver needs it.

φ are the features of a row. Packed sums hold gram as its lower triangles, [S, P (P + 1) / 2].
"""


class Solved(NamedTuple):
  """A linear head.

  Attributes:
    kernel_PC, bias_C: float64.
    strength: the shrinkage (a share) or ridge (in mean eigenvalues) that was used; 0: the solver
      has none.
    singular: whether the scatter within classes has no inverse without shrinkage.
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
  """Returns new sums whose `gram` is [S, P, P]; without rows its zeros take no memory yet."""
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
  """Returns the head of nearest means: w_c = μ_c / ‖μ_c‖, b = 0 (cosine to the mean of a class)."""
  count_C, total_PC = (sums[name].sum(0) for name in ('count', 'total'))
  length_C = np.linalg.norm(total_PC, axis=0)
  kernel_PC = total_PC / np.where(length_C > 0, length_C, 1)
  return Solved(kernel_PC, np.zeros(len(count_C)))


def discriminant(sums: Sums, shrinkage: float) -> Solved:
  """Returns the linear discriminant with one covariance for all classes, shrunk towards a sphere.

      w_c = Σ_s⁻¹ μ_c    b_c = −½ μ_cᵀ Σ_s⁻¹ μ_c + log π_c
      Σ_s = (1 − s) Σ_w + s tr(Σ_w) / P I

  μ_c is the mean of class c, Σ_w the scatter within classes divided by N, π_c the share of class c
  among the rows, tr the trace. A scatter of 0 is replaced by I.

  Args:
    sums: unpacked sums of at least one row.
    shrinkage: s; where Σ_s has no inverse, s is raised to the least of `LADDER` that gives one.
      0: estimated from the scatter, see `estimated_shrinkage`.
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
    wanted = shrinkage or estimated_shrinkage(scatter_PP, int(rows - seen.sum()))
    strength, solved_PK = _shrunk(scatter_PP, sphere, wanted, mean_PK)
    singular = bool(singular or strength != wanted)
  kernel_PC, bias_C = np.zeros_like(total_PC), np.zeros(len(count_C))
  kernel_PC[:, seen] = solved_PK
  bias_C[seen] = -0.5 * (mean_PK * solved_PK).sum(0) + np.log(count_C[seen] / rows)
  return Solved(kernel_PC, bias_C, strength, singular)


def estimated_shrinkage(scatter_PP: np.ndarray, freedom: int) -> float:
  """Returns the s of Σ_s that is nearest to the scatter of endless rows, if these were normal.

      s = ((1 − 2/P) tr(Σ²) + tr(Σ)²) / ((n + 1 − 2/P) (tr(Σ²) − tr(Σ)² / P)), at most 1

  is the oracle approximating shrinkage of Chen, Wiesel, Eldar and Hero (2010). Few rows in many
  features have a large one, many rows a small one.

  Args:
    scatter_PP: Σ, the scatter within classes divided by the number of rows.
    freedom: n, rows less classes.
  """
  features = len(scatter_PP)
  squares, trace = float(np.square(scatter_PP).sum()), float(np.trace(scatter_PP))
  apart = squares - trace**2 / features
  wanted = (1 - 2 / features) * squares + trace**2
  least = wanted / (freedom + 1 - 2 / features)
  return 1.0 if least >= apart else max(least / apart, LADDER[0])


def one_by_one(name: str, body: Callable, carry: np.ndarray, chunks: Sequence) -> np.ndarray:
  """Returns carry = body(carry, chunk) over all chunks, as `Tools.fold` without a run around it."""
  return functools.reduce(body, chunks, carry)


def ridge(sums: Sums, strength: float, fold: Callable = one_by_one) -> Solved:
  """Returns the head of ridge regression on one-hot classes that all count alike: b = 0 and

      W = (G + λ I)⁻¹ C    λ = strength · tr(G) / P

  G and C are those of `balanced`.

  Args:
    sums: unpacked sums of at least one row. Of two shares the first fits the head and the second is
      held out to choose the strength; the head returned is solved from both.
    strength: λ in units of the mean eigenvalue of G; 0: the weakest of `GRID` whose fit to the
      first share has nearly the least squared error on the second. The ridge of the least squared
      error is stronger than the ridge of the best accuracy.
    fold: `Tools.fold`, which shows how far the choice of a strength is.
  """
  count_C = sums['count'].sum(0)
  seen, weight_C = count_C > 0, class_weights(count_C)
  if not strength:
    strength = _chosen(sums, weight_C, fold)
  _, wanted_PC, gram_PP = balanced({k: v.sum(0) for k, v in sums.items()}, weight_C)
  kernel_PC = np.zeros_like(wanted_PC)
  kernel_PC[:, seen] = _ridge(gram_PP, wanted_PC[:, seen], strength)
  return Solved(kernel_PC, np.zeros(len(count_C)), strength)


def class_weights(count_C: np.ndarray) -> np.ndarray:
  """Returns the weight of a row of each class, N / (K n_c): all K classes with rows count alike."""
  seen = count_C > 0
  return np.where(seen, count_C.sum() / (seen.sum() * np.maximum(count_C, 1)), 1.0)


def balanced(share: Sums, weight_C: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
  """Returns Σ_c w_c n_c, C and G of rows that count by their class.

      C_c = w_c n_c μ_c    G = Σ (φ − μ_c)(φ − μ_c)ᵀ + Σ_c w_c n_c μ_c μ_cᵀ

  Without the weights the least squares give a class of few rows small logits, and such a class is
  hardly ever the answer. Means are weighed, and rows around them are not: the scatter within
  classes is taken to be that of all classes, as in `discriminant`, for the sums do not tell the
  scatters of single classes. Where all w_c are 1, C and G are the given sums.

  Args:
    share: count n [C], total [P, C] and gram [P, P] of one share, or of all rows.
    weight_C: w.
  """
  count_C, total_PC, gram_PP = share['count'], share['total'], share['gram']
  if (weight_C == 1).all():
    return count_C.sum(), total_PC, gram_PP
  mean_PC = total_PC / np.maximum(count_C, 1)
  moved_PP = (mean_PC * (count_C * (weight_C - 1))) @ mean_PC.T
  return (weight_C * count_C).sum(), total_PC * weight_C, gram_PP + moved_PP


def _chosen(sums: Sums, weight_C: np.ndarray, fold: Callable) -> float:
  """Returns the weakest of `GRID` whose held-out error is at most `ALIKE` times the least error.

  The error is ‖Y − H W‖² = N − 2 tr(Wᵀ C) + tr(Wᵀ G W), with N, C and G of the held-out share, in
  both shares as `balanced` gives them. The grid is tried from the strongest ridge on, until the
  error has risen; what is not tried stays inf.
  """
  if not sums['count'].any(1).all():
    return UNCHOSEN
  (_, fit_PC, fit_PP), (rows, held_PC, held_PP) = (
    balanced({k: v[share] for k, v in sums.items()}, weight_C) for share in (0, 1)
  )
  seen = sums['count'].sum(0) > 0
  fit_PK, held_PK = fit_PC[:, seen], held_PC[:, seen]

  def tried(error_R: np.ndarray, number: int) -> np.ndarray:
    if number and error_R[number - 1] > ALIKE * error_R.min():
      return error_R
    kernel_PK = _ridge(fit_PP, fit_PK, GRID[number])
    squares = np.sum(kernel_PK * (held_PP @ kernel_PK))
    error = rows + squares - 2 * np.sum(kernel_PK * held_PK)
    return np.where(np.arange(len(GRID)) == number, error, error_R)

  error_R = fold('ridges', tried, np.full(len(GRID), np.inf), range(len(GRID)))
  return min(s for s, error in zip(GRID, error_R, strict=True) if error <= ALIKE * error_R.min())


def _ridge(gram_PP: np.ndarray, total_PK: np.ndarray, strength: float) -> np.ndarray:
  """Returns (G + strength · tr(G) / P · I)⁻¹ C, [P, K]."""
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
  """Returns the shrinkage, raised where Σ_s has no inverse, and Σ_s⁻¹ right, [P, K]."""
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
