"""Export: what is written is what was read, transformers loads it, and it answers as ours does."""

import dataclasses
import json
import pathlib
import shutil

import huggingface_hub
import jax
import numpy as np
import pytest
import safetensors.numpy
from goldens import make_decoder_goldens as goldens
from support import adapter_folder, model_folder, rounding, runs
from support.launchers import call

import jcl
from jcl import workdir as workdirs
from jcl.backbones import heads, lora, tokenizers
from jcl.backbones.files import hf, peft, weights
from jcl.backbones.new_tokens import add_token_rows
from jcl.errors import UserError


def tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
  return {
    name: x
    for file in folder.glob('*.safetensors')
    for name, x in safetensors.numpy.load_file(file).items()
  }


def same(one: hf.Loaded, two: hf.Loaded) -> None:
  """Every bit of the parameters, the shape, the ids."""
  assert one.config == two.config
  assert one.special == two.special
  assert one.tokenizer.to_str() == two.tokenizer.to_str()
  ours, theirs = (hf.tensors.flatten(x.params) for x in (one, two))
  assert ours.keys() == theirs.keys()
  for path, x in ours.items():
    np.testing.assert_array_equal(np.asarray(x), np.asarray(theirs[path]), err_msg=path)


@pytest.mark.parametrize('case', goldens.CASES)
def test_import_and_export_are_inverse_bit_for_bit(case, tmp_path):
  golden = model_folder.golden(case)
  loaded = hf.load(str(model_folder.write(tmp_path / 'theirs', golden, vocabulary=38)))
  hf.save(tmp_path / 'ours', loaded)
  same(hf.load(str(tmp_path / 'ours')), loaded)
  written, wanted = tensors(tmp_path / 'ours'), model_folder.weights(golden)
  assert written.keys() == wanted.keys()
  for name, x in wanted.items():
    np.testing.assert_array_equal(written[name], x, err_msg=name)
  assert not list(tmp_path.glob('.*'))


# Fields from which transformers works out lists of layers, which an export has itself.
WORKED_OUT = {'max_window_layers', 'sliding_window_pattern', 'no_rope_layer_interval'}


@pytest.mark.parametrize('case', goldens.CASES)
def test_transformers_reads_the_same_shape_out_of_our_config(case, tmp_path):
  """Without torch: every field that their class has and the original set."""
  import transformers

  golden = model_folder.golden(case)
  theirs = json.loads(str(golden['config']))
  hf.save(tmp_path / 'ours', hf.load(str(model_folder.write(tmp_path / 'theirs', golden))))
  ours = transformers.AutoConfig.from_pretrained(tmp_path / 'ours')
  assert type(ours).__name__ == f'{goldens.CASES[case][0]}Config'
  for field in ours.attribute_map.values() or ('hidden_size',):
    assert getattr(ours, field) == theirs[field]
  original = type(ours).from_dict(theirs)
  for field in ('layer_types', 'no_rope_layers'):
    assert getattr(ours, field, None) == getattr(original, field, None), field
  named = set(goldens.CASES[case][1]) - {'n_embd', 'attention_dropout', 'hidden_dropout'}
  for field in named - {'rotary_pct', *WORKED_OUT}:
    found = getattr(ours, field)
    if isinstance(found, dict):  # it may say what the original left to be worked out
      found = {name: value for name, value in found.items() if name in theirs[field]}
    assert found == theirs[field], field


def test_large_models_are_written_in_shards(tmp_path, monkeypatch):
  loaded = hf.load(str(model_folder.write(tmp_path / 'theirs', model_folder.golden('llama'))))
  monkeypatch.setattr(weights, 'SHARD_BYTES', 8000)
  hf.save(tmp_path / 'ours', loaded)
  files = sorted(f.name for f in (tmp_path / 'ours').glob('*.safetensors'))
  assert len(files) > 2
  assert files[0] == f'model-00001-of-{len(files):05}.safetensors'
  same(hf.load(str(tmp_path / 'ours')), loaded)


def test_added_tokens_are_exported_and_padding_rows_are_not(tmp_path):
  golden = model_folder.golden('llama')
  loaded = hf.load(str(model_folder.write(tmp_path / 'theirs', golden)))
  tokenizers.add_tokens(loaded.tokenizer, ['__ans__', '__gen__'])
  config, params = add_token_rows(loaded.config, loaded.params, 2, [7, 2], 0, multiple=16)
  assert (config.rows, config.vocabulary, config.kept_rows) == (48, 42, 42)
  hf.save(tmp_path / 'ours', loaded._replace(config=config, params=params))
  again = hf.load(str(tmp_path / 'ours'))
  assert (again.config.rows, again.config.vocabulary) == (42, 42)
  for name in ('embed', 'unembed'):
    np.testing.assert_array_equal(again.params[name]['embedding'], params[name]['embedding'][:42])
  assert again.tokenizer.encode('w001__ans__w002').ids[1] == 40
  assert again.tokenizer.token_to_id('__gen__') == 41


