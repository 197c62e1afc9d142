"""Linear heads of all rows at once, in float64, from the formulas: no line of it is jcl's."""

import numpy as np

GRID = (1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)


def nearest_mean(x_ND: np.ndarray, y_N: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
  """w_c = μ_c / ‖μ_c‖, b = 0."""
  means = [x_ND[y_N == c].mean(0) for c in range(classes)]
  return np.stack([mean / np.sqrt((mean**2).sum()) for mean in means], 1), np.zeros(classes)


def discriminant(
  x_ND: np.ndarray, y_N: np.ndarray, classes: int, shrinkage: float
) -> tuple[np.ndarray, np.ndarray]:
  """w_c = Σ_s⁻¹ μ_c, b_c = −½ μ_cᵀ Σ_s⁻¹ μ_c + log π_c."""
  rows, width = x_ND.shape
  means = [x_ND[y_N == c].mean(0) for c in range(classes)]
  within = sum(np.outer(x - means[c], x - means[c]) for x, c in zip(x_ND, y_N, strict=True)) / rows
  sphere = np.trace(within) / width * np.eye(width)
  inverse = np.linalg.inv((1 - shrinkage) * within + shrinkage * sphere)
  share = [np.mean(y_N == c) for c in range(classes)]
  bias = [np.log(p) - m @ inverse @ m / 2 for m, p in zip(means, share, strict=True)]
  return np.stack([inverse @ m for m in means], 1), np.array(bias)


def shrinkage(x_ND: np.ndarray, y_N: np.ndarray, classes: int) -> float:
  """The oracle approximating shrinkage of the scatter within classes, from its eigenvalues."""
  rows, width = x_ND.shape
  centred = np.stack([x - x_ND[y_N == c].mean(0) for x, c in zip(x_ND, y_N, strict=True)])
  value_D = np.linalg.svd(centred, full_matrices=True)[1] ** 2 / rows
  squares, mean = (value_D**2).sum(), value_D.sum() / width
  freedom = rows - classes
  above = (1 - 2 / width) * squares + (width * mean) ** 2
  below = (freedom + 1 - 2 / width) * (squares - width * mean**2)
  return min(1.0, above / below) if below > 0 else 1.0


def ridge(
  x_ND: np.ndarray, y_N: np.ndarray, classes: int, strength: float
) -> tuple[np.ndarray, np.ndarray]:
  """The least squares of one-hot classes with λ = strength · the mean eigenvalue of XᵀX.

  A row is the mean of its class and what differs from it; means count N / (K n_c) times, and what
  differs from them is to be 0.
  """
  weight_C = len(y_N) / classes / np.bincount(y_N, minlength=classes)
  return _fit(*_parts(x_ND, y_N, weight_C), strength), np.zeros(classes)


def chosen(x_ND: np.ndarray, y_N: np.ndarray, classes: int, held_N: np.ndarray) -> float:
  """The weakest of `GRID` whose fit to the rows kept errs least on those held out, to 2 %."""
  weight_C = len(y_N) / classes / np.bincount(y_N, minlength=classes)
  fitted = _parts(x_ND[~held_N], y_N[~held_N], weight_C)
  unseen_MD, wanted_MC = _parts(x_ND[held_N], y_N[held_N], weight_C)
  errors = [np.square(unseen_MD @ _fit(*fitted, s) - wanted_MC).sum() for s in GRID]
  return next(s for s, found in zip(GRID, errors, strict=True) if found <= 1.02 * min(errors))


def _parts(x_ND: np.ndarray, y_N: np.ndarray, weight_C: np.ndarray) -> tuple:
  """Differences from the mean of a row's class, wanted 0, and weighed means, wanted one-hot."""
  kinds = np.unique(y_N)
  mean = {c: x_ND[y_N == c].mean(0) for c in kinds}
  root_K = [np.sqrt(weight_C[c] * np.sum(y_N == c)) for c in kinds]
  apart_ND = np.stack([x - mean[c] for x, c in zip(x_ND, y_N, strict=True)])
  means_KD = np.stack([root * mean[c] for root, c in zip(root_K, kinds, strict=True)])
  wanted_KC = np.array(root_K)[:, None] * np.eye(len(weight_C))[kinds]
  none_NC = np.zeros((len(x_ND), len(weight_C)))
  return np.concatenate([apart_ND, means_KD]), np.concatenate([none_NC, wanted_KC])


def _fit(x_MD: np.ndarray, wanted_MC: np.ndarray, strength: float) -> np.ndarray:
  """Least squares with λ = strength · the mean eigenvalue of XᵀX."""
  width = x_MD.shape[1]
  strength = strength * np.linalg.eigvalsh(x_MD.T @ x_MD).mean()
  more = np.concatenate([x_MD, np.sqrt(strength) * np.eye(width)])
  wanted = np.concatenate([wanted_MC, np.zeros((width, wanted_MC.shape[1]))])
  return np.linalg.lstsq(more, wanted, rcond=None)[0]


def relu(hidden_ND: np.ndarray, projection_DP: np.ndarray) -> np.ndarray:
  """max(x R, 0), x being the state with mean 0 and variance 1 over its entries."""
  return np.maximum(standardised(hidden_ND) @ projection_DP, 0)


def fourier(hidden_ND: np.ndarray, projection_DP: np.ndarray, phase_P: np.ndarray) -> np.ndarray:
  """√(2 / P) cos(x Ω + u)."""
  angle_NP = standardised(hidden_ND) @ projection_DP + phase_P
  return np.sqrt(2 / len(phase_P)) * np.cos(angle_NP)


def standardised(hidden_ND: np.ndarray) -> np.ndarray:
  """Each row with mean 0 and variance 1."""
  return np.stack([(h - h.mean()) / h.std() for h in hidden_ND])


def few(mark_N: np.ndarray, y_N: np.ndarray, held_N: np.ndarray, shots: int) -> list[int]:
  """The rows of each class with the least marks, but for those held out."""
  rows = [i for i in np.argsort(mark_N, kind='stable') if not held_N[i]]
  return [i for c in np.unique(y_N) for i in [i for i in rows if y_N[i] == c][:shots]]


def score(
  x_ND: np.ndarray, y_N: np.ndarray, held_N: np.ndarray, draws: list[list[int]], strength: float
) -> tuple[float, float]:
  """Accuracy of ridge heads on the rows held out, and the mean margin over the mean of its size."""
  x_ND, classes = standardised(x_ND), int(y_N.max()) + 1
  margins = []
  for rows in draws:
    logits_HC = x_ND[held_N] @ ridge(x_ND[rows], y_N[rows], classes, strength)[0]
    for logit_C, right in zip(logits_HC, y_N[held_N], strict=True):
      margins.append(logit_C[right] - max(np.delete(logit_C, right)))
  margin = np.array(margins)
  return float((margin > 0).mean()), float(margin.sum() / np.abs(margin).sum())
