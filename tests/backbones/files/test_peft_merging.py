"""Adapters that change more than two factors of a kernel, merged as PEFT merges them."""

import json

import numpy as np
import pytest
import safetensors.numpy
from support import adapter_folder, rounding

from jcl.backbones.files import peft, peft_config, peft_merging
from jcl.backbones.files.fields import Fields
from jcl.errors import UserError

Q = 'model.layers.{}.self_attn.q_proj'
LIVE = {
  'all-linear': {'target_modules': 'all-linear', 'exclude_modules': ['down_proj']},
  'layers': {'target_modules': ['q_proj'], 'layers_to_transform': [1], 'layers_pattern': 'layers'},
  'regex': {'target_modules': r'.*layers\.0\..*(q_proj|v_proj)', 'use_rslora': True},
  'dora': {'target_modules': ['q_proj', 'up_proj'], 'use_dora': True},
  'saved': {'target_modules': ['q_proj'], 'modules_to_save': ['lm_head', 'embed_tokens']},
  'embedding': {'target_modules': ['q_proj', 'embed_tokens']},
  'projection': {'target_modules': ['lm_head']},
  'tokens': {'target_modules': ['q_proj'], 'trainable_token_indices': [5, 6]},
  'pissa': {'target_modules': ['q_proj'], 'init_lora_weights': 'pissa'},
  'olora': {'target_modules': ['q_proj'], 'init_lora_weights': 'olora'},
  'biases': {'target_modules': ['q_proj'], 'bias': 'all'},
  'lora bias': {'target_modules': ['q_proj'], 'lora_bias': True},
}


@pytest.mark.parametrize('name', LIVE)
@pytest.mark.filterwarnings('ignore')
def test_logits_equal_those_of_peft_now(name, tmp_path):
  theirs, torch = pytest.importorskip('peft'), pytest.importorskip('torch')
  import transformers
  from goldens import make_decoder_goldens as goldens

  loaded = adapter_folder.model('qwen2', tmp_path / 'm')  # tied, with biases
  net = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'm')
  made = theirs.get_peft_model(net, theirs.LoraConfig(r=2, task_type='CAUSAL_LM', **LIVE[name]))
  torch.manual_seed(0)
  for parameter in made.parameters():
    if parameter.requires_grad:
      parameter.data += 0.2 * torch.randn_like(parameter)
  made.save_pretrained(tmp_path / 'adapter')
  right = np.arange(goldens.TOKENS) < np.array(goldens.ROWS)[:, None]
  wanted = adapter_folder.real(goldens.logits(made.eval(), goldens.tokens(), right))
  config, params = peft_merging.merge_one(tmp_path / 'adapter', loaded.config, loaded.params)
  found = adapter_folder.logits(config, params)
  rounding.assert_close(found, wanted, **rounding.of_model(config))


def write(folder, arrays, **fields):
  """A folder as PEFT leaves it."""
  folder.mkdir(exist_ok=True)
  values = {'peft_type': 'LORA', 'r': 2, 'lora_alpha': 4, 'target_modules': ['q_proj'], **fields}
  (folder / 'adapter_config.json').write_text(json.dumps(values))
  arrays = {peft.PREFIX + name: np.asarray(x, np.float32) for name, x in arrays.items()}
  safetensors.numpy.save_file(arrays, folder / 'adapter_model.safetensors')
  return folder


def factors(layers, width=16):
  draw = np.random.default_rng(0)
  return {
    f'{Q.format(i)}.lora_{x}.weight': draw.standard_normal((2, width) if x == 'A' else (width, 2))
    for i in layers
    for x in 'AB'
  }


def test_dora_scales_every_output_to_its_magnitude(tmp_path):
  loaded = adapter_folder.model('llama', tmp_path / 'm')
  arrays = factors([0, 1])
  magnitudes = {f'{Q.format(i)}.lora_magnitude_vector': np.arange(1, 17) for i in (0, 1)}
  folder = write(tmp_path / 'a', {**arrays, **magnitudes}, use_dora=True)
  _, params = peft_merging.merge_one(folder, loaded.config, loaded.params)
  norms = np.linalg.norm(params['layers']['q']['kernel'][1], axis=0)
  np.testing.assert_allclose(norms, np.arange(1, 17), rtol=1e-5)
  with pytest.raises(UserError, match='use_dora: not supported in an adapter by itself; merge it'):
    peft.read(folder, loaded.config)


