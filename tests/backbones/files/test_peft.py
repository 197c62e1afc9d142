"""PEFT folders in and out, against peft and its golden values; refusals."""

import functools
import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from goldens import make_decoder_goldens as decoders
from goldens import make_lora_goldens as goldens
from support import adapter_folder, damage, model_folder, rounding

from jcl.backbones import lora
from jcl.backbones.files import families, hf, peft, tensors
from jcl.errors import UserError
from jcl.storage import atomic

FAMILIES = pytest.mark.parametrize('case', ['gpt2', 'neox', 'llama', 'mistral', 'qwen2', 'qwen3'])


def check(case, golden, folder):
  """Logits with the adapter beside the weights, and in them, within rounding."""
  loaded = adapter_folder.model(case, folder / 'model')
  adapter = peft.read(adapter_folder.write(folder / 'adapter', golden), loaded.config)
  params = {**loaded.params, 'lora': adapter}
  wanted_MV = adapter_folder.real(golden['right'])
  beside_MV = adapter_folder.logits(loaded.config, params)
  folded_MV = adapter_folder.logits(loaded.config, lora.merged(params))
  beside, folded = (np.abs(x - wanted_MV).max() for x in (beside_MV, folded_MV))
  without = np.abs(adapter_folder.logits(loaded.config, loaded.params) - wanted_MV).max()
  print(f'{case}: beside {beside:.1e}, folded {folded:.1e}, without {without:.1e}')
  for found_MV in (beside_MV, folded_MV):
    rounding.assert_close(found_MV, wanted_MV, **rounding.of_model(loaded.config))
  assert without > 0.1


@pytest.mark.parametrize('case', goldens.CASES)
def test_logits_equal_the_golden_ones(case, tmp_path):
  check(case, adapter_folder.golden(case), tmp_path)


@pytest.mark.parametrize('case', goldens.CASES)
@pytest.mark.filterwarnings('ignore')
def test_logits_equal_those_of_peft_now(case, tmp_path):
  pytest.importorskip('peft')
  check(case, goldens.golden(case), tmp_path)


@pytest.mark.parametrize('case', goldens.CASES)
@pytest.mark.parametrize('kind', ['shared', 'own', 'some'])
@pytest.mark.filterwarnings('ignore')
def test_peft_reads_what_is_written(case, kind, tmp_path):
  """Adapters with one A for q, k and v, with three, and without k."""
  theirs = pytest.importorskip('peft')
  loaded = adapter_folder.model(case, tmp_path / 'model')
  adapter = random_adapter(loaded, kind)
  folder = tmp_path / 'adapter'
  peft.write(folder, loaded.config, adapter, str(tmp_path / 'model'))
  net = theirs.PeftModel.from_pretrained(decoders.model(case), folder).eval()
  right = np.arange(decoders.TOKENS) < np.array(decoders.ROWS)[:, None]
  wanted_MV = adapter_folder.real(decoders.logits(net, decoders.tokens(), right))
  params = {**loaded.params, 'lora': adapter}
  found_MV = adapter_folder.logits(loaded.config, params)
  gap = np.abs(found_MV - wanted_MV).max()
  table = families.find_family(loaded.config.family).table
  written = dict(tensors.write(loaded.config, table, lora.merged(params)))
  net.merge_and_unload().save_pretrained(tmp_path / 'merged')
  state = safetensors.numpy.load_file(tmp_path / 'merged' / 'model.safetensors')
  assert set(written) == set(state)
  folded = max(np.abs(x - state[name]).max() for name, x in written.items())
  print(f'{case}, {kind}: logits {gap:.1e}, merged weights {folded:.1e}')
  rounding.assert_close(found_MV, wanted_MV, **rounding.of_model(loaded.config))
  # Fused q, k and v have a rank of 2 each; then the sum with the weight.
  rounding.assert_close(written, state, terms=6, depth=2)


