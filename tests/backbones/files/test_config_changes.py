"""A changed config.json is read as transformers reads it, or refused in one line."""

import json
import shutil

import jax
import numpy as np
import pytest
from goldens import make_encoder_goldens
from support import model_folder
from support.hostile import outcome
from support.tiny import every_position

from jcl.backbones.encoder import Place, states
from jcl.backbones.files import contradictions, families, hf
from jcl.backbones.files.fields import Fields
from jcl.backbones.models import make_backbone
from jcl.errors import UserError

SIZES = {
  'vocab_size': 30, 'hidden_size': 16, 'intermediate_size': 24, 'num_hidden_layers': 2,
  'num_attention_heads': 4,
}  # fmt: skip
PLAIN = {'rope_type': 'default', 'rope_theta': 500.0}
LINEAR = {'rope_type': 'linear', 'factor': 2.0}


def read(family, **values):
  return families.find_family(family).read(Fields(SIZES | values, 'config.json'))


@pytest.mark.parametrize('family', ['llama', 'gemma2', 'granite', 'starcoder2', 'mistral', 'qwen2'])
def test_rope_scaling_counts_where_rope_parameters_say_otherwise(family):
  config = read(family, rope_parameters=PLAIN, rope_scaling=LINEAR, rope_theta=700.0)
  assert (config.rope_scaling.kind, config.rope_scaling.factor) == ('linear', 2)
  assert config.rope_theta == 700
  assert read(family, rope_parameters=PLAIN, rope_scaling={}).rope_theta == 500


def test_a_line_names_the_rotary_settings_that_two_forms_give_differently():
  of = lambda fields: contradictions.of_config(fields, 'config.json', read('llama'))
  lines = lambda **values: of(Fields(values, 'config.json'))
  found = lines(rope_scaling=LINEAR, rope_parameters=PLAIN | {'rope_type': 'yarn', 'factor': 2.0})
  assert any('rope_scaling and rope_parameters differ in rope_type; rope_s' in x for x in found)
  same = {'type': 'linear', 'factor': 2.0}
  for parameters in (PLAIN | LINEAR, {'full_attention': PLAIN | LINEAR}):
    found = lines(rope_scaling=same, rope_parameters=parameters)
    assert not any('differ' in line for line in found)


@pytest.mark.parametrize(
  ('family', 'named'),
  [
    ('qwen2', ['attention_bias false']), ('phi3', []), ('mistral', ['use_sliding_window false']),
    ('bert', ['attention_bias false', 'mlp_bias false']),
  ],
)  # fmt: skip
def test_a_setting_that_is_false_is_named_where_the_model_has_that_part(family, named):
  sizes = SIZES | {'attention_bias': False, 'mlp_bias': False, 'use_sliding_window': False}
  fields = Fields(sizes, 'config.json')
  config = families.find_family(family).read(fields)
  found = contradictions.of_config(fields, 'config.json', config)
  start = 'config.json: settings that nothing reads: '
  assert found == ([start + ', '.join(named)] if named else [])


@pytest.mark.parametrize(
  ('family', 'values', 'says'),
  [
    ('gemma3_text', {'rope_scaling': {'type': 'linear', 'factor': 8.0}}, "call it 'rope_type'"),
    (
      'gemma3_text',
      {'rope_scaling': {'rope_type': 'yarn', 'factor': 2.0, 'truncate': False}},
      'truncate False',
    ),
    (
      'mistral',
      {'layer_types': ['sliding_attention', 'full_attention']},
      'all must be sliding_att',
    ),
    (
      'mistral',
      {'layer_types': ['sliding_attention'] * 2, 'sliding_window': None},
      'must be full_',
    ),
    ('modernbert', {'rope_scaling': PLAIN}, 'scaled rotary frequencies of ModernBERT'),
  ],
)
def test_what_versions_of_transformers_read_differently_is_refused(family, values, says):
  with pytest.raises(UserError, match=says):
    read(family, **values)


@pytest.mark.parametrize(('kind', 'case'), [('decoder', 'gemma2'), ('encoder', 'bert')])
def test_a_decoder_that_sees_what_follows_is_refused(kind, case, tmp_path):
  golden = model_folder.golden(case, kind)
  folder = model_folder.write(tmp_path, golden)
  values = json.loads(str(golden['config']))
  (folder / 'config.json').write_text(json.dumps(values | {'is_causal': kind == 'decoder'}))
  hf.load_config(str(folder))
  (folder / 'config.json').write_text(json.dumps(values | {'is_causal': kind == 'encoder'}))
  with pytest.raises(UserError, match=r'config.json: is_causal .* is not supported'):
    hf.load_config(str(folder))


