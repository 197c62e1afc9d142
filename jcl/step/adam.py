"""Adam and clipping, written so that a step passes over each parameter and its moments once.

The updates are computed from the new moments alone, so that a compiler may write these over the
old ones, whose memory is donated. A step that is not applied (`good` is false) leaves the moments
as they are, in the same pass. Source: Kingma and Ba, 2015; the arithmetic is that of
`optax.scale_by_adam`.
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jcl.types import Params, Tree

B1, EPSILON = 0.9, 1e-8  # as optax.scale_by_adam has them


def next_moments(
  grads: Tree, state: optax.ScaleByAdamState, beta2: float, good: jax.Array | bool
) -> optax.ScaleByAdamState:
  """Returns the state after a step.

  Args:
    grads: gradients.
    state: before the step.
    beta2: decay of the second moments.
    good: whether the step is applied; if not, the state is returned unchanged.
  """
  _, new = optax.scale_by_adam(B1, beta2, EPSILON).update(grads, state)
  kept = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, state)
  # Without the barrier a compiler computes the moments a second time, for the updates, and to that
  # end copies the old ones.
  return jax.tree.map(lax.optimization_barrier, kept)


def update_of(m: jax.Array, v: jax.Array, beta2: float, count: jax.Array) -> jax.Array:
  """Returns the update of a parameter, not yet multiplied by the learning rate.

  Args:
    m, v: first and second moments, after the step.
    beta2: decay of the second moments.
    count: steps that the moments have taken, 1 or more, by which their bias is corrected; [] for
      all entries, or one for each.
  """
  first, second = ((x / (1 - beta**count)).astype(x.dtype) for x, beta in ((m, B1), (v, beta2)))
  return first / (jnp.sqrt(second) + EPSILON)


def scale_by_adam(beta2: float) -> optax.GradientTransformationExtraArgs:
  """Returns Adam whose `update` takes `good`, whether the step is applied; see `next_moments`."""
  init = optax.scale_by_adam(B1, beta2, EPSILON).init

  def update(
    updates: Tree, state: optax.ScaleByAdamState, params: Params = None,
    *, good: jax.Array | bool = True, **_: object,
  ) -> tuple[Tree, optax.ScaleByAdamState]:  # fmt: skip
    new, count = next_moments(updates, state, beta2, good), state.count + 1
    return jax.tree.map(lambda m, v: update_of(m, v, beta2, count), new.mu, new.nu), new

  return optax.GradientTransformationExtraArgs(init, update)


def clip(most: float) -> optax.GradientTransformation:
  """Returns the clipping of gradients to a global norm of at most `most`, by one factor for all."""

  def update(updates: Tree, state: Tree, params: Params = None) -> tuple[Tree, Tree]:
    norm = optax.tree.norm(updates)
    factor = jnp.where(norm < most, 1, most / norm)
    return jax.tree.map(lambda x: (factor * x).astype(x.dtype), updates), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
