"""A model family of another package: read, exported and opened again; bad ones are refused."""

import dataclasses
import json
import sys
import textwrap

import jax
import numpy as np
import pytest
import safetensors.numpy
from support import model_folder, runs

import jcl
from jcl import backbones, cli
from jcl.backbones import lora
from jcl.backbones.files import family, hf, peft, tensors
from jcl.batching.batch import Row, Shape, layout
from jcl.errors import UserError
from jcl.training import experiment

SETTING = 'my_family.models:MY_LLAMA'
MODULE = '''
  """A Llama whose files have names of their own."""

  from jcl.backbones import SAME, DecoderConfig, Family, name_table


  def read(fields):
    fields.allow_only('experts', 1)
    return DecoderConfig(
      vocabulary=fields.get('tokens', int),
      width=fields.get('d_model', int),
      layers=fields.get('depth', int),
      heads=fields.get('heads', int),
      kv_heads=fields.get('kv_heads', int),
      feed_forward=fields.get('d_ff', int),
      norm_epsilon=fields.positive('eps'),
      activation=fields.activation('act', 'silu'),
      tied=False,
      **fields.rope(),
    )


  def write(config):
    return {
      'architectures': ['MyLlamaForCausalLM'],
      'tokens': config.kept_rows,
      'd_model': config.width,
      'depth': config.layers,
      'heads': config.heads,
      'kv_heads': config.kv_heads,
      'd_ff': config.feed_forward,
      'eps': config.norm_epsilon,
      'rope_theta': config.rope_theta,
    }


  MY_LLAMA = Family(
    read,
    write,
    name_table(
      {
        'embed': 'my.tok',
        'layers/attention_norm': 'my.block_{}.norm1',
        'layers/q': 'my.block_{}.query',
        'layers/k': 'my.block_{}.key',
        'layers/v': 'my.block_{}.value',
        'layers/o': 'my.block_{}.out',
        'layers/mlp_norm': 'my.block_{}.norm2',
        'layers/gate': 'my.block_{}.gate',
        'layers/up': 'my.block_{}.up',
        'layers/down': 'my.block_{}.down',
        'final_norm': 'my.last_norm',
        'unembed': 'readout',
      },
      kernel=SAME,
    ),
    prefix='my.',
    ignored=r'^my\\.mask$',
  )
'''
NAMES = {
  'model.embed_tokens': 'my.tok', 'input_layernorm': 'norm1', 'self_attn.q_proj': 'query',
  'self_attn.k_proj': 'key', 'self_attn.v_proj': 'value', 'self_attn.o_proj': 'out',
  'post_attention_layernorm': 'norm2', 'mlp.gate_proj': 'gate', 'mlp.up_proj': 'up',
  'mlp.down_proj': 'down', 'model.norm': 'my.last_norm', 'lm_head': 'readout',
  'model.layers.': 'my.block_',
}  # fmt: skip


@pytest.fixture
def package(tmp_path, monkeypatch):
  """Another package on the path, without entry points, and forgotten afterwards."""
  folder = tmp_path / 'site' / 'my_family'
  folder.mkdir(parents=True)
  (folder / '__init__.py').write_text('')
  (folder / 'models.py').write_text(textwrap.dedent(MODULE))
  monkeypatch.syspath_prepend(str(folder.parent))
  yield folder
  for name in [name for name in sys.modules if name.startswith('my_family')]:
    del sys.modules[name]


def install(package, name='my_llama', place=SETTING):
  """Gives the package an entry point, as an installer writes it."""
  folder = package.parent / 'my_family-0.1.dist-info'
  folder.mkdir()
  (folder / 'METADATA').write_text('Metadata-Version: 2.1\nName: my_family\nVersion: 0.1\n')
  (folder / 'entry_points.txt').write_text(f'[jcl.families]\n{name} = {place}\n')


def renamed(name):
  for theirs, ours in NAMES.items():
    name = name.replace(theirs, ours)
  return name


@pytest.fixture
def llama(tmp_path):
  """The same weights as a Llama."""
  return hf.load(str(model_folder.write(tmp_path / 'llama', model_folder.golden('llama'))))


@pytest.fixture
def folder(tmp_path, llama):
  """The weights in a folder of the other family: names, layout and config.json are its own."""
  folder = model_folder.write(tmp_path / 'mine', model_folder.golden('llama'))
  old = safetensors.numpy.load_file(folder / 'model.safetensors')
  kernel = lambda name: name.endswith('_proj.weight')
  new = {renamed(n): np.ascontiguousarray(x.T if kernel(n) else x) for n, x in old.items()}
  assert not {name for name in new if 'model' in name or 'proj' in name}
  new['my.mask'] = np.zeros(3, np.int8)
  safetensors.numpy.save_file(new, folder / 'model.safetensors')
  config = llama.config
  values = {
    'model_type': 'my_llama', 'tokens': config.rows, 'd_model': config.width,
    'depth': config.layers, 'heads': config.heads, 'kv_heads': config.kv_heads,
    'd_ff': config.feed_forward, 'eps': config.norm_epsilon, 'rope_theta': config.rope_theta,
    'eos_token_id': llama.special.eos, 'bos_token_id': llama.special.bos,
  }  # fmt: skip
  (folder / 'config.json').write_text(json.dumps(values))
  return folder


