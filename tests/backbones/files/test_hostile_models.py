"""Models, adapters, runs and flags against whatever they may hold: read, or refused in one line."""

import json

import hypothesis
import pytest
from hypothesis import strategies as st
from support import adapter_folder, bad_files, gguf_files, model_folder, reported, runs, slow, tiny
from support.hostile import BYTES, PIECES, TEXT, damaged, many, mutated, outcome
from support.launchers import forks

from jcl import workdir
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import gguf, hf, peft
from jcl.backbones.files.tokenizer_files import read_tokenizer
from jcl.backbones.tokenizers import bpe_tokenizer, word_tokenizer
from jcl.errors import UserError
from jcl.reports import report
from jcl.reports import results as results_json
from jcl.reports.page import document
from jcl.storage.atomic import write_json
from jcl.training import experiment


def put(path, value):
  """Writes bytes, or JSON."""
  bad_files.put(path, value if isinstance(value, bytes) else json.dumps(value))


CASES = ('llama', 'qwen2', 'gpt2', 'neox')
ENCODERS = ('bert', 'mpnet', 'modernbert')
NEW = ('gemma', 'gemma2', 'gemma3', 'phi3_long', 'olmo2', 'smollm3', 'granite', 'starcoder2')


@pytest.fixture(scope='module')
def here(tmp_path_factory):
  """Good folders of each kind, which examples write over."""
  folder = tmp_path_factory.mktemp('hostile')
  for case in (*CASES, *NEW):
    model_folder.write(folder / case, model_folder.golden(case))
  for case in ENCODERS:
    golden = model_folder.golden(case, 'encoder')
    model_folder.write(folder / case, golden, tokenizer=model_folder.word_pieces())
  adapter_folder.write(folder / 'adapter', adapter_folder.golden('llama'), 'model')
  return folder


def good(case):
  """The config.json of a golden model."""
  kind = 'encoder' if case in ENCODERS else 'decoder'
  return json.loads(str(model_folder.golden(case, kind)['config']))


@pytest.mark.parametrize('case', slow.but(('llama', 'gpt2', 'bert'), (*CASES, *ENCODERS, *NEW)))
@many(120)
@hypothesis.given(data=st.data())
def test_a_config_json_is_read_or_refused(case, here, data):
  folder = here / case
  put(folder / 'config.json', data.draw(mutated(good(case), 3)))
  outcome(lambda: hf.load(str(folder)), str(folder))


@many(60)
@hypothesis.given(data=BYTES)
def test_any_bytes_as_a_config_json(here, data):
  put(here / 'bytes/config.json', data)
  assert outcome(lambda: hf.load_config(str(here / 'bytes')), 'config.json')[1]


@many(150)
@hypothesis.given(data=st.data())
def test_safetensors_are_read_or_refused(here, data):
  folder = here / 'weights'
  model_folder.write(folder, model_folder.golden('llama'))
  file = folder / 'model.safetensors'
  whole = file.read_bytes()
  size = int.from_bytes(whole[:8], 'little')
  header = json.loads(whole[8 : 8 + size])
  if data.draw(st.booleans()):
    text = json.dumps(data.draw(mutated(header))).encode()
    file.write_bytes(len(text).to_bytes(8, 'little') + text + whole[8 + size :])
  else:
    file.write_bytes(data.draw(damaged(whole, size)))
  outcome(lambda: hf.load(str(folder)), str(folder))


@many(80)
@hypothesis.given(data=st.data())
def test_an_index_of_shards_is_read_or_refused(here, data):
  folder = here / 'shards'
  model_folder.write(folder, model_folder.golden('llama'))
  (folder / 'model.safetensors').rename(folder / 'a.safetensors')
  names = list(model_folder.weights(model_folder.golden('llama')))
  index = {'metadata': {}, 'weight_map': dict.fromkeys(names, 'a.safetensors')}
  put(folder / 'model.safetensors.index.json', data.draw(mutated(index)))
  outcome(lambda: hf.load(str(folder)), str(folder))


