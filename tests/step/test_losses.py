"""Losses against formulas in float64, written anew.

The formulas are compared with and without jit, with and without arrays on a device, and under pmap.
"""

import functools
import os
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from support import rounding, tiny

from jcl.batching.batch import Shape, layout
from jcl.errors import UserError
from jcl.step import losses

RANDOM = np.random.default_rng(0)
LOGITS = (8 * RANDOM.standard_normal((20, 7))).astype(np.float32)
WANTED = RANDOM.integers(0, 7, 20).astype(np.int32)


def surprise(logits, wanted):
  """-log of the share of exp(logit), in float64."""
  powers = np.exp(logits.astype(np.float64))
  return np.array([-np.log(p[y] / p.sum()) for p, y in zip(powers, wanted, strict=True)])


# A logit of 8 standard deviations and a sum of 7 powers: sums of 7 terms, two after each other. exp
# and log amplify the rounding of a logit by its size, about 24.
CLOSE = functools.partial(rounding.assert_close, terms=7, depth=2, scale=24)


flags.FLAGS['chex_skip_pmap_variant_if_single_device'].value = False


class Variants(chex.TestCase):
  """Each loss is its formula however it is called."""

  @chex.all_variants
  def test_cross_entropy_is_the_surprise_of_each_target(self):
    found = self.variant(losses.cross_entropy)(LOGITS, WANTED)
    chex.assert_shape(found, (20,))
    CLOSE(found, surprise(LOGITS, WANTED))

  @chex.all_variants
  def test_cross_entropy_over_some_classes_is_that_of_these_alone(self):
    where = np.isin(np.arange(7), (1, 3, 4))[None] | np.eye(7, dtype=bool)[WANTED]
    found = self.variant(losses.cross_entropy)(LOGITS, WANTED, where)
    wanted = [
      surprise(z[w][None], [np.flatnonzero(w).tolist().index(y)])[0]
      for z, w, y in zip(LOGITS, where, WANTED, strict=True)
    ]
    CLOSE(found, np.array(wanted))

  @chex.all_variants
  def test_distillation_is_the_divergence_of_the_student_from_the_teacher(self):
    p, q = softened(LOGITS[::-1], 2.0), softened(LOGITS, 2.0)
    fn = self.variant(functools.partial(losses.distillation, temperature=2.0))
    CLOSE(fn(LOGITS, LOGITS[::-1]), 4 * (p * np.log(p / q)).sum(-1))

  @chex.all_variants
  def test_squared_error_is_the_mean_over_classes(self):
    found = self.variant(losses.mean_squared_error)(LOGITS, LOGITS[::-1])
    apart = LOGITS.astype(np.float64) - LOGITS[::-1]
    rounding.assert_close(found, np.square(apart).mean(-1), terms=7)

  @chex.all_variants
  def test_total_is_the_sum_of_what_counts(self):
    batch, value = batch_and_values()
    where = np.arange(64) % 3 > 0
    counts = np.where(where, batch.target_weight, 0).astype(np.float64)
    found = self.variant(lambda value, where: losses.total(value, where, batch))(value, where)
    wanted = (value * counts).sum(), counts.sum()
    rounding.assert_close(found, wanted, terms=64, scale=np.abs(value).sum())

  @chex.all_variants
  def test_norms_are_sums_over_what_decays(self):
    tree = {'embed': {'kernel': LOGITS}, 'norm': {'scale': LOGITS[0], 'bias': LOGITS[0]}}
    wide = LOGITS.astype(np.float64)
    wanted = {'l1_norm': np.abs(wide).sum(), 'l2_norm': np.square(wide).sum()}
    rounding.assert_close(self.variant(losses.norms)(tree), wanted, terms=140)


def test_cross_entropy_holds_out_with_huge_logits():
  logits = jnp.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]], jnp.float32)
  found = losses.cross_entropy(logits, jnp.array([0, 2]))
  rounding.assert_close(found, np.array([0, np.log(3)]), terms=3, scale=1e4)


def test_its_gradient_is_softmax_less_one_hot():
  gradient = jax.grad(lambda z: losses.cross_entropy(z, WANTED).sum())(jnp.asarray(LOGITS))
  powers = np.exp(LOGITS.astype(np.float64))
  wanted = powers / powers.sum(1, keepdims=True) - np.eye(7)[WANTED]
  CLOSE(gradient, wanted)


