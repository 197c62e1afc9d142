"""Losses against formulas in float64, written anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jcl import losses
from jcl.batch import Shape, layout

RANDOM = np.random.default_rng(0)
LOGITS = (8 * RANDOM.standard_normal((20, 7))).astype(np.float32)
WANTED = RANDOM.integers(0, 7, 20).astype(np.int32)


def surprise(logits, wanted):
  """-log of the share of exp(logit), in float64."""
  powers = np.exp(logits.astype(np.float64))
  return np.array([-np.log(p[y] / p.sum()) for p, y in zip(powers, wanted, strict=True)])


def test_cross_entropy_is_the_surprise_of_each_target():
  found = losses.cross_entropy(LOGITS, WANTED)
  assert found.shape == (20,)
  np.testing.assert_allclose(found, surprise(LOGITS, WANTED), rtol=1e-5, atol=1e-5)


def test_cross_entropy_holds_out_with_huge_logits():
  logits = jnp.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]], jnp.float32)
  found = losses.cross_entropy(logits, jnp.array([0, 2]))
  np.testing.assert_allclose(found, [0, np.log(3)], rtol=1e-4)


def test_its_gradient_is_softmax_less_one_hot():
  gradient = jax.grad(lambda z: losses.cross_entropy(z, WANTED).sum())(jnp.asarray(LOGITS))
  powers = np.exp(LOGITS.astype(np.float64))
  wanted = powers / powers.sum(1, keepdims=True) - np.eye(7)[WANTED]
  np.testing.assert_allclose(gradient, wanted, atol=1e-6)


def test_classes_that_are_not_allowed_are_as_if_they_were_not_there():
  where = RANDOM.random((20, 7)) < 0.5
  where[np.arange(20), WANTED] = True
  found = losses.cross_entropy(LOGITS, WANTED, where)
  wanted = [
    surprise(z[w][None], [np.flatnonzero(w).tolist().index(y)])[0]
    for z, w, y in zip(LOGITS, where, WANTED, strict=True)
  ]
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
  gradient = jax.grad(lambda z: losses.cross_entropy(z, WANTED, where).sum())(jnp.asarray(LOGITS))
  assert (np.asarray(gradient)[~where] == 0).all()
  assert np.isfinite(gradient).all()


def test_restricted_logits_stay_finite():
  where = np.zeros((20, 7), bool)
  assert losses.restrict(LOGITS, None) is LOGITS
  restricted = losses.restrict(LOGITS, where)
  assert np.isfinite(restricted).all()
  assert (np.asarray(restricted) < LOGITS.min() - 1e6).all()
  padding = jax.grad(lambda z: losses.cross_entropy(z, WANTED, where).sum())(jnp.asarray(LOGITS))
  assert np.isfinite(padding).all()  # a padding target allows no class at all


def batch_and_values():
  batch = layout(tiny.rows(), 1, Shape(16, 20, 64))
  return batch, np.random.default_rng(1).standard_normal(64).astype(np.float32)


def test_total_counts_real_targets_that_are_chosen_and_no_others():
  batch, value = batch_and_values()
  real = batch.target_weight > 0
  for where in (True, np.arange(64) % 2 == 0, np.asarray(batch.replay_M)):
    chosen = real & where
    total, count = losses.total(value, where, batch)
    assert float(total) == pytest.approx(value[chosen].astype(np.float64).sum(), rel=1e-5)
    assert float(count) == chosen.sum()
    dropped = losses.total(value, True, batch.only(np.broadcast_to(where, 64)))
    assert float(dropped[0]) == pytest.approx(float(total), rel=1e-6)
    assert float(dropped[1]) == float(count)


def test_total_by_task_is_that_of_each_task_alone():
  batch, value = batch_and_values()
  sums, counts = losses.total(value, True, batch, tasks=4)
  assert sums.shape == counts.shape == (4,)
  real, task_M = batch.target_weight > 0, np.asarray(batch.task_M)
  for task in range(4):
    chosen = real & (task_M == task)
    assert float(sums[task]) == pytest.approx(value[chosen].sum(), rel=1e-5, abs=1e-5)
    assert float(counts[task]) == chosen.sum()
  assert counts[3] == 0
  assert counts.sum() == batch.target_weight.sum()


@pytest.mark.parametrize('tasks', [0, 3])
@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_what_does_not_count_cannot_do_harm(tasks, bad):
  """A value that is not finite where the weight is 0 reaches neither sum nor gradient."""
  batch, value = batch_and_values()
  dead = (batch.target_weight == 0) | (np.arange(64) % 2 == 0)
  poisoned = jnp.where(dead, bad, value)
  total = lambda v, where: losses.total(v, where, batch, tasks)[0].sum()
  assert np.isfinite(total(poisoned, ~dead))
  assert float(total(poisoned, ~dead)) == pytest.approx(float(total(value, ~dead)), rel=1e-6)
  gradient = jax.grad(total)(poisoned, ~dead)
  np.testing.assert_array_equal(gradient, (~dead).astype(np.float32))


@pytest.mark.parametrize('tasks', [0, 3])
def test_nothing_counted_is_zero(tasks):
  batch, value = batch_and_values()
  nothing = np.zeros(64, bool)
  sums, counts = losses.total(value, nothing, batch, tasks)
  assert (np.asarray(sums) == 0).all()
  assert (np.asarray(counts) == 0).all()
  gradient = jax.grad(lambda v: losses.total(v, nothing, batch, tasks)[0].sum())(value)
  assert (np.asarray(gradient) == 0).all()