def logits(loaded):
  rows = [Row(np.arange(3, 9, dtype=np.int32), np.arange(6), np.arange(6), 0, 0)]
  batch = layout(rows, 1, Shape(1, 8, 6))
  return jax.jit(backbones.make_backbone(loaded.config).logits)(loaded.params, batch)


def same_model(found, wanted):
  jax.tree.map(np.testing.assert_array_equal, found.params, wanted.params)
  np.testing.assert_array_equal(logits(found), logits(wanted))


def test_a_family_named_by_the_setting_is_read_exported_and_opened_again(
  package, folder, llama, tmp_path
):
  found = hf.load(str(folder), family=SETTING)
  same_model(found, llama)
  assert (found.config.family, found.config.model_type) == (SETTING, 'my_llama')
  assert found.config.vocabulary == llama.config.vocabulary
  assert hf.load_config(str(folder), SETTING).width == llama.config.width
  hf.save(tmp_path / 'out', found)
  values = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert values['model_type'] == 'my_llama'
  assert values['architectures'] == ['MyLlamaForCausalLM']
  written = safetensors.numpy.load_file(tmp_path / 'out' / 'model.safetensors')
  original = safetensors.numpy.load_file(folder / 'model.safetensors')
  assert set(original) - set(written) == {'my.mask'}
  jax.tree.map(np.testing.assert_array_equal, written, {n: original[n] for n in written})
  again = hf.load(str(tmp_path / 'out'), family=SETTING)
  assert again.config == found.config
  same_model(again, llama)


def test_a_family_is_found_by_its_entry_point(package, folder, llama, tmp_path):
  with pytest.raises(UserError, match=r"model_type 'my_llama' is unknown; .*known: gpt2, .*family"):
    hf.load(str(folder))
  install(package)
  found = hf.load(str(folder))
  same_model(found, llama)
  assert found.config.family == 'my_llama'
  hf.save(tmp_path / 'out', found)
  assert json.loads((tmp_path / 'out' / 'config.json').read_text())['model_type'] == 'my_llama'
  again = hf.load(str(tmp_path / 'out'))
  assert again.config == found.config
  same_model(again, llama)
  values = json.loads((folder / 'config.json').read_text()) | {'model_type': 'mamba'}
  (folder / 'config.json').write_text(json.dumps(values))
  with pytest.raises(UserError, match=r"model_type 'mamba' is unknown; .*known: gpt2, .*my_llama"):
    hf.load(str(folder))


def test_a_bare_model_of_a_family_from_outside_lacks_the_prefix(package, folder, llama):
  weights = safetensors.numpy.load_file(folder / 'model.safetensors')
  bare = {name.removeprefix('my.'): x for name, x in weights.items() if name != 'my.mask'}
  assert 'readout.weight' in bare
  safetensors.numpy.save_file(bare, folder / 'model.safetensors')
  same_model(hf.load(str(folder), family=SETTING), llama)


def test_an_output_projection_in_the_file_is_read_where_it_is_not_the_embedding(package, folder):
  """The name of the projection is known from the family's table."""
  text = (package / 'models.py').read_text().replace('tied=False', 'tied=True')
  (package / 'models.py').write_text(text)
  found = hf.load(str(folder), family=SETTING)
  assert not found.config.tied
  assert any('kept, untied' in note for note in found.notes)


def test_adapters_and_heads_of_a_family_from_outside(package, folder, tmp_path):
  loaded = hf.load(str(folder), family=SETTING)
  adapter = lora.init_adapter(loaded.params, jax.random.key(0), 2, 4.0, ['q', 'down'])
  peft.write(tmp_path / 'adapter', loaded.config, adapter)
  weights = safetensors.numpy.load_file(tmp_path / 'adapter' / 'adapter_model.safetensors')
  assert 'base_model.model.my.block_0.query.lora_A.weight' in weights
  found = peft.read(tmp_path / 'adapter', loaded.config)
  jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(np.asarray, adapter))
  config = dataclasses.replace(loaded.config, classes=3)
  params = {k: v for k, v in loaded.params.items() if k != 'unembed'}
  head = {'kernel': np.ones((config.width, 3), np.float32), 'bias': np.zeros(3, np.float32)}
  hf.save(tmp_path / 'out', hf.Loaded(config, {**params, 'head': head}, *loaded[2:]))
  values = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert values['architectures'] == ['MyLlamaModel']
  again = hf.load(str(tmp_path / 'out'), family=SETTING)
  assert again.config.classes == 3
  np.testing.assert_array_equal(again.params['head']['kernel'], head['kernel'])


