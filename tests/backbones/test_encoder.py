"""The encoder against transformers, and the properties that hold for every configuration."""

import dataclasses
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import make_encoder_goldens as goldens
from support import model_folder, rounding, tiny
from support.remat import check_remat
from support.tiny import every_position

from jcl.backbones import new_tokens
from jcl.backbones.encoder import Place, encoder, sentence_vectors, states
from jcl.backbones.encoder_config import EncoderConfig
from jcl.backbones.files import hf, tensors
from jcl.backbones.model_config import with_settings
from jcl.backbones.models import make_backbone
from jcl.config import BackboneConfig
from jcl.errors import UserError
from jcl.step import losses

TINY = EncoderConfig(
  30, width=16, layers=3, heads=4, feed_forward=24, rows=32, max_positions=16, classes=5
)
LIKE_ROBERTA = dataclasses.replace(
  TINY, first_position=2, types=0, pooling='mean', head='cosine', activation='gelu_tanh'
)
BOTH = pytest.mark.parametrize('config', [TINY, LIKE_ROBERTA], ids=['first', 'mean'])
MEAN_FAST = pytest.mark.parametrize(
  'config', [pytest.param(TINY, marks=pytest.mark.slow), LIKE_ROBERTA], ids=['first', 'mean']
)
MINILM = pathlib.Path(os.environ.get('JCL_MODELS', ''), 'minilm-l6')
needs_minilm = pytest.mark.skipif(
  not os.environ.get('JCL_MODELS') or not MINILM.is_dir(),
  reason='JCL_MODELS names no folder with minilm-l6',
)


@functools.cache
def made(config):
  """A jitted backbone and parameters off their start."""
  backbone = encoder(config)
  jitted = dataclasses.replace(backbone, hidden=jax.jit(backbone.hidden, static_argnames='train'))
  return jitted, tiny.params(backbone)


def tokens(rows=2, length=8):
  return np.random.default_rng(0).integers(0, TINY.vocabulary, (rows, length))


def check(case, golden, folder):
  """Every real state within rounding, whatever stands in a longer row's padding."""
  loaded = model_folder.load_encoder(folder, golden)
  tokens_BT = np.full((2, 12), 11)
  tokens_BT[:, : goldens.TOKENS] = goldens.tokens()
  length_B = np.array(goldens.ROWS, np.int32)
  run = jax.jit(functools.partial(states, loaded.config))
  found_BTD = np.asarray(run(loaded.params, tokens_BT, Place(length_B)))
  real_BT = np.arange(goldens.TOKENS) < length_B[:, None]
  wanted_ND = golden['states'][real_BT]
  found_ND = found_BTD[:, : goldens.TOKENS][real_BT]
  worst = np.abs(found_ND - wanted_ND).max()
  print(f'{case}: {worst:.1e}, largest state {np.abs(wanted_ND).max():.1f}')
  assert np.abs(wanted_ND).max() > 1
  rounding.assert_close(found_ND, wanted_ND, **rounding.of_model(loaded.config))


@pytest.mark.parametrize('case', goldens.CASES)
def test_states_equal_the_golden_ones(case, tmp_path):
  check(case, model_folder.golden(case, 'encoder'), tmp_path)


@pytest.mark.parametrize('case', goldens.CASES)
@pytest.mark.filterwarnings('ignore')
def test_states_equal_those_of_transformers_now(case, tmp_path):
  pytest.importorskip('torch')
  check(case, goldens.golden(case), tmp_path)


SENTENCES = (
  'A cat sits on the mat.',
  'Two dogs are running through a wide green field while it rains.',
  'A small cat is sitting on a rug.',
)


def framed(tokenizer, texts, extra=0):
  """Right-padded ids as the tokenizer frames them, with `extra` places of padding, and lengths."""
  ids = [tokenizer.encode(text).ids for text in texts]
  length_B = np.array([len(i) for i in ids], np.int32)
  tokens_BT = np.zeros((len(ids), length_B.max() + extra), np.int32)
  for row, i in zip(tokens_BT, ids, strict=True):
    row[: len(i)] = i
  return tokens_BT, length_B


