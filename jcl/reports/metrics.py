"""Metrics of the accuracy matrix: averages, transfer, forgetting, and the mean over seeds.

The matrix R is (T+1) x T: R[0] before any training, R[i, j] the score on task j after task i, tasks
counted from 1. A metric that needs a cell that was not evaluated is None, and so is a mean over no
cells.
"""

import math
import numbers
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jcl.errors import UserError, count_of

Score = Literal['accuracy', 'log_perplexity']
Matrix = Sequence[Sequence[float | None]]
Right = Sequence[Sequence[bool] | None]  # a task each: whether each test example is right
Numbers = Sequence[float] | np.ndarray


def metrics(
  matrix: Matrix, score: Score = 'accuracy', sizes: Sequence[int] | None = None
) -> dict[str, float | None]:
  """Returns all metrics of one run.

  With R̂ = R for accuracy and R̂ = −R for log-perplexity, where larger is worse:

      average_accuracy              mean_j R[T, j]
      average_incremental_accuracy  mean_i mean_{j<=i} R[i, j]
      example_weighted_accuracy     Σ_j n_j R[T, j] / Σ_j n_j, where the sizes n are given
      backward_transfer             mean_{j<T} (R̂[T, j] − R̂[j, j])
      forward_transfer              mean_{j>1} (R̂[j−1, j] − R̂[0, j])
      forgetting                    mean_{j<T} (max_{j<=i<T} R̂[i, j] − R̂[T, j])
      forgetting_first              mean_{j<T} (R̂[j, j] − R̂[T, j])
      forgetting_rate               mean_{j<T, R[j, j]>0} (R[j, j] − R[T, j]) / R[j, j], accuracy

  Forgetting is that of Chaudhry et al. (2018), "Riemannian Walk". Its maximum leaves the last row
  out, so forgetting is negative where the score of a task rises up to the end. The two transfers
  are those of Lopez-Paz and Ranzato (2017), "Gradient Episodic Memory".

  Args:
    matrix: (T+1) x T, accuracy in [0, 1] or nats per target; None where not evaluated.
    score: the unit of the matrix.
    sizes: [T] number of test examples of each task.

  Returns:
    {name: value or None}, in the unit of the matrix; `forgetting_rate` is a share.

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
  """Returns the worst score right after learning: min_i R[i, i], for log-perplexity max_i R[i, i].

  This number tells a method that forgets from a method that never learned.

  Raises:
    UserError: the matrix is malformed.
  """
  diagonal = np.diagonal(_checked(matrix, score)[1:])
  worst = diagonal.min() if score == 'accuracy' else diagonal.max()
  return None if math.isnan(worst) else float(worst)


def average_so_far(matrix: Matrix, score: Score = 'accuracy') -> list[float | None]:
  """Returns [T] mean_{j<=i} R[i, j] for i = 1..T: after each task, the mean over the tasks so far.

  Raises:
    UserError: the matrix is malformed.
  """
  means = [row[: i + 1].mean() for i, row in enumerate(_checked(matrix, score)[1:])]
  return [None if math.isnan(mean) else float(mean) for mean in means]


def negative_flips(right_after: Right, at_end: Right) -> list[tuple[int, int]]:
  """Returns the examples that are right just after their task was learned and wrong at the end.

  Args:
    right_after: for each task, whether each test example is right just after that task; None where
      that was not evaluated.
    at_end: the same after the last task.

  Returns:
    [(task, index of the example in its task)], both from 0, in order.

  Raises:
    UserError: the two do not have the same tasks and examples.
  """
  if len(right_after) != len(at_end):
    raise UserError(
      f'negative flips: {count_of(len(right_after), "task")} before and {len(at_end)} at the end; '
      'they must be the same'
    )
  flips = []
  for task, (before, after) in enumerate(zip(right_after, at_end, strict=True)):
    if before is None or after is None:
      continue
    if len(before) != len(after):
      raise UserError(
        f'negative flips: task {task} has {count_of(len(before), "example")} before and '
        f'{len(after)} at the end; they must be the same'
      )
    flips += [(task, i) for i in range(len(before)) if before[i] and not after[i]]
  return flips


def mean_and_interval(values: Sequence[float | None]) -> tuple[float | None, float | None]:
  """Returns the mean over seeds and the half-width of its 95 % interval, by Student's t.

      half-width = t_{0.975, n−1} · s / √n,   s² = Σ (x − mean)² / (n − 1)

  Args:
    values: one for each seed.

  Returns:
    (mean, half-width). Both are None if there is no value or a value is None, since the mean would
    then be that of other seeds; the half-width is None for one seed.
  """
  known = [value for value in values if value is not None]
  if not known or len(known) < len(values):
    return None, None
  count, mean = len(known), math.fsum(known) / len(known)
  if count == 1:
    return mean, None
  from scipy.special import stdtrit

  spread = math.sqrt(math.fsum((x - mean) ** 2 for x in known) / (count - 1))
  return mean, float(stdtrit(count - 1, 0.975)) * spread / math.sqrt(count)


def _larger_is_better(R: np.ndarray, score: Score) -> np.ndarray:
  """Returns R̂: the matrix with its sign such that larger is better."""
  return R if score == 'accuracy' else -R


def _mean(values: Numbers) -> float:
  """Returns the mean; nan for no value, where NumPy would warn."""
  return float(np.mean(values)) if len(values) else math.nan


def _rate(learned: np.ndarray, final: np.ndarray) -> float:
  """Returns the mean of (learned − final) / learned over the tasks with learned > 0.

  Args:
    learned: [T−1] score of each task just after it was learned.
    final: [T−1] score of the same task at the end.

  Returns:
    The mean; nan if a cell is nan or no task was learned.
  """
  if np.isnan(learned).any() or np.isnan(final).any():
    return math.nan
  known = learned > 0
  return _mean((learned[known] - final[known]) / learned[known])


def _checked(matrix: Matrix, score: Score) -> np.ndarray:
  """Returns the matrix as (T+1) x T float64, nan for None.

  Raises:
    UserError: the matrix is malformed; the message names the row and the column.
  """
  if score not in ('accuracy', 'log_perplexity'):
    raise UserError(f'score is {score!r}; it must be accuracy or log_perplexity')
  rows = len(matrix)
  if rows < 2:
    raise UserError(
      f'the matrix has {count_of(rows, "row")}; it must have one before training and one after '
      'every task'
    )
  for i, row in enumerate(matrix):
    if len(row) != rows - 1:
      cells = count_of(len(row), 'cell')
      raise UserError(f'row {i} of the matrix has {cells}; {rows} rows need {rows - 1}')
    for j, cell in enumerate(row):
      _check_cell(cell, f'row {i}, column {j} of the matrix', score)
  return np.array([[math.nan if x is None else float(x) for x in row] for row in matrix])


def _check_cell(cell: object, where: str, score: Score) -> None:
  """Refuses a cell that is neither None nor a score."""
  if cell is None:
    return
  if isinstance(cell, bool | np.bool_) or not isinstance(cell, numbers.Real):
    raise UserError(f'{where} is {cell!r}; it must be a number or null')
  value = float(cell)
  if not math.isfinite(value):
    raise UserError(f'{where} is {cell}; a cell that was not evaluated is null')
  if score == 'accuracy' and not 0 <= value <= 1:
    raise UserError(f'{where} is {cell}; an accuracy is in [0, 1]')


def _checked_sizes(sizes: Sequence[int], tasks: int) -> Sequence[int]:
  """Returns the sizes, one for each task and none of them 0."""
  if len(sizes) != tasks:
    given = count_of(len(sizes), 'size')
    raise UserError(f'{given} for {count_of(tasks, "task")}; there must be one for each')
  if any(size < 1 for size in sizes):
    raise UserError(f'sizes are {list(sizes)}; every task must have at least one test example')
  return sizes
