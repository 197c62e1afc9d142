"""Training in a subspace by AdamW, from the formulas in float64 NumPy: no line of it is jcl's."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Leaves = dict[str, np.ndarray]
"""{name of a leaf: its values}; a projection has layers in front, and its name ends with kernel."""


class Optimiser(NamedTuple):
  """The settings of AdamW."""

  rate: float
  decay: float
  clip: float
  beta1: float = 0.9
  beta2: float = 0.999
  epsilon: float = 1e-8


def free(x_IO: np.ndarray, w_IO: np.ndarray, ratio: float) -> np.ndarray:
  """Returns x without what lies along the largest singular directions of W, on either side."""
  full = min(w_IO.shape)
  kept = full - max(round(ratio * full), 1)
  u_II, _, v_OO = np.linalg.svd(w_IO)  # square: the free vectors are a basis of all the rest
  left, right = u_II[:, kept:], v_OO[kept:]
  return left @ (left.T @ x_IO @ right.T) @ right


def projected(tree: Leaves, start: Leaves, ratio: float) -> Leaves:
  """Returns the leaves, every projection of a layer in its free directions."""
  layers = lambda name, x: np.stack(
    [free(*pair, ratio) for pair in zip(x, start[name], strict=True)]
  )
  constrained = lambda name: "['layers']" in name and name.endswith("['kernel']")
  return {name: layers(name, x) if constrained(name) else x for name, x in tree.items()}


class State(NamedTuple):
  """Adam's moments, and the number of steps that they hold."""

  first: Leaves
  second: Leaves
  step: int


def nothing(start: Leaves) -> State:
  """Returns the state before the first step."""
  zeros = {name: np.zeros_like(x) for name, x in start.items()}
  return State(zeros, zeros, 0)


def adam(now: Leaves, gradient: Leaves, state: State, by: Optimiser) -> tuple[Leaves, State]:
  """Returns the parameters after a step of AdamW with clipping, and the state."""
  norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
  step, first, second, moved = state.step + 1, {}, {}, {}
  for name, g in gradient.items():
    g = g * min(1.0, by.clip / norm)
    first[name] = by.beta1 * state.first[name] + (1 - by.beta1) * g
    second[name] = by.beta2 * state.second[name] + (1 - by.beta2) * g**2
    m, v = first[name] / (1 - by.beta1**step), second[name] / (1 - by.beta2**step)
    decay = 0 if name.endswith(("['bias']", "['scale']")) else by.decay
    moved[name] = now[name] - by.rate * (m / (np.sqrt(v) + by.epsilon) + decay * now[name])
  return moved, State(first, second, step)


def course(start: Leaves, gradients: Sequence[Leaves], ratio: float, by: Optimiser) -> list[Leaves]:
  """Returns the parameters after each step of a task.

  Args:
    start: before the task.
    gradients: of the objective, at the parameters of each step.
    ratio: share of the directions that are free.
    by: the optimiser, fresh.
  """
  now, state, found = start, nothing(start), []
  for gradient in gradients:
    moved, state = adam(now, projected(gradient, start, ratio), state, by)
    updates = projected({name: moved[name] - now[name] for name in now}, start, ratio)
    now = {name: now[name] + updates[name] for name in now}
    found.append(now)
  return found
