"""Import of folders, hub names and GGUF files; growth of the vocabulary; refusals."""

import functools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from support import damage, model_folder, rounding
from support.model_folder import STORIES, needs_stories

from jcl.backbones import new_tokens, tokenizers
from jcl.backbones.decoder import decoder
from jcl.backbones.files import config_json, families, fields, hf, tensors
from jcl.batching.batch import Row, Shape, layout
from jcl.step import losses

SMOLLM2 = pathlib.Path(os.environ.get('JCL_MODELS', ''), 'smollm2-135m.gguf')
needs_smollm2 = pytest.mark.skipif(
  not os.environ.get('JCL_MODELS') or not SMOLLM2.is_file(),
  reason='JCL_MODELS names no folder with smollm2-135m.gguf',
)


def greedy(loaded, prompt, count):
  """The prompt and its likeliest continuation of `count` tokens."""
  backbone, ids = decoder(loaded.config), loaded.tokenizer.encode(prompt).ids
  params, decode = jax.tree.map(jnp.asarray, loaded.params), jax.jit(backbone.decode)
  cache = backbone.cache(params, 1, len(ids) + count)
  valid, new, index = np.ones((1, len(ids) + count), bool), ids, 0
  for _ in range(count):
    logits_BV, cache = decode(params, np.array([new]), valid, cache, index)
    index += len(new)
    new = [int(logits_BV[0].argmax())]
    ids = ids + new
  return loaded.tokenizer.decode(ids)


@needs_stories
def test_stories_are_continued_in_english():
  loaded = hf.load(str(STORIES))
  assert (loaded.special.bos, loaded.special.eos, loaded.special.pad) == (1, 2, None)
  assert greedy(loaded, 'Once upon a time', 60) == (
    'Once upon a time, there was a little girl named Lily. She loved to play outside in the park. '
    'One day, she saw a big, red ball. She wanted to play with it, but it was too high.\nLily'
  )


@needs_stories
@pytest.mark.filterwarnings('ignore')
def test_stories_logits_equal_those_of_transformers():
  torch = pytest.importorskip('torch')
  import transformers

  loaded = hf.load(str(STORIES))
  net = transformers.AutoModelForCausalLM.from_pretrained(STORIES).eval()
  tokens_BT = np.array([loaded.tokenizer.encode('Once upon a time, Tom had a red ball.').ids])
  with torch.no_grad():
    wanted_BV = net(torch.tensor(tokens_BT)).logits[:, -1].numpy()
  backbone, real_BT = decoder(loaded.config), np.ones(tokens_BT.shape, bool)
  cache = backbone.cache(loaded.params, *tokens_BT.shape)
  logits_BV, _ = jax.jit(backbone.decode)(loaded.params, tokens_BT, real_BT, cache, 0)
  rounding.assert_close(logits_BV, wanted_BV, **rounding.of_model(loaded.config))


@needs_smollm2
def test_smollm2_knows_the_capital_of_france():
  loaded = hf.load(str(SMOLLM2))
  assert loaded.tokenizer.encode('Hello world').ids == [19556, 905]
  assert 'Paris' in greedy(loaded, 'The capital of France is', 8)


@needs_smollm2
@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_smollm2_scores_a_text_as_torch_does():
  """Weights and all as transformers itself reads them from the same file."""
  torch = pytest.importorskip('torch')
  import transformers

  loaded = hf.load(str(SMOLLM2))
  text = 'Gravity is the force by which a planet draws objects toward its center.'
  ids = np.array(loaded.tokenizer.encode(text).ids, np.int32)
  net = transformers.AutoModelForCausalLM.from_pretrained(SMOLLM2.parent, gguf_file=SMOLLM2.name)
  with torch.no_grad():
    asked = torch.tensor(ids[None].astype(np.int64))
    wanted = float(net.eval()(asked, labels=asked).loss)
  row = Row(ids, np.arange(len(ids) - 1), ids[1:], 0, 0)
  batch = layout([row], 1, Shape(1, 32, 32))
  params = jax.tree.map(jnp.asarray, loaded.params)
  loss_fn = jax.jit(functools.partial(losses.target_cross_entropy, decoder(loaded.config)))
  nats_M = np.asarray(loss_fn(params, batch))[: len(ids) - 1]
  print(f'nats per target: ours {nats_M.mean():.6f}, torch {wanted:.6f}')
  assert wanted < 5
  # Narrower than rounding.of_model, which allows 30 layers 0.02 nats, as much as a wrong constant
  # would change; the errors of single targets average out.
  assert nats_M.mean() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize('case', ['gpt2', 'neox', 'llama3', 'qwen3'])
