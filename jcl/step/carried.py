"""Adam whose moments are carried from task to task, while methods add parameters and freeze others.

An entry that has no moments yet, because its leaf is new or because no gradient ever reached it,
starts as in a fresh Adam: the correction of its bias counts its own steps. With one count for all
entries its moments, which start at 0, would be corrected as old ones are, and its updates would be
up to 6.5 times the learning rate. Source of the update: Kingma and Ba, 2015.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from jcl.step.adam import next_moments, scale_by_adam, update_of
from jcl.types import Params, Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CarriedAdamState:
  """State of `scale_by_carried_adam`; the first three fields are those of `optax.scale_by_adam`.

  Attributes:
    count: steps taken since the start of the run, int32.
    mu, nu: first and second moments.
    since: tree like the parameters, int32 of each leaf's shape: the count at which the moments of
      an entry began.
  """

  count: jax.Array
  mu: Tree
  nu: Tree
  since: Tree


def scale_by_carried_adam(beta2: float) -> optax.GradientTransformationExtraArgs:
  """Returns Adam that corrects the bias of each entry by the steps since its moments began.

  Where all entries began at count 0 its updates are those of `optax.scale_by_adam`.

  Args:
    beta2: decay of the second moments.
  """
  plain = scale_by_adam(beta2)

  def init(params: Params) -> CarriedAdamState:
    since = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.int32), params)
    count, mu, nu = plain.init(params)
    return CarriedAdamState(count, mu, nu, since)

  def update(
    updates: Tree, state: CarriedAdamState, params: Params = None,
    *, good: jax.Array | bool = True, **_: object,
  ) -> tuple[Tree, CarriedAdamState]:  # fmt: skip
    before = optax.ScaleByAdamState(state.count, state.mu, state.nu)
    after, count = next_moments(updates, before, beta2, good), state.count + 1

    def own(m, v, since):
      usual, later = (update_of(m, v, beta2, steps) for steps in (count, count - since))
      return jnp.where(since == 0, usual, later)

    updates = jax.tree.map(own, after.mu, after.nu, state.since)
    return updates, CarriedAdamState(after.count, after.mu, after.nu, state.since)

  return optax.GradientTransformationExtraArgs(init, update)


def surviving(
  optimizer: Mapping[str, Tree] | None, before: Params, after: Params
) -> dict[str, Tree] | None:
  """Returns the optimiser's leaves without those of parameters whose values a hook has changed.

  Args:
    optimizer: {path: leaf} of the optimiser's state; None: there is none.
    before, after: parameters before the hook and after it.
  """
  if optimizer is None:
    return None
  old = _by_path(before)
  gone = {path for path, x in _by_path(after).items() if path in old and not _same(old[path], x)}
  return {path: leaf for path, leaf in optimizer.items() if _parameter(path) not in gone}


def _by_path(params: Params) -> dict[str, jax.Array]:
  """Returns {path: leaf}."""
  paths = jax.tree_util.tree_leaves_with_path(params)
  return {jax.tree_util.keystr(path): x for path, x in paths}


def _parameter(path: str) -> str:
  """Returns the path of the parameter that a leaf of the state belongs to; '' for a count."""
  return path[path.index("['") :] if "['" in path else ''


def _same(a: jax.Array, b: jax.Array) -> bool:
  """Whether two leaves have the same shape and values."""
  return a is b or (jnp.shape(a) == jnp.shape(b) and bool(jnp.array_equal(a, b)))


def resumed(state: Tree, carried: Mapping[str, Tree], masks: Tree, step: int) -> Tree:
  """Returns a carried state in which the moments of entries without any begin now.

  A state of another optimiser is returned as it is.

  Args:
    state: state of the optimiser, which holds the leaves of `carried`.
    carried: {path: leaf} of the earlier state.
    masks: tree like the trained parameters, 0 where an entry does not train; at the start of a task
      such an entry loses its moments.
    step: steps taken in the task; inside a task nothing begins, unless `carried` has no `since`.
  """
  known = any('.since[' in path for path in carried)
  if step and known:
    return state

  def begun(part):
    if not isinstance(part, CarriedAdamState):
      return part
    masked = lambda tree: jax.tree.map(jnp.multiply, tree, masks)
    mu, nu = (part.mu, part.nu) if step else (masked(part.mu), masked(part.nu))
    since = jax.tree.map(lambda v, s: jnp.where(v == 0, part.count, s), nu, part.since)
    return CarriedAdamState(part.count, mu, nu, since)

  return jax.tree.map(begun, state, is_leaf=lambda x: isinstance(x, CarriedAdamState))