def test_bfloat16_is_rounded_once(tmp_path):
  import ml_dtypes

  loaded = hf.load(str(model_folder.write(tmp_path / 'theirs', model_folder.golden('gpt2'))))
  hf.save(tmp_path / 'ours', loaded, dtype='bfloat16')
  again = hf.load(str(tmp_path / 'ours'))
  wanted = loaded.params['embed']['embedding'].astype(ml_dtypes.bfloat16).astype(np.float32)
  np.testing.assert_array_equal(again.params['embed']['embedding'], wanted)


CHAT = '{% for m in messages %}{{ m.content }}\r\n{% endfor %}'


def test_words_of_the_source_are_kept(tmp_path):
  folder = model_folder.write(tmp_path / 'theirs', model_folder.golden('llama'))
  words = {
    'chat_template': [{'name': 'default', 'template': CHAT}, {'name': 'rag', 'template': 'x'}]
  }
  words |= {'added_tokens_decoder': {}, 'bos_token': '<bos>', 'model_max_length': 77}
  (folder / 'tokenizer_config.json').write_text(json.dumps(words))
  (folder / 'special_tokens_map.json').write_text(
    '{"eos_token": {"content": "<eos>"}, "pad_token": "<pad>", "unk_token": "<unk>"}'
  )
  (folder / 'generation_config.json').write_text('{"temperature": 0.5}')
  hf.save(tmp_path / 'ours', hf.load(str(folder)))
  kept = json.loads((tmp_path / 'ours' / 'tokenizer_config.json').read_text())
  assert kept['eos_token'] == '<eos>'
  assert kept['unk_token'] == '<unk>'
  assert kept['model_max_length'] == 77
  assert not {'added_tokens_decoder', 'chat_template'} & set(kept)
  written = {file.name: file.read_bytes().decode() for file in (tmp_path / 'ours').rglob('*.j*')}
  assert written['chat_template.jinja'] == CHAT
  assert written['rag.jinja'] == 'x'
  assert json.loads(written['generation_config.json']) == {'temperature': 0.5}
  again = hf.load(str(tmp_path / 'ours'))
  assert again.companions.chat_template == CHAT
  hf.save(tmp_path / 'again', again)
  assert contents(tmp_path / 'again') == contents(tmp_path / 'ours')


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  """Returns {path inside the folder: bytes}."""
  files = (file for file in folder.rglob('*') if file.is_file())
  return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_every_way_to_a_model_leads_to_the_same_export(tmp_path, monkeypatch):
  """A folder, a name on the hub, a GGUF file, and a merge of an adapter that changes nothing."""
  pytest.importorskip('gguf')
  from support import gguf_files

  theirs = hf.load(str(model_folder.write(tmp_path / 'm', model_folder.golden('qwen2'))))
  params = tensors_of_ten(theirs.params)
  file = gguf_files.write(
    tmp_path / 'model.gguf', params, theirs.config, arch='qwen2', chat_template=CHAT
  )
  first = hf.load(file)
  local = tmp_path / 'local'
  hf.save(local, first)
  hub = fetch_from(local, tmp_path / 'hub')
  monkeypatch.setattr(huggingface_hub, 'snapshot_download', hub)
  for name, path in (('of-folder', str(local)), ('of-hub', 'some/model'), ('of-gguf', file)):
    jcl.load_model(path).save(tmp_path / name)
    (tmp_path / name / 'jcl.json').unlink()  # how jcl asks it: of a run, or as it is by itself
  adapter = adapter_folder.adapter({'q': lora.kernels(first.params)['q']}, 2, 0, scale=0.0)
  peft.write(tmp_path / 'adapter', first.config, adapter, str(local))
  out = tmp_path / 'merged'
  merge = call('merge', f'--adapters={tmp_path}/adapter', '--into=weights', f'--out={out}')
  assert merge.returncode == 0, merge.stderr
  wanted = contents(local)
  assert {'chat_template.jinja', 'generation_config.json'} <= set(wanted)
  for name in ('of-folder', 'of-hub', 'of-gguf', 'merged'):
    found = contents(tmp_path / name)
    assert sorted(found) == sorted(wanted), name
    assert [file for file in wanted if found[file] != wanted[file]] == [], name


