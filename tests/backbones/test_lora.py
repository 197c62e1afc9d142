"""Adapters in the tree: what they add, what they leave alone, their dropout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import adapter_folder, rounding, tiny
from support.decoders import BOTH, TINY, random_tokens
from support.tiny import every_position

from jcl.backbones import layers, lora
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.errors import UserError


@functools.cache
def made(config):
  """Random parameters."""
  return tiny.params(decoder(config))


def hidden(config, params, batch, train=False):
  params = jax.tree.map(jnp.asarray, params)
  return np.asarray(jax.jit(decoder(config).hidden, static_argnames='train')(params, batch, train))


def with_random(config, names=None, seed=0, rank=3):
  """The parameters with a random adapter."""
  shapes = lora.kernels(made(config))
  shapes = {name: shape for name, shape in shapes.items() if names is None or name in names}
  return {**made(config), 'lora': adapter_folder.adapter(shapes, rank, seed, scale=0.3)}


@BOTH
def test_a_fresh_adapter_changes_nothing(config):
  params = made(config)
  names = list(lora.kernels(params))
  assert set(names) == {'q', 'k', 'v', 'o', 'up', 'down'} | ({'gate'} if config.gated else set())
  adapter = lora.init_adapter(params, jax.random.key(1), 4, 8, names)
  batch = every_position(random_tokens(2, 8))
  adapted = hidden(config, {**params, 'lora': adapter}, batch)
  np.testing.assert_array_equal(adapted, hidden(config, params, batch))


def test_a_fresh_adapter_is_drawn_as_in_peft():
  config = DecoderConfig(30, width=64, layers=3, heads=4, feed_forward=256)
  params, key = made(config), jax.random.key(1)
  layers = lora.init_adapter(params, key, 32, 16, ['q', 'v', 'down'])['layers']
  for name, width_in, width_out in (('q', 64, 64), ('down', 256, 64)):
    part = layers[name]
    assert part['a'].shape == (3, 32, width_in)
    assert part['b'].shape == (3, 32, width_out)
    assert 0.98 * width_in**-0.5 < np.abs(part['a']).max() <= width_in**-0.5
    assert np.std(part['a']) == pytest.approx((3 * width_in) ** -0.5, rel=0.03)
    assert not part['b'].any()
    np.testing.assert_array_equal(part['scale'], [0.5, 0.5, 0.5])
  assert not np.array_equal(layers['q']['a'], layers['v']['a'])
  assert not np.array_equal(layers['q']['a'][0], layers['q']['a'][1])
  alone = lora.init_adapter(params, key, 32, 16, ['v'])['layers']['v']['a']
  np.testing.assert_array_equal(alone, layers['v']['a'])
  other = lora.init_adapter(params, jax.random.key(2), 32, 16, ['v'])['layers']['v']['a']
  assert not np.array_equal(alone, other)


def test_scales():
  params = made(TINY)
  scale = lambda rslora: lora.init_adapter(params, jax.random.key(0), 4, 8, ['q'], rslora)[
    'layers'
  ]['q']
  np.testing.assert_array_equal(scale(False)['scale'], [2, 2, 2])  # 8 / 4
  np.testing.assert_array_equal(scale(True)['scale'], [4, 4, 4])  # 8 / √4


@pytest.mark.parametrize(
  ('names', 'rank', 'says'),
  [
    (['q', 'query'], 4, "no projection 'query'; it has down, gate, k, o, q, up, v"),
    (['q_norm'], 4, "no projection 'q_norm'"),
    ([], 4, 'for 0 projections'),
    (['q'], 0, 'rank 0'),
  ],
)
def test_what_cannot_be_adapted_is_refused(names, rank, says):
  config = dataclasses.replace(TINY, qk_norm=True)
  with pytest.raises(UserError, match=says):
    lora.init_adapter(made(config), jax.random.key(0), rank, 8, names)


@BOTH
def test_merged_weights_act_as_the_adapter_does(config):
  params, batch = with_random(config), every_position(random_tokens(2, 8))
  folded = lora.merged(params)
  assert 'lora' not in folded
  beside = hidden(config, params, batch)
  rounding.assert_close(hidden(config, folded, batch), beside, **rounding.of_model(config))
  assert not np.allclose(hidden(config, folded, batch), hidden(config, made(config), batch), atol=1)
  for name, delta_LIO in lora.weight_deltas(params['lora']):
    wanted_LIO = adapter_folder.product(params['lora'], name)
    rounding.assert_close(delta_LIO, wanted_LIO, terms=3)  # the rank
    base = made(config)['layers'][name]
    np.testing.assert_array_equal(folded['layers'][name]['kernel'], base['kernel'] + delta_LIO)
    assert set(folded['layers'][name]) == set(base)
  assert lora.merged(folded) is folded


@BOTH
def test_concatenation_is_the_sum_with_each_its_scale(config):
  one, two = (with_random(config, ['q', 'down'], seed, rank) for seed, rank in ((1, 2), (2, 5)))
  two = jax.tree.map(lambda x: x, two)
  two['lora']['layers']['q']['scale'] = np.array([2.0, 0.5, 0.1], np.float32)
  joined = lora.concatenate([one['lora'], two['lora']])
  assert joined['layers']['q']['a'].shape == (3, 7, 16)
  for name in ('q', 'down'):
    wanted = sum(adapter_folder.product(x['lora'], name) for x in (one, two))
    rounding.assert_close(adapter_folder.product(joined, name), wanted, terms=7)  # the ranks
  batch = every_position(random_tokens(1, 6))
  both = lora.merged({**lora.merged(one), 'lora': two['lora']})
  stacked = hidden(config, {**made(config), 'lora': joined}, batch)
  rounding.assert_close(stacked, hidden(config, both, batch), **rounding.of_model(config))
  with pytest.raises(UserError, match='adapter 1 adapts q, but adapter 0 down, q'):
    lora.concatenate([one['lora'], with_random(config, ['q'])['lora']])


def test_gradients_reach_the_adapter():
  params, batch = with_random(TINY, ['q', 'up']), every_position(random_tokens(2, 6))
  base = {k: v for k, v in params.items() if k != 'lora'}
  loss = lambda adapter: decoder(TINY).hidden({**base, 'lora': adapter}, batch).mean()
  gradient = jax.jit(jax.grad(loss))(jax.tree.map(jnp.asarray, params['lora']))
  for part in gradient['layers'].values():
    assert np.abs(part['a']).max() > 0
    assert np.abs(part['b']).max() > 0


def test_an_adapter_decodes_with_a_cache():
  params, backbone = with_random(TINY), decoder(TINY)
  tokens_BT, real_BT = random_tokens(2, 6), np.ones((2, 6), bool)
  params = jax.tree.map(jnp.asarray, params)
  wanted_MV = jax.jit(backbone.logits)(params, every_position(tokens_BT))
  cache = backbone.cache(params, 2, 6)
  logits_BV, _ = jax.jit(backbone.decode)(params, tokens_BT, real_BT, cache, 0)
  wanted_BV = wanted_MV.reshape(2, 6, -1)[:, -1]
  rounding.assert_close(logits_BV, wanted_BV, **rounding.of_model(TINY))


DROPPED = dataclasses.replace(TINY, lora_dropout=0.4)


def test_dropout_of_adapters_is_of_training_and_of_adapters_alone():
  batch, params = every_position(random_tokens(2, 8)), with_random(TINY)
  plain = hidden(TINY, params, batch)
  np.testing.assert_array_equal(hidden(TINY, params, batch, train=True), plain)
  np.testing.assert_array_equal(hidden(DROPPED, params, batch), plain)
  assert not np.allclose(hidden(DROPPED, params, batch, train=True), plain, atol=0.05)
  base = hidden(TINY, made(TINY), batch)
  np.testing.assert_array_equal(hidden(DROPPED, made(TINY), batch, train=True), base)
  fresh = lora.init_adapter(made(TINY), jax.random.key(0), 3, 8, list(lora.kernels(made(TINY))))
  params = {**made(TINY), 'lora': fresh}
  np.testing.assert_array_equal(hidden(DROPPED, params, batch, train=True), base)


def test_dropout_of_adapters_changes_no_other_mask():
  config = dataclasses.replace(TINY, dropout=0.3)
  batch = every_position(random_tokens(2, 8))
  both = dataclasses.replace(config, lora_dropout=0.4)
  np.testing.assert_array_equal(
    hidden(both, made(TINY), batch, train=True), hidden(config, made(TINY), batch, train=True)
  )


def test_dropout_of_adapters_follows_the_row():
  params, batch = with_random(TINY), every_position(random_tokens(2, 8))
  apply = lambda batch: hidden(DROPPED, params, batch, train=True)
  dropped_MD = apply(batch)
  np.testing.assert_array_equal(dropped_MD, apply(batch))
  longer = every_position(random_tokens(2, 8), bucket=12)
  second = jax.tree.map(lambda x: x[len(x) // 2 :], longer)  # alone, as on another device
  second = second.replace(
    target_row=second.target_row - 1, target_position=second.target_position - 12
  )
  rounding.assert_close(dropped_MD[8:], apply(second), **rounding.of_model(TINY))
  assert not np.allclose(apply(batch.replace(key=batch.key + 2)), dropped_MD, atol=0.05)


@pytest.mark.parametrize('name', ['q', 'k', 'v', 'o', 'gate', 'up', 'down'])
def test_every_projection_is_dropped_out_in_the_model(name):
  """The adapters of the others add nothing, dropped out or not."""
  batch, params = every_position(random_tokens(2, 8)), with_random(TINY)
  for other, part in params['lora']['layers'].items():
    part['b'] *= other == name
  plain = hidden(DROPPED, params, batch)
  assert np.abs(hidden(DROPPED, params, batch, train=True) - plain).max() > 1e-3


def masks(name, rows=2):
  """Dropped-out ones [B, T, in], seen through an adapter that is the identity."""
  eye = jnp.eye(32)
  variables = {
    'params': {name: {'kernel': jnp.zeros((32, 32))}},
    'lora': {name: {'a': eye, 'b': eye, 'scale': jnp.ones(())}},
  }

  class One(layers.nn.Module):
    @layers.nn.compact
    def __call__(self, x, keys):
      return layers.Dense(32, False, DROPPED, name=name)(x, keys)

  keys = layers.RowKeys(jax.vmap(jax.random.key)(jnp.arange(rows)))
  return np.asarray(One().apply(variables, jnp.ones((rows, 64, 32)), keys))


def test_masks_differ_by_projection_and_row_and_keep_the_mean():
  seen = {name: masks(name) for name in ('q', 'k', 'v', 'o', 'gate', 'up', 'down')}
  for one in seen.values():
    assert set(np.unique(one)) == {0, np.float32(1 / 0.6)}
    assert abs(one.mean() - 1) < 0.05
    assert 0.4 < (one[0] != one[1]).mean() < 0.56  # 0.48 where they are independent
  names = list(seen)
  for i, name in enumerate(names):
    for other in names[:i]:
      assert 0.4 < (seen[name] != seen[other]).mean() < 0.56