def test_classes_that_are_not_allowed_have_no_gradient():
  where = RANDOM.random((20, 7)) < 0.5
  where[np.arange(20), WANTED] = True
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
    add = functools.partial(rounding.assert_close, terms=64, scale=np.abs(value).sum())
    add(total, value[chosen].astype(np.float64).sum())
    assert float(count) == chosen.sum()
    dropped = losses.total(value, True, batch.only(np.broadcast_to(where, 64)))
    add(dropped[0], total)
    assert float(dropped[1]) == float(count)


def test_total_by_task_is_that_of_each_task_alone():
  batch, value = batch_and_values()
  sums, counts = losses.total(value, True, batch, tasks=4)
  assert sums.shape == counts.shape == (4,)
  real, task_M = batch.target_weight > 0, np.asarray(batch.task_M)
  for task in range(4):
    chosen = real & (task_M == task)
    wanted = value[chosen].astype(np.float64).sum()
    rounding.assert_close(sums[task], wanted, terms=64, scale=np.abs(value).sum())
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
  found, wanted = total(poisoned, ~dead), total(value, ~dead)
  rounding.assert_close(found, wanted, terms=64, scale=np.abs(value).sum())
  gradient = jax.grad(total)(poisoned, ~dead)
  chex.assert_trees_all_equal(gradient, (~dead).astype(np.float32))


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
def test_the_gradient_of_distillation_goes_into_the_student_alone(temperature):
  teacher = (5 * RANDOM.standard_normal((20, 7))).astype(np.float32)
  p, q = softened(teacher, temperature), softened(LOGITS, temperature)
  gradient = jax.grad(lambda z: losses.distillation(z, teacher, temperature).sum())(LOGITS)
  CLOSE(gradient, temperature * (q - p))
  into_teacher = jax.grad(lambda z: losses.distillation(LOGITS, z, temperature).sum())(teacher)
  assert not np.any(into_teacher)
  CLOSE(losses.distillation(LOGITS, LOGITS, temperature), np.zeros(20))


def test_distillation_over_some_classes_is_as_if_there_were_no_others():
  where = np.zeros((20, 7), bool)
  where[:, 1:4] = True
  teacher = LOGITS[::-1].copy()
  found = losses.distillation(LOGITS, teacher, 2.0, where)
  wanted = losses.distillation(LOGITS[:, 1:4], teacher[:, 1:4], 2.0)
  CLOSE(found, wanted)


def test_squared_errors_are_finite_whatever_is_left_out():
  """Over all, over some and over no classes; logits that are huge where they do not count."""
  random = np.random.default_rng(0)
  one, other = (random.standard_normal((5, 7)).astype(np.float32) for _ in range(2))
  wanted = [np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(one, other, strict=True)]
  rounding.assert_close(losses.mean_squared_error(one, other), np.array(wanted), terms=7)
  where = random.random((5, 7)) < 0.5
  where[0], where[1] = False, True
  huge = np.where(where, one, 1e30)
  found = losses.mean_squared_error(huge, other, where)
  some = [np.mean((a[w] - b[w]) ** 2) if w.any() else 0 for a, b, w in
          zip(one, other, where, strict=True)]  # fmt: skip
  rounding.assert_close(found, np.array(some), terms=7)
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


@functools.cache
def value_and_gradient(held):
  """The compiled objective, for logits of `held` entries at a time; None: of all."""
  return jax.jit(jax.value_and_grad(objective, has_aux=True))


@pytest.mark.parametrize('held', [500, 500 * 7, 500 * 33])  # chunks of 1, 7 and 32 targets
def test_chunks_change_neither_value_nor_gradient(held, monkeypatch):
  params, teacher = (tiny.params(BACKBONE, seed) for seed in (0, 1))
  batch = layout(tiny.rows(13), 1, Shape(13, 20, 64))
  (wanted, values_M), gradient = value_and_gradient(None)(params, teacher, batch)
  assert values_M.shape == (64,)
  monkeypatch.setattr(losses, 'held_logits', lambda: held)
  (found, chunked_M), chunked = value_and_gradient(held)(params, teacher, batch)
  wide = functools.partial(rounding.assert_close, terms=500, depth=4)  # sums over 500 tokens
  wide((found, chunked_M), (wanted, values_M))
  wide(chunked, gradient)


