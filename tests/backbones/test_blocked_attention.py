"""Attention of long lines in blocks against softmax written out in float64, with its gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rounding

from jcl.backbones import blocked_attention
from jcl.backbones.attention import Place, causal_attention
from jcl.backbones.decoder_config import DecoderConfig

LENGTH = blocked_attention.LONG + 70  # tokens: three blocks, of which the last is short
PLAIN = DecoderConfig(9, width=16, layers=2, heads=4, kv_heads=2, feed_forward=8)
WINDOW = blocked_attention.BLOCK - 90
CASES = {  # window, windowed layers, whether the lines hold several rows
  'all tokens before': (0, (), False),
  'rows of a line': (0, (), True),
  'window': (WINDOW, (True, True), False),
  'window in rows of a line': (WINDOW, (True, True), True),
  'window in one layer': (WINDOW, (False, True), False),
}


def drawn(dtype):
  """Queries, keys, values, and the gradient of the attended values; scores of up to about 10."""
  random = np.random.default_rng(0)
  shapes = [(2, LENGTH, heads, 4) for heads in (4, 2, 2, 4)]
  return [jnp.asarray(2 * random.standard_normal(shape), dtype) for shape in shapes]


def seen_by(window, rows):
  """Which places each token sees [B, T, T], by the definition."""
  at_T = np.arange(LENGTH)
  seen_BTT = np.repeat((at_T[:, None] >= at_T)[None], 2, 0)
  if window:
    seen_BTT &= at_T[:, None] - at_T < window
  if rows:
    row_BT = np.stack([at_T // 130, at_T // 333])
    seen_BTT &= row_BT[:, :, None] == row_BT[:, None]
  return seen_BTT


def written_out(q, k, v, grad, seen_BTT):
  """Attended values and the gradients of q, k and v in float64, all pairs of tokens at once."""
  q, k, v, grad = (np.asarray(x, np.float64) for x in (q, k, v, grad))
  k, v = (np.repeat(x, 2, 2) for x in (k, v))  # two heads share keys and values
  scale = q.shape[-1] ** -0.5
  score = np.where(seen_BTT[:, None], np.einsum('bthd,bshd->bhts', q, k) * scale, -np.inf)
  weight = np.exp(score - score.max(-1, keepdims=True))
  weight /= weight.sum(-1, keepdims=True)
  dweight = np.einsum('bthd,bshd->bhts', grad, v)
  dscore = weight * (dweight - (weight * dweight).sum(-1, keepdims=True)) * scale
  shared = lambda x: x.reshape(*x.shape[:2], 2, 2, -1).sum(3)
  return (
    np.einsum('bhts,bshd->bthd', weight, v),
    np.einsum('bhts,bshd->bthd', dscore, k),
    shared(np.einsum('bhts,bthd->bshd', dscore, q)),
    shared(np.einsum('bhts,bthd->bshd', weight, grad)),
  )


def attended(config, layer, seen_BTT, rows):
  """(q, k, v) -> attended values, as a decoder's layer calls it."""
  sees_B1TT = jnp.asarray(seen_by(0, rows))[:, None] if rows else None
  place = Place(jnp.arange(LENGTH)[None], jnp.array([[LENGTH]]), sees_B1TT, 0)
  return lambda q, k, v: causal_attention(config, q, k, v, layer, place)


@pytest.mark.parametrize(
  ('case', 'dtype'),
  [*((case, 'float32') for case in CASES), ('window in rows of a line', 'bfloat16')],
)
def test_blocks_give_what_all_pairs_give(case, dtype):
  window, windowed, rows = CASES[case]
  config = dataclasses.replace(PLAIN, window=window, windowed=windowed, dtype=dtype)
  q, k, v, grad = drawn(dtype)
  seen_BTT = seen_by(window, rows)

  @jax.jit
  def both(q, k, v, grad):
    out, back = jax.vjp(attended(config, 1, seen_BTT, rows), q, k, v)
    return out, *back(grad)

  found = both(q, k, v, grad)
  assert {x.dtype for x in found} == {jnp.dtype(dtype)}
  wanted = written_out(q, k, v, grad, seen_BTT)
  if dtype == 'float32':  # scores, weights and values follow each other; twice as many backward
    rounding.assert_close(found, wanted, terms=LENGTH, depth=6)
  else:  # sums are float32; weights, their gradients and the results are rounded
    rounding.assert_close(found, wanted, terms=1, depth=3, margin=1, dtype=dtype)


def test_a_layer_without_the_window_sees_all():
  config = dataclasses.replace(PLAIN, window=WINDOW, windowed=(False, True))
  q, k, v, grad = drawn('float32')
  seen_BTT = seen_by(0, False)
  found = attended(config, 0, seen_BTT, False)(q, k, v)
  wanted = written_out(q, k, v, grad, seen_BTT)[0]
  rounding.assert_close(found, wanted, terms=LENGTH, depth=3)


def test_memory_holds_the_scores_of_one_block():
  """Of all pairs, 4 heads have 4 · B · T² scores; plain attention keeps them for its gradient."""
  q, k, v, grad = drawn('float32')

  def temporary(fn):
    backward = lambda q, k, v, grad: jax.vjp(fn, q, k, v)[1](grad)
    return jax.jit(backward).lower(q, k, v, grad).compile().memory_analysis().temp_size_in_bytes

  pairs = 2 * 4 * LENGTH**2 * 4
  plain = temporary(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True))
  assert plain > pairs
  assert temporary(attended(PLAIN, 0, None, False)) < 1.6 * pairs


def test_a_gradient_of_a_gradient():
  """Meta-learning differentiates a step; by finite differences of the first gradient."""
  config = dataclasses.replace(PLAIN, dtype='float64')
  with jax.enable_x64(True):
    q, k, v, grad = drawn('float64')
    fn = attended(config, 0, None, False)
    first = jax.jit(jax.grad(lambda q: (fn(q, k, v) * grad).sum()))
    along = jnp.asarray(np.random.default_rng(1).standard_normal(q.shape))
    second = jax.jit(jax.grad(lambda q: (first(q) * along).sum()))(q)
    step = 1e-5
    towards = jnp.asarray(np.random.default_rng(2).standard_normal(q.shape))
    ahead, behind = ((first(q + s * towards) * along).sum() for s in (step, -step))
    # The central difference errs by step² of the third derivative and by eps / step.
    np.testing.assert_allclose((second * towards).sum(), (ahead - behind) / (2 * step), rtol=1e-6)


def test_short_lines_and_caches_are_not_cut(monkeypatch):
  monkeypatch.setattr(blocked_attention, 'attention', None)  # a call would fail
  q, k, v, _ = (x[:, : blocked_attention.LONG - 1] for x in drawn('float32'))
  length = q.shape[1]
  place = Place(jnp.arange(length)[None], jnp.array([[length]]), None, 0)
  assert causal_attention(PLAIN, q, k, v, 0, place).shape == q.shape
