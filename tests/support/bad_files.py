"""Streams, models and adapters that are wrong; `test_bad_input.py` tries them."""

import json
import pathlib
import shutil
import struct
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from support.bad_flags import DEEP, QUICKSTART, SMALL, Case, changed, link

TRAIN = '{"text": "hello there", "label": "greet"}\n{"text": "good bye", "label": "part"}\n'
TASK = {'name': 'talk', 'train': 'train.jsonl', 'test': 'test.jsonl'}
MANIFEST = {'label': 'label', 'tasks': [TASK]}
STREAM = {
  'manifest.json': MANIFEST,
  'train.jsonl': TRAIN,
  'test.jsonl': '{"text": "hello you", "label": "greet"}\n',
}


def put(path: pathlib.Path, content: Any) -> None:
  """Puts content there: text, bytes, JSON, nothing for None, or what a function does there."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if callable(content):
    content(path)
  elif content is None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  elif isinstance(content, bytes):
    path.write_bytes(content)
  else:
    path.write_text(content if isinstance(content, str) else json.dumps(content), 'utf-8')


def tiny_gguf() -> bytes:
  """A GGUF file with an architecture and nothing else that is needed."""
  from gguf import GGUFWriter

  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / 'a.gguf'
    writer = GGUFWriter(file, 'llama')
    writer.add_block_count(1)
    writer.add_tensor('token_embd.weight', np.zeros((8, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file.read_bytes()


def cut(count: int) -> Any:
  """Leaves the first bytes of a file."""
  return lambda path: path.write_bytes(path.read_bytes()[:count])


def tensors(**arrays: np.ndarray) -> Any:
  """A safetensors file of these; those that are None are taken out of what is there."""

  def write(path: pathlib.Path) -> None:
    kept = safetensors.numpy.load_file(path) if path.is_file() else {}
    named = {name.replace('__', '.'): array for name, array in arrays.items()}
    kept = {**kept, **named}
    safetensors.numpy.save_file({k: x for k, x in kept.items() if x is not None}, path)

  return write


def header(text: str | bytes, length: int | None = None) -> bytes:
  """A safetensors file with this header."""
  data = text.encode() if isinstance(text, str) else text
  return struct.pack('<Q', len(data) if length is None else length) + data


def stream(files: Mapping[str, Any], *says: str) -> Case:
  """Of a stream whose files differ from the good one's."""
  arguments = [
    QUICKSTART, *SMALL, '--workdir={here}/new', '--config.stream.name=files',
    '--config.stream.path={here}/data',
  ]  # fmt: skip
  return Case('train', arguments, says, {f'data/{k}': v for k, v in files.items()}, ('data',))


def manifest(*says: str, **fields: Any) -> Case:
  """Of a manifest with other fields."""
  return stream({'manifest.json': MANIFEST | fields}, *says)


def task(*says: str, **fields: Any) -> Case:
  """Of a task with other fields."""
  return manifest(*says, tasks=[TASK | fields])


def rows(content: Any, *says: str, name: str = 'train.jsonl') -> Case:
  """Of a training file."""
  files = {'manifest.json': MANIFEST | {'tasks': [TASK | {'train': name}]}, name: content}
  return stream(files, *says)


def model(files: Mapping[str, Any], *says: str, path: str = 'model') -> Case:
  """Of a model whose files differ from the good one's."""
  arguments = [QUICKSTART + ':seq', *SMALL[:5], '--workdir={here}/new',
               '--config.backbone.path={here}/' + path]  # fmt: skip
  return Case('train', arguments, says, files, ('model', 'model.gguf'))


def fields(*says: str, **values: Any) -> Case:
  """Of a config.json with other values."""
  return model({'model/config.json': changed(**values)}, *says)


def adapter(files: Mapping[str, Any], *says: str) -> Case:
  """Of an adapter, merged with a good one."""
  arguments = ['--adapters={here}/adapter,{here}/other', '--base={here}/model', '--out={here}/new']
  files = {f'adapter/{k}': v for k, v in files.items()}
  return Case('merge', arguments, says, files, ('adapter', 'other', 'model'))


def said(*says: str, **values: Any) -> Case:
  """Of an adapter_config.json with other values."""
  return adapter({'adapter_config.json': changed(**values)}, *says)


SET = MANIFEST | {'tasks': [TASK | {'train': {'hf': 'set'}}]}


