"""Model folders that are refused in a line, and names that are no folder."""

import functools
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from support import damage, model_folder

from jcl.backbones.files import hf
from jcl.errors import UserError

edit = functools.partial(damage.edit, 'config.json')
reweigh = functools.partial(damage.reweigh, 'model.safetensors')
cut = damage.cut('model.safetensors')
pickled = damage.pickled('model.safetensors', 'pytorch_model.bin')


def lost_shard(folder):
  (folder / 'model.safetensors').unlink()
  placed = {'model.norm.weight': 'model-00001-of-00001.safetensors'}
  (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': placed}))


def pointer(name):
  """Leaves what a clone without Git LFS has in place of a file."""
  text = 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'
  return lambda folder: (folder / name).write_text(text)


def lost_index(folder):
  (folder / 'model.safetensors').rename(folder / 'model-00001-of-00001.safetensors')


def tied_and_biased(weights):
  weights['lm_head.weight'] = weights['model.embed_tokens.weight']
  weights['lm_head.bias'] = np.ones(40, np.float32)


NORM = 'model.norm.weight'


BAD = {
  'no config': (lambda f: (f / 'config.json').unlink(), 'config.json: no such file'),
  'malformed': (lambda f: (f / 'config.json').write_text('{'), 'config.json: not valid JSON'),
  'a list': (lambda f: (f / 'config.json').write_text('[]'), 'an? JSON object is wanted'),
  'family': (
    edit(model_type='mamba', auto_map={'A': 'x.A'}),
    "model_type 'mamba' is unknown; it has no attention; the nearest that works: gpt_neox, llama; ",
  ),
  'no family': (edit(model_type=...), 'model_type None is unknown'),
  'no field': (edit(hidden_size=...), "field 'hidden_size' is missing"),
  'type': (edit(hidden_size='16'), "field 'hidden_size' is '16', not of type int"),
  'sign': (edit(num_hidden_layers=0), 'not positive'),
  'heads': (edit(num_key_value_heads=3), '4 heads of queries: no multiple of 3'),
  'act': (edit(hidden_act='xielu'), "hidden_act 'xielu' is not supported; known"),
  'rope': (edit(rope_parameters={'rope_type': 'axial'}), "rope type 'axial' is not supported"),
  'quantised': (
    edit(quantization_config={'quant_method': 'gptq'}),
    'quantization_config: weights quantised by gptq are not supported',
  ),
  'window': (edit(model_type='mistral', sliding_window=-1), "'sliding_window' is -1, not positive"),
  'qwen window': (edit(model_type='qwen2', use_sliding_window=1), "'use_sliding_window' is 1"),
  'no weights': (lambda f: (f / 'model.safetensors').unlink(), 'no model.safetensors'),
  'pickle': (pickled, r'pytorch_model.bin: pickled weights can run code'),
  'truncated': (cut, 'model.safetensors: truncated'),
  'pointer': (pointer('model.safetensors'), 'model.safetensors: a pointer of Git LFS'),
  'pointer of words': (pointer('tokenizer.json'), 'tokenizer.json: a pointer of Git LFS'),
  'pointer of a config': (pointer('config.json'), 'config.json: a pointer of Git LFS'),
  'index': (lost_index, 'model.safetensors.index.json: no such file, beside model-00001-of-00001'),
  'shard': (lost_shard, 'model-00001-of-00001.safetensors: no such file'),
  'missing': (reweigh(lambda w: w.pop(NORM)), f"tensor '{NORM}' is missing"),
  'unknown': (
    reweigh(lambda w: w.update(adapter=np.zeros(3, np.float32))),
    r"tensor 'model.adapter' is unknown|tensor 'adapter' is unknown",
  ),
  'shape': (
    reweigh(lambda w: w.update({NORM: np.zeros(17, np.float32)})),
    rf"model.safetensors: tensor '{NORM}' has shape \(17,\); the config wants \(16,\)",
  ),
  'not finite': (
    reweigh(lambda w: w.update({NORM: np.full(16, np.nan, np.float32)})),
    rf"tensor '{NORM}' holds NaN or infinity; fetch the file again",
  ),
  'integers': (reweigh(lambda w: w.update({NORM: np.zeros(16, np.int8)})), 'is I8, not one of'),
  'no tokenizer': (lambda f: (f / 'tokenizer.json').unlink(), 'no tokenizer.json'),
  'tokenizer': (lambda f: (f / 'tokenizer.json').write_text('{}'), 'tokenizer.json: no valid'),
  'eos': (edit(eos_token_id=...), 'no eos_token'),
  'eos of another type': (edit(eos_token_id='2'), "eos_token_id is '2'; it must be a token id"),
  'more layers': (
    edit(num_hidden_layers=1),
    'number of layers is 1, but the tensors are those of 2 layers',
  ),
  'fewer layers': (
    edit(num_hidden_layers=3),
    'number of layers is 3, but the tensors are those of 2 layers',
  ),
  'no projection': (
    reweigh(lambda w: w.pop('lm_head.weight')),
    "tensor 'lm_head.weight' is missing, and the config does not tie it",
  ),
  'bias of a tied projection': (
    lambda f: (edit(tie_word_embeddings=True)(f), reweigh(tied_and_biased)(f)),
    r"tensor 'lm_head.bias' is unknown|tensor 'model.lm_head.bias' is unknown",
  ),
  'an adapter': (
    lambda f: (f / 'config.json').rename(f / 'adapter_config.json'),
    'an adapter, not a model; merge it into its base model.*jcl merge --adapters=',
  ),
  'an adapter beside': (
    lambda f: (f / 'adapter_config.json').write_text('{}'),
    'an adapter .* stands beside the model',
  ),
  'special': (
    edit(bos_token_id=99),
    'bos_token_id of config.json is 99, which is none of',
  ),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_folders_are_refused_in_one_line(name, tmp_path):
  change, says = BAD[name]
  folder = model_folder.write(tmp_path, model_folder.golden('llama'))
  change(folder)
  with pytest.raises(UserError, match=says) as caught:
    hf.load(str(folder))
  assert '\n' not in str(caught.value)
  assert str(tmp_path) in str(caught.value) or 'heads' in str(caught.value)


@pytest.mark.parametrize('name', ['tokenizer.model', 'sentencepiece.bpe.model'])
def test_a_lone_sentence_piece_model_says_what_to_do(name, tmp_path, monkeypatch):
  folder = model_folder.write(tmp_path / 'm', model_folder.golden('llama'))
  (folder / 'tokenizer.json').rename(folder / name)
  find = importlib.util.find_spec
  lacking = lambda asked, *more: None if asked == 'sentencepiece' else find(asked, *more)
  monkeypatch.setattr(importlib.util, 'find_spec', lacking)
  with pytest.raises(UserError, match=f'{name}: reading it needs the package sentencepiece'):
    hf.load(str(folder))


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
  folder = model_folder.write(tmp_path, model_folder.golden('llama'), vocabulary=41)
  with pytest.raises(UserError, match='the tokenizer has 41 ids, the embedding only 40 rows'):
    hf.load(str(folder))


def test_code_beside_the_weights_is_not_run(tmp_path):
  folder = model_folder.write(tmp_path, model_folder.golden('llama'))
  (folder / 'modeling.py').write_text('raise SystemExit(1)')
  edit(auto_map={'AutoModelForCausalLM': 'modeling.Model'})(folder)
  assert hf.load(str(folder)).config.width == 16


@pytest.mark.parametrize(
  'call',
  [
    'from jcl.backbones.files import hf; hf.load("someone/some-model")',
    'from jcl.streams import hub; hub.data_set("someone/some-set", None, None, None, "train", ())',
  ],
)
def test_the_hub_is_asked_by_a_process_that_has_imported_nothing_else(call, tmp_path):
  """A library's inner modules are its attributes only where something else has imported them."""
  environment = {**os.environ, 'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path)}
  done = subprocess.run(
    [sys.executable, '-c', call], env=environment, capture_output=True, text=True, check=False
  )
  last = done.stderr.strip().splitlines()[-1]
  assert done.returncode == 1
  assert 'AttributeError' not in last, done.stderr
  assert 'some-' in last, done.stderr


@pytest.mark.parametrize(
  ('kind', 'says'),
  [
    ('LocalEntryNotFoundError', 'it was not reached, and this machine has no copy; be online'),
    ('OfflineModeIsEnabled', 'it was not reached; be online'),
    ('RepositoryNotFoundError', 'it has no such model, or a private one'),
    ('GatedRepoError', 'its licence must be accepted there'),
    ('HFValidationError', 'what the library says'),
  ],
)
def test_an_error_of_the_hub_is_said_in_words(kind, says, monkeypatch):
  huggingface_hub = pytest.importorskip('huggingface_hub')
  made = getattr(huggingface_hub.errors, kind)

  def fails(*args, **kwargs):
    raise made.__new__(made, 'what the library says')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', fails)
  with pytest.raises(UserError, match=f'^someone/some-model: .* the hub gave nothing: {says}') as e:
    hf.load('someone/some-model')
  assert 'Error' not in str(e.value)


def test_names_that_are_no_folder(tmp_path, monkeypatch):
  import huggingface_hub

  def offline(*args, **kwargs):
    raise ConnectionError('no network\nat all')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', offline)
  with pytest.raises(UserError, match='no such folder, and the hub gave nothing'):
    hf.load('someone/some-model')
  with pytest.raises(UserError, match='no such folder; name an existing one'):
    hf.load('../nowhere/else')
  with pytest.raises(UserError, match='no such file'):
    hf.load(str(tmp_path / 'x.gguf'))
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='neither a model folder nor'):
    hf.load(str(tmp_path / 'file'))
  model_folder.write(tmp_path / 'hub', model_folder.golden('llama'))
  monkeypatch.setattr(huggingface_hub, 'snapshot_download', lambda *a, **k: str(tmp_path / 'hub'))
  assert hf.load('someone/some-model').config.width == 16
