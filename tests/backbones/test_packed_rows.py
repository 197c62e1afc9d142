"""Rows that share a line give what they give alone: every kind of decoder and encoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rounding, tiny

from jcl.backbones import layers
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig, RopeScaling
from jcl.backbones.encoder import encoder
from jcl.backbones.encoder_config import EncoderConfig
from jcl.batching.batch import Row, Shape, layout
from jcl.step.adversarial import _steps

DECODER = DecoderConfig(30, width=16, layers=2, heads=4, kv_heads=2, feed_forward=24)
ENCODER = EncoderConfig(30, width=16, layers=2, heads=4, feed_forward=24, classes=5)
SCALED = functools.partial(RopeScaling, original=8, factor=4.0)
PAIR = (1.0, 2.0)
DROPPING = dict(dropout=0.3, lora_dropout=0.3)
CONFIGS = {
  'rotary': DECODER,
  'learned': dataclasses.replace(DECODER, positions='learned', max_positions=20),
  'all windows': dataclasses.replace(DECODER, window=4),
  'windows': dataclasses.replace(DECODER, window=4, windowed=(True, False), local_theta=100.0),
  'capped': dataclasses.replace(DECODER, attention_cap=0.5),
  'yarn': dataclasses.replace(DECODER, rope_scaling=SCALED('yarn', magnitude=1.2)),
  'dynamic': dataclasses.replace(DECODER, rope_scaling=SCALED('dynamic')),
  'longrope': dataclasses.replace(
    DECODER, rope_scaling=SCALED('longrope', short=PAIR, long=PAIR[::-1])
  ),
  'windows, capped, by length': dataclasses.replace(
    DECODER, window=4, windowed=(True, False), local_theta=100.0, attention_cap=0.5,
    rope_scaling=SCALED('dynamic'),
  ),
  'mean': dataclasses.replace(DECODER, classes=5, pooling='mean'),
  'dropout': dataclasses.replace(DECODER, **DROPPING),
  'bert': dataclasses.replace(ENCODER, max_positions=20),
  'bert last': dataclasses.replace(ENCODER, pooling='last'),
  'bert mean': dataclasses.replace(ENCODER, pooling='mean', **DROPPING),
  'mpnet': dataclasses.replace(ENCODER, relative=32, types=0, first_position=2),
  'modernbert': dataclasses.replace(
    ENCODER, positions='rotary', norms='pre', gated=True, window=4, windowed=(True, False),
    local_theta=100.0, pooling='mean',
  ),
}  # fmt: skip
ROWS = tiny.rows()
FIRST = [dataclasses.replace(r, targets=np.zeros(1, int), wanted=r.wanted[:1]) for r in ROWS]
FAST = ('windows, capped, by length', 'bert mean')


def kinds():
  """The names of the configs; those are slow whose parts stand in the fast ones too."""
  return [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in CONFIGS]


def both(rows=ROWS):
  """The same rows a line each and several in a line, the last lines all padding."""
  keys, targets = tiny.keys(len(rows)), 64
  shapes = Shape(14, 24, targets), Shape(14, 56, targets, lines=5)
  return [layout(rows, 1, shape, keys) for shape in shapes]


@functools.cache
def model(name):
  """-> backbone, parameters off their start, with an adapter where its input is dropped."""
  config = CONFIGS[name]
  backbone = (decoder if isinstance(config, DecoderConfig) else encoder)(config)
  params = tiny.params(backbone)
  if config.lora_dropout:
    draw = lambda *shape: jnp.asarray(np.random.default_rng(2).standard_normal(shape), jnp.float32)
    adapter = {'a': draw(2, 2, 16), 'b': draw(2, 2, 16), 'scale': jnp.full(2, 0.5)}
    params = {**params, 'lora': {'layers': {'q': adapter}}}
  return backbone, params


@pytest.mark.parametrize('name', kinds())
def test_states_and_gradients_are_those_of_a_line_a_row(name):
  backbone, params = model(name)
  weights_MD = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)

  @jax.jit
  def states(params, batch):
    def value(params):
      hidden_MD = backbone.hidden(params, batch, train=True)
      return (hidden_MD * weights_MD * batch.target_weight[:, None]).sum(), hidden_MD

    return jax.grad(value, has_aux=True)(params)

  rows = ROWS if CONFIGS[name].pooling != 'first' else FIRST
  (plain, wanted_MD), (packed, found_MD) = (states(params, batch) for batch in both(rows))
  real = np.asarray(both(rows)[0].target_weight) > 0
  how = dict(terms=64, depth=rounding.layers(2, gradient=True))
  rounding.assert_close(found_MD[real], wanted_MD[real], **how)
  for one, other in zip(jax.tree.leaves(packed), jax.tree.leaves(plain), strict=True):
    assert np.isfinite(one).all()
    rounding.assert_close(one, other, **how, scale=max(np.abs(other).max(), 1))


def test_a_batch_of_padding_alone_has_finite_gradients():
  backbone, params = model('modernbert')
  batch = layout([], 1, Shape(2, 24, 3, lines=2))
  loss = lambda params: jnp.square(backbone.hidden(params, batch)).sum()
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))


@pytest.mark.parametrize('wide', [False, True])
@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_dropout_has_the_same_bits_in_a_line_of_many_rows(rate, wide):
  """Under x64 too, where a draw takes twice the bits."""
  config = CONFIGS['dropout']
  plain, packed = both()
  with jax.enable_x64(wide):
    keys = [layers.dropout_keys(config, batch, True) for batch in (plain, packed)]
    kept, found = (
      np.asarray(layers.dropout(jnp.ones((*batch.tokens.shape, 7)), of, rate)) > 0
      for batch, of in zip((plain, packed), keys, strict=True)
    )
    assert 0 < kept.mean() < 1
    for row, length in enumerate(plain.length):
      np.testing.assert_array_equal(found[packed.segment == row], kept[row, :length])


def test_adversarial_deltas_are_those_of_each_row():
  plain, packed = both()
  grad_RTD = np.random.default_rng(0).standard_normal((14, 24, 16)).astype(np.float32)
  own = np.maximum(packed.segment, 0), np.minimum(packed.position, 23)
  found_BTD, wanted_RTD = (
    _steps(g, b, 0.5) for g, b in ((grad_RTD[own], packed), (grad_RTD, plain))
  )
  for row, length in enumerate(plain.length):
    mine = np.asarray(found_BTD)[packed.segment == row]
    rounding.assert_close(mine, np.asarray(wanted_RTD)[row, :length], terms=20 * 16)
    assert length == 0 or abs(np.linalg.norm(mine) - 0.5) < 1e-5
  assert not np.asarray(found_BTD)[packed.segment < 0].any()


def test_a_row_sees_nothing_of_its_neighbours():
  """The states of one row are its own whatever the others of its line hold."""
  backbone, params = model('windows, capped, by length')
  one, other = (
    [Row(np.full(9, token, np.int32), np.arange(9), np.zeros(9, int), 0, 0), ROWS[1]]
    for token in (3, 7)
  )
  shape = Shape(2, 32, 16, lines=1)
  hidden = jax.jit(backbone.hidden)
  states = [np.asarray(hidden(params, layout(rows, 1, shape))) for rows in (one, other)]
  kept = np.asarray(layout(one, 1, shape).target_row) == 1
  np.testing.assert_array_equal(states[0][kept], states[1][kept])
