"""What the accuracy matrix says: averages, transfer, forgetting, and the mean over seeds.

R is (T+1) x T: R[0] before any training, R[i, j] the score on task j after task i, tasks from 1. A
metric that needs a cell that was not evaluated is null (None), and so is a mean of nothing.
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jcl.errors import UserError

Score = Literal['accuracy', 'log_perplexity']
Matrix = Sequence[Sequence[float | None]]
Right = Sequence[Sequence[bool] | None]


def metrics(
  matrix: Matrix, score: Score = 'accuracy', sizes: Sequence[int] | None = None
) -> dict[str, float | None]:
  """All metrics of one run.

  With R̂ = R for accuracy and R̂ = −R for log-perplexity, where larger is worse:

      average_accuracy              mean_j R[T, j]
      average_incremental_accuracy  mean_i mean_{j<=i} R[i, j]
      example_weighted_accuracy     Σ_j n_j R[T, j] / Σ_j n_j, where the sizes n are given
      backward_transfer             mean_{j<T} (R̂[T, j] − R̂[j, j])
      forward_transfer              mean_{j>1} (R̂[j−1, j] − R̂[0, j])
      forgetting                    mean_{j<T} (max_{j<=i<T} R̂[i, j] − R̂[T, j])
      forgetting_first              mean_{j<T} (R̂[j, j] − R̂[T, j])
      forgetting_rate               mean_{j<T, R[j, j]>0} (R[j, j] − R[T, j]) / R[j, j], accuracy

  Forgetting is Chaudhry's (2018, "Riemannian Walk"), whose maximum leaves the last row out, so it
  is negative where a task was learned better later on. Transfer is Lopez-Paz and Ranzato's (2017).

  Args:
    matrix: (T+1) x T, accuracy in [0, 1] or nats per target; None where not evaluated.
    score: what the matrix holds.
    sizes: [T] test examples of each task.

  Returns:
    {name: value or None}, in the matrix's unit; the rate is a share.

  Raises:
    UserError: the matrix or the sizes are malformed.
  """
  R = _checked(matrix, score)
  tasks = R.shape[1]
  final, diagonal, signed = R[-1], np.diagonal(R[1:]), _larger_is_better(R, score)
  seen = np.tril(np.ones((tasks, tasks), bool))
  learned = np.diagonal(signed[1:])[:-1]
  values = {
    'average_accuracy': final.mean(),
    'average_incremental_accuracy': _mean([R[1:][i][seen[i]].mean() for i in range(tasks)]),
    'backward_transfer': _mean(signed[-1, :-1] - learned),
    'forward_transfer': _mean(np.diagonal(signed[:-1])[1:] - signed[0, 1:]),
    'forgetting': _mean([signed[j + 1 : -1, j].max() - signed[-1, j] for j in range(tasks - 1)]),
    'forgetting_first': _mean(learned - signed[-1, :-1]),
    'forgetting_rate': _rate(diagonal[:-1], final[:-1]) if score == 'accuracy' else math.nan,
  }
  if sizes is not None:
    values['example_weighted_accuracy'] = np.average(final, weights=_checked_sizes(sizes, tasks))
  return {name: None if math.isnan(value) else float(value) for name, value in values.items()}


def worst_just_learned(matrix: Matrix, score: Score = 'accuracy') -> float | None:
  """The worst score right after learning: min_i R[i, i], for log-perplexity max_i R[i, i].

  It tells a method that forgets from one that never learned.

  Raises:
    UserError: the matrix is malformed.
  """
  diagonal = np.diagonal(_checked(matrix, score)[1:])
  worst = diagonal.min() if score == 'accuracy' else diagonal.max()
  return None if math.isnan(worst) else float(worst)


def average_so_far(matrix: Matrix, score: Score = 'accuracy') -> list[float | None]:
  """[T] mean_{j<=i} R[i, j] for i = 1..T: how well the tasks seen so far are known after each.

  Raises:
    UserError: the matrix is malformed.
  """
  means = [row[: i + 1].mean() for i, row in enumerate(_checked(matrix, score)[1:])]
  return [None if math.isnan(mean) else float(mean) for mean in means]


def negative_flips(right_after: Right, at_end: Right) -> list[tuple[int, int]]:
  """Examples that were right just after their task was learned and are wrong at the end.

  Args:
    right_after: for each task, whether each test example was right just after that task; None where
      that was not evaluated.
    at_end: likewise, after the last task.

  Returns:
    [(task, index of the example in its task)], both from 0, in order.

  Raises:
    UserError: the two do not have the same tasks and examples.
  """
  if len(right_after) != len(at_end):
    raise UserError(
      f'negative flips: {len(right_after)} tasks before and {len(at_end)} at the end; '
      'they must be the same'
    )
  flips = []
  for task, (before, after) in enumerate(zip(right_after, at_end, strict=True)):
    if before is None or after is None:
      continue
    if len(before) != len(after):
      raise UserError(
        f'negative flips: task {task} has {len(before)} examples before and {len(after)} at the '
        'end; they must be the same'
      )
    flips += [(task, i) for i in range(len(before)) if before[i] and not after[i]]
  return flips


def mean_and_interval(values: Sequence[float | None]) -> tuple[float | None, float | None]:
  """The mean over seeds and the half-width of its 95 % interval, by Student's t.

      half-width = t_{0.975, n−1} · s / √n,   s² = Σ (x − mean)² / (n − 1)

  Args:
    values: one a seed. One that is None makes the mean None: it would be of other seeds than said.

  Returns:
    (mean, half-width): None and None for no value, the half-width None for one seed.
  """
  if not values or any(value is None for value in values):
    return None, None
  count, mean = len(values), math.fsum(values) / len(values)
  if count == 1:
    return mean, None
  from scipy.special import stdtrit

  spread = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (count - 1))
  return mean, float(stdtrit(count - 1, 0.975)) * spread / math.sqrt(count)


def _larger_is_better(R: np.ndarray, score: Score) -> np.ndarray:
  return R if score == 'accuracy' else -R


def _mean(values: Any) -> float:
  """The mean; nan for no value, where numpy would warn."""
  return float(np.mean(values)) if len(values) else math.nan


def _rate(learned: np.ndarray, final: np.ndarray) -> float:
  """Mean of (learned − final) / learned over the tasks learned at all; nan if a cell is unknown."""
  if np.isnan(learned).any() or np.isnan(final).any():
    return math.nan
  known = learned > 0
  return _mean((learned[known] - final[known]) / learned[known])


def _checked(matrix: Matrix, score: Score) -> np.ndarray:
  """(T+1) x T float64 with nan for null."""
  if score not in ('accuracy', 'log_perplexity'):
    raise UserError(f'score is {score!r}; it must be accuracy or log_perplexity')
  rows = len(matrix)
  if rows < 2:
    raise UserError(
      f'the matrix has {rows} rows; it must have one before training and one after every task'
    )
  for i, row in enumerate(matrix):
    if len(row) != rows - 1:
      raise UserError(f'row {i} of the matrix has {len(row)} cells; {rows} rows need {rows - 1}')
    for j, cell in enumerate(row):
      _check_cell(cell, f'row {i}, column {j} of the matrix', score)
  return np.array([[math.nan if x is None else float(x) for x in row] for row in matrix])


def _check_cell(cell: Any, where: str, score: Score) -> None:
  if cell is None:
    return
  if isinstance(cell, bool | np.bool_) or not isinstance(cell, numbers.Real):
    raise UserError(f'{where} is {cell!r}; it must be a number or null')
  if not math.isfinite(cell):
    raise UserError(f'{where} is {cell}; what was not evaluated is null')
  if score == 'accuracy' and not 0 <= cell <= 1:
    raise UserError(f'{where} is {cell}; an accuracy is in [0, 1]')


def _checked_sizes(sizes: Sequence[int], tasks: int) -> Sequence[int]:
  if len(sizes) != tasks:
    raise UserError(f'{len(sizes)} sizes for {tasks} tasks; there must be one for each')
  if any(size < 1 for size in sizes):
    raise UserError(f'sizes are {list(sizes)}; every task must have at least one test example')
  return sizes