def tensors_of_ten(params):
  """Parameters with the ten tokens that the tokenizer of a GGUF test file has."""
  return {**params, 'embed': {'embedding': params['embed']['embedding'][:10]}}


def fetch_from(folder: pathlib.Path, cache: pathlib.Path):
  """Returns a `snapshot_download` that copies what the patterns allow, as the hub's own does."""

  def fetch(name, allow_patterns, ignore_patterns):
    files = [str(f.relative_to(folder)) for f in folder.rglob('*') if f.is_file()]
    for file in huggingface_hub.utils.filter_repo_objects(
      files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
    ):
      (cache / file).parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(folder / file, cache / file)
    return str(cache)

  return fetch


def test_nothing_is_overwritten_and_nothing_is_left_half_written(tmp_path, monkeypatch):
  loaded = hf.load(str(model_folder.write(tmp_path / 'theirs', model_folder.golden('llama'))))
  with pytest.raises(
    UserError, match='theirs is there already and holds something else; name a new'
  ):
    hf.save(tmp_path / 'theirs', loaded)
  with pytest.raises(UserError, match='an adapter; merge it'):
    hf.save(tmp_path / 'ours', loaded._replace(params={**loaded.params, 'lora': {}}))
  monkeypatch.setattr(hf, 'write_companions', lambda *a: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    hf.save(tmp_path / 'ours', loaded)
  assert [f.name for f in tmp_path.iterdir()] == ['theirs']


@pytest.mark.parametrize('case', goldens.CASES)
@pytest.mark.filterwarnings('ignore')
def test_transformers_computes_our_logits_from_our_folder(case, tmp_path):
  torch = pytest.importorskip('torch')
  import transformers

  golden = model_folder.golden(case)
  loaded = hf.load(str(model_folder.write(tmp_path / 'theirs', golden)))
  hf.save(tmp_path / 'ours', loaded)
  net, info = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / 'ours', output_loading_info=True
  )
  assert not any(info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
  logits = goldens.right_padded_logits(net.eval(), case)
  assert torch.is_tensor(net.get_input_embeddings().weight)
  for row, count in enumerate(goldens.ROWS):
    wanted = golden['right'][row, :count]
    rounding.assert_close(logits[row, :count], wanted, **rounding.of_model(loaded.config))


@pytest.fixture(scope='module')
def exported(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
  """A LAMOL run of two tasks, with added and padding rows, and what the launcher makes of it."""
  folder = tmp_path_factory.mktemp('exported')
  made = runs.config(
    'lamol', stream={'max_tasks': 2}, backbone={'vocabulary_multiple': 64}, train={'epochs': 6}
  )
  workdirs.open_workdir(str(folder / 'run'), made)
  runs.run(made, folder / 'run')
  done = call('export', f'--workdir={folder}/run', f'--out={folder}/out')
  assert done.returncode == 0, done.stderr
  assert 'model and its tokenizer are in' in done.stdout
  return folder / 'run', folder / 'out'


def reopened(workdir: pathlib.Path):
  from jcl.trained_run import TrainedRun

  return TrainedRun(workdirs.load_workdir(str(workdir)), workdir)


def test_an_exported_run_is_the_run(exported):
  run = reopened(exported[0])
  again = hf.load(str(exported[1]))
  config = run.parts.decoder_config
  assert config.rows % 64 == 0
  assert config.added_rows > 0
  assert again.config.rows == again.config.vocabulary == config.vocabulary
  np.testing.assert_array_equal(
    again.params['layers']['q']['kernel'], np.asarray(run.now.params['layers']['q']['kernel'])
  )
  assert again.special == run.tools.text.special
  for example in run.parts.stream.tasks[1].test:
    prompt = run.tools.text.decode(run.tools.text.prompt(example))
    assert again.tokenizer.encode(prompt).ids == run.tools.text.prompt(example)


@pytest.mark.filterwarnings('ignore')
def test_an_exported_run_answers_in_transformers_as_in_ours(exported):
  torch = pytest.importorskip('torch')
  import transformers

  run = reopened(exported[0])
  examples = [e for t in run.parts.stream.tasks for e in t.test]
  prompts = [run.tools.text.prompt(e) for e in examples]
  ids_RN = run.tools.sample(run.params(None), prompts, run.tools.key('test'), max_new=6)
  ours = [run.tools.text.decode(ids) for ids in ids_RN.tolist()]
  net = transformers.AutoModelForCausalLM.from_pretrained(exported[1]).eval()
  words = transformers.AutoTokenizer.from_pretrained(exported[1])
  theirs = []
  for example in examples:
    prompt = words(f'{example.text}__ans__', return_tensors='pt')
    with torch.no_grad():
      ids = net.generate(**prompt, max_new_tokens=6, do_sample=False)[0]
    new = ids[prompt['input_ids'].shape[1] :]
    theirs.append(words.decode(new, skip_special_tokens=True).strip())
  assert theirs == ours
  assert len(set(ours)) > 1


def test_an_adapter_is_exported_alone_or_merged(exported, tmp_path):
  """As a method that trains adapters will leave it in its parameters."""
  run = reopened(exported[0])
  with pytest.raises(UserError, match='format is peft, but the model has no adapter'):
    run.model.save(tmp_path / 'none', format='peft')
  plain = run.now.params
  adapter = lora.init_adapter(plain, jax.random.key(0), 2, 4.0, ('q', 'v'))
  adapter = jax.tree.map(lambda x: x + 0.1, adapter)
  run.now = run.now.replace(params={**plain, 'lora': adapter})
  run.model.save(tmp_path / 'adapter', format='peft')
  again = peft.read(tmp_path / 'adapter', run.parts.decoder_config)
  jax.tree.map(np.testing.assert_array_equal, again, jax.tree.map(np.asarray, adapter))
  run.model.save(tmp_path / 'whole')
  kernel = hf.load(str(tmp_path / 'whole')).params['layers']['v']['kernel']
  wanted = plain['layers']['v']['kernel'] + dict(lora.weight_deltas(adapter))['v']
  rounding.assert_close(kernel, wanted, terms=2)  # the rank
  assert not np.allclose(kernel, plain['layers']['v']['kernel'], atol=1e-3)


@pytest.mark.parametrize('kind', ['linear', 'cosine'])
@pytest.mark.parametrize('case', ['llama', 'gpt2', 'bert'])
def test_heads_stand_beside_their_model(case, kind, tmp_path):
  if case == 'bert':
    (tmp_path / 'theirs').mkdir()
    loaded = model_folder.load_encoder(tmp_path / 'theirs', model_folder.golden(case, 'encoder'))
  else:
    folder = model_folder.write(tmp_path / 'theirs', model_folder.golden(case))
    loaded = hf.load(str(folder))
  config = dataclasses.replace(loaded.config, classes=5, head=kind, pooling='mean')
  head = heads.init(jax.random.key(1), config)
  head = {name: np.asarray(x + 0.5) for name, x in head.items()}
  params = {**{k: v for k, v in loaded.params.items() if k != 'unembed'}, 'head': head}
  hf.save(tmp_path / 'ours', loaded._replace(config=config, params=params))
  same(hf.load(str(tmp_path / 'ours')), loaded._replace(config=config, params=params))
  words = json.loads((tmp_path / 'ours' / 'head.json').read_text())
  assert words == {'kind': kind, 'classes': 5, 'pooling': 'mean'}
  named = json.loads((tmp_path / 'ours' / 'config.json').read_text())['architectures']
  assert named == [{'llama': 'LlamaModel', 'gpt2': 'GPT2Model', 'bert': 'BertModel'}[case]]
  for change, says in (
    ({'kind': 'cubic'}, "head.json: field 'kind' is 'cubic', not one of linear, cosine"),
    ({'classes': 4}, "head.safetensors: tensor '(bias|kernel)' has shape"),
    ({'classes': 'five'}, "head.json: field 'classes' is 'five', not of type int"),
    (
      {'kind': 'linear' if kind == 'cosine' else 'cosine'},
      "head.safetensors: tensor '(bias|scale)'",
    ),
  ):
    (tmp_path / 'ours' / 'head.json').write_text(json.dumps(words | change))
    with pytest.raises(UserError, match=says):
      hf.load(str(tmp_path / 'ours'))


def test_bad_flags_are_one_line(exported):
  run, out = exported
  for flags, says in (
    ([f'--workdir={run}'], '--out is missing'),
    ([f'--workdir={run}', f'--out={out}', '--dtype=bfloat16'], 'already and holds something else'),
    ([f'--workdir={run}', f'--out={out}2', '--task=nothing'], "no task is called 'nothing'"),
    ([f'--workdir={out}', f'--out={out}2'], 'is not the config of a run'),
  ):
    done = call('export', *flags)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert done.stderr.startswith('error: ')
    assert done.stderr.count('\n') == 1


def test_dataclass_of_the_decoder_counts_its_kept_rows():
  config = hf.DecoderConfig(30, 16, 1, 2, 8, rows=32)
  assert (config.kept_rows, config.added_rows) == (32, 0)
  assert dataclasses.replace(config, rows=40, added_rows=8).kept_rows == 32