@pytest.mark.parametrize('case', slow.but(['llama'], ['llama', 'bert']))
@many(150)
@hypothesis.given(data=st.data())
def test_a_tokenizer_json_is_read_or_refused(case, here, data):
  golden = model_folder.golden(case, 'encoder' if case == 'bert' else 'decoder')
  pieces = model_folder.word_pieces() if case == 'bert' else None
  folder = model_folder.write(here / 'tokenizer', golden, tokenizer=pieces)
  file = folder / 'tokenizer.json'
  put(file, data.draw(mutated(json.loads(file.read_text()), 3) | BYTES))
  named = {f'{name}_token': token for name, token in (('bos', '<bos>'), ('eos', '<eos>'))}
  put(folder / 'tokenizer_config.json', data.draw(st.just({}) | mutated(named)))
  found, _ = outcome(lambda: read_tokenizer(folder, json.loads(str(golden['config']))), str(folder))
  if found:
    found[0].encode('play some w003', add_special_tokens=False)


@many(60)
@hypothesis.given(data=st.data())
def test_a_head_is_read_or_refused(here, data):
  values = {'kind': 'linear', 'classes': 3, 'pooling': 'last'}
  put(here / 'gpt2/config.json', good('gpt2'))
  put(here / 'gpt2/head.json', data.draw(mutated(values)))
  outcome(lambda: hf.load(str(here / 'gpt2')), str(here / 'gpt2'))
  (here / 'gpt2/head.json').unlink()


@pytest.fixture(scope='module')
def gguf_bytes(tmp_path_factory):
  """Two whole GGUF files, and the length of what stands before their tensors."""
  config = DecoderConfig(
    vocabulary=len(gguf_files.TOKENS), width=8, layers=1, heads=2, feed_forward=8, tied=False
  )
  params = tiny.params(decoder(config))
  folder, found = tmp_path_factory.mktemp('gguf'), {}
  for arch in ('llama', 'qwen2'):
    gguf_files.write(folder / f'{arch}.gguf', params, config, arch)
    found[arch] = (folder / f'{arch}.gguf').read_bytes()
    assert gguf.load(folder / f'{arch}.gguf')[1] is not None
  for case in GGUF:
    found[case] = model_folder.golden(case, 'gguf')['content'].tobytes()
  return found


GGUF = ('gemma3', 'phi3', 'granite', 'starcoder2')


@pytest.mark.parametrize(
  'arch', ['llama', 'qwen2', *(pytest.param(case, marks=pytest.mark.slow) for case in GGUF)]
)
@many(250)
@hypothesis.given(data=st.data())
def test_a_gguf_file_is_read_or_refused(arch, here, gguf_bytes, data):
  file = here / 'a.gguf'
  file.write_bytes(data.draw(damaged(gguf_bytes[arch], 1500)))
  outcome(lambda: gguf.load(file), str(file))


@many(60)
@hypothesis.given(data=BYTES | st.binary(max_size=60).map(b'GGUF\3\0\0\0'.__add__))
def test_any_bytes_as_a_gguf_file(here, data):
  (here / 'b.gguf').write_bytes(data)
  assert outcome(lambda: gguf.load_config(here / 'b.gguf'), 'b.gguf')[1]


@many(150)
@hypothesis.given(data=st.data())
def test_an_adapter_config_is_read_or_refused(here, data):
  values = json.loads(str(adapter_folder.golden('llama')['config']))
  values |= {'rank_pattern': {'q_proj': 4}, 'alpha_pattern': {'v_proj': 8.0}}
  folder = here / 'adapter'
  put(folder / 'adapter_config.json', data.draw(mutated(values, 3)))
  put(here / 'llama/config.json', good('llama'))
  config = hf.load_config(str(here / 'llama'))
  outcome(lambda: peft.read(folder, config), str(folder))
  outcome(lambda: peft.common_base([folder]), str(folder))