def test_names_are_read_both_ways(case, tmp_path):
  golden = model_folder.golden(case)
  loaded = hf.load(str(model_folder.write(tmp_path, golden)))
  family = families.find_family(json.loads(str(golden['config']))['model_type'])
  written = dict(tensors.write(loaded.config, family.table, loaded.params))
  wanted = model_folder.weights(golden)
  assert set(written) == set(wanted)
  safetensors.numpy.save_file(written, tmp_path / 'again.safetensors')
  again = safetensors.numpy.load_file(tmp_path / 'again.safetensors')
  for name, x in wanted.items():
    np.testing.assert_array_equal(again[name], x)


def equal(one, two):
  jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
  assert one.config == two.config


def test_shards_bare_names_and_buffers_are_read_alike(tmp_path):
  golden = model_folder.golden('gpt2')
  whole = hf.load(str(model_folder.write(tmp_path / 'whole', golden)))
  folder = model_folder.write(tmp_path / 'shards', golden)
  (folder / 'model.safetensors').unlink()
  bare = {k.removeprefix('transformer.'): x for k, x in model_folder.weights(golden).items()}
  bare['h.0.attn.bias'] = np.ones((1, 1, 4, 4), np.float32)  # the mask, as in the hub's files
  names = sorted(bare)
  placed = {n: f'model-0000{1 + i % 2}-of-00002.safetensors' for i, n in enumerate(names)}
  for file in set(placed.values()):
    part = {n: bare[n] for n in names if placed[n] == file}
    safetensors.numpy.save_file(part, folder / file)
  (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': placed}))
  equal(hf.load(str(folder)), whole)


def test_half_precision_is_read_exactly(tmp_path):
  import ml_dtypes

  golden = model_folder.golden('llama')
  folder = model_folder.write(tmp_path, golden)
  half = {k: x.astype(ml_dtypes.bfloat16) for k, x in model_folder.weights(golden).items()}
  safetensors.numpy.save_file(half, folder / 'model.safetensors')
  params = hf.load(str(folder)).params
  wanted = half['model.layers.1.mlp.up_proj.weight'].astype(np.float32).T
  np.testing.assert_array_equal(params['layers']['up']['kernel'][1], wanted)
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}


def test_rows_beyond_the_tokenizer_are_padding(tmp_path):
  loaded = hf.load(str(model_folder.write(tmp_path, model_folder.golden('llama'), vocabulary=37)))
  assert (loaded.config.vocabulary, loaded.config.rows) == (37, 40)


def test_settings_of_transformers_4_mean_the_same():
  old = {
    'vocab_size': 40, 'hidden_size': 16, 'intermediate_size': 24, 'num_hidden_layers': 2,
    'num_attention_heads': 4, 'rope_theta': 5e5,
    'rope_scaling': {
      'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
      'original_max_position_embeddings': 64,
    },
  }  # fmt: skip
  new = {k: v for k, v in old.items() if not k.startswith('rope')}
  new['rope_parameters'] = {'rope_theta': 5e5, **old['rope_scaling']}
  read = lambda values: config_json.read_llama(fields.Fields(values, 'config.json'))
  assert read(old) == read(new)
  assert read(old).rope_scaling.factor == 8


def test_older_tokenizer_files_are_converted(tmp_path):
  folder = model_folder.write(tmp_path, model_folder.golden('gpt2'))
  (folder / 'tokenizer.json').unlink()
  (folder / 'vocab.json').write_text(json.dumps({'a': 0, 'b': 1, 'ab': 2, '<|endoftext|>': 3}))
  (folder / 'merges.txt').write_text('#version: 0.2\na b\n')
  loaded = hf.load(str(folder))
  assert loaded.tokenizer.encode('aba').ids == [2, 0]
  assert loaded.config.vocabulary == 4


edit = functools.partial(damage.edit, 'config.json')
reweigh = functools.partial(damage.reweigh, 'model.safetensors')


def test_a_projection_that_is_not_the_embedding_is_kept_untied(tmp_path):
  folder = model_folder.write(tmp_path / 'm', model_folder.golden('llama'))
  whole = hf.load(str(folder))
  edit(tie_word_embeddings=True)(folder)
  for found in (hf.load(str(folder)), hf.load(str(folder), weights=False)):
    assert not found.config.tied
    assert any('both are kept, untied' in note for note in found.notes)
  assert not hf.load_config(str(folder)).tied
  equal(hf.load(str(folder)), whole)
  same = lambda w: w.update({'lm_head.weight': w['model.embed_tokens.weight']})
  reweigh(same)(folder)
  tied = hf.load(str(folder))
  assert tied.config.tied
  assert 'unembed' not in tied.params
  assert tied.notes == ()


