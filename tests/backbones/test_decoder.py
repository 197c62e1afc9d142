"""The decoder against transformers, and the properties that hold for every configuration."""

import dataclasses
import functools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from goldens import make_decoder_goldens as goldens
from support import adapter_folder, model_folder, rounding, slow, tiny
from support.decoders import BOTH, GPT2_LIKE, TINY, random_tokens
from support.remat import check_remat
from support.tiny import every_position

from jcl.backbones import layers, lora
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import from_scratch
from jcl.backbones.files import hf
from jcl.config import BackboneConfig
from jcl.errors import UserError

LLAMA_FAST = pytest.mark.parametrize(
  'config', [TINY, pytest.param(GPT2_LIKE, marks=pytest.mark.slow)], ids=['llama', 'gpt2']
)


@pytest.fixture(autouse=True)
def strict_ranks():
  with jax.numpy_rank_promotion('raise'):
    yield


def jitted(config):
  """A backbone whose functions are compiled."""
  backbone = decoder(config)
  return dataclasses.replace(
    backbone,
    hidden=jax.jit(backbone.hidden, static_argnames='train'),
    project=jax.jit(backbone.project),
    decode=jax.jit(backbone.decode),
  )


@functools.cache
def made(config):
  """A jitted backbone and random parameters."""
  return jitted(config), tiny.params(decoder(config))


def cached_logits(backbone, params, tokens_BT, real_BT, prefill):
  """[B, S - prefill + 1, V]: a prefill of some tokens, then one token after another."""
  decode, (rows, length) = backbone.decode, tokens_BT.shape
  cache = backbone.cache(params, rows, length)
  logits_BV, cache = decode(params, tokens_BT[:, :prefill], real_BT, cache, 0)
  out = [logits_BV]
  for i in range(prefill, length):
    logits_BV, cache = decode(params, tokens_BT[:, i : i + 1], real_BT, cache, i)
    out.append(logits_BV)
  return np.stack(out, 1)


@pytest.mark.parametrize('config', [
  dataclasses.replace(TINY, layers=1, norm_offset=1.0), dataclasses.replace(GPT2_LIKE, layers=1),
], ids=['gemma', 'gpt2'])  # fmt: skip
def test_a_call_that_is_not_compiled_leaves_numpy_parameters_as_they_are(config):
  """NumPy adds in place what JAX adds to a copy."""
  backbone = decoder(config)
  params = jax.tree.map(lambda x: np.array(x), tiny.params(backbone))
  before = jax.tree.map(np.copy, params)
  backbone.logits(params, every_position(random_tokens(1, 3)))
  chex.assert_trees_all_equal(params, before)


def check(case, golden, folder):
  """Right padding without a cache, left padding with one, both within rounding.

  The golden logits are float64, so that what differs is the rounding of this decoder alone. Their
  bound is a promise to users, 1e-5 of the largest logit, four times what is seen.
  """
  loaded = hf.load(str(model_folder.write(folder, golden)))
  backbone, params = jitted(loaded.config), jax.tree.map(jnp.asarray, loaded.params)
  tokens_BT = goldens.tokens()
  batch = every_position(tokens_BT, goldens.ROWS, bucket=12)
  logits_MV = np.asarray(backbone.logits(params, batch))
  wanted_MV = np.concatenate([golden['right'][i, :n] for i, n in enumerate(goldens.ROWS)])
  right = np.abs(logits_MV - wanted_MV).max()
  moved_BT, real_BT = goldens.left_padded(tokens_BT)
  logits_BTV = cached_logits(backbone, params, moved_BT, real_BT, prefill=5)
  left = np.abs(logits_BTV - golden['left'][:, 4:]).max()
  print(f'{case}: right {right:.1e}, cache {left:.1e}, largest logit {np.abs(wanted_MV).max():.1f}')
  assert np.abs(wanted_MV).max() > 1
  assert max(right, left) < 1e-5 * np.abs(wanted_MV).max()


