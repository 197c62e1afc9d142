"""Heads over classes and the states they read: formulas, gradients, padding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rounding, slow, tiny
from support.tiny import every_position

from jcl.backbones import heads
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.errors import UserError
from jcl.step import losses

LINEAR = dataclasses.replace(tiny.CONFIG, classes=5)
COSINE = dataclasses.replace(LINEAR, head='cosine')
SUMS = dict(terms=LINEAR.width, depth=3)  # of a cosine: two norms and a product
KINDS = pytest.mark.parametrize('config', [LINEAR, COSINE], ids=['linear', 'cosine'])


def drawn(config, rows=7):
  """A head off its start, hidden states, and random weights of the logits."""
  random = np.random.default_rng(0)
  head = heads.init(jax.random.key(0), config)
  head = jax.tree.map(lambda x: x + random.standard_normal(x.shape).astype(np.float32), head)
  hidden_MD = 3 * random.standard_normal((rows, config.width)).astype(np.float32)
  return head, hidden_MD, random.standard_normal((rows, config.classes)).astype(np.float32)


def test_a_linear_head_starts_at_zero_and_is_affine():
  assert not any(x.any() for x in jax.tree.leaves(heads.init(jax.random.key(0), LINEAR)))
  head, hidden_MD, _ = drawn(LINEAR)
  wanted_MC = hidden_MD @ np.asarray(head['kernel']) + np.asarray(head['bias'])
  found_MC = heads.project(head, hidden_MD, LINEAR)
  rounding.assert_close(found_MC, wanted_MC, terms=LINEAR.width)


def test_a_cosine_head_is_ten_cosines_at_its_start():
  head = heads.init(jax.random.key(0), COSINE)
  assert set(head) == {'kernel', 'scale'}
  assert (head['scale'].shape, float(head['scale'])) == ((), 10)
  same, other = (heads.init(jax.random.key(i), COSINE)['kernel'] for i in (0, 1))
  np.testing.assert_array_equal(head['kernel'], same)
  assert not np.array_equal(same, other)
  assert np.std(same) == pytest.approx(1 / 4, rel=0.3)
  kernel_DC = np.asarray(head['kernel'])
  aligned_MC = heads.project(head, 5 * kernel_DC.T, COSINE)  # each class's own direction
  rounding.assert_close(np.diag(aligned_MC), np.full(5, 10), **SUMS)
  assert np.abs(aligned_MC).max() <= 10 * (1 + rounding.tolerance(**SUMS))


def test_cosine_logits_equal_the_formula():
  head, hidden_MD, _ = drawn(COSINE)
  kernel_DC, scale = np.asarray(head['kernel'], float), float(head['scale'])
  norms_MC = np.linalg.norm(hidden_MD, axis=1)[:, None] * np.linalg.norm(kernel_DC, axis=0)
  wanted_MC = scale * (hidden_MD @ kernel_DC) / norms_MC
  found_MC = heads.project(head, hidden_MD, COSINE)
  rounding.assert_close(found_MC, wanted_MC, **SUMS)
  rounding.assert_close(heads.project(head, 100 * hidden_MD, COSINE), found_MC, **SUMS)


@KINDS
def test_gradients_equal_finite_differences(config):
  head, hidden_MD, weight_MC = drawn(config)
  with jax.enable_x64(True):
    wide = dataclasses.replace(config, dtype='float64')
    point = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (head, hidden_MD))
    value = lambda head, hidden: (weight_MC * heads.project(head, hidden, wide)).sum()
    gradient = jax.grad(value, argnums=(0, 1))(*point)
    leaves, structure = jax.tree.flatten(point)
    for number, found in enumerate(jax.tree.leaves(gradient)):
      step = np.random.default_rng(number).standard_normal(found.shape)
      ends = []
      for sign in (1e-5, -1e-5):
        moved = [x + sign * step if i == number else x for i, x in enumerate(leaves)]
        ends.append(value(*jax.tree.unflatten(structure, moved)))
      assert float((ends[0] - ends[1]) / 2e-5) == pytest.approx(
        float((found * step).sum()), rel=1e-6
      )
      assert np.abs(found).max() > 1e-2


def test_the_gradient_of_the_scale_is_the_weighted_sum_of_cosines():
  head, hidden_MD, weight_MC = drawn(COSINE)
  value = lambda head: (weight_MC * heads.project(head, hidden_MD, COSINE)).sum()
  cosine_MC = heads.project({**head, 'scale': jnp.float32(1)}, hidden_MD, COSINE)
  wanted = float((weight_MC * cosine_MC).sum())
  # The sum of 7 × 5 logits after the sums of a cosine.
  rounding.assert_close(jax.grad(value)(head)['scale'], wanted, terms=35, depth=4)


@KINDS
def test_a_state_of_zeros_has_a_finite_gradient(config):
  head, hidden_MD, weight_MC = drawn(config)
  hidden_MD[0] = 0
  value = lambda head, hidden: (weight_MC * heads.project(head, hidden, config)).sum()
  for leaf in jax.tree.leaves(jax.grad(value, argnums=(0, 1))(head, hidden_MD)):
    assert np.isfinite(leaf).all()
  assert config.head != 'cosine' or not heads.project(head, hidden_MD, config)[0].any()


@KINDS
def test_logits_are_wide_whatever_computes_them(config):
  head, hidden_MD, _ = drawn(config)
  half = dataclasses.replace(config, dtype='bfloat16')
  logits_MC = heads.project(head, hidden_MD.astype(jnp.bfloat16), half)
  assert logits_MC.dtype == jnp.float32
  np.testing.assert_allclose(logits_MC, heads.project(head, hidden_MD, config), atol=0.3)


def test_pooling_takes_the_state_or_the_mean_of_the_rows_real_tokens():
  hidden_BTD = np.random.default_rng(0).standard_normal((2, 6, 4)).astype(np.float32)
  batch = every_position(np.zeros((2, 6)), [5, 3])  # laid out in this order
  batch = batch.replace(target_row=np.array([0, 0, 1, 1]), target_position=np.array([0, 4, 8, 6]))
  for pooling in ('first', 'last'):
    found_MD = heads.pool(hidden_BTD, batch, pooling)
    np.testing.assert_array_equal(found_MD, hidden_BTD.reshape(12, 4)[[0, 4, 8, 6]])
  one, two = hidden_BTD[0, :5].mean(0), hidden_BTD[1, :3].mean(0)
  found_MD = heads.pool(hidden_BTD, batch, 'mean')
  rounding.assert_close(found_MD, np.stack([one, one, two, two]), terms=5)  # the real tokens
  hidden_BTD[0, 5:], hidden_BTD[1, 3:] = np.nan, np.inf  # padding is not looked at
  np.testing.assert_array_equal(heads.pool(hidden_BTD, batch, 'mean'), found_MD)
  empty = batch.replace(length=np.array([0, 3], np.int32))
  assert not heads.pool(hidden_BTD, empty, 'mean')[0].any()


def test_a_mean_is_taken_wide():
  hidden_BTD = jnp.ones((1, 600, 1), jnp.bfloat16)  # bfloat16 cannot count beyond 256
  assert float(heads.row_mean(hidden_BTD, np.array([600]))[0, 0]) == 1


@functools.cache
def classifier(head, pooling):
  """A decoder that classifies, off its start."""
  backbone = decoder(dataclasses.replace(LINEAR, head=head, pooling=pooling))
  return dataclasses.replace(
    backbone, hidden=jax.jit(backbone.hidden, static_argnames='train')
  ), tiny.params(backbone)


@pytest.mark.parametrize(
  ('head', 'pooling'),
  slow.but(
    [('cosine', 'mean')],
    [(head, pooling) for head in ('linear', 'cosine') for pooling in ('last', 'mean')],
  ),
)
def test_a_decoder_classifies_and_every_leaf_learns(head, pooling):
  backbone, params = classifier(head, pooling)
  tokens_BT = np.random.default_rng(0).integers(0, 30, (2, 8))
  last = lambda batch, at: batch.replace(
    target_row=np.arange(2),
    target_position=np.array(at),
    target_token=np.array([1, 4]),
    target_weight=np.ones(2),
  )
  batch = last(every_position(tokens_BT, [8, 5]), [7, 8 + 4])
  longer = last(every_position(tokens_BT, [8, 5], bucket=12), [7, 12 + 4])
  logits_MC = backbone.logits(params, batch)
  assert logits_MC.shape == (2, 5)
  longer_MC = backbone.logits(params, longer)
  rounding.assert_close(longer_MC, logits_MC, **rounding.of_model(LINEAR))
  loss = lambda p: losses.cross_entropy(backbone.logits(p, batch), batch.target_token).sum()
  for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params)):
    assert np.abs(leaf).max() > 0


def test_poolings_without_meaning_are_refused():
  with pytest.raises(UserError, match="pooling 'first' reads nothing of a text in a decoder"):
    dataclasses.replace(LINEAR, pooling='first')
  with pytest.raises(UserError, match="pooling 'mean' needs classes"):
    DecoderConfig(30, width=16, layers=2, heads=4, feed_forward=24, pooling='mean')