def random_adapter(loaded, kind='own', scale=0.25):
  """A small random adapter of all projections; see `test_peft_reads_what_is_written`."""
  adapter = adapter_folder.adapter(lora.kernels(loaded.params), 2, 0, scale)
  layers = adapter['layers']
  for part in layers.values():
    part['b'] *= 0.2
  if kind == 'shared':
    layers['k']['a'] = layers['v']['a'] = layers['q']['a']
  if kind == 'some':
    del layers['k'], layers['down']
  return adapter


@pytest.mark.parametrize('case', goldens.CASES)
def test_a_folder_of_peft_survives_bit_for_bit(case, tmp_path):
  config = adapter_folder.model(case, tmp_path / 'model').config
  golden = adapter_folder.golden(case)
  adapter = peft.read(adapter_folder.write(tmp_path / 'one', golden), config)
  peft.write(tmp_path / 'two', config, adapter)
  adapter_folder.same(peft.read(tmp_path / 'two', config), adapter)
  if case != 'qwen3':  # whose ranks differ by layer: A and B are filled up with zeros
    wanted = model_folder.weights(golden)
    found = safetensors.numpy.load_file(tmp_path / 'two' / 'adapter_model.safetensors')
    assert set(found) == set(wanted)
    for name, x in wanted.items():
      np.testing.assert_array_equal(found[name], x)


@FAMILIES
def test_our_adapters_survive_bit_for_bit(case, tmp_path):
  loaded = adapter_folder.model(case, tmp_path / 'model')
  adapter = random_adapter(loaded, 'shared')
  adapter['layers']['o']['scale'] = np.array([0.1, 3], np.float32)
  adapter['layers']['down']['scale'] = np.array([0.7, 0.7], np.float32)
  adapter_folder.same(adapter_folder.reread(tmp_path / 'a', loaded.config, adapter), adapter)
  half = {'layers': {name: adapter['layers'][name] for name in ('o', 'up')}}
  adapter_folder.same(adapter_folder.reread(tmp_path / 'b', loaded.config, half), half)


@pytest.mark.parametrize('case', ['gpt2', 'neox'])
@pytest.mark.parametrize('kind', ['own', 'some'])
@pytest.mark.parametrize('scales', ['equal', 'different'])
def test_fused_projections_stand_side_by_side(case, kind, scales, tmp_path):
  loaded = adapter_folder.model(case, tmp_path / 'model')
  adapter = random_adapter(loaded, kind)
  if scales == 'different':
    adapter['layers']['v']['scale'] = np.array([0.3, 1.7], np.float32)
  again = adapter_folder.reread(tmp_path / 'a', loaded.config, adapter)
  for name in ('q', 'k', 'v'):
    part = again['layers'][name]
    assert part['a'].shape[1] == (4 if kind == 'some' else 6)
    if scales == 'equal':
      np.testing.assert_array_equal(part['scale'], [0.25, 0.25])
    found = adapter_folder.product(again, name)
    wanted = 0 * found if name == 'k' and kind == 'some' else adapter_folder.product(adapter, name)
    rounding.assert_close(found, wanted, terms=6)  # the rank
  assert again['layers']['o']['a'].shape[1] == 2


def test_a_written_folder_says_what_it_is(tmp_path):
  loaded = adapter_folder.model('gpt2', tmp_path / 'model')
  peft.write(tmp_path / 'a', loaded.config, random_adapter(loaded), 'gpt2', dropout=0.05)
  fields = json.loads((tmp_path / 'a' / 'adapter_config.json').read_text())
  assert fields == {
    'base_model_name_or_path': 'gpt2', 'bias': 'none', 'fan_in_fan_out': True,
    'inference_mode': True, 'lora_dropout': 0.05, 'peft_type': 'LORA', 'task_type': 'CAUSAL_LM',
    'target_modules': ['c_attn', 'attn.c_proj', 'c_fc', 'mlp.c_proj'], 'r': 2, 'lora_alpha': 0.5,
    'rank_pattern': {'c_attn': 6}, 'alpha_pattern': {'c_attn': 1.5},
  }  # fmt: skip
  assert sorted(f.name for f in (tmp_path / 'a').iterdir()) == [
    'adapter_config.json', 'adapter_model.safetensors'
  ]  # fmt: skip
  assert peft.common_base([tmp_path / 'a']) == 'gpt2'
  for base in ('gpt2', 'models/gpt2', str(tmp_path / 'gpt2')):
    assert peft.notes_on([tmp_path / 'a'], base) == []
  (line,) = peft.notes_on([tmp_path / 'a'], 'models/pythia')
  assert line.endswith('base_model_name_or_path is gpt2; models/pythia is taken, as --base says')
  more = {'use_dora': False, 'use_qalora': False, 'scale_up': False, 'kasa_config': None}
  (tmp_path / 'a' / 'adapter_config.json').write_text(json.dumps(fields | more))
  (line,) = peft.notes_on([tmp_path / 'a'], 'gpt2')
  assert line.endswith('adapter_config.json: settings that nothing reads: scale_up (false)')