# The families that differ in most; the others are slow.
KEPT = (
  'gpt2',
  'neox',
  'llama3',
  'qwen3',
  'gemma2',
  'phi3_long',
  'olmo2',
  'granite',
)


@pytest.mark.parametrize('case', slow.but(KEPT, goldens.CASES))
def test_logits_equal_the_golden_ones(case, tmp_path):
  check(case, model_folder.golden(case), tmp_path)


@pytest.mark.parametrize('case', goldens.CASES)
@pytest.mark.filterwarnings('ignore')
def test_logits_equal_those_of_transformers_now(case, tmp_path):
  pytest.importorskip('torch')
  check(case, goldens.golden(case), tmp_path)


@LLAMA_FAST
def test_cache_equals_no_cache(config):
  backbone, params = made(config)
  tokens_BT = random_tokens(2, 8)
  plain_BTV = backbone.logits(params, every_position(tokens_BT)).reshape(2, 8, -1)
  cached_BTV = cached_logits(backbone, params, tokens_BT, np.ones((2, 8), bool), prefill=3)
  rounding.assert_close(cached_BTV, plain_BTV[:, 2:], **rounding.of_model(config))


@BOTH
def test_a_state_depends_on_its_past_alone(config):
  backbone, params = made(config)
  params = {**params, 'embed': {'embedding': 10 * params['embed']['embedding']}}
  batch = every_position(np.arange(6)[None])  # a token each, so that a row stands for a position

  def states(table_RD):
    return backbone.hidden({**params, 'embed': {'embedding': table_RD}}, batch)[:, 0]

  reach_TR = np.abs(jax.jit(jax.jacobian(states))(params['embed']['embedding'])).sum(-1)
  np.testing.assert_array_equal(reach_TR[:, :6] > 0, np.tri(6, dtype=bool))


@LLAMA_FAST
@pytest.mark.slow
def test_remat_changes_no_loss_and_no_gradient(config):
  """With an adapter, whose input is dropped out too."""
  params = made(config)[1]
  shapes = {name: lora.kernels(params)[name] for name in ('q', 'down')}
  adapter = adapter_folder.adapter(shapes, rank=3, seed=0, scale=0.3)
  params = {**params, 'lora': jax.tree.map(jnp.asarray, adapter)}
  config = dataclasses.replace(config, lora_dropout=0.4)
  batch = every_position(random_tokens(2, 8))
  check_remat(decoder, config, params, batch, logits=16 * config.vocabulary)


