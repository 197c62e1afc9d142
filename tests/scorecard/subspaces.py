"""Column of training in a subspace: the course of the parameters, and what of them stands still."""

import jax
import numpy as np
from oracles import subspaces

from scorecard import cases
from scorecard.cases import Case
from scorecard.wrong import above, near

ROUNDING = 2e-3  # share of the whole move; Adam divides a gradient near 0 by its own size
KEPT = 1e-4  # share of the whole move along directions that are kept


def course(case: Case) -> None:
  """The parameters take the course of the oracle, whose moments are of free directions alone."""
  by = subspaces.Optimiser(
    cases.TRAIN.learning_rate, cases.TRAIN.weight_decay, cases.TRAIN.clip_norm,
    beta2=cases.TRAIN.beta2,
  )  # fmt: skip
  ratio = case.settings.unfreeze_ratio
  for moment in case.moments:
    what, start, gradients = f'task {moment.task.index + 1}', leaves(moment.start), []
    for seen, items in zip(moment.seen, case.steps(moment.plan, moment.task), strict=True):
      batch = case.batch(moment, case.rows(items))
      gradients.append(like(case.judge(moment, batch, seen.params).gradient, start))
    wanted = subspaces.course(start, gradients, ratio, by)
    for number, (found, right) in enumerate(zip(moment.updates, wanted, strict=True), 1):
      move = length(difference(right, start))
      off = length(difference(leaves(found), right)) / move
      near(f'{what}, step {number}: share of its move that is off', off, 0, ROUNDING, 1.0)
    moved = difference(leaves(moment.end), start)
    inside = subspaces.projected(moved, start, ratio)
    for name, x in moved.items():
      largest = np.abs(x).max()
      above(f'{what}: what {name} moves', largest, 1e-4)
      near(f'{what}: {name} along what is kept', x - inside[name], 0 * x, KEPT, largest)


def leaves(tree) -> subspaces.Leaves:
  """{name: float64} of the leaves of parameters."""
  found = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(x, np.float64) for path, x in found}


def like(flat: np.ndarray, wanted: subspaces.Leaves) -> subspaces.Leaves:
  """The entries of a vector as leaves in the order of others."""
  ends = np.cumsum([x.size for x in wanted.values()])[:-1]
  parts = zip(wanted.items(), np.split(flat, ends), strict=True)
  return {name: part.reshape(x.shape) for (name, x), part in parts}


def difference(one: subspaces.Leaves, other: subspaces.Leaves) -> subspaces.Leaves:
  """Leaf by leaf."""
  return {name: one[name] - other[name] for name in one}


def length(tree: subspaces.Leaves) -> float:
  """The Euclidean norm of all entries."""
  return float(np.sqrt(sum((x**2).sum() for x in tree.values())))


def keeps(case: Case) -> bool:
  """Whether some directions of its projections stand still."""
  return hasattr(case.settings, 'unfreeze_ratio')