@needs_minilm
def test_minilm_finds_the_sentence_of_the_same_meaning():
  loaded = hf.load(str(MINILM))
  assert (loaded.special.bos, loaded.special.eos, loaded.special.pad) == (101, 102, 0)
  vectors = jax.jit(functools.partial(sentence_vectors, loaded.config))
  vectors_BD = np.asarray(vectors(loaded.params, *framed(loaded.tokenizer, SENTENCES)))
  assert vectors_BD.shape == (3, 384)
  likeness = vectors_BD @ vectors_BD.T
  # Two sums, the norm and the product.
  rounding.assert_close(np.diag(likeness), np.ones(3), terms=384, depth=2)
  assert likeness[0, 2] > 0.5 > 0.3 > likeness[0, 1]
  longer_BD = vectors(loaded.params, *framed(loaded.tokenizer, SENTENCES, extra=5))
  rounding.assert_close(longer_BD, vectors_BD, **rounding.of_model(loaded.config))


@needs_minilm
@pytest.mark.filterwarnings('ignore')
def test_minilm_vectors_equal_those_of_torch():
  torch = pytest.importorskip('torch')
  import transformers

  loaded = hf.load(str(MINILM))
  tokens_BT, length_B = framed(loaded.tokenizer, SENTENCES)
  found_BD = jax.jit(functools.partial(sentence_vectors, loaded.config))(
    loaded.params, tokens_BT, length_B
  )
  net = transformers.AutoModel.from_pretrained(MINILM).eval()
  mask = torch.tensor(np.arange(tokens_BT.shape[1]) < length_B[:, None]).long()
  with torch.no_grad():
    states_BTD = net(torch.tensor(tokens_BT).long(), attention_mask=mask).last_hidden_state
  mean_BD = (states_BTD * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
  wanted_BD = torch.nn.functional.normalize(mean_BD).numpy()
  print(f'minilm: {np.abs(found_BD - wanted_BD).max():.1e}')
  rounding.assert_close(found_BD, wanted_BD, **rounding.of_model(loaded.config))


@BOTH
def test_padding_changes_nothing(config):
  backbone, params = made(config)
  short = every_position(tokens(), [8, 5])
  longer = every_position(tokens(), [8, 5], bucket=12)
  logits_MC = backbone.logits(params, short)
  longer_MC = backbone.logits(params, longer)
  rounding.assert_close(longer_MC, logits_MC, **rounding.of_model(config))
  padding_BT = np.arange(12) >= longer.length[:, None]
  other = longer.replace(tokens=np.where(padding_BT, 29, longer.tokens))
  np.testing.assert_array_equal(backbone.logits(params, other), longer_MC)


def test_a_state_depends_on_its_whole_row_and_on_nothing_else():
  backbone, params = made(TINY)
  rows = np.arange(12).reshape(2, 6)  # a token each, so that a row of the table is a position
  batch = every_position(rows, [6, 4])

  def firsts(table_RD):
    return backbone.hidden({**params, 'embed': {'embedding': table_RD}}, batch)[:, 0]

  reach_MR = np.abs(jax.jit(jax.jacobian(firsts))(params['embed']['embedding'])).sum(-1)
  row_N = np.repeat([0, 1], [6, 4])
  np.testing.assert_array_equal(reach_MR[:, :10] > 0, row_N[:, None] == row_N)
  assert not reach_MR[:, 10:].any()


@BOTH
def test_order_matters(config):
  backbone, params = made(config)
  batch = every_position(tokens())
  turned = batch.replace(tokens=batch.tokens[:, ::-1])
  one_MD, other_MD = (backbone.hidden(params, b) for b in (batch, turned))
  assert not np.allclose(one_MD, other_MD, atol=1e-2)


@MEAN_FAST
@pytest.mark.slow
def test_remat_changes_no_loss_and_no_gradient(config):
  batch = every_position(tokens(), [8, 5])
  check_remat(encoder, config, made(config)[1], batch, logits=13 * config.classes)


@MEAN_FAST
def test_dropout_follows_the_row_and_is_off_in_evaluation(config):
  backbone, params = made(dataclasses.replace(config, dropout=0.3))
  batch = every_position(tokens())
  apply = lambda batch, train=True: np.asarray(backbone.hidden(params, batch, train=train))
  dropped_MD = apply(batch)
  still_MD = made(config)[0].hidden(params, batch, train=True)
  assert not np.allclose(dropped_MD, still_MD, atol=1e-2)
  np.testing.assert_array_equal(apply(batch, train=False), still_MD)
  np.testing.assert_array_equal(dropped_MD, apply(batch))
  longer = every_position(tokens(), bucket=12)
  second = jax.tree.map(lambda x: x[len(x) // 2 :], longer)  # alone, as on another device
  second = second.replace(
    target_row=second.target_row - 1, target_position=second.target_position - 12
  )
  rounding.assert_close(dropped_MD[8:], apply(second), **rounding.of_model(config))
  assert not np.allclose(apply(batch.replace(key=batch.key + 2)), dropped_MD, atol=1e-2)


def test_every_layer_and_part_drops_places_of_its_own():
  backbone = encoder(dataclasses.replace(TINY, dropout=0.5))
  hidden = jax.jit(functools.partial(backbone.hidden, train=True))
  params, batch = jax.tree.map(np.asarray, made(TINY)[1]), every_position(tokens())

  def kept(name, depth):
    """[M, D] what the last of `depth` layers keeps of a part that is a constant, great number."""
    layers = jax.tree.map(lambda x: x[:depth], params['layers'])
    layers |= {part: jax.tree.map(np.zeros_like, layers[part]) for part in ('o', 'down')}
    layers[name]['bias'] += 1000
    return np.asarray(hidden({**params, 'layers': layers}, batch)) > 0

  masks = [kept(name, depth) for name in ('o', 'down') for depth in (1, 2)]
  for i, one in enumerate(masks):
    assert 0.3 < one.mean() < 0.7
    for other in masks[:i]:
      assert 0.3 < (one != other).mean() < 0.7


@BOTH
def test_bfloat16_computes_near_float32(config):
  params = made(config)[1]
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  batch = every_position(tokens(), [8, 5])
  half = made(dataclasses.replace(config, dtype='bfloat16'))[0]
  assert half.hidden(params, batch).dtype == jnp.float32
  logits_MC = half.logits(params, batch)
  assert logits_MC.dtype == jnp.float32
  wanted_MC = np.asarray(made(config)[0].logits(params, batch))
  assert 1e-5 < np.abs(logits_MC - wanted_MC).max() < 0.03 * np.abs(wanted_MC).max()
  gradient = jax.eval_shape(jax.grad(lambda p: half.logits(p, batch).sum()), params)
  assert {x.dtype for x in jax.tree.leaves(gradient)} == {jnp.dtype('float32')}


@functools.cache
def loss_and_gradient(config):
  """The compiled function of parameters and a batch."""
  logits = encoder(config).logits
  loss = lambda p, b: losses.cross_entropy(logits(p, b), b.target_token).sum()
  return jax.jit(jax.value_and_grad(loss))


@BOTH
def test_every_leaf_learns(config):
  params, batch = made(config)[1], every_position(tokens(), [8, 5])
  gradient = tensors.flatten(loss_and_gradient(config)(params, batch)[1])
  for name, leaf in gradient.items():
    # A key's bias adds the same to all scores of a query: softmax does not see it.
    least = 0 if name == 'layers/k/bias' else 1e-4
    assert np.abs(leaf).max() >= least, name
    if name.startswith('layers/'):
      assert (np.abs(leaf).reshape(3, -1).max(1) >= least).all(), name
  assert not gradient['embed/embedding'][30:].any()


@BOTH
def test_an_empty_row_and_an_empty_batch_give_finite_gradients(config):
  params, batch = made(config)[1], every_position(tokens(), [8, 5])
  for length_B in ([8, 0], [0, 0]):
    part = batch.replace(length=np.array(length_B, np.int32))
    for leaf in jax.tree.leaves(loss_and_gradient(config)(params, part)):
      assert np.isfinite(leaf).all()


def test_depth_is_read_off_the_leaves():
  backbone, params = made(TINY)
  shallow = {**params, 'layers': jax.tree.map(lambda x: x[:1], params['layers'])}
  batch = every_position(tokens())
  one = jax.jit(encoder(dataclasses.replace(TINY, layers=1)).hidden)
  np.testing.assert_array_equal(backbone.hidden(shallow, batch), one(shallow, batch))


@pytest.mark.parametrize('name', ['q', 'o', 'up'])
def test_an_adapter_adds_its_product(name):
  backbone, params = made(TINY)
  draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
  kernel = params['layers'][name]['kernel']
  a, b, scale = draw(1, 3, 2, kernel.shape[1]), draw(2, 3, 2, kernel.shape[2]), jnp.full(3, 0.5)
  adapted = {**params, 'lora': {'layers': {name: {'a': a, 'b': b, 'scale': scale}}}}
  merged = kernel + 0.5 * jnp.einsum('lri,lro->lio', a, b)
  merged = {
    **params,
    'layers': {**params['layers'], name: {**params['layers'][name], 'kernel': merged}},
  }
  batch = every_position(tokens())
  hidden = [backbone.hidden(p, batch) for p in (adapted, merged, params)]
  rounding.assert_close(hidden[0], hidden[1], **rounding.of_model(TINY))
  assert not np.allclose(hidden[0], hidden[2], atol=1e-3)


def test_the_record_says_what_an_encoder_cannot():
  backbone = make_backbone(TINY)
  assert backbone.decode is backbone.cache is None
  assert (backbone.outputs, backbone.classes, backbone.vocabulary) == (5, 5, 0)
  params = made(TINY)[1]
  assert set(backbone.unembedding(params)) == {'head'}
  bare = make_backbone(dataclasses.replace(TINY, classes=0))
  assert set(jax.eval_shape(bare.init, jax.random.key(0))) == {
    'embed', 'positions', 'types', 'embed_norm', 'layers',
  }  # fmt: skip
  batch = every_position(tokens())
  assert jax.eval_shape(bare.hidden, params, batch).shape == (16, 16)
  for ask in (bare.unembedding, lambda p: jax.eval_shape(bare.logits, p, batch)):
    with pytest.raises(UserError, match='a bert encoder predicts classes and has none here'):
      ask(params)


def test_settings_of_a_run_reach_the_config_and_contradictions_are_refused():
  settings = BackboneConfig(dropout=0.1, remat=True, dtype='bfloat16', attention='cudnn')
  config = with_settings(TINY, settings, classes=9)
  assert (config.dropout, config.remat, config.classes, config.attention) == (0.1, True, 9, 'cudnn')
  for fields, says in (
    ({'heads': 3}, 'no multiple of 3 heads'),
    ({'rows': 20}, 'the embedding has 20 rows, fewer than the 30 tokens'),
    ({'attention': 'cudnn'}, "needs backbone.dtype 'bfloat16'"),
    ({'max_positions': 0}, 'none left for tokens'),
  ):
    with pytest.raises(UserError, match=says):
      dataclasses.replace(TINY, **fields)


def test_tokens_can_be_added():
  params = made(TINY)[1]
  config, grown = new_tokens.add_token_rows(TINY, params, 3, [1, 2, 3], 0)
  assert (config.vocabulary, config.rows) == (33, 33)
  batch = every_position(tokens())
  wanted_MD = made(TINY)[0].hidden(params, batch)
  rounding.assert_close(made(config)[0].hidden(grown, batch), wanted_MD, **rounding.of_model(TINY))
