"""Safe by default: no pickle, no code of a model or data set, no telemetry, nothing outside."""

import ast
import json
import os
import pathlib
import pickle
import subprocess
import sys

import pytest
from support import ROOT, bad_files, model_folder

from jcl.backbones.files import hf, peft
from jcl.errors import UserError
from jcl.streams import hub

SOURCES = sorted(
  [*ROOT.glob('jcl/**/*.py'), *ROOT.glob('launch/**/*.py'), *ROOT.glob('configs/*.py')]
)
MODULES = {
  'pickle', 'cPickle', '_pickle', 'marshal', 'dill', 'cloudpickle', 'joblib', 'shelve', 'torch',
  'subprocess', 'socket', 'requests', 'urllib', 'http', 'ctypes', 'code', 'imp', 'pty', 'runpy',
}  # fmt: skip
CALLS = {
  'eval',
  'exec',
  'compile',
  '__import__',
  'os.system',
  'os.popen',
  'os.execv',
  'np.fromfile',
}
KEYWORDS = {'trust_remote_code': True, 'allow_pickle': True, 'shell': True}
LOADER = 'config_files.py'  # runs the user's own --config
# Programs that are started: this Python on code of jcl's own, and the torch contenders.
STARTERS = {
  'jcl/commands/jax_settings.py': {'subprocess'},
  'launch/results/tables.py': {'subprocess'},
}
CONTENDERS = 'jcl/benchmarks/'  # read nothing but what the benchmark has written itself


def dotted(node) -> str:
  """The name of what is called, `a.b.c`."""
  parts = []
  while isinstance(node, ast.Attribute):
    parts.append(node.attr)
    node = node.value
  return '.'.join([node.id, *parts[::-1]]) if isinstance(node, ast.Name) else ''


def unsafe(text: str, name: str) -> list[str]:
  """Returns the calls of a file that could run code that is not the repository's."""
  found = []
  for node in ast.walk(ast.parse(text)):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [node.module or '']
    found += [n for n in names if n.split('.')[0] in MODULES]
    if not isinstance(node, ast.Call):
      continue
    called = dotted(node.func)
    if called in CALLS or called.endswith(('torch.load', 'from_pickle', 'read_pickle')):
      found.append(called)
    given = {k.arg: getattr(k.value, 'value', None) for k in node.keywords}
    found += [f'{called}({k}={v})' for k, v in KEYWORDS.items() if given.get(k, False) == v]
    if called.endswith('.exec_module') and name != LOADER:
      found.append(called)
    if called.startswith('yaml.') and called != 'yaml.safe_load':
      found.append(called)
    if called == 'np.load' and given.get('allow_pickle') is not False:
      found.append('np.load without allow_pickle=False')
    if called.endswith('from_pretrained') and given.get('trust_remote_code') is not False:
      found.append('from_pretrained without trust_remote_code=False')
  return found


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_can_run_what_it_reads(path):
  name = str(path.relative_to(ROOT))
  contender = {'torch', 'torch.nn', 'torch.load', 'subprocess'} if CONTENDERS in name else set()
  allowed = STARTERS.get(name, contender)
  assert set(unsafe(path.read_text(), path.name)) <= allowed
  if 'torch.load(' in path.read_text():
    assert path.read_text().count('torch.load(') == path.read_text().count('weights_only=True')


