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
  """The least squares of one-hot classes with λ = strength · the mean eigenvalue of XᵀX."""
  width = x_ND.shape[1]
  strength = strength * np.linalg.eigvalsh(x_ND.T @ x_ND).mean()
  more = np.concatenate([x_ND, np.sqrt(strength) * np.eye(width)])
  wanted = np.concatenate([np.eye(classes)[y_N], np.zeros((width, classes))])
  return np.linalg.lstsq(more, wanted, rcond=None)[0], np.zeros(classes)


def chosen(x_ND: np.ndarray, y_N: np.ndarray, classes: int, held_N: np.ndarray) -> float:
  """The weakest of `GRID` whose fit to the rows kept errs least on those held out, to 2 %."""

  def error(strength: float) -> float:
    kernel, _ = ridge(x_ND[~held_N], y_N[~held_N], classes, strength)
    return float(np.square(x_ND[held_N] @ kernel - np.eye(classes)[y_N[held_N]]).mean())

  errors = [error(strength) for strength in GRID]
  return next(s for s, found in zip(GRID, errors, strict=True) if found <= 1.02 * min(errors))


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