def described(files: str, *says: str) -> Case:
  """Of a data set in a folder whose README.md names its files."""
  words = f'---\nconfigs:\n- config_name: default\n  data_files: "{files}"\nurl: https://a.b\n---\n'
  secret = 'text,label\nhello there,greet\n'
  describe = lambda path: path.write_text(words.replace('{here}', str(path.parents[2])))
  files = {'manifest.json': SET, 'set/train.csv': secret, 'set/README.md': describe}
  case = stream(files, *says)
  return case._replace(files=case.files | {'secret.csv': secret})


def saved_elsewhere(path: pathlib.Path) -> None:
  """Saves a data set in the folder whose rows lie beside the manifest's."""
  import datasets

  folder, outside = path.parent, path.parents[2] / 'elsewhere.arrow'
  datasets.Dataset.from_dict({'text': ['a'], 'label': ['greet']}).save_to_disk(folder)
  state = json.loads((folder / 'state.json').read_text())
  (folder / state['_data_files'][0]['filename']).rename(outside)
  state['_data_files'][0]['filename'] = '../../elsewhere.arrow'
  (folder / 'state.json').write_text(json.dumps(state))


# fmt: off
STREAMS = {
  'no stream of that name': Case(
    'train',
    [QUICKSTART, '--config.stream.name=x', '--workdir={here}/new'],
    ("stream.name: nothing is called 'x'", 'there are synthetic'),
  ),
  'no path of a stream': Case(
    'train',
    [QUICKSTART, '--config.stream.name=files', '--workdir={here}/new'],
    ('stream.path is empty', 'give a manifest'),
  ),
  'a benchmark that is not there': Case(
    'train',
    [
      QUICKSTART,
      '--config.stream.name=clinc150',
      '--config.stream.path={here}/no',
      '--workdir={here}/new',
    ],
    ('{here}/no', 'correct'),
  ),
  'plan: no stream': Case(
    'plan',
    [QUICKSTART, '--config.stream.name=files', '--config.stream.path={here}'],
    ('{here}', 'name one file'),
  ),
  'compare: no stream': Case(
    'compare',
    [
      QUICKSTART,
      '--config.stream.name=files',
      '--config.stream.path={here}',
      '--workdir={here}/new',
    ],
    ('{here}', 'name one file'),
  ),
  'no manifest': stream({'manifest.json': None}, 'data', 'name one file'),
  'an empty manifest': stream({'manifest.json': ''}, 'manifest.json', 'give'),
  'a malformed manifest': stream({'manifest.json': '{\n"tasks": [,]}'}, 'manifest.json:2', 'mend'),
  'a deep manifest': stream({'manifest.json': DEEP}, 'manifest.json', 'mend'),
  'a manifest with huge numbers': stream(
    {'manifest.json': '{"tasks": ' + '9' * 10_000 + '}'}, 'manifest.json', 'list of tasks'
  ),
  'a manifest of bytes': stream({'manifest.json': b'\xff\xfe{'}, 'manifest.json:1', 'UTF-8'),
  'a manifest that is a list': stream({'manifest.json': '[]'}, 'manifest.json', 'write {'),
  'a key twice': stream({'manifest.json': '{"name": "a", "name": "b"}'}, "'name'", 'mend'),
  'a misspelt key': manifest("'taks'", 'tasks', taks=[]),
  'tasks that are none': manifest("'tasks'", 'write', tasks=7),
  'a task without a name': manifest('tasks[0]', 'give it one', tasks=[{'train': 'x'}]),
  'a task name that is a path': task("'../x'", 'without /', name='../x'),
  'a task name with a line end': task("'a\\nb'", 'give 1 to 80', name='a\nb'),
  'a task name without end': task('xxx', 'give 1 to 80', name='x' * 100_000),
  'label and answer': task('tasks[0]', 'not both', answer='a', label='b'),
  'a path outside': task("'../model/x.csv'", "'folders'", train='../model/x.csv'),
  'a path of the system': task("'/etc/passwd'", "'folders'", train='/etc/passwd'),
  'a path by a link': stream({'train.jsonl': link('/etc/passwd')}, "'train.jsonl'", "'folders'"),
  'a path that is an address': task('file:///', 'give', train='file:///etc/passwd'),
  'a path with a star': task('*.jsonl', 'correct the path', train='*.jsonl'),
  'a path at home': task('~/x.csv', "'folders'", train='~/x.csv'),
  'a path with NUL': task("'a\\x00.csv'", 'correct it', train='a\0.csv'),
  'a path without end': task('xxx', 'shorter name', train='x' * 5000 + '.csv'),
  'an unknown kind': task('train.doc', '.jsonl', train='train.doc'),
  'data outside': task("'..'", "'folders'", train={'hf': '..'}),
  'data at an address': task('http', 'correct it', train={'hf': 'http://127.0.0.1:9/a'}),
  'data by a star': task("'*'", 'correct it', train={'hf': '*'}),
  'the whole disk': manifest("'/'", 'name what is read', folders=['/']),
  'data whose words lead outside': described('../../secret.csv', 'secret.csv', 'take it out'),
  'data whose words lead away': described('{here}/secret.csv', 'secret.csv', 'take it out'),
  'data at an address of its own': described('https://127.0.0.1:9/a.csv', 'https', 'name files'),
  'data at an address in other words': described(
    '"\n"configs": [{"config_name": "a", "data_files": {"train": ["ftp://127.0.0.1/a.csv"]}}] #',
    "'ftp://", 'name files',
  ),
  'data with a link outside': stream(
    {'manifest.json': SET, 'set/train.csv': link('/etc/hostname')}, "set/train.csv'", 'take it out'
  ),
  'a saved set of files outside': stream(
    {'manifest.json': SET, 'set/kept': saved_elsewhere}, 'elsewhere', 'take it out'
  ),
  'data with a program': stream(
    {
      'manifest.json': MANIFEST | {'tasks': [TASK | {'train': {'hf': 'set'}}]},
      'set/set.py': 'raise SystemExit(0)',
    },
    'set[train]',
    'correct',
  ),
  'parquet that is none': stream(
    {
      'manifest.json': MANIFEST | {'tasks': [TASK | {'train': {'hf': 'set'}}]},
      'set/train.parquet': 'PAR1',
    },
    'set[train]',
    'correct',
  ),
  'a saved set that is damaged': stream(
    {
      'manifest.json': MANIFEST | {'tasks': [TASK | {'train': {'hf': 'set'}}]},
      'set/state.json': '{}',
    },
    'set[train]',
    'correct',
  ),
  'a program as a manifest': stream(
    {'manifest.json': None, 'manifest.py': 'import os\nmanifest = {}'}, 'manifest.py:1', 'write'
  ),
  'a deep program as a manifest': stream(
    {'manifest.json': None, 'manifest.py': 'manifest = ' + DEEP}, 'manifest.py:1', 'mend'
  ),
  'an empty file': rows('', 'train.jsonl', 'at least one row'),
  'a cut line': rows(TRAIN + '{"text": "x', 'train.jsonl:3', 'mend'),
  'a deep line': rows(TRAIN + DEEP, 'train.jsonl:3', 'mend'),
  'a line that is a list': rows(TRAIN + '[]', 'train.jsonl:3', 'write'),
  'no number': rows('{"text": NaN, "label": "a"}', 'train.jsonl:1', 'text'),
  'a number without end': rows(
    '{"text": ' + '1' * 99 + ', "label": 1e999}', 'test.jsonl:1', 'train'
  ),
  'Latin-1': rows('{"text": "\xe9"}'.encode('latin-1'), 'train.jsonl:1', 'save the file as UTF-8'),
  'UTF-16': rows(TRAIN.encode('utf-16-le'), 'train.jsonl:1', 'save the file as UTF-8'),
  'NUL': rows(TRAIN + '\0', 'train.jsonl:3', 'take it out'),
  'half a letter': rows('{"text": "\\ud83d", "label": "a"}', 'train.jsonl:1', 'take it out'),
  'no such column': rows('{"txt": "a", "label": "a"}', "'text'", "the row has 'txt'"),
  'an empty answer': rows('{"text": "a", "label": " "}', 'train.jsonl:1', 'fill it in'),
  'a text of nothing': rows('{"text": "\\u2003", "label": "a"}', 'train.jsonl:1', 'fill it in'),
  'null for a text': rows('{"text": null, "label": "a"}', "'text' is null", 'give text'),
  'a csv with an open quote': rows(
    'text,label\n"a,b\n', 'a.csv:2', 'check its quotes', name='a.csv'
  ),
  'a csv with a field too many': rows('text,label\na,b,c\n', 'a.csv:2', 'quote', name='a.csv'),
  'a csv with a column twice': rows('text,text\na,b\n', 'a.csv:1', 'mend', name='a.csv'),
  'a csv of column names': rows('text,label\n', 'a.csv', 'at least one', name='a.csv'),
  'a tsv with a field too few': rows('text\tlabel\na\n', 'a.tsv:2', 'fill in', name='a.tsv'),
  'a test label of no class': stream(
    {'test.jsonl': '{"text": "a", "label": "x"}'}, 'test.jsonl:1', 'correct it'
  ),
  'train texts in test': stream({'test.jsonl': TRAIN}, 'train.jsonl:1', 'stream.overlap'),
  'a special token as a text': rows(
    TRAIN + '{"text": "<eos>", "label": "greet"}', '<eos>', 'write it differently'
  ),
}
MODELS = {
  'no model': model({}, 'no/no', 'name an existing one', path='no/no'),
  'no model file': model({}, 'no.gguf', 'correct the path', path='no.gguf'),
  'a model that is a text': model({'a.txt': 'x'}, 'a.txt', 'model folder', path='a.txt'),
  'no config.json': model({'model/config.json': None}, 'model/config.json', 'no such file'),
  'config.json no JSON': model({'model/config.json': '{'}, 'model/config.json', 'valid JSON'),
  'config.json deep': model({'model/config.json': DEEP}, 'model/config.json', 'valid JSON'),
  'config.json huge': model(
    {'model/config.json': '{"a": ' + '9' * 9999 + '}'}, 'model/config.json', 'valid JSON'
  ),
  'config.json of a list': model({'model/config.json': '[]'}, 'model/config.json', 'object'),
  'a model of no kind': fields("'x'", 'known: gpt2', model_type='x'),
  'a kind that is a list': fields("['llama']", 'known: gpt2', model_type=['llama']),
  'no width': fields("'hidden_size'", 'is missing', hidden_size=None),
  'a word for a width': fields("'hidden_size' is 'x'", 'of type int', hidden_size='x'),
  'more width than there is': fields("'hidden_size'", 'at most', hidden_size=2**70),
  'a scale that is none': fields("'rms_norm_eps'", 'finite', rms_norm_eps=float('nan')),
  'rope that is none': fields("'rope_scaling'", 'dict', rope_scaling='x', rope_parameters=None),
  'layer kinds that are none': fields('layer_types', 'full_attention', model_type='qwen2',
                                      layer_types=[[1]]),
  'heads that do not divide': fields('heads', 'multiple', num_attention_heads=3),
  'no weights': model({'model/model.safetensors': None}, 'model', 'model.safetensors'),
  'pickled weights': model(
    {'model/model.safetensors': None, 'model/pytorch_model.bin': b'\x80\x04.'},
    'pytorch_model.bin', 'save_pretrained',
  ),
  'a TensorFlow model': model(
    {'model/model.safetensors': None, 'model/tf_model.h5': b'x'}, 'tf_model.h5', 'save_pretrained'
  ),
  'a Flax model': model(
    {'model/model.safetensors': None, 'model/flax_model.msgpack': b'x'}, '.msgpack', 'save_pretr'
  ),
  'cut weights': model({'model/model.safetensors': cut(900)}, 'model.safetensors', 'truncated'),
  'empty weights': model({'model/model.safetensors': b''}, 'model.safetensors', 'truncated'),
  'a header without end': model(
    {'model/model.safetensors': header('{}', 2**62)}, 'model.safetensors', 'truncated'
  ),
  'a deep header': model({'model/model.safetensors': header(DEEP)}, 'model.safetensors', 'trunc'),
  'a tensor missing': model(
    {'model/model.safetensors': tensors(model__norm__weight=None)}, "'model.norm.weight'", 'missing'
  ),
  'a tensor too many': model(
    {'model/model.safetensors': tensors(a=np.zeros(1, np.float32))}, 'model', "'a' is unknown"
  ),
  'a tensor of another shape': model(
    {'model/model.safetensors': tensors(model__norm__weight=np.zeros(3, np.float32))},
    "'model.norm.weight'", 'the config wants',
  ),
  'a tensor of counts': model(
    {'model/model.safetensors': tensors(model__norm__weight=np.zeros(16, np.int32))},
    "'model.norm.weight'", 'BF16',
  ),
  'an index that is none': model(
    {'model/model.safetensors': None, 'model/model.safetensors.index.json': '[]'},
    'index.json', 'object',
  ),
  'an index of nothing there': model(
    {'model/model.safetensors': None,
     'model/model.safetensors.index.json': {'weight_map': {'a': '../../x\0.safetensors'}}},
    'x', 'no such file',
  ),
  'no tokenizer': model({'model/tokenizer.json': None}, 'model', 'tokenizer.json'),
  'a tokenizer that is none': model({'model/tokenizer.json': '{}'}, 'tokenizer.json', 'valid'),
  'a tokenizer of bytes': model({'model/tokenizer.json': b'\xff'}, 'tokenizer.json', 'valid'),
  'a deep tokenizer': model({'model/tokenizer.json': DEEP}, 'tokenizer.json', 'valid'),
  'special tokens of a list': model(
    {'model/tokenizer_config.json': '[]'}, 'tokenizer_config.json', 'object'
  ),
  'a special token of no text': model(
    {'model/tokenizer_config.json': {'eos_token': 5}}, 'eos_token', 'text'
  ),
  'a special id below 0': fields('eos_token_id', '-1', eos_token_id=-1),
  'a special id beyond': fields('eos', 'tokenizer', eos_token_id=10**9),
  'a GGUF file that is none': model({'a.gguf': 'x'}, 'a.gguf', 'truncated', path='a.gguf'),
  'an empty GGUF file': model({'a.gguf': b''}, 'a.gguf', 'truncated', path='a.gguf'),
  'a cut GGUF file': model({'model.gguf': cut(60)}, '.gguf', 'truncated', path='model.gguf'),
  'a GGUF file of countless fields': model(
    {'a.gguf': b'GGUF' + struct.pack('<IQQ', 3, 0, 2**60)}, 'a.gguf', 'truncated', path='a.gguf'
  ),
  'a GGUF file with a list without end': model(
    {'a.gguf': b'GGUF' + struct.pack('<IQQ', 3, 0, 1) + struct.pack('<Q', 1) + b'a'
               + struct.pack('<IIQ', 9, 0, 2**60)},
    'a.gguf', 'truncated', path='a.gguf',
  ),
  'a GGUF file without a shape': model({}, 'embedding_length', 'missing', path='model.gguf'),
  'a head of no kind': model({'model/head.json': {'kind': 'x'}}, 'head.json', 'pooling'),
  'plan: rows too long': Case(
    'plan', [QUICKSTART + ':seq', '--config.backbone.path={here}/model', '--tokens=100000'],
    ('--tokens=100000', 'positions'), needs=('model',),
  ),
}
ADAPTERS = {
  'no adapter': adapter({'adapter_config.json': None}, 'adapter_config.json', 'no such file'),
  'an adapter of no JSON': adapter({'adapter_config.json': '{'}, 'adapter_config.json', 'valid'),
  'a deep adapter': adapter({'adapter_config.json': DEEP}, 'adapter_config.json', 'valid JSON'),
  'an adapter of another kind': said("'IA3'", 'not supported', peft_type='IA3'),
  'no rank': said("'r'", 'is missing', r=None),
  'a rank below 0': said("'r' is -1", 'positive', r=-1),
  'a rank of words': said("'r'", 'of type int', r='x'),
  'alpha that is none': said("'lora_alpha'", 'finite', lora_alpha=float('nan')),
  'targets that are none': said("'target_modules'", 'list of modules', target_modules=7),
  'targets of nothing': said("'x'", 'known: ', target_modules=['x']),
  'targets without end': said('forever', 'list the modules', target_modules='(.+)+x'),
  'a pattern of ranks that is none': said("'['", 'name the modules', rank_pattern={'[': 1}),
  'a pattern with a switch inside': said("'(?i)q'", 'name the', rank_pattern={'(?i)q': 1}),
  'a pickled adapter': adapter(
    {'adapter_model.safetensors': None, 'adapter_model.bin': b'\x80\x04.'},
    'adapter_model.bin', 'save_pretrained',
  ),
  'no tensors': adapter({'adapter_model.safetensors': None}, 'adapter_model', 'no such file'),
  'cut tensors': adapter({'adapter_model.safetensors': cut(100)}, 'adapter_model', 'truncated'),
  'merge: no base': Case(
    'merge', ['--adapters={here}/adapter,{here}/other', '--out={here}/new'],
    ("'base_model_name_or_path'", 'give --base'),
    {'adapter/adapter_config.json': changed(base_model_name_or_path='')}, ('adapter', 'other'),
  ),
}
# fmt: on
CASES = STREAMS | MODELS | ADAPTERS