@pytest.mark.parametrize('said', [True, False])
@pytest.mark.parametrize(
  ('field', 'name', 'width'),
  [('use_dora', 'lora_magnitude_vector', 16), ('lora_bias', 'lora_B.bias', 16)],
)
def test_a_field_that_the_tensors_contradict_is_refused(said, field, name, width, tmp_path):
  loaded = adapter_folder.model('llama', tmp_path / 'm')
  more = {} if said else {f'{Q.format(i)}.{name}': np.ones(width) for i in (0, 1)}
  folder = write(tmp_path / 'a', {**factors([0, 1]), **more}, **{field: said})
  with pytest.raises(UserError, match=f'{field} is {str(said).lower()}, but the file holds'):
    peft_merging.merge_one(folder, loaded.config, loaded.params)


def test_what_is_in_a_part_of_the_layers_goes_there_and_back(tmp_path):
  loaded = adapter_folder.model('llama', tmp_path / 'm')
  folder = write(tmp_path / 'a', factors([1]), layers_to_transform=[1])
  adapter = peft.read(folder, loaded.config)
  assert adapter['layers']['q']['scale'].tolist() == [0, 2]
  again = adapter_folder.reread(tmp_path / 'b', loaded.config, adapter)
  adapter_folder.same(again, adapter)
  values = json.loads((tmp_path / 'b' / 'adapter_config.json').read_text())
  assert values['target_modules'] == [Q.format(1)]
  _, params = peft_merging.merge_one(folder, loaded.config, loaded.params)
  kernel, old = params['layers']['q']['kernel'], loaded.params['layers']['q']['kernel']
  np.testing.assert_array_equal(kernel[0], old[0])
  assert np.abs(kernel[1] - old[1]).max() > 1


def test_what_does_not_fit_is_refused_by_its_name(tmp_path):
  loaded = adapter_folder.model('llama', tmp_path / 'm')
  arrays = factors([0, 1])
  both = lambda says, extra=None, **fields: (says, {**arrays, **(extra or {})}, fields)
  for says, given, fields in (
    both('lora_bias: the module has no bias', {f'{Q.format(0)}.lora_B.bias': np.ones(16)},
         lora_bias=True),
    both("brings 'score.weight'", {'score.weight': np.ones((2, 16))}, modules_to_save=['score']),
    both('has no factors', layers_to_transform=[0, 1], target_modules=['q_proj', 'v_proj']),
    both('is not named there', layers_to_transform=[0]),
    both("init_lora_weights 'pissa_niter_4'", init_lora_weights='pissa_niter_4'),
    both('target_parameters', target_parameters=['x']),
    both("'layers_to_transform' is", layers_to_transform=['x']),
  ):  # fmt: skip
    folder = write(tmp_path / 'a', given, **fields)
    with pytest.raises(UserError, match=says) as caught:
      peft_merging.merge_one(folder, loaded.config, loaded.params)
    assert '\n' not in str(caught.value)


def test_targets_are_those_of_peft():
  targets = lambda **fields: peft_config.Targets(Fields(fields, 'adapter_config.json'))
  assert targets(target_modules=['q_proj']).hits('model.layers.0.q_proj')
  assert not targets(target_modules=['proj']).hits('model.layers.0.q_proj')
  assert not targets(target_modules='all-linear').hits('lm_head', outer=True)
  assert not targets(target_modules='.*q', exclude_modules='.*0.q').hits('x.h.0.q')
  assert targets(target_modules=['q'], layers_to_transform=1).hits('x.h.1.q')
  assert not targets(target_modules=['q'], layers_to_transform=[1], layers_pattern='g').hits(
    'h.1.q'
  )