def test_bare_models_half_precision_and_all_linear_are_read(tmp_path):
  config, golden = (
    adapter_folder.model('neox', tmp_path / 'm').config,
    adapter_folder.golden('neox'),
  )
  folder = adapter_folder.write(tmp_path / 'a', golden)
  wanted = peft.read(folder, config)
  half = {
    name.replace('base_model.model.gpt_neox.', 'base_model.model.'): x.astype(ml_dtypes.bfloat16)
    for name, x in model_folder.weights(golden).items()
  }
  safetensors.numpy.save_file(half, folder / 'adapter_model.safetensors')
  edit(target_modules='all-linear')(folder)
  rounded = lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32)
  found = peft.read(folder, config)
  adapter_folder.same(
    {n: {k: p[k] for k in 'ab'} for n, p in found['layers'].items()},
    {n: {k: rounded(p[k]) for k in 'ab'} for n, p in wanted['layers'].items()},
  )


edit = functools.partial(damage.edit, 'adapter_config.json')
reweigh = functools.partial(damage.reweigh, 'adapter_model.safetensors')
cut = damage.cut('adapter_model.safetensors')
pickled = damage.pickled('adapter_model.safetensors', 'adapter_model.bin')


Q = 'base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight'
B = Q.replace('lora_A', 'lora_B')
CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'
BAD = {
  'no config': (lambda f: (f / CONFIG).unlink(), f'{CONFIG}: no such file'),
  'malformed': (lambda f: (f / CONFIG).write_text('{'), f'{CONFIG}: not valid JSON'),
  'no weights': (lambda f: (f / WEIGHTS).unlink(), f'{WEIGHTS}: no such file'),
  'pickle': (pickled, 'adapter_model.bin: pickled weights can run code'),
  'truncated': (cut, f'{WEIGHTS}: truncated'),
  'kind': (edit(peft_type='IA3'), f"{CONFIG}: peft_type 'IA3' is not supported"),
  'no kind': (edit(peft_type=...), "field 'peft_type' is missing"),
  'bias': (edit(bias='lora_only'), f"{CONFIG}: bias 'lora_only': not supported in an adapter by"),
  'bias of B': (
    edit(lora_bias=True),
    'lora_bias: not supported in an adapter by itself; merge it alone',
  ),
  'modules': (
    edit(modules_to_save=['lm_head']),
    'modules_to_save: not supported in an adapter by itself',
  ),
  'dora': (edit(use_dora=True), 'use_dora: not supported in an adapter by itself; merge it alone'),
  'layers': (edit(layers_to_transform=[0]), r"layers_to_transform' has no meaning|is unknown"),
  'first layer': (edit(layers_to_transform=0), r"layers_to_transform' has no meaning|is unknown"),
  'a field to come': (edit(use_xora={'a': 1}), 'use_xora .* is not supported'),
  'pissa': (
    edit(init_lora_weights='pissa'),
    "init_lora_weights 'pissa': not supported in an adapter by",
  ),
  'rank': (edit(r=0), f"{CONFIG}: field 'r' is 0, not positive"),
  'no rank': (edit(r=...), "field 'r' is missing"),
  'alpha': (edit(lora_alpha='16'), "field 'lora_alpha' is '16', not of type float"),
  'infinite alpha': (edit(lora_alpha=float('inf')), "field 'lora_alpha' is inf; it must be finite"),
  'rslora': (edit(use_rslora='yes'), "field 'use_rslora' is 'yes', not of type bool"),
  'pattern': (edit(rank_pattern={'q_proj': 'x'}), "rank_pattern: field 'q_proj' is 'x'"),
  'no pattern': (edit(alpha_pattern={'(': 2}), r"alpha_pattern: '\(' is no regular expression"),
  'target': (
    edit(target_modules=['q_proj', 'lm_head']),
    f"{CONFIG}: field 'target_modules': 'lm_head' is no module that can be adapted; "
    'known: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj',
  ),
  'no targets': (edit(target_modules=None), "'target_modules' is None, neither"),
  'empty targets': (edit(target_modules=[]), r"'target_modules' \[\] names no module"),
  'a pattern of nothing': (edit(target_modules='x.*'), "'x.*' names no module"),
  'no expression': (edit(target_modules='('), r"'\(' is no regular expression"),
  'one layer': (edit(target_modules=r'.*\.1\..*q_proj'), r'layers\.0\..* is unknown'),
  'missing': (reweigh(lambda w: w.pop(Q)), f"{WEIGHTS}: tensor '{Q}' is missing"),
  'unknown': (
    reweigh(lambda w: w.update({'base_model.model.lm_head.weight': np.zeros(3, np.float32)})),
    "tensor 'base_model.model.lm_head.weight' is unknown",
  ),
  'untargeted': (edit(target_modules=['v_proj', 'gate_proj']), r"'.*q_proj.*' is unknown"),
  'rank of A': (
    reweigh(lambda w: w.update({Q: np.zeros((5, 16), np.float32)})),
    rf"{WEIGHTS}: tensor '{Q}' has shape \(5, 16\); model and config want \(4, 16\)",
  ),
  'transposed': (
    reweigh(lambda w: w.update({B: np.ascontiguousarray(w[B].T)})),
    rf"tensor '{B}' has shape \(4, 16\); model and config want \(16, 4\)",
  ),
  'integers': (reweigh(lambda w: w.update({Q: np.zeros((4, 16), np.int8)})), 'is I8, not one of'),
  'not finite': (reweigh(lambda w: w[Q].fill(np.nan)), f"'{Q}' holds NaN or infinity"),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_folders_are_refused_in_one_line(name, tmp_path):
  change, says = BAD[name]
  folder = adapter_folder.write(tmp_path / 'a', adapter_folder.golden('llama'))
  change(folder)
  config = hf.load_config(str(model_folder.write(tmp_path / 'm', model_folder.golden('llama'))))
  with pytest.raises(UserError, match=says) as caught:
    peft.read(folder, config)
  assert '\n' not in str(caught.value)
  assert str(tmp_path) in str(caught.value)


def test_an_adapter_of_another_model_is_neither_read_nor_written(tmp_path):
  config = adapter_folder.model('mistral', tmp_path / 'm').config  # with smaller values
  folder = adapter_folder.write(tmp_path / 'a', adapter_folder.golden('qwen3'))
  with pytest.raises(UserError, match=r'q_proj.lora_B.weight. has shape \(32, 3\)'):
    peft.read(folder, config)
  loaded = adapter_folder.model('qwen3', tmp_path / 'n')
  with pytest.raises(UserError, match=r'the adapter: .* is for .*; the model has'):
    peft.write(tmp_path / 'out', config, random_adapter(loaded))
  assert not (tmp_path / 'out').exists()


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
  loaded = adapter_folder.model('llama', tmp_path / 'm')
  kept = tmp_path / 'kept'
  kept.mkdir()
  (kept / 'thesis.tex').write_text('precious')
  with pytest.raises(UserError, match='holds something else; name a new folder'):
    peft.write(kept, loaded.config, random_adapter(loaded))
  with pytest.raises(UserError, match='is a file; name a new folder'):
    atomic.check_new(kept / 'thesis.tex')
  assert [f.name for f in kept.iterdir()] == ['thesis.tex']

  def full(*args: object):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(peft.tensors.safetensors.numpy, 'save_file', full)
  with pytest.raises(OSError, match='No space'):
    peft.write(tmp_path / 'out', loaded.config, random_adapter(loaded))
  assert sorted(f.name for f in tmp_path.iterdir()) == ['kept', 'm']
  monkeypatch.undo()
  adapter = jax.tree.map(jax.numpy.asarray, random_adapter(loaded))  # jax arrays are written too
  (tmp_path / 'new').mkdir()
  adapter_folder.same(adapter_folder.reread(tmp_path / 'new', loaded.config, adapter), adapter)


def test_of_a_model_on_the_hub_the_config_alone_is_fetched(tmp_path, monkeypatch):
  import huggingface_hub

  folder, asked = model_folder.write(tmp_path / 'm', model_folder.golden('qwen3')), []

  def fetch(name, allow_patterns, **kwargs):
    asked.append((name, allow_patterns))
    return str(folder)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', fetch)
  (folder / 'model.safetensors').unlink()
  (folder / 'tokenizer.json').unlink()
  assert hf.load_config('someone/some-model').family == 'qwen3'
  (name, patterns), *more = asked
  assert name == 'someone/some-model'
  assert not more
  assert '*.safetensors' not in patterns
  (folder / 'config.json').unlink()
  with pytest.raises(UserError, match=r'config.json: no such file'):
    hf.load_config(str(folder))


ENCODERS = ('bert', 'roberta', 'distilbert')


def adapted_encoder(case, folder):
  """A tiny encoder on disk, and an adapter of three of its projections."""
  folder.mkdir()
  loaded = model_folder.load_encoder(folder, model_folder.golden(case, 'encoder'))
  adapter = lora.init_adapter(loaded.params, jax.random.key(0), 3, 6.0, ('q', 'v', 'up'))
  return loaded, jax.tree.map(lambda x: np.asarray(x + 0.05), adapter)


@pytest.mark.parametrize('case', ENCODERS)
def test_adapters_of_encoders_come_back_bit_for_bit(case, tmp_path):
  loaded, adapter = adapted_encoder(case, tmp_path / 'm')
  adapter_folder.same(adapter_folder.reread(tmp_path / 'a', loaded.config, adapter), adapter)
  fields = json.loads((tmp_path / 'a' / 'adapter_config.json').read_text())
  assert fields['task_type'] == 'FEATURE_EXTRACTION'
  names = safetensors.numpy.load_file(tmp_path / 'a' / 'adapter_model.safetensors')
  assert not any(f'base_model.model.{case}.' in name for name in names)  # of the bare model


@pytest.mark.parametrize('case', ENCODERS)
@pytest.mark.filterwarnings('ignore')
def test_peft_reads_adapters_of_encoders(case, tmp_path):
  torch, package = pytest.importorskip('torch'), pytest.importorskip('peft')
  import transformers

  from jcl.backbones import encoder

  loaded, adapter = adapted_encoder(case, tmp_path / 'm')
  peft.write(tmp_path / 'a', loaded.config, adapter, str(tmp_path / 'm'))
  net = transformers.AutoModel.from_pretrained(tmp_path / 'm')
  net = package.PeftModel.from_pretrained(net, str(tmp_path / 'a')).eval()
  tokens_BT = np.random.default_rng(0).integers(5, 30, (2, 9))
  with torch.no_grad():
    wanted = net(input_ids=torch.tensor(tokens_BT)).last_hidden_state.numpy()
  params = jax.tree.map(jax.numpy.asarray, {**loaded.params, 'lora': adapter})
  found = encoder.states(loaded.config, params, tokens_BT, encoder.Place(np.full(2, 9)))
  plain = encoder.states(loaded.config, loaded.params, tokens_BT, encoder.Place(np.full(2, 9)))
  rounding.assert_close(found, wanted, **rounding.of_model(loaded.config))
  assert np.abs(np.asarray(plain) - wanted).max() > 0.1
