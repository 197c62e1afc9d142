"""Adam in one pass: the updates of optax, and steps that do not count."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import rounding

from jcl.config import TrainConfig
from jcl.step.adam import clip, next_moments, scale_by_adam
from jcl.step.optimizer import make_optimizer

BETA2 = 0.95


def grads_of(step, size=1.0):
  random = np.random.default_rng(step)
  draw = lambda *shape: jnp.asarray(np.float32(size * random.standard_normal(shape)))
  return {'a': draw(5, 3), 'b': {'c': draw(4)}}


@pytest.mark.parametrize('most', [0.5, 1e3])
def test_updates_are_those_of_optax(most):
  """Clipped in some steps, in all, and in none."""
  ours = optax.chain(clip(most), scale_by_adam(BETA2))
  theirs = optax.chain(optax.clip_by_global_norm(most), optax.scale_by_adam(b2=BETA2))
  params = grads_of(0)
  states = [ours.init(params), theirs.init(params)]
  steps = [jax.jit(ours.update), jax.jit(theirs.update)]
  for step in range(1, 6):
    grads = grads_of(step, size=step % 3)
    found = []
    for i, one in enumerate(steps):
      updates, states[i] = one(grads, states[i], params)
      found.append((updates, states[i]))
    eps = np.finfo(np.float32).eps
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=8 * step * eps, atol=8 * eps), *found
    )


def test_a_step_that_does_not_count_changes_no_moment():
  state = scale_by_adam(BETA2).init(grads_of(0))
  one = jax.jit(lambda grads, state, good: next_moments(grads, state, BETA2, good))
  state = one(grads_of(1), state, True)
  bad = jax.tree.map(lambda x: x * np.nan, grads_of(2))
  jax.tree.map(np.testing.assert_array_equal, one(bad, state, False), state)
  assert int(one(grads_of(2), state, True).count) == 2
  for settings in ({}, {'optimizer_between_tasks': 'carried'}):
    made = make_optimizer(TrainConfig(learning_rate=1e-3, **settings))
    start, step = made.init(grads_of(0)), jax.jit(made.update)
    _, after = step(bad, start, grads_of(0), good=False)
    jax.tree.map(np.testing.assert_array_equal, after, start)
    _, after = step(grads_of(1), start, grads_of(0), good=True)
    moved = [
      not np.array_equal(*x) for x in zip(*map(jax.tree.leaves, (after, start)), strict=True)
    ]
    assert sum(moved) >= 5


def test_the_factor_of_clipping_is_one_for_all_gradients():
  grads, most = grads_of(1), 0.5
  clipped, _ = jax.jit(clip(most).update)(grads, optax.EmptyState())
  norm = float(np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(jax.device_get(grads)))))
  assert norm > most
  for x, y in zip(jax.tree.leaves(clipped), jax.tree.leaves(grads), strict=True):
    np.testing.assert_allclose(x, most / norm * y, rtol=rounding.tolerance(19, 2))
  same, _ = jax.jit(clip(2 * norm).update)(grads, optax.EmptyState())
  jax.tree.map(np.testing.assert_array_equal, same, grads)