@pytest.mark.parametrize('name', slow.but(['lamol'], ['lamol', 'replay+ewc']))
@many(200)
@hypothesis.given(data=st.data())
def test_the_config_of_a_run_is_read_or_refused(name, here, data):
  put(here / 'run/config.json', data.draw(mutated(workdir.config_to_json(runs.config(name)), 3)))
  config, _ = outcome(lambda: workdir.load_workdir(str(here / 'run')), 'config.json')
  if config is not None:  # what it says may still be out of range
    outcome(lambda: experiment.check(config), 'is ', 'train.', 'method')
    write_json(here / 'again.json', workdir.config_to_json(config))


@many(120)
@hypothesis.given(data=st.data())
def test_results_are_reported_or_refused(here, results, data):
  put(here / 'results.json', data.draw(mutated(results, 3)))
  found, said = outcome(lambda: results_json.read(here / 'results.json'), 'results.json')
  if not said:
    report.comparison_table([found])
    report.matrix_table(found)
    reported.Parts(document.document([found], [reported.log(2)]))


@pytest.fixture(scope='module')
def results():
  """A results.json with all its parts."""
  return reported.run()


FLAGS = st.builds(
  '{}{}{}{}'.format,
  st.sampled_from(('--', '-', '--config.', '--config.train.', '--config.method.', '', '--no')),
  st.sampled_from(('epochs', 'seed', 'gamma', 'trainable', 'quiet', 'scenario', 'learning_rate'))
  | TEXT,
  st.sampled_from(('=', '', '==')),
  st.sampled_from(('nan', '1e999', '', '[', '(', "('a',)", '9' * 5000, '-1', 'true', '٣')) | TEXT,
).map(lambda flag: flag.replace('\0', '').replace('help', ''))


@pytest.mark.parametrize('count', [40, pytest.param(150, marks=pytest.mark.slow)])
def test_any_flags_are_refused_in_one_line(count, tmp_path):
  @many(count)
  @hypothesis.given(flags=st.lists(FLAGS, min_size=1, max_size=3))
  def refused(flags):
    done = forks()('train', '--config=configs/quickstart.py', *flags)
    assert done.status == 2, (flags, done)
    assert done.err.startswith('error: ')
    assert len(done.err.splitlines()) == 1, done.err
    assert done.err.rstrip('\n').isprintable()

  refused()


LETTERS = st.text(st.characters(exclude_categories=['Cs']))


@pytest.fixture(scope='module')
def bpe():
  """A tokenizer of bytes and a few pairs of them."""
  return bpe_tokenizer(['the cat sat on the mat', *(p for p in PIECES if p != '\\ud83d')], 400)[0]


@many(300)
@hypothesis.given(text=LETTERS | TEXT)
def test_every_text_comes_back_out_of_bytes(bpe, text):
  hypothesis.assume(not any(token in text for token in ('<pad>', '<unk>', '<bos>', '<eos>')))
  ids = bpe.encode(text, add_special_tokens=False).ids
  assert bpe.decode(ids, skip_special_tokens=False) == text


@many(100)
@hypothesis.given(texts=st.lists(LETTERS, min_size=1, max_size=4))
def test_every_word_comes_back_out_of_words(texts):
  tokenizer, special = word_tokenizer(texts)
  for text in texts:
    words = [w for w in text.split() if w not in ('<pad>', '<unk>', '<bos>', '<eos>')]
    ids = tokenizer.encode(' '.join(words), add_special_tokens=False).ids
    assert [tokenizer.id_to_token(i) for i in ids] == words
    assert special.eos not in ids


def test_a_width_is_compared_with_the_tensors_before_memory_is_asked_for(here):
  """Petabytes, where queries, keys and values of GPT-2 are put side by side to be measured."""
  put(here / 'gpt2/config.json', good('gpt2') | {'n_embd': 2**24})
  with pytest.raises(UserError, match=r'has shape .*; the config wants [0-9]+ numbers'):
    hf.load(str(here / 'gpt2'))
