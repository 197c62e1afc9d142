"""What stops a run rather than spoil it: steps that are not finite, too little memory."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jcl.errors import UserError

SHOWN = 8  # ids of rows in a message


def not_finite(values: Mapping[str, float], weights: Mapping[str, np.float32]) -> list[str]:
  """Names of a step's terms that are no number once weighted, the loss last: it is their sum."""
  with np.errstate(all='ignore'):
    weighted = {k: np.float32(v) * weights.get(k, np.float32(1)) for k, v in values.items()}
  wrong = [name for name, value in weighted.items() if not math.isfinite(value)]
  return sorted(wrong, key=lambda name: (name == 'gradient_norm', name == 'loss'))


def refusal(task: str, step: int, wrong: Sequence[str], rows: Sequence[str]) -> str:
  """In words: a step that was not applied."""
  more = f' and {len(rows) - SHOWN} more' if len(rows) > SHOWN else ''
  return (
    f'task {task}, step {step}: {", ".join(wrong)} is not finite (rows {", ".join(rows[:SHOWN])}'
    f'{more}); the step was not applied'
  )


@contextlib.contextmanager
def explain_oom(what: Callable[[], str], remedy: str) -> Iterator[None]:
  """Says in one line what a device had no memory for.

  Args:
    what: the work under way and its shape.
    remedy: what to lower.

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


def shape(batch: Any, mesh: Any) -> str:
  """The shape of a batch, in words."""
  rows, tokens = batch.tokens.shape
  return (
    f'a batch of {rows} rows of {tokens} tokens with {batch.target_token.shape[0]} targets, '
    f'on {mesh.size} device(s)'
  )
