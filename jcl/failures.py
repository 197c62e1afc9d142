"""Failures that end a run before it is spoiled: steps that are not finite, too little memory."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jcl.errors import UserError, count_of

ROWS_SHOWN = 8  # rows that a message names at most


class HasRows(Protocol):
  """The fields of a `Batch` that say how large it is."""

  @property
  def tokens(self) -> jax.Array | np.ndarray:
    """[B, T]."""

  @property
  def length(self) -> jax.Array | np.ndarray:
    """[R]."""

  @property
  def target_token(self) -> jax.Array | np.ndarray:
    """[M]."""


def not_finite(values: Mapping[str, float], weights: Mapping[str, np.float32]) -> list[str]:
  """Returns the names of a step's terms that are not finite once weighted.

  Args:
    values: {term: value}, with `loss`, their sum, and `gradient_norm`.
    weights: {term: weight}; 1 for a term that is not there.

  Returns:
    Names: first those of terms, then `loss`, then `gradient_norm`.
  """
  with np.errstate(all='ignore'):
    weighted = {k: np.float32(v) * weights.get(k, np.float32(1)) for k, v in values.items()}
  wrong = [name for name, value in weighted.items() if not math.isfinite(value)]
  return sorted(wrong, key=lambda name: (name == 'gradient_norm', name == 'loss'))


def describe_refused_step(task: str, step: int, wrong: Sequence[str], rows: Sequence[str]) -> str:
  """Returns one line about a step that was not applied.

  Args:
    task: the task's name.
    step: its number in the task, from 1.
    wrong: names of the terms that are not finite.
    rows: names of the rows of its batch.
  """
  more = f' and {len(rows) - ROWS_SHOWN} more' if len(rows) > ROWS_SHOWN else ''
  return (
    f'task {task}, step {step}: {", ".join(wrong)} is not finite (rows '
    f'{", ".join(rows[:ROWS_SHOWN])}{more}); the step was not applied'
  )


@contextlib.contextmanager
def explain_oom(what: Callable[[], str], remedy: str) -> Iterator[None]:
  """Turns a device's out-of-memory error into one line that says what to lower.

  Args:
    what: gives the work under way and its shape.
    remedy: the settings to lower.

  Raises:
    UserError: in place of the runtime's error.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error) and 'Out of memory' not in str(error):
      raise
    asked = next((line.strip() for line in str(error).splitlines() if line.strip()), '')
    raise UserError(f'out of memory in {what()}: {asked[:160]}; lower {remedy}') from None


def describe_batch(batch: HasRows, mesh: Mesh) -> str:
  """Returns the shape of a batch in words.

  Args:
    batch: its tokens [B, T], rows [R] and targets [M].
    mesh: the devices of the run.
  """
  (lines, tokens), rows = batch.tokens.shape, batch.length.shape[0]
  where = '' if lines == rows else f'in {count_of(lines, "line")} '
  return (
    f'a batch of {count_of(rows, "row")} {where}of {count_of(tokens, "token")} with '
    f'{count_of(batch.target_token.shape[0], "target")}, on {count_of(mesh.size, "device")}'
  )