ENTRY = "Entry(('layers/q/kernel',), 'q_{}', SAME)"
SPLIT = 'Rule(lambda x, c: [x[:1]], lambda xs, c: xs[0])'
BAD = {
  'no family': ('BAD = 3', 'my_family.models:BAD is int; it must be a jcl.backbones.Family'),
  'a class': ('class BAD: pass', 'my_family.models:BAD is BAD; it must be a jcl.backbones.Family'),
  'a tuple': ('BAD = tuple(MY_LLAMA)', 'BAD is tuple; it must be'),
  'no function': ("BAD = MY_LLAMA._replace(read='read')", 'BAD: read must be a function'),
  'no table': ('BAD = MY_LLAMA._replace(table=())', 'table must be a tuple of jcl.backbones.Entry'),
  'tuples': (
    "BAD = MY_LLAMA._replace(table=(('a', 'b', SAME),))", 'no jcl.backbones.Entry with a Rule',
  ),
  'one text': (
    f'BAD = MY_LLAMA._replace(table=({ENTRY}._replace(paths="embed"),))', "paths 'embed' must be",
  ),
  'no layer': (
    f"BAD = MY_LLAMA._replace(table=({ENTRY}._replace(tensor='q'),))", r"tensor 'q' must have \{\}",
  ),
  'other braces': (
    f"BAD = MY_LLAMA._replace(table=({ENTRY}._replace(tensor='{{}}{{x}}'),))", 'no other braces',
  ),
  'prefix': ('BAD = MY_LLAMA._replace(prefix=None)', 'prefix must be text, not None'),
  'pattern': ("BAD = MY_LLAMA._replace(ignored='(')", r"ignored must be a pattern, not '\('"),
  'gap': (
    "BAD = MY_LLAMA._replace(table=tuple(e for e in MY_LLAMA.table if 'query' not in e.tensor))",
    'for layers/q/kernel its table has 0 entries',
  ),
  'twice': (
    f'BAD = MY_LLAMA._replace(table=(*MY_LLAMA.table, {ENTRY}))',
    'for layers/q/kernel its table has 2 entries',
  ),
  'foreign path': (
    "BAD = MY_LLAMA._replace(table=tuple(e._replace(paths=(*e.paths, 'layers/z/kernel'))"
    " if 'query.weight' in e.tensor else e for e in MY_LLAMA.table))",
    'its table has layers/z/kernel, which the model lacks',
  ),
  'one name for two': (
    "BAD = MY_LLAMA._replace(table=tuple(e._replace(tensor=e.tensor.replace('query', 'value'))"
    ' for e in MY_LLAMA.table))',
    r"its table has the tensor 'my.block_\{\}.value.weight' twice",
  ),
  'wrong shape': (
    f"BAD = MY_LLAMA._replace(table=tuple(e._replace(rule={SPLIT}) if 'query' in e.tensor else e"
    ' for e in MY_LLAMA.table))',
    r"the rule of 'my.block_0.query.weight' reads arrays of the shapes \[\(1, 16\)\]; the model",
  ),
  'no config': (
    'BAD = MY_LLAMA._replace(read=lambda fields: fields.values)',
    'read gives dict; it must give a jcl.backbones.DecoderConfig or EncoderConfig',
  ),
  'raises at import': ('raise RuntimeError("not today")', 'importing it raises RuntimeError: not'),
  'a fault of its own': ('import absent_package', "importing it fails: No module named 'absent"),
}  # fmt: skip


@pytest.mark.parametrize(('source', 'says'), BAD.values(), ids=BAD)
def test_a_bad_family_is_refused_in_one_line(package, folder, source, says):
  imports = 'from jcl.backbones import Entry, Rule\n'
  (package / 'models.py').write_text(f'{textwrap.dedent(MODULE)}\n{imports}{source}\n')
  with pytest.raises(UserError, match=says) as caught:
    hf.load(str(folder), family='my_family.models:BAD')
  assert '\n' not in str(caught.value)
  assert str(caught.value).startswith('backbone.family: ')


def test_a_family_that_is_not_there_is_refused(package, folder):
  for place, says in (
    ('my_family.absent:X', "there is no module 'my_family.absent'"),
    ('my_family.models:X', "my_family.models has no 'X'"),
    ('my_family/models:X', 'not of the form package.module:name'),
    ('mine', "nothing is called 'mine'; there are gpt2, .*, and package.module:name"),
  ):
    with pytest.raises(UserError, match=f'^backbone.family: .*{says}'):
      hf.load(str(folder), family=place)