def test_a_long_batch_never_holds_all_its_logits(monkeypatch):
  """By XLA's own account of the compiled gradient of cross-entropy and distillation."""
  params, teacher = (tiny.params(BACKBONE, seed) for seed in (0, 1))
  batch = layout(tiny.rows(13), 1, Shape(13, 20, 4096))
  whole = 4096 * 500 * 4

  def temporary():
    fn = jax.grad(lambda p, t, b: objective(p, t, b)[0])
    return jax.jit(fn).lower(params, teacher, batch).compile().memory_analysis().temp_size_in_bytes

  assert temporary() > 2 * whole
  monkeypatch.setattr(losses, 'held_logits', lambda: 500 * 128)
  assert temporary() < whole / 3


def test_logits_of_a_share_of_the_memory_are_held(monkeypatch):
  class Device:
    @staticmethod
    def memory_stats():
      return {'bytes_limit': 2**36}

  held = losses.held_logits.__wrapped__  # the function without its cache
  monkeypatch.setattr(jax, 'local_devices', lambda: [Device])
  assert held() == 2**28  # a sixty-fourth of 64 GB, in float32
  monkeypatch.undo()
  machine = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  assert held() == pytest.approx(machine / 64 / 4 / jax.local_device_count(), abs=1)


@functools.cache
def of_those_that_count(few):
  """The compiled sum and its gradient where `losses.FEW` is `few`, and what notes its sizes."""
  seen = []

  def kd(logits_MV, known_MV, states_MV):
    assert known_MV is None
    jax.debug.callback(lambda: seen.append(len(logits_MV)))
    return losses.distillation(logits_MV, states_MV, 2.0)

  def loss(logits, where, states):
    value_M = losses.where_it_counts(kd, where, logits, None, states)
    return jnp.where(where, value_M, 0).sum()

  return jax.jit(jax.value_and_grad(loss)), seen


@pytest.mark.parametrize('counting', [0, 3, 4, 5, 8, 9, 16])
def test_a_value_is_computed_where_it_counts_with_the_same_gradient(counting, monkeypatch):
  """Of 16 targets a quarter, a half or all are computed, whichever holds those that count."""
  random, tokens = np.random.default_rng(counting), 50
  logits, states = (random.standard_normal((16, tokens)).astype(np.float32) for _ in range(2))
  where = np.zeros(16, bool)
  where[random.permutation(16)[:counting]] = True

  def computed(few):
    fn, seen = of_those_that_count(few)
    seen.clear()
    value_and_gradient = fn(logits, where, states)
    jax.effects_barrier()
    return *value_and_gradient, set(seen)

  wanted, wanted_gradient, seen = computed(losses.FEW)
  assert seen == {16}
  monkeypatch.setattr(losses, 'FEW', 0)
  found, gradient, seen = computed(0)
  assert seen == {4 if counting <= 4 else 8 if counting <= 8 else 16}
  rounding.assert_close(found, wanted, terms=16 * tokens, depth=4)
  rounding.assert_close(gradient, wanted_gradient, terms=tokens, depth=4)
  assert not np.asarray(gradient)[~where].any()


@pytest.mark.parametrize(
  ('terms', 'says'),
  [
    ([], 'the loss is a list; it must be {term: (value_M, where_M)}'),
    ({'ce': (np.zeros(3, np.float32), True, 1)}, 'term ce of the loss is tuple; it must be (value'),
    ({'ce': np.zeros(2, np.float32)}, 'term ce of the loss is float32 [2]; it must be (value_M, w'),
    (
      {'ce': (np.float32(1), True)},
      'value_M is float32 []; it must be a float for each target, [3]',
    ),
    ({'ce': (np.zeros(3, int), True)}, 'value_M is int64 [3]; it must be a float for each target'),
    ({'ce': (1.0, True)}, 'value_M is float; it must be a float for each target, [3] here'),
    (
      {'ce': (np.zeros(3, np.float32), np.ones(3, np.float32))},
      'where_M is float32 [3]; it must be',
    ),
    (
      {'ce': (np.zeros(3, np.float32), np.ones(2, bool))},
      'where_M is bool [2]; it must be True, or',
    ),
    ({'ce': (np.zeros(3, np.float32), 1)}, 'where_M is int; it must be True, or a bool for each'),
  ],
)
def test_a_loss_that_gives_no_terms_is_refused_by_the_name_of_the_term(terms, says):
  batch = types.SimpleNamespace(target_weight=np.ones(3, np.float32))
  with pytest.raises(UserError) as refused:
    losses.checked(terms, batch)
  assert says in str(refused.value)