ORIGINAL = {'original_max_position_embeddings': 6}
YARN = {'rope_type': 'yarn', 'factor': 4.0, **ORIGINAL}
LLAMA3 = {
  'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0, **ORIGINAL
}  # fmt: skip
CHANGES = (
  {}, {'rope_scaling': LINEAR}, {'rope_scaling': {'type': 'linear', 'factor': 3.0}},
  {'rope_scaling': YARN | {'mscale': 0.7, 'mscale_all_dim': 0.9}},
  {'rope_scaling': YARN | {'truncate': False}, 'rope_theta': 700.0},
  {'rope_parameters': YARN | {'beta_fast': 2, 'beta_slow': 0.5}}, {'rope_scaling': LLAMA3},
  {'rope_parameters': {'rope_type': 'dynamic', 'factor': 2.0}, 'max_position_embeddings': 6},
  {'rope_parameters': {'full_attention': PLAIN, 'sliding_attention': {'rope_theta': 90.0}}},
  {'rope_parameters': {'full_attention': PLAIN}}, {'rope_theta': 300.0, 'rope_parameters': None},
  {'sliding_window': 2}, {'sliding_window': None}, {'use_sliding_window': True},
  {'layer_types': ['full_attention', 'sliding_attention'] * 2}, {'max_window_layers': 0},
  {'is_causal': False},
  {'layer_types': ['sliding_attention', 'full_attention']}, {'sliding_window_pattern': 3},
  {'head_dim': 8}, {'attention_bias': True}, {'mlp_bias': True}, {'use_bias': False},
  {'num_key_value_heads': 1}, {'tie_word_embeddings': True}, {'partial_rotary_factor': 0.5},
  {'hidden_act': 'gelu'}, {'hidden_activation': 'gelu'}, {'hidden_act': 'gelu_python'},
  {'query_pre_attn_scalar': 7}, {'attn_logit_softcapping': None}, {'final_logit_softcapping': 2.0},
  {'embedding_multiplier': 2.0}, {'attention_multiplier': 0.3}, {'logits_scaling': 8},
  {'local_attention': 5}, {'global_attn_every_n_layers': 3, 'layer_types': None},
  {'norm_bias': True}, {'pad_token_id': 0}, {'relative_attention_num_buckets': 16},
  {'is_decoder': True}, {'position_embedding_type': 'relative_key'}, {'rms_norm_eps': 0.1},
  {'norm_eps': 0.1},
)  # fmt: skip
DECODERS = (
  'gemma', 'gemma2', 'gemma3', 'granite', 'starcoder2', 'mistral_window', 'qwen2_window', 'phi3',
  'olmo2', 'smollm3',
)  # fmt: skip
ENCODERS = ('bert', 'xlm-roberta', 'mpnet', 'modernbert')


def theirs(folder, kind, ids):
  """Writes the weights that transformers makes of a config.json -> its logits, or its states.

  They are None where it makes no model of it.
  """
  torch = pytest.importorskip('torch')
  import transformers

  draw = np.random.default_rng(0)
  of = transformers.AutoModelForCausalLM if kind == 'decoder' else transformers.AutoModel
  try:
    config = transformers.AutoConfig.from_pretrained(folder)
    net = of.from_config(config, attn_implementation='eager').eval().float()
    with torch.no_grad():
      for name, x in sorted(net.named_parameters()):
        is_scale = 'norm' in name.lower() and name.endswith('weight')
        x.copy_(torch.tensor(0.3 * draw.standard_normal(tuple(x.shape)) + is_scale))
      found = net(torch.tensor(ids))[0][0].numpy()
  except Exception:  # of any kind: there is nothing to compare with
    return None
  net.save_pretrained(folder / 'weights')
  (folder / 'weights/model.safetensors').replace(folder / 'model.safetensors')
  return found


@pytest.mark.slow
@pytest.mark.parametrize('case', [*DECODERS, *ENCODERS])
@pytest.mark.filterwarnings('ignore')
def test_a_change_is_read_as_transformers_reads_it_or_refused(case, tmp_path):
  kind = 'encoder' if case in ENCODERS else 'decoder'
  golden, ids = model_folder.golden(case, kind), make_encoder_goldens.tokens()[:1] % 34 + 4
  words, read = model_folder.word_pieces() if kind == 'encoder' else None, 0
  for i, change in enumerate(CHANGES):
    folder = model_folder.write(tmp_path / str(i), golden, tokenizer=words)
    values = json.loads(str(golden['config'])) | change
    (folder / 'config.json').write_text(json.dumps(values))
    wanted = theirs(folder, kind, ids)
    if wanted is None:
      continue
    loaded, _ = outcome(lambda folder=str(folder): hf.load(folder), str(folder))
    if loaded is None:
      continue
    with jax.disable_jit():
      if kind == 'decoder':
        found = make_backbone(loaded.config).logits(loaded.params, every_position(ids))
      else:
        place = Place(np.array([ids.shape[1]], np.int32))
        found = states(loaded.config, loaded.params, ids, place)[0]
    off = np.abs(np.asarray(found)[:, : wanted.shape[1]] - wanted).max()
    assert off < 2e-5 * np.abs(wanted).max(), (change, off)
    read += 1
    shutil.rmtree(folder)
  assert read > len(CHANGES) // 2
