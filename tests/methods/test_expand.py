"""Block expansion: the same model before and after, of which only the newest blocks train."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from support import rounding, runs, slow, tiny

from jcl import methods
from jcl.backbones import block_expansion
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import hf
from jcl.backbones.layers import depth
from jcl.batching.batch import Shape, layout
from jcl.errors import UserError
from jcl.step import trainable
from jcl.storage.checkpoint import Snapshots
from jcl.trained_run import TrainedRun
from jcl.training import experiment

FIVE = dict(vocabulary=30, width=16, layers=5, heads=4, feed_forward=24)
KINDS = {
  'llama': DecoderConfig(**FIVE, kv_heads=2),
  'gpt2': DecoderConfig(
    **FIVE, norm='layer', positions='learned', activation='gelu_tanh', gated=False, qkv_bias=True,
    o_bias=True, mlp_bias=True, max_positions=32,
  ),
  'neox': DecoderConfig(
    **FIVE, norm='layer', activation='gelu', gated=False, parallel=True, qkv_bias=True, o_bias=True,
    mlp_bias=True, tied=False, rope_fraction=0.5,
  ),
  'qwen3': DecoderConfig(**FIVE, head_dim=8, qk_norm=True),
}  # fmt: skip


def batch():
  return layout(tiny.rows(6), 1, Shape(8, 24, 48), tiny.keys(6))


@pytest.mark.parametrize('kind', slow.but(('neox',), KINDS))
def test_new_blocks_change_nothing_until_they_are_trained(kind):
  """To the bit: 0 is added to the residual. Once trained a little they do something."""
  backbone = decoder(KINDS[kind])
  params = jax.device_get(tiny.params(backbone))  # biases and scales are off their constants
  grown, new_L = block_expansion.expand(params, block_expansion.group_sizes(params, 2))
  assert depth(grown) == 8
  assert new_L.tolist() == [0, 0, 1, 0, 0, 1, 0, 1]
  hidden = jax.jit(backbone.hidden)
  np.testing.assert_array_equal(hidden(grown, batch()), hidden(params, batch()))
  gradient = jax.jit(jax.grad(lambda p: hidden(p, batch()).std()))(grown)['layers']
  for name in block_expansion.OUTPUTS:
    assert np.abs(np.asarray(gradient[name]['kernel'])[new_L > 0]).max((1, 2)).min() > 0
  step = lambda p, g: p - np.float32(0.1) * np.asarray(g)
  moved = jax.tree.map(step, grown['layers'], gradient)
  assert np.abs(hidden({**grown, 'layers': moved}, batch()) - hidden(params, batch())).max() > 1e-4


def test_a_new_block_is_a_copy_of_the_one_before_but_for_its_outputs():
  params = jax.device_get(tiny.params(decoder(KINDS['gpt2'])))
  grown, new_L = block_expansion.expand(params, [4, 1])
  old, new = params['layers'], grown['layers']
  for before, after in ((3, 4), (4, 6)):
    for name in new:
      for leaf in new[name]:
        wanted = np.asarray(old[name][leaf][before])
        if name in ('o', 'down'):
          wanted = np.zeros_like(wanted)
        np.testing.assert_array_equal(new[name][leaf][after], wanted)
  assert np.flatnonzero(new_L).tolist() == [4, 6]
  others = [0, 1, 2, 3, 5]
  for kept, one in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
    np.testing.assert_array_equal(kept[np.array(others)], one)


def through(every=1, tasks=3):
  """-> method, memory, parameters after each task; training moves whatever may move."""
  tools = tiny.tools('plain', make=tiny.small_decoder)
  method = methods.make(tools.backbone, methods.settings_class('expand')(every=every))
  params = jax.device_get(tiny.params(tools.backbone))
  memory, seen = method.init(params, tools.stream, tools), []
  for task in tools.stream.tasks[:tasks]:
    memory, params = method.before_task(memory, params, task, tools)
    trained, frozen, masks = trainable.split(params, method.plan(memory, task).trainable)
    params = trainable.join(jax.tree.map(lambda p, m: p + m, trained, masks), frozen)
    memory, params = method.after_task(memory, params, task, tools)
    seen.append(params)
  return tiny.params(tools.backbone), memory, seen


def test_each_task_has_blocks_of_its_own_at_the_end_of_each_group():
  base, memory, seen = through()
  assert [depth(params) for params in seen] == [4, 6, 8]
  assert memory['new'].tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
  last, before = (np.asarray(p['layers']['q']['kernel']) for p in (seen[2], seen[1]))
  np.testing.assert_array_equal(last[[0, 1, 2, 4, 5, 6]], before)
  np.testing.assert_array_equal(last[[0, 4]], base['layers']['q']['kernel'])
  rounding.assert_close(last[3], before[2] + 1, terms=1)
  for name in ('embed', 'final_norm'):
    chex.assert_trees_all_equal(seen[2][name], base[name])


def test_a_period_beyond_the_depth_adds_one_block_a_task():
  _, memory, seen = through(every=7, tasks=2)
  assert depth(seen[1]) == 4
  assert memory['sizes'] == [4]


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_grown_model_and_is_exported(tmp_path):
  whole = runs.run(runs.config('expand'), _made(tmp_path / 'whole'))
  with pytest.raises(runs.Killed):
    runs.run(runs.config('expand'), _made(tmp_path / 'killed'), kill=('train', 2))
  resumed = runs.run(runs.config('expand'), tmp_path / 'killed')
  assert resumed['params_sha256'] == whole['params_sha256']
  assert resumed['matrix'] == whole['matrix']
  params = Snapshots(tmp_path / 'whole').latest()['params']
  assert depth(params) == 4  # one layer and three tasks
  TrainedRun(runs.config('expand'), tmp_path / 'whole').model.save(tmp_path / 'out')
  shape, read, *_ = hf.load(str(tmp_path / 'out'))
  assert shape.layers == 4
  chex.assert_trees_all_equal(read['layers'], params['layers'])


def _made(folder):
  folder.mkdir()
  return folder


def test_a_head_trains_with_the_new_blocks():
  tools = tiny.tools('plain', make=tiny.small_decoder)
  shape = dataclasses.replace(KINDS['llama'], classes=6, head='linear')
  method = methods.make(decoder(shape), methods.settings('expand'))
  params = tiny.params(decoder(shape))
  memory, params = method.before_task(
    method.init(params, tools.stream, tools), params, tools.stream.tasks[0], tools
  )
  trained, _, _ = trainable.split(params, method.plan(memory, tools.stream.tasks[0]).trainable)
  names = {path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(trained)}
  assert names == {'layers', 'head'}


def test_an_encoder_is_refused_before_its_weights_are_read(tmp_path):
  fields = {
    'model_type': 'bert', 'vocab_size': 30, 'hidden_size': 16, 'num_hidden_layers': 2,
    'num_attention_heads': 4, 'intermediate_size': 24, 'max_position_embeddings': 32,
    'type_vocab_size': 2, 'hidden_act': 'gelu', 'layer_norm_eps': 1e-12,
  }  # fmt: skip
  import json

  (tmp_path / 'config.json').write_text(json.dumps(fields))
  made = runs.config('expand', backbone={'path': str(tmp_path), 'head': 'linear'})
  with pytest.raises(UserError, match='is no decoder, and expand adds blocks'):
    experiment.assemble(made)


def test_a_period_out_of_range_is_refused():
  with pytest.raises(UserError, match=r'method\.every is 0; it must be at least 1'):
    methods.settings_class('expand')(every=0).check()