def test_a_config_json_names_no_module(package, folder):
  """Nothing is imported because a folder names it; only the setting and packages may name code."""
  values = json.loads((folder / 'config.json').read_text()) | {'model_type': SETTING}
  (folder / 'config.json').write_text(json.dumps(values))
  with pytest.raises(UserError, match=f"model_type '{SETTING}' is unknown"):
    hf.load(str(folder))


def test_a_name_that_is_taken_is_refused(package, tmp_path):
  folder = model_folder.write(tmp_path / 'llama', model_folder.golden('llama'))
  install(package, 'llama')
  with pytest.raises(UserError, match=rf"'llama' is the name of jcl.*:LLAMA and of {SETTING}"):
    hf.load(str(folder))
  assert hf.load(str(folder), family='jcl.backbones.files.families:LLAMA').params is not None


def test_a_family_must_write_architectures(package, folder, tmp_path):
  bad = 'BAD = MY_LLAMA._replace(write=lambda config: {})'
  (package / 'models.py').write_text(f'{textwrap.dedent(MODULE)}\n{bad}\n')
  loaded = hf.load(str(folder), family='my_family.models:BAD')
  with pytest.raises(UserError, match=r"BAD: write must give a dict with .* 'architectures'"):
    hf.save(tmp_path / 'out', loaded)
  assert not (tmp_path / 'out').exists()


def test_a_gguf_file_has_no_family(package, tmp_path):
  (tmp_path / 'x.gguf').write_bytes(b'')
  for load in (hf.load, hf.load_config):
    with pytest.raises(UserError, match=r'is a GGUF file, .* leave backbone.family empty'):
      load(str(tmp_path / 'x.gguf'), family=SETTING)


def test_the_tensors_of_a_family_that_jcl_knows_can_be_renamed():
  """`find_family` is where a family's author starts."""
  llama = backbones.find_family('llama')
  mine = llama._replace(
    table=tuple(entry._replace(tensor=f'x.{entry.tensor}') for entry in llama.table), prefix='x.'
  )
  assert family.check_family(mine, 'mine', 'backbone.family') is mine
  assert mine.output_names == ('x.lm_head.',)
  config = backbones.DecoderConfig(
    vocabulary=8, width=8, layers=2, heads=2, feed_forward=8, tied=False
  )
  tensors.check_table(mine.table, tensors.param_shapes(config), 'mine')


def test_a_run_reads_the_family_that_the_setting_names(package, folder):
  config = runs.config('seq', backbone={'path': str(folder), 'family': SETTING})
  parts = experiment.assemble(config)
  assert parts.decoder_config.family == SETTING
  config.backbone.family = ''
  with pytest.raises(UserError, match="model_type 'my_llama' is unknown"):
    experiment.assemble(config)


def test_a_model_and_a_teacher_of_an_outside_family_are_opened(package, folder, llama):
  found = jcl.load_model(folder, family=SETTING)
  same_model(hf.Loaded(found.config, found.params, found.tokenizer, None), llama)
  with pytest.raises(UserError, match="model_type 'my_llama' is unknown"):
    jcl.load_model(folder)
  shape = {'path': str(folder), 'family': SETTING}
  config = runs.config('distill', backbone=shape)
  config.method.teacher_path = str(folder)
  with pytest.raises(UserError, match="model_type 'my_llama' is unknown"):
    experiment.assemble(config)
  config.method.teacher_family = SETTING
  assert experiment.assemble(config, weights=False).method is not None


@pytest.mark.parametrize('into', ['adapter', 'weights'])
def test_adapters_of_an_outside_family_are_merged(into, package, folder, tmp_path):
  base = hf.load(str(folder), family=SETTING)
  for name in ('a', 'b'):
    fresh = lora.init_adapter(base.params, jax.random.key(ord(name)), 2, 4.0, ('q',))
    peft.write(tmp_path / name, base.config, fresh, str(folder))
  arguments = [f'--adapters={tmp_path / "a"},{tmp_path / "b"}', f'--into={into}']
  with pytest.raises(UserError, match="model_type 'my_llama' is unknown"):
    cli._call(['merge', *arguments, f'--out={tmp_path / "no"}'])
  cli._call(['merge', *arguments, f'--family={SETTING}', f'--out={tmp_path / "out"}'])
  if into == 'weights':
    assert hf.load(str(tmp_path / 'out'), family=SETTING).config.family == SETTING
  else:
    assert 'layers' in peft.read(tmp_path / 'out', base.config)