@pytest.mark.parametrize(
  'text',
  [
    'import pickle', 'from torch import load', 'import torch.nn', 'yaml.load(x)', 'import runpy',
    'spec.loader.exec_module(m)',
    'eval("1")', 'exec(x)', 'import os\nos.system("x")', 'np.load("a")', 'np.load(a)',
    'A.from_pretrained("x")', 'f(trust_remote_code=True)', 'run(x, shell=True)',
    'import os\nos.popen("x")', 'pd.read_pickle("a")', 'from subprocess import run',
  ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(text):
  assert unsafe(text, 'a.py')


def planted(folder: pathlib.Path, marker: pathlib.Path) -> None:
  """Programs that leave a mark where they are run, and a config that asks for them."""
  program = f'import pathlib\npathlib.Path({str(marker)!r}).touch()\n'
  for name in ('modeling_mine.py', 'tokenization_mine.py', '__init__.py', 'sitecustomize.py'):
    (folder / name).write_text(program)

  class Bomb:
    def __reduce__(self):
      return pathlib.Path.touch, (marker,)

  (folder / 'pytorch_model.bin').write_bytes(pickle.dumps(Bomb()))
  values = json.loads((folder / 'config.json').read_text())
  values['auto_map'] = {
    'AutoModelForCausalLM': 'modeling_mine.Model', 'AutoConfig': 'modeling_mine.Config',
    'AutoTokenizer': ['tokenization_mine.Mine', None],
  }  # fmt: skip
  (folder / 'config.json').write_text(json.dumps(values))
  named = {'auto_map': {'AutoTokenizer': ['tokenization_mine.Mine', None]}, 'eos_token': '<eos>',
           'tokenizer_class': 'PreTrainedTokenizerFast'}  # fmt: skip
  (folder / 'tokenizer_config.json').write_text(json.dumps(named))


@pytest.fixture(scope='module')
def heard(tmp_path_factory):
  """Returns the events `audited.py` heard, and whether a planted program was run."""
  folder = tmp_path_factory.mktemp('audited')
  marker = folder / 'ran'
  model = model_folder.write(folder / 'model', model_folder.golden('llama'))
  planted(model, marker)
  older = model_folder.write(
    folder / 'older', model_folder.golden('bert', 'encoder'), tokenizer=model_folder.word_pieces()
  )
  words = json.loads((older / 'tokenizer.json').read_text())['model']['vocab']
  (older / 'tokenizer.json').unlink()
  (older / 'vocab.txt').write_text('\n'.join(sorted(words, key=words.get)))
  planted(older, marker)
  (older / 'tokenizer_config.json').write_text('{"auto_map": {"AutoTokenizer": ["t.T", null]}}')
  for name, content in bad_files.STREAM.items():
    bad_files.put(folder / 'data' / name, content)
  bad_files.put(folder / 'data/manifest.json', bad_files.SET)
  bad_files.put(folder / 'data/set/train.csv', 'text,label\nhello there,greet\n')
  bad_files.put(
    folder / 'data/set/load.py', f'import pathlib; pathlib.Path({str(marker)!r}).touch()'
  )
  done = subprocess.run(
    [sys.executable, '-m', 'support.audited', str(folder)],
    cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    env={**os.environ, 'HF_DATASETS_CACHE': str(folder / 'cache')},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads((folder / 'heard.json').read_text()), marker.exists()


@pytest.mark.slow
def test_a_run_reaches_no_network_starts_no_program_and_unpickles_nothing(heard):
  events, _ = heard
  assert events == []


@pytest.mark.slow
def test_programs_in_a_model_or_data_folder_are_not_run(heard):
  _, ran = heard
  assert not ran


@pytest.mark.slow
def test_the_libraries_of_the_hub_say_nothing_of_their_users():
  code = (
    'from jcl.streams import hub\n'
    'hub.imported("datasets"); hub.imported("transformers")\n'
    'import os\n'
    'from huggingface_hub import constants, utils\n'
    'from huggingface_hub.utils import _telemetry\n'
    'assert constants.HF_HUB_DISABLE_TELEMETRY is True\n'
    'assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"\n'
    'utils.send_telemetry("x")\n'
    'assert _telemetry._TELEMETRY_QUEUE.empty() and _telemetry._TELEMETRY_THREAD is None\n'
    'assert "torch" not in utils.build_hf_headers(token=False)["user-agent"]\n'
  )
  loud = {k: v for k, v in os.environ.items() if 'HF_' not in k}
  for first in ('', 'from huggingface_hub import constants\n'):
    done = subprocess.run(
      [sys.executable, '-c', first + code], capture_output=True, text=True, timeout=120,
      check=False, env=loud,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_hub_is_asked_only_through_the_one_place_that_silences_it():
  libraries = {'huggingface_hub', 'datasets', 'transformers'}
  for path in SOURCES:
    for node in ast.walk(ast.parse(path.read_text())):
      names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
      names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []
      if libraries & {name.split('.')[0] for name in names}:
        assert path.name == 'hub.py' or CONTENDERS in str(path), path


@pytest.mark.parametrize(
  'name',
  [
    'data/customers/2024',
    '../data',
    '/home/me/data',
    '~/data',
    'C:\\data',
    'a b',
    'file:///a',
    'a*',
  ],
)
def test_what_looks_like_a_path_never_reaches_the_hub(name, monkeypatch):
  import huggingface_hub

  def asked(*args, **kwargs):
    raise AssertionError('the hub was asked')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', asked)
  with pytest.raises(UserError, match=r'no such folder|a URL'):
    hf.load(name)
  with pytest.raises(UserError, match='no name on the hub'):
    hub.data_set(name, None, None, None, 'train', ())


FOREIGN = ('pytorch_model.bin', 'model.pt', 'a.pth', 'a.ckpt', 'a.pkl', 'tf_model.h5',
           'flax_model.msgpack', 'model.onnx', 'weights.npz')  # fmt: skip


@pytest.mark.parametrize('name', FOREIGN)
def test_weights_of_other_kinds_are_refused_and_how_to_convert_them_is_said(name, tmp_path):
  folder = model_folder.write(tmp_path, model_folder.golden('llama'))
  (folder / 'model.safetensors').rename(folder / name)
  with pytest.raises(UserError, match=rf'{name}: .*save_pretrained \(safetensors\)'):
    hf.load(str(folder))


def test_a_pickled_adapter_is_refused_and_not_opened(tmp_path):
  model = model_folder.write(tmp_path / 'model', model_folder.golden('llama'))
  folder = tmp_path / 'adapter'
  bad_files.put(
    folder / 'adapter_config.json',
    {'peft_type': 'LORA', 'r': 1, 'lora_alpha': 1, 'target_modules': ['q_proj']},
  )
  (folder / 'adapter_model.bin').write_bytes(b'\x80\x04.')
  with pytest.raises(UserError, match='pickled weights can run code'):
    peft.read(folder, hf.load_config(str(model)))
