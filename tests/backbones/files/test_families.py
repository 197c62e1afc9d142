"""Every family: files come out as they went in, other architectures are refused by name."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from goldens import make_decoder_goldens, make_encoder_goldens
from support import model_folder
from support.decoders import TINY

from jcl.backbones import attention, block_expansion, lora
from jcl.backbones.files import families, gemma_config_json, hf, llama_like_json, nearest, peft
from jcl.backbones.files.fields import Fields
from jcl.errors import UserError

CASES = [('decoder', case) for case in make_decoder_goldens.CASES]
CASES += [('encoder', case) for case in make_encoder_goldens.CASES]
NEW = [
  *(('decoder', case) for case in make_decoder_goldens.NEW_CASES),
  *(('encoder', case) for case in ('xlm-roberta', 'mpnet', 'modernbert')),
]


def loaded(kind, case, folder):
  """The golden model, read from a folder."""
  golden = model_folder.golden(case, kind)
  tokenizer = model_folder.word_pieces() if kind == 'encoder' else None
  return golden, hf.load(str(model_folder.write(folder, golden, tokenizer=tokenizer)))


@pytest.mark.parametrize(('kind', 'case'), CASES)
def test_an_export_has_the_same_bits_and_means_the_same(kind, case, tmp_path):
  golden, model = loaded(kind, case, tmp_path / 'in')
  hf.save(tmp_path / 'out', model)
  written = safetensors.numpy.load_file(tmp_path / 'out' / 'model.safetensors')
  prefix = families.find_family(model.config.family).prefix
  bare = lambda tensors: {name.removeprefix(prefix): x for name, x in tensors.items()}
  written, wanted = bare(written), bare(model_folder.weights(golden))
  left_out = set(wanted) ^ set(written)  # heads of pretraining, on which no state depends
  assert all(name.startswith(('pooler.', 'lm_head.', 'head.', 'decoder.')) for name in left_out)
  assert kind == 'encoder' or not left_out
  for name, x in written.items():
    np.testing.assert_array_equal(x, wanted[name])
  again = hf.load(str(tmp_path / 'out'))
  assert again.config == model.config
  jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


@pytest.mark.parametrize(('kind', 'case'), NEW)
@pytest.mark.filterwarnings('ignore')
def test_transformers_reads_an_export_as_the_model(kind, case, tmp_path):
  torch = pytest.importorskip('torch')
  import transformers

  _, model = loaded(kind, case, tmp_path / 'in')
  hf.save(tmp_path / 'out', model)
  of = transformers.AutoModelForCausalLM if kind == 'decoder' else transformers.AutoModel
  one, other = (
    of.from_pretrained(tmp_path / place, attn_implementation='eager').eval()
    for place in ('in', 'out')
  )
  ids = torch.tensor(make_encoder_goldens.tokens()[:1])
  with torch.no_grad():
    first, second = (net(ids)[0].numpy() for net in (one, other))
  np.testing.assert_array_equal(first, second)


REFUSED = {
  'mixtral': 'mistral', 'qwen3_moe': 'qwen3', 'mamba': 'gpt_neox', 'mamba2': 'gpt_neox',
  't5': 'llama', 'mt5': 'llama', 'deepseek_v3': 'llama', 'falcon': 'gpt_neox', 'bloom': 'gpt_neox',
  'phi': 'phi3', 'cohere2': 'llama', 'deberta-v2': 'roberta', 'electra': 'bert', 'albert': 'bert',
  'gemma3': 'gemma3_text', 'opt': 'gpt2', 'stablelm': 'llama', 'olmo': 'olmo2', 'gptj': 'gpt_neox',
  'llama4': 'llama', 'granitemoehybrid': 'granite', 'never_heard_of': 'llama', 'xbert': 'bert',
}  # fmt: skip


@pytest.mark.parametrize('name', REFUSED)
def test_another_architecture_is_refused_by_the_nearest_that_works(name, tmp_path):
  values = {'model_type': name, 'is_encoder_decoder': name == 'mt5'}
  (tmp_path / 'config.json').write_text(json.dumps(values))
  with pytest.raises(UserError) as refused:
    hf.load_config(str(tmp_path))
  message = str(refused.value)
  assert '\n' not in message
  assert f'model_type {name!r} is unknown; ' in message
  close = message.split('the nearest that works: ')[1].split('; known')[0]
  assert REFUSED[name] in close.replace(',', ' ').replace(';', ' ').split()
  assert REFUSED[name] in families.FAMILIES


LONG = {'rope_type': 'longrope', 'short_factor': [1, 1], 'long_factor': [1, 1], 'factor': 2}
HOSTILE = [
  ('mistral', {'sliding_window': 0}, "'sliding_window' is 0, not positive"),
  ('mistral', {'sliding_window': 'x'}, "'sliding_window' is 'x'"),
  ('gemma', {'use_bidirectional_attention': True}, 'use_bidirectional_attention True'),
  ('gemma2', {'attn_logit_softcapping': -5.0}, "'attn_logit_softcapping' is -5.0, not positive"),
  ('gemma2', {'layer_types': ['full_attention']}, 'has 1 entry; the model has 2 layers'),
  ('gemma2', {'layer_types': ['linear_attention'] * 2}, "layer_types 'linear_attention' is not"),
  ('gemma2', {'layer_types': [[], []]}, r'layer_types \[\] is not supported'),
  ('gemma2', {'query_pre_attn_scalar': 0}, "'query_pre_attn_scalar' is 0, not positive"),
  ('gemma2', {'sliding_window': None}, "'sliding_window' is null, but layers have a window"),
  ('gemma3_text', {'rope_parameters': {'rope_theta': 1e4}}, 'needs full_attention and sliding'),
  ('gemma3_text', {'rope_parameters': {'full_attention': 3}}, "'full_attention' is 3"),
  (
    'gemma3_text',
    {'rope_parameters': {'sliding_attention': {'rope_type': 'linear', 'factor': 2}}},
    "rope_type 'linear' is not supported",
  ),
  ('phi3', {'rope_scaling': LONG | {'long_factor': [1]}}, 'long_factor has 1 number;'),
  ('phi3', {'rope_scaling': LONG | {'short_factor': [0, 1]}}, "short_factor: field '0' is 0"),
  ('phi3', {'rope_scaling': LONG | {'short_factor': 'ab'}}, "'short_factor' is 'ab'"),
  ('phi3', {'partial_rotary_factor': 1.5}, 'of each head is rotated'),
  (
    'phi3',
    {'original_max_position_embeddings': 8, 'rope_scaling': LONG | {
      'original_max_position_embeddings': 9}},
    'original_max_position_embeddings is 8, but 9',
  ),
  ('smollm3', {'no_rope_layers': [1, 2]}, 'no_rope_layers 2 is not supported'),
  (
    'smollm3',
    {'sliding_window': 3, 'layer_types': ['sliding_attention'] * 2},
    'layer_types has windows, but use_sliding_window',
  ),
  ('granite', {'logits_scaling': 0}, "'logits_scaling' is 0, not positive"),
  ('starcoder2', {'norm_epsilon': 'small'}, "'norm_epsilon' is 'small'"),
  ('llama', {'rope_scaling': {'type': 'yarn', 'factor': float('nan')}}, "'factor' is nan"),
  ('llama', {'rope_scaling': {'type': 'yarn', 'factor': 2, 'beta_fast': -1}}, "'beta_fast' is -1"),
  ('llama', {'rope_scaling': {'type': 'dynamic'}}, "'factor' is missing"),
  ('llama', {'partial_rotary_factor': 0.5}, 'partial_rotary_factor 0.5'),
  (
    'llama',
    {'rope_scaling': {'rope_type': 'llama3', 'factor': 2, 'low_freq_factor': 4,
                      'high_freq_factor': 1}},
    'low_freq_factor 4.0 is not below high_freq_factor 1.0',
  ),
  ('gemma2', {'layer_types': []}, 'layer_types has 0 entries; the model has 2 layers'),
  (
    'gemma2',
    {'rope_parameters': {'full_attention': {'rope_theta': 5.0}}},
    "rope_parameters has 'full_attention'; all layers",
  ),
  ('llama', {'rope_scaling': {'sliding_attention': None}}, "rope_scaling has 'sliding_attention'"),
  ('granite', {'num_key_value_heads': 3}, 'num_attention_heads, num_key_value_heads'),
  ('mpnet', {'relative_attention_num_buckets': 8}, 'relative_attention_num_buckets 8'),
  ('modernbert', {'global_attn_every_n_layers': 0}, "'global_attn_every_n_layers' is 0"),
  ('modernbert', {'rope_scaling': {'type': 'linear', 'factor': 2}}, 'are not supported'),
]  # fmt: skip


@pytest.mark.parametrize(('family', 'fields', 'says'), HOSTILE)
def test_values_that_cannot_be_are_refused(family, fields, says):
  values = {
    'vocab_size': 30, 'hidden_size': 16, 'intermediate_size': 24, 'num_hidden_layers': 2,
    'num_attention_heads': 4,
  }  # fmt: skip
  read = families.find_family(family).read
  read(Fields(values, 'config.json'))
  with pytest.raises(UserError, match=says) as refused:
    read(Fields(values | fields, 'config.json'))
  assert '\n' not in str(refused.value)


@pytest.mark.parametrize('case', ['phi3', 'gemma2', 'starcoder2', 'olmo2'])
def test_an_adapter_of_every_projection_comes_back_from_a_folder(case, tmp_path):
  _, model = loaded('decoder', case, tmp_path / 'in')
  names = list(lora.kernels(model.params))
  adapter = lora.init_adapter(model.params, jax.random.key(0), 2, 4.0, names)
  draw = np.random.default_rng(0)
  for part in adapter['layers'].values():
    part['b'] = draw.standard_normal(part['b'].shape).astype(np.float32)
  peft.write(tmp_path / 'out', model.config, adapter)
  again = peft.read(tmp_path / 'out', model.config)
  wanted, found = (dict(lora.weight_deltas(a)) for a in (adapter, again))
  assert set(found) == set(wanted) == set(names)
  for name, x in wanted.items():
    np.testing.assert_allclose(found[name], x, rtol=0, atol=1e-6 * np.abs(x).max())


@pytest.mark.parametrize('name', ['qwen2', 'phi3', 'olmo2', 'smollm3', 'starcoder2'])
def test_a_width_of_heads_is_read_where_transformers_reads_it(name):
  values = {
    'vocab_size': 30, 'hidden_size': 16, 'intermediate_size': 24, 'num_hidden_layers': 2,
    'num_attention_heads': 4, 'num_key_value_heads': 2, 'head_dim': 8,
  }  # fmt: skip
  fields = Fields(values, 'config.json')
  assert families.find_family(name).read(fields).head_dim == 8
  assert not [line for line in fields.unread() if 'head_dim' in line]


def test_fields_are_written_as_they_are_read():
  rope = {'full_attention': {'rope_theta': 5.0}, 'sliding_attention': {'rope_theta': 2.0}}
  both = gemma_config_json.local_rope(
    Fields({'rope_parameters': rope}, 'config.json'), ('rope_theta', 1.0), ('local', 1.0)
  )
  assert both == {'rope_theta': 5.0, 'local_theta': 2.0}
  written = llama_like_json.write_granite(dataclasses.replace(TINY, logit_divisor=3.0))
  assert (written['logits_scaling'], written['hidden_size']) == (3.0, 16)


def test_the_nearest_of_a_wrapper_is_its_own_text_model():
  values = {'text_config': {'model_type': 'qwen3'}}
  assert 'works: qwen3, its text model' in nearest.nearest('some_vl', values, ['llama', 'qwen3'])


def test_a_window_is_left_out_where_no_row_is_so_long():
  config = dataclasses.replace(TINY, window=3, windowed=(True, False, True))
  place = np.arange(4)
  assert attention.near(config, 0, place[:3], place[:3]) is None
  band = np.abs(place[:, None] - place) < 3
  np.testing.assert_array_equal(attention.near(config, np.array(0), place, place), band)
  assert np.all(attention.near(config, np.array(1), place, place))
  assert attention.near(TINY, np.array(0), place, place) is None


def test_added_blocks_are_of_the_kind_before_them():
  kinds = (True, False, True)
  config = dataclasses.replace(TINY, window=3, windowed=kinds, unrotated=kinds, block_every=2)
  grown = config.with_depth(5)
  assert grown.windowed == grown.unrotated == (True, False, False, True, True)
  assert config.with_depth(7).windowed == (True, False, False, False, True, True, True)
  assert config.with_depth(2).windowed == (True, False)
  assert grown.with_depth(5) == grown
  with pytest.raises(ValueError, match='which were added'):
    dataclasses.replace(config, block_every=0).with_depth(5)


@pytest.mark.parametrize('case', ['gemma2', 'gemma3', 'smollm3', 'olmo2', 'qwen2_window'])
def test_added_blocks_change_nothing_in_models_whose_layers_differ(case, tmp_path):
  from support.tiny import every_position

  from jcl.backbones.decoder import decoder

  _, model = loaded('decoder', case, tmp_path)
  every = 3
  backbone = decoder(dataclasses.replace(model.config, block_every=every))
  grown, _ = block_expansion.expand(model.params, block_expansion.group_sizes(model.params, every))
  batch = every_position(make_decoder_goldens.tokens(), make_decoder_goldens.ROWS, bucket=12)
  run = jax.jit(backbone.logits)
  np.testing.assert_allclose(run(grown, batch), run(model.params, batch), rtol=0, atol=1e-4)