def test_what_is_not_used_is_named(tmp_path):
  folder = model_folder.write(tmp_path / 'm', model_folder.golden('llama'))
  assert hf.load(str(folder)).notes == ()
  edit(attention_dropout=0.0, is_encoder_decoder=False, qk_norm=None)(folder)
  assert hf.load(str(folder)).notes == ()
  edit(
    attention_dropout=0.1,
    logit_scale=3.0,
    scale=0,
    use_rope=False,
    dtype='float16',
    eos_token_id=[3, 2, 9],
  )(folder)
  extra = {f'model.layers.{i}.self_attn.rotary_emb.inv_freq': np.zeros(2, 'f') for i in range(2)}
  reweigh(lambda w: w.update(extra, **{'score.weight': np.zeros((2, 16), 'f')}))(folder)
  (folder / 'generation_config.json').write_text('{"eos_token_id": 2}')
  (folder / 'consolidated.safetensors').write_bytes(b'')
  notes = '\n'.join(hf.load(str(folder)).notes)
  unread = 'attention_dropout 0.1, logit_scale 3.0, scale 0, use_rope false'
  assert f'config.json: settings that nothing reads: {unread}' in notes
  assert 'not used: model.layers.*.self_attn.rotary_emb.inv_freq (2), score.weight' in notes
  assert 'dtype is float16, but the tensors are float32; they are read as they are' in notes
  assert "config.json: eos_token_id is [3, 2, 9]; a text ends with '<eos>' (3) alone" in notes
  assert 'generation_config.json: eos_token_id is 2' in notes
  assert 'consolidated.safetensors: not read' in notes


def test_a_text_ends_where_any_of_the_files_says_so(tmp_path):
  folder = model_folder.write(tmp_path / 'm', model_folder.golden('llama'))
  (folder / 'tokenizer_config.json').write_text('{"eos_token": null}')
  edit(eos_token_id=3)(folder)
  assert hf.load(str(folder)).special.eos == 3
  edit(eos_token_id=...)(folder)
  (folder / 'generation_config.json').write_text('{"eos_token_id": [2, 3]}')
  assert hf.load(str(folder)).special.eos == 2
  (folder / 'special_tokens_map.json').write_text('{"eos_token": {"content": "<eos>"}}')
  (folder / 'tokenizer_config.json').unlink()
  assert hf.load(str(folder)).special.eos == 3


@pytest.mark.parametrize('case', ['llama', 'qwen2'])  # untied, tied
@pytest.mark.parametrize('init', ['copy', 'mean'])
def test_new_rows_start_as_asked_and_old_ones_stay(case, init, tmp_path):
  loaded = hf.load(str(model_folder.write(tmp_path, model_folder.golden(case), vocabulary=39)))
  grow = lambda seed=0: new_tokens.add_token_rows(
    loaded.config, loaded.params, 3, [5, 6, 6], seed, init, multiple=8
  )
  config, params = grow()
  assert (config.vocabulary, config.rows) == (42, 48)
  names = ['embed'] if case == 'qwen2' else ['embed', 'unembed']
  for name in names:
    old, new = (p[name]['embedding'] for p in (loaded.params, params))
    np.testing.assert_array_equal(new[:39], old[:39])
    start = old[[5, 6, 6]] if init == 'copy' else np.tile(old[:39].mean(0), (3, 1))
    noise = new[39:42] - start
    assert 0 < np.abs(noise).max() < 0.05 * old.std()
    assert not np.array_equal(noise[1], noise[2])
    assert not new[42:].any()
    assert new.shape == (48, 16)
    np.testing.assert_array_equal(new, grow()[1][name]['embedding'])
    assert not np.array_equal(new, grow(seed=1)[1][name]['embedding'])
  assert params['layers'] is loaded.params['layers']


def test_growth_keeps_the_logits_of_old_tokens_and_gives_new_ids(tmp_path):
  loaded = hf.load(str(model_folder.write(tmp_path, model_folder.golden('llama'))))
  ids = tokenizers.add_tokens(loaded.tokenizer, ['__ans__', '__gen__'])
  config, params = new_tokens.add_token_rows(loaded.config, loaded.params, 2, [7, 2], 0)
  assert ids == [40, 41]
  assert config.vocabulary == tokenizers.vocabulary_size(loaded.tokenizer) == 42
  hidden_MD = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
  old_MV = decoder(loaded.config).project(loaded.params, hidden_MD)
  new_MV = decoder(config).project(params, hidden_MD)
  rounding.assert_close(new_MV[:, :40], old_MV, terms=16)  # the width
  np.testing.assert_allclose(new_MV[:, 40:], old_MV[:, [7, 2]], atol=0.1)
  with pytest.raises(ValueError, match='2 ids below 40'):
    new_tokens.add_token_rows(loaded.config, loaded.params, 2, [7, 40], 0)


def test_a_shape_is_read_where_there_are_no_weights(tmp_path):
  folder = model_folder.write(tmp_path, model_folder.golden('llama'))
  whole = hf.load(str(folder))
  (folder / 'model.safetensors').unlink()
  bare = hf.load(str(folder), weights=False)
  assert bare.params is None
  assert (bare.config, bare.special) == (whole.config, whole.special)
  grown, _ = new_tokens.add_token_rows(whole.config, whole.params, 3, [1] * 3, 0)
  assert new_tokens.with_new_tokens(bare.config, 3) == grown
  (folder / 'tokenizer.json').unlink()
  assert hf.load_config(str(folder)).rows == whole.config.rows
