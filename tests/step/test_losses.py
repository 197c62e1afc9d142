"""Losses against formulas in float64, written anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from jcl.batching.batch import Shape, layout
from jcl.step import losses

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


def softened(logits, temperature):
  """softmax(z/T), in float64."""
  powers = np.exp(logits.astype(np.float64) / temperature)
  return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_distillation_is_the_divergence_of_the_student_from_the_teacher(temperature):
  teacher = (5 * RANDOM.standard_normal((20, 7))).astype(np.float32)
  found = losses.distillation(LOGITS, teacher, temperature)
  p, q = softened(teacher, temperature), softened(LOGITS, temperature)
  np.testing.assert_allclose(found, temperature**2 * (p * np.log(p / q)).sum(-1), rtol=1e-4)
  gradient = jax.grad(lambda z: losses.distillation(z, teacher, temperature).sum())(LOGITS)
  np.testing.assert_allclose(gradient, temperature * (q - p), atol=1e-5)
  into_teacher = jax.grad(lambda z: losses.distillation(LOGITS, z, temperature).sum())(teacher)
  assert not np.any(into_teacher)
  np.testing.assert_allclose(losses.distillation(LOGITS, LOGITS, temperature), 0, atol=1e-5)


def test_distillation_over_some_classes_is_as_if_there_were_no_others():
  where = np.zeros((20, 7), bool)
  where[:, 1:4] = True
  teacher = LOGITS[::-1].copy()
  found = losses.distillation(LOGITS, teacher, 2.0, where)
  wanted = losses.distillation(LOGITS[:, 1:4], teacher[:, 1:4], 2.0)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_squared_errors_are_finite_whatever_is_left_out():
  """Over all, over some and over no classes; logits that are huge where they do not count."""
  random = np.random.default_rng(0)
  one, other = (random.standard_normal((5, 7)).astype(np.float32) for _ in range(2))
  wanted = [np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(one, other, strict=True)]
  np.testing.assert_allclose(losses.mean_squared_error(one, other), wanted, rtol=1e-5)
  where = random.random((5, 7)) < 0.5
  where[0], where[1] = False, True
  huge = np.where(where, one, 1e30)
  found = losses.mean_squared_error(huge, other, where)
  some = [np.mean((a[w] - b[w]) ** 2) if w.any() else 0 for a, b, w in
          zip(one, other, where, strict=True)]  # fmt: skip
  np.testing.assert_allclose(found, some, rtol=1e-5)
  gradient = jax.grad(lambda z: losses.mean_squared_error(z, other, where).sum())(jnp.asarray(huge))
  assert np.isfinite(gradient).all()
  assert (np.asarray(gradient)[~where] == 0).all()


BACKBONE = tiny.recurrent(500)


def objective(params, teacher, batch):
  """Cross-entropy and distillation of each target, the teacher projected target by target."""

  def fn(logits_MV, token_M, teacher_MD):
    teacher_MV = BACKBONE.project(teacher, teacher_MD)
    kd_M = losses.distillation(logits_MV, teacher_MV, 2.0)
    return losses.cross_entropy(logits_MV, token_M) + kd_M

  states_MD = (BACKBONE.hidden(p, batch) for p in (params, teacher))
  hidden_MD, teacher_MD = states_MD
  value_M = losses.per_target(fn, BACKBONE, params, hidden_MD, batch.target_token, teacher_MD)
  return (value_M * batch.target_weight).sum(), value_M


@pytest.mark.parametrize('held', [500, 500 * 7, 500 * 33])  # chunks of 1, 7 and 32 targets
def test_chunks_change_neither_value_nor_gradient(held, monkeypatch):
  params, teacher = (tiny.params(BACKBONE, seed) for seed in (0, 1))
  batch = layout(tiny.rows(13), 1, Shape(13, 20, 64))
  fn = lambda params: jax.value_and_grad(objective, has_aux=True)(params, teacher, batch)
  (wanted, values_M), gradient = jax.jit(fn)(params)
  assert values_M.shape == (64,)
  monkeypatch.setattr(losses, 'HELD', held)
  (found, chunked_M), chunked = jax.jit(lambda p: fn(p))(params)
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  np.testing.assert_allclose(chunked_M, values_M, rtol=1e-5, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), chunked, gradient)


def test_a_long_batch_never_holds_all_its_logits(monkeypatch):
  """By XLA's own account of the compiled gradient of cross-entropy and distillation."""
  params, teacher = (tiny.params(BACKBONE, seed) for seed in (0, 1))
  batch = layout(tiny.rows(13), 1, Shape(13, 20, 4096))
  whole = 4096 * 500 * 4

  def temporary():
    fn = jax.grad(lambda p, t, b: objective(p, t, b)[0])
    return jax.jit(fn).lower(params, teacher, batch).compile().memory_analysis().temp_size_in_bytes

  assert temporary() > 2 * whole
  monkeypatch.setattr(losses, 'HELD', 500 * 128)
  assert temporary() < whole / 3