@LLAMA_FAST
def test_dropout_follows_the_row(config):
  backbone, params = made(dataclasses.replace(config, dropout=0.3))
  batch = every_position(random_tokens(2, 8))
  apply = lambda batch: np.asarray(backbone.hidden(params, batch, train=True))
  dropped_MD = apply(batch)
  assert not np.allclose(dropped_MD, made(config)[0].hidden(params, batch))
  np.testing.assert_array_equal(dropped_MD, apply(batch))
  longer = every_position(random_tokens(2, 8), bucket=12)
  second = jax.tree.map(lambda x: x[len(x) // 2 :], longer)  # alone, as on another device
  second = second.replace(
    target_row=second.target_row - 1, target_position=second.target_position - 12
  )
  rounding.assert_close(dropped_MD[8:], apply(second), **rounding.of_model(config))
  assert not np.allclose(apply(batch.replace(key=batch.key + 2)), dropped_MD, atol=1e-2)


def test_dropout_keeps_the_mean_and_differs_by_row():
  keys = layers.RowKeys(jax.vmap(jax.random.key)(jnp.arange(2)))
  kept_BTD = np.asarray(layers.dropout(jnp.ones((2, 64, 64)), keys, 0.25))
  assert set(np.unique(kept_BTD)) == {0, np.float32(1 / 0.75)}
  assert abs(kept_BTD.mean() - 1) < 0.02
  assert (kept_BTD[0] != kept_BTD[1]).mean() > 0.3


@BOTH
def test_padding_ids_are_never_predicted(config):
  backbone, params = made(config)
  assert params['embed']['embedding'].shape[0] == 32
  assert backbone.logits(params, every_position(random_tokens(1, 4))).shape == (4, 30)
  logits_BV, _ = backbone.decode(
    params, random_tokens(2, 4), np.ones((2, 4), bool), backbone.cache(params, 2, 4), 0
  )
  assert logits_BV.shape == (2, 30)
  assert backbone.vocabulary == backbone.outputs == 30


@BOTH
def test_bfloat16_computes_near_float32(config):
  params = made(config)[1]
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  batch = every_position(random_tokens(2, 8))
  half = made(dataclasses.replace(config, dtype='bfloat16'))[0]
  logits_MV = half.logits(params, batch)
  assert half.cache(params, 1, 4)[0].dtype == jnp.bfloat16
  assert logits_MV.dtype == jnp.float32
  np.testing.assert_allclose(logits_MV, made(config)[0].logits(params, batch), atol=0.05)
  gradient = jax.eval_shape(jax.grad(lambda p: half.logits(p, batch).sum()), params)
  assert {x.dtype for x in jax.tree.leaves(gradient)} == {jnp.dtype('float32')}


def test_initial_scale_follows_the_fan_in():
  config = dataclasses.replace(
    GPT2_LIKE, vocabulary=500, rows=500, width=64, head_dim=16, feed_forward=256, layers=8
  )
  params = decoder(config).init(jax.random.key(0))
  # What writes into the residual is smaller by the root of the 16 such writers, as in GPT-2.
  for name, std in (('q', 1 / 8), ('up', 1 / 8), ('o', 1 / 8 / 4), ('down', 1 / 16 / 4)):
    assert np.std(params['layers'][name]['kernel']) == pytest.approx(std, rel=0.05)
    assert not np.any(params['layers'][name]['bias'])
  for name in ('embed', 'unembed'):
    assert np.std(params[name]['embedding']) == pytest.approx(1 / 8, rel=0.05)
  assert not np.array_equal(*params['layers']['q']['kernel'][:2])
  assert np.all(params['final_norm']['scale'] == 1)
  again = decoder(config).init(jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, params, again)


def test_a_head_projects_to_classes():
  """Its head starts at zero, as `test_heads` shows."""
  backbone = decoder(dataclasses.replace(TINY, classes=7))
  params = jax.eval_shape(backbone.init, jax.random.key(0))
  logits_MC = jax.eval_shape(backbone.logits, params, every_position(random_tokens(2, 4)))
  assert logits_MC.shape == (8, 7)
  assert backbone.outputs == backbone.classes == 7
  assert set(backbone.unembedding(params)) == {'head'}


@BOTH
def test_projection_needs_the_unembedding_alone(config):
  backbone, params = made(config)
  hidden_MD = backbone.hidden(params, every_position(random_tokens(1, 4)))
  part = backbone.unembedding(params)
  assert set(part) == {'embed' if config.tied else 'unembed'}
  np.testing.assert_array_equal(
    backbone.project(part, hidden_MD), backbone.project(params, hidden_MD)
  )


def test_depth_is_read_off_the_leaves():
  backbone, params = made(TINY)
  shallow = {**params, 'layers': jax.tree.map(lambda x: x[:1], params['layers'])}
  batch = every_position(random_tokens(1, 4))
  one = jitted(dataclasses.replace(TINY, layers=1))
  np.testing.assert_array_equal(backbone.hidden(shallow, batch), one.hidden(shallow, batch))
  assert backbone.cache(shallow, 2, 8)[0].shape == (1, 2, 8, 2, 4)


class Half(struct.PyTreeNode, nn.meta.AxisMetadata):
  """A box that holds half of a leaf's values and notes who opens it."""

  value: object

  def unbox(self):
    opened.append(self.value.shape)
    return 2 * self.value

  def replace_boxed(self, val):
    return self.replace(value=val)

  def add_axis(self, index, params):
    return self

  def remove_axis(self, index, params):
    return self


opened = []


@functools.cache
def sum_of_states():
  """The sum of the states of four tokens, and its gradient."""
  batch = every_position(random_tokens(1, 4))
  loss = lambda params: decoder(TINY).hidden(params, batch).sum()
  return jax.jit(jax.value_and_grad(loss))(made(TINY)[1])


@pytest.mark.parametrize('remat', [False, True])
def test_the_backward_pass_keeps_products_with_weights_alone(remat):
  """And the result of attention; no gradient needs the last of the seven products."""
  config = dataclasses.replace(TINY, remat=remat, feed_forward=40)
  backbone, params = made(config)
  batch = every_position(random_tokens(1, 7))
  backward = jax.eval_shape(lambda p: jax.vjp(lambda p: backbone.hidden(p, batch), p)[1], params)
  weights = {x.shape for x in jax.tree.leaves(params['layers'])}
  shapes = [x.shape for x in jax.tree.leaves(backward) if x.shape[:1] == (config.layers,)]
  kept = sorted(math.prod(s) // 21 for s in shapes if s not in weights and 7 in s)
  states, keys = config.width, config.kv_heads * config.head_dim
  products = [states, keys, keys, states, states, 40, 40]  # q, k, v, attention, o, gate, up
  assert kept == sorted([states, *([] if remat else products)])


@pytest.mark.parametrize('remat', [False, True])
def test_boxed_layers_are_opened_one_at_a_time(remat):
  config = dataclasses.replace(TINY, remat=remat)
  backbone, params = made(config)
  batch = every_position(random_tokens(1, 4))

  def loss(params):
    boxed = {**params, 'layers': jax.tree.map(lambda x: Half(x / 2), params['layers'])}
    return backbone.hidden(boxed, batch).sum()

  opened.clear()
  found, gradient = jax.jit(jax.value_and_grad(loss))(params)
  wanted, wanted_gradient = sum_of_states()
  assert (16, 16) in opened
  assert not any(len(shape) > 2 for shape in opened)
  depth = rounding.layers(3, gradient=True)
  rounding.assert_close(found, wanted, terms=64, depth=depth)  # 4 states of width 16
  rounding.assert_close(gradient, wanted_gradient, terms=64, depth=depth)


def test_an_adapter_adds_its_product():
  backbone, params = made(TINY)
  draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
  a, b, scale = draw(1, 3, 2, 16), draw(2, 3, 2, 16), jnp.full(3, 0.5)
  adapted = {**params, 'lora': {'layers': {'q': {'a': a, 'b': b, 'scale': scale}}}}
  kernel = params['layers']['q']['kernel'] + 0.5 * jnp.einsum('lri,lro->lio', a, b)
  merged = {**params, 'layers': {**params['layers'], 'q': {'kernel': kernel}}}
  batch = every_position(random_tokens(1, 4))
  hidden = [backbone.hidden(p, batch) for p in (adapted, merged, params)]
  rounding.assert_close(hidden[0], hidden[1], **rounding.of_model(TINY))
  assert not np.allclose(hidden[0], hidden[2], atol=1e-3)


def test_settings_describe_the_decoder_from_scratch():
  config = from_scratch(BackboneConfig(dropout=0.1, remat=True), 99, classes=5)
  assert (config.vocabulary, config.rows, config.head_dim, config.classes) == (99, 99, 16, 5)
  assert (config.dropout, config.remat, config.tied) == (0.1, True, True)


@pytest.mark.parametrize(
  ('fields', 'says'),
  [
    ({'kv_heads': 3}, '4 heads of queries: no multiple of 3'),
    ({'rows': 20}, 'the embedding has 20 rows, fewer than the 30 tokens'),
    ({'attention': 'cudnn'}, "needs backbone.dtype 'bfloat16'"),
    ({'head_dim': 5}, 'even number'),
  ],
)
def test_contradictions_are_refused(fields, says):
  with pytest.raises(UserError, match=says):
    dataclasses.replace(TINY, **fields)
  with pytest.raises(UserError, match=r'backbone.width 65 is no multiple'):
    from_scratch(BackboneConfig(width=65), 99)
