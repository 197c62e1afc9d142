"""A user's own tasks from a manifest: what it can say, and a table of what is refused and how."""

import json
import re

import pytest
from support import ROOT

from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams import load
from jcl.streams.raw import TEMPLATE

TRAIN = '{"text": "hello there", "label": "greet"}\n{"text": "good bye", "label": "part"}\n'
TEST = '{"text": "hello you", "label": "greet"}\n'
TASK = {'name': 'talk', 'train': 'train.jsonl', 'test': 'test.jsonl'}
MANIFEST = {'label': 'label', 'tasks': [TASK]}


def write(folder, files):
  """Writes files under a folder; a dict is written as JSON, a manifest beside others in data/."""
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def stream(folder, files, need_dev=False, name='', **settings):
  """The stream of a manifest and its files; those of a good one are there unless replaced."""
  base = {'manifest.json': MANIFEST, 'train.jsonl': TRAIN, 'test.jsonl': TEST}
  write(folder, {k: v for k, v in (base | files).items() if v is not None})
  return load(StreamConfig(name='files', path=str(folder / name), **settings), need_dev)


def pairs(examples):
  return [(example.text, example.answer) for example in examples]


def test_jsonl_tasks(tmp_path):
  made = stream(tmp_path / 'talks', {})
  assert made.name == 'talks'
  assert pairs(made.tasks[0].train) == [('hello there', 'greet'), ('good bye', 'part')]
  assert [e.name for e in made.tasks[0].train] == ['train.jsonl:1', 'train.jsonl:2']
  assert made.template == TEMPLATE


def test_csv_and_tsv_and_a_text_of_several_columns(tmp_path):
  files = {
    'manifest.json': {
      'name': 'mixed',
      'template': '{x} -> {y}',
      'answer': 'reply',
      'tasks': [
        {'name': 'csv', 'train': 'a/train.csv', 'dev': 'dev.csv', 'test': 'test.csv', 'id': 'no'},
        {'name': 'tsv', 'train': 'train.tsv', 'test': 'test.tsv', 'text': '{who}: {what} {{}}'},
      ],
    },
    'a/train.csv': b'\xef\xbb\xbfno,text,reply\r\n1,"one, ""two""\nthree",yes\r\n\r\n2,four,no\r\n',
    'dev.csv': 'no,text,reply\n3,five,no\n',
    'test.csv': 'no,text,reply\n4,six,no\n',
    'train.tsv': 'who\twhat\treply\nA\tsays "hi\tok\n',
    'test.tsv': 'who\twhat\treply\nB\tsays\u2028ho\tok\n',
  }
  made = stream(tmp_path, files)
  assert (made.name, made.template, made.classes) == ('mixed', '{x} -> {y}', ())
  first, second = made.tasks
  assert pairs(first.train) == [('one, "two"\nthree', 'yes'), ('four', 'no')]
  assert [e.name for e in (*first.train, *first.dev)] == ['1', '2', '3']
  assert pairs(second.train) == [('A: says "hi {}', 'ok')]
  assert pairs(second.test) == [('B: says\u2028ho {}', 'ok')]


def test_numbers_count_as_the_text_that_the_file_has(tmp_path):
  rows = '{"text": 1.50, "label": 3}\n{"text": 12345678901234567890123, "label": 1e2}\n'
  made = stream(tmp_path, {'train.jsonl': rows, 'test.jsonl': '{"text": "x", "label": "3"}'})
  assert pairs(made.tasks[0].train) == [('1.50', '3'), ('12345678901234567890123', '1e2')]


def test_one_table_for_all_tasks(tmp_path):
  table = 'text,label,domain\na,x,home\nb,y,car\nc,x,home\nd,z,sea\n'
  test = 'text,label,domain\ne,x,home\nf,y,car\ng,z,sea\n'
  manifest = {'label': 'label', 'task': 'domain', 'train': 'train.csv', 'test': 'test.csv'}
  files = {'manifest.json': manifest, 'train.csv': table, 'test.csv': test}
  made = stream(tmp_path, files)
  assert [t.name for t in made.tasks] == ['home', 'car', 'sea']
  assert pairs(made.tasks[0].train) == [('a', 'x'), ('c', 'x')]
  made = stream(tmp_path, files | {'manifest.json': manifest | {'tasks': ['sea', 'home']}})
  assert [t.name for t in made.tasks] == ['sea', 'home']
  made = stream(tmp_path, files | {'manifest.json': manifest | {'tasks': 'sea, home'}})
  assert [t.name for t in made.tasks] == ['sea', 'home']
  orders = {
    tuple(t.name for t in stream(tmp_path, files, order_seed=seed).tasks) for seed in range(9)
  }
  assert len(orders) > 2


def test_tasks_of_a_column_that_differ_by_case_are_noted_and_an_empty_one_is_refused(tmp_path):
  def write(*tasks):
    rows = [{'text': f'{i} {t}', 'label': 'a', 'dom': t} for i, t in enumerate(tasks)]
    for split in ('train', 'test'):
      given = ''.join(json.dumps({**row, 'text': row['text'] + split}) + '\n' for row in rows)
      (tmp_path / f'{split}.jsonl').write_text(given)
    manifest = {'text': 'text', 'label': 'label', 'task': 'dom'}
    manifest |= {split: f'{split}.jsonl' for split in ('train', 'test')}
    (tmp_path / 'manifest.json').write_text(json.dumps(manifest))
    return load(StreamConfig(name='files', path=str(tmp_path)))

  assert write('Bank', 'shop').notes == ()
  assert write('Bank', 'bank ', 'shop').notes == (
    "'Bank' and 'bank' in column 'dom' are two tasks",
  )
  with pytest.raises(UserError, match=r"train\.jsonl:2: column 'dom' is empty: name the task"):
    write('Bank', ' ')


def test_a_python_manifest_is_read_and_not_run(tmp_path):
  text = f'"""Mine."""\n# in this order\nmanifest = {MANIFEST!r}\n'
  files = {'manifest.json': None, 'manifest.py': text}
  assert len(stream(tmp_path, files).tasks) == 1
  assert len(stream(tmp_path, files, name='manifest.py').tasks) == 1
  marker = tmp_path / 'ran'
  text = f'import pathlib\npathlib.Path({str(marker)!r}).touch()\nmanifest = {MANIFEST!r}\n'
  with pytest.raises(UserError, match=r'manifest\.py:1: not one `manifest'):
    stream(tmp_path, files | {'manifest.py': text})
  assert not marker.exists()


def test_paths_stay_in_the_folders_that_the_manifest_names(tmp_path):
  write(tmp_path, {'data/train.jsonl': TRAIN, 'data/test.jsonl': TEST})
  task = {'name': 'talk', 'train': '../data/train.jsonl', 'test': '../data/test.jsonl'}
  manifest = MANIFEST | {'tasks': [task]}
  with pytest.raises(UserError, match=r"'\.\./data/train\.jsonl' lies outside"):
    stream(tmp_path / 'mine', {'manifest.json': manifest})
  for folders in (['../data'], '../data', '["../data"]'):
    made = stream(tmp_path / 'mine', {'manifest.json': manifest | {'folders': folders}})
    assert len(made.tasks[0].train) == 2
  (tmp_path / 'mine' / 'link.jsonl').symlink_to(tmp_path / 'data' / 'train.jsonl')
  with pytest.raises(UserError, match=r"'link\.jsonl' lies outside"):
    stream(
      tmp_path / 'mine', {'manifest.json': MANIFEST | {'tasks': [TASK | {'train': 'link.jsonl'}]}}
    )


def test_the_example_of_the_configs_runs_as_it_is():
  made = load(StreamConfig(name='files', path=str(ROOT / 'configs' / 'own_tasks')), need_dev=True)
  assert [t.name for t in made.tasks] == ['library', 'garden']
  assert len(made.classes) == 6
  assert not any(made.overlap.values())
  assert all(t.train and t.dev and t.test for t in made.tasks)


def manifest(**fields):
  return {'manifest.json': MANIFEST | fields}


def task(**fields):
  return manifest(tasks=[TASK | fields])


def train(text):
  return {'train.jsonl': text}


def csv(content, **fields):
  return task(train='train.csv', **fields) | {'train.csv': content}


# what is wrong: the files that differ from a good manifest's, and what the message says
REFUSED = {
  'no manifest': ({'manifest.json': None}, 'neither manifest.json nor'),
  'two manifests': ({'manifest.py': 'manifest = {}'}, 'both manifest.json and manifest.py'),
  'empty manifest': ({'manifest.json': ''}, r'manifest\.json: the file is empty'),
  'manifest that is no object': ({'manifest.json': '[]'}, r'manifest\.json: not an object'),
  'malformed manifest': ({'manifest.json': '{\n"tasks": [,]}'}, r'manifest\.json:2: malformed'),
  'repeated key': ({'manifest.json': '{"name": "a", "name": "b"}'}, "key 'name' stands twice"),
  'deep manifest': ({'manifest.json': '[' * 99999}, r'manifest\.json: malformed.*deep'),
  'unknown key': (manifest(taks=[]), r"manifest\.json: unknown key 'taks'.*tasks"),
  'name that is no text': (manifest(name=['a']), r"manifest\.json: 'name' is not text"),
  'no tasks': (manifest(tasks=[]), r"manifest\.json: 'tasks' is not a list of tasks"),
  'tasks that are no list': (manifest(tasks=TASK), "'tasks' is not a list of tasks"),
  'task that is no object': (manifest(tasks=['a']), r'tasks\[0\] is not an object'),
  'task without name': (manifest(tasks=[{'train': 'x'}]), r"tasks\[0\] has no 'name'"),
  'unknown key of a task': (task(validation='x'), r"tasks\[0\]: unknown key 'validation'"),
  'task without train': (manifest(tasks=[{'name': 'x'}]), r"tasks\[0\] has no 'train'"),
  'task without test': (manifest(tasks=[{'name': 'x', 'train': 'y'}]), "has no 'test'"),
  'same task twice': (manifest(tasks=[TASK, TASK]), "'talk' is given twice"),
  'no label and no answer': (
    {'manifest.json': {'tasks': [TASK]}},
    r"tasks\[0\]: name the column of the classes as 'label'",
  ),
  'label and answer': (manifest(answer='reply'), 'and not both'),
  'splits beside tasks': (manifest(train='train.jsonl'), "'train' stands beside 'tasks'"),
  'folders that are no list': (manifest(folders='..,,x'), "'folders' is not a list"),
  'template without fields': (manifest(template='x'), r"template 'x': needs \{x\}"),
  'text that is no template': (task(text='{a'), r"text '\{a' is no template"),
  'text with a conversion': (task(text='{text!r}'), 'is no template: write columns as'),
  'split that is no file': (task(train=['a']), r"tasks\[0\]: 'train' is neither a file nor"),
  'unknown key of a split': (task(train={'hf': 'a', 'name': 'b'}), "'train': unknown key 'name'"),
  'missing file': (task(train='nowhere.csv'), r'nowhere\.csv: cannot be read \(No such file'),
  'folder as file': (task(train='x.csv') | {'x.csv/y': 'z'}, r'x\.csv: cannot be read'),
  'unknown kind of file': (task(train='a.doc') | {'a.doc': 'a'}, r'a\.doc.: unknown kind of file'),
  'path outside': (task(train='../train.jsonl'), r"manifest\.json: '\.\./train\.jsonl' lies out"),
  'absolute path': (task(train='/etc/passwd.csv'), r"'/etc/passwd\.csv' lies outside"),
  'path with NUL': (task(train='a\0.csv'), r"'a\\x00\.csv' is no path"),
  'path with a line end': (task(train='a\n.csv'), r"'a\\n\.csv' is no path"),
  'data set with a line end': (task(train={'hf': 'a\nb'}), "'train' holds a line end"),
  'empty file': (train(''), r'train\.jsonl: the file is empty'),
  'blank file': (train('\n \n'), r'train\.jsonl: the file is empty'),
  'malformed line': (train(TRAIN + '{"text": "x", label: "y"}\n'), r'train\.jsonl:3: malformed'),
  'cut line': (train(TRAIN + '{"text": "x'), r'train\.jsonl:3: malformed'),
  'line that is no object': (train(TRAIN + '["x"]'), r'train\.jsonl:3: not a JSON object'),
  'not a number': (train('{"text": NaN, "label": "a"}'), r'train\.jsonl:1: .*NaN'),
  'missing column': (
    train(TRAIN + '{"txt": "x", "label": "y"}'),
    r"train\.jsonl:3: no column 'text': the row has 'txt', 'label'",
  ),
  'null label': (train('{"text": "x", "label": null}'), r"train\.jsonl:1: column 'label' is null"),
  'NaN label': (train('{"text": "x", "label": NaN}'), "column 'label' is NaN"),
  'list as text': (train('{"text": ["x"], "label": "a"}'), "column 'text' is"),
  'empty text': (train('\n{"text": " ", "label": "a"}'), r'train\.jsonl:2: the text is empty'),
  'empty label': (train('{"text": "x", "label": ""}'), r'train\.jsonl:1: the label is empty'),
  'not UTF-8': (train(TRAIN.encode() + b'{"text": "\xff"}'), r'train\.jsonl:3: not UTF-8'),
  'UTF-16 without a mark': (train(TRAIN.encode('utf-16-le')), r'train\.jsonl:1: a NUL'),
  'NUL byte': (train(TRAIN + '\n\0'), r'train\.jsonl:4: a NUL'),
  'escaped NUL': (train('{"text": "x\\u0000", "label": "a"}'), r'train\.jsonl:1: .* NUL'),
  'half a surrogate pair': (train('{"text": "\\ud83d", "label": "a"}'), ':1: .*surrogate'),
  'unknown test label': (
    {'test.jsonl': '{"text": "x", "label": "grete"}'},
    r"test\.jsonl:1: label 'grete' is not in the train split of task 'talk', which has 'greet'",
  ),
  'duplicate id': (
    task(id='n')
    | train('{"n": 1, "text": "x", "label": "a"}\n{"n": 1, "text": "y", "label": "a"}')
    | {'test.jsonl': '{"n": 2, "text": "z", "label": "a"}'},
    r"train\.jsonl:2: id '1' stands also at train\.jsonl:1",
  ),
  'empty id': (
    task(id='n') | train('{"n": "", "text": "x", "label": "a"}'),
    r"train\.jsonl:1: column 'n' is empty",
  ),
  'overlap': (
    {'test.jsonl': TRAIN},
    r'train\.jsonl:1: this training text stands also in the test split at test\.jsonl:1',
  ),
  'csv without rows': (csv('text,label\n'), r'train\.csv: the file has no rows'),
  'csv with a short row': (
    csv('text,label\na,b\nc\n'),
    r'train\.csv:3: 1 field below 2 column names',
  ),
  'csv with a long row': (
    csv('text,label\na,b,c\n'),
    r'train\.csv:2: 3 fields below 2 column names',
  ),
  'csv with an open quote': (csv('text,label\na,b\n"c,d\ne,f\n'), r'train\.csv:3: malformed row'),
  'csv with a stray quote': (csv('text,label\n"a"b,c\n'), r'train\.csv:2: malformed row'),
  'csv with two columns of a name': (csv('text,text\na,b\n'), r'train\.csv:1: column names'),
  'csv without a column': (csv('words,label\na,b\n'), r"train\.csv:2: no column 'text'"),
  'unknown column in a text of several': (
    csv('text,label\na,b\n', text='{text} {more}'),
    r"train\.csv:2: no column 'more'",
  ),
  'missing folder of a data set': (
    task(train={'hf': './nowhere'}),
    r'\./nowhere\[train\]: no such',
  ),
  'data set outside': (task(train={'hf': '../..'}), r"'\.\./\.\.' lies outside"),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refused(case, tmp_path):
  files, message = REFUSED[case]
  with pytest.raises(UserError, match=message) as error:
    stream(tmp_path / 'mine', files)
  assert '\n' not in str(error.value)


DIVIDED = {'label': 'label', 'task': 'domain', 'train': 't.csv', 'test': 's.csv'}


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'tasks': ['home', 'sea']},
      r"task 'sea' has no examples: column 'domain' holds 'home', 'car'",
    ),
    (
      {'tasks': ['hme']},
      r"task 'hme' has no examples: did you mean home\? column 'domain' holds",
    ),
    ({'tasks': []}, "'tasks' is not a list of values of column 'domain'"),
    ({'task': 'dom'}, r"t\.csv:2: no column 'dom'"),
    ({}, "task 'car' has no test examples"),
  ],
)
def test_one_table_refused(fields, message, tmp_path):
  table = 'text,label,domain\na,x,home\nb,y,car\n'
  files = {'manifest.json': DIVIDED | fields, 't.csv': table, 's.csv': table.split('b,')[0]}
  with pytest.raises(UserError, match=message):
    stream(tmp_path, files, overlap='keep')


@pytest.mark.parametrize(
  ('path', 'files', 'message'),
  [
    ('mine', DIVIDED | {'test': ''}, "mine/manifest.json: 'test'"),
    ('mine', {'label': 'b', 'task': 'c', 'train': 't.csv'}, "mine/manifest.json has no 'test'"),
    ('mine', DIVIDED | {'text': 'said'}, "mine/t.csv:2: no column 'said'"),
    ('mine/manifest.json', DIVIDED | {'label': 'x'}, "mine/t.csv:2: no column 'x'"),
    ('mine/manifest.json', DIVIDED | {'test': 'none.csv'}, 'mine/none.csv: cannot be read'),
    ('mine', {'label': 'label', 'tasks': [TASK | {'train': 't.csv', 'test': 'x.csv'}]},
     'mine/x.csv: cannot be read'),
    ('mine', DIVIDED | {'tasks': ['sea']}, "mine/manifest.json: task 'sea' has no examples"),
  ],
)  # fmt: skip
def test_messages_have_the_path_as_it_was_given(path, files, message, tmp_path, monkeypatch):
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'manifest.json').write_text(json.dumps(files))
  for table in ('t.csv', 's.csv'):
    (tmp_path / 'mine' / table).write_text('text,label,domain\na,x,home\n')
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=f'^{re.escape(message)}'):
    load(StreamConfig(name='files', path=path))


@pytest.mark.parametrize(
  'text',
  ['', 'manifest = [', 'manifest = dict()', 'x = {}', 'manifest = {}\nmanifest = {}', 'tasks: int'],
)
def test_a_python_manifest_of_anything_else_is_refused(text, tmp_path):
  with pytest.raises(UserError, match=r'manifest\.py'):
    stream(tmp_path, {'manifest.json': None, 'manifest.py': text})


def test_no_path_and_a_path_of_another_kind(tmp_path):
  with pytest.raises(UserError, match=r'stream\.path is empty'):
    load(StreamConfig(name='files'))
  with pytest.raises(UserError, match=r'mine\.yaml: cannot be read \(No such file'):
    load(StreamConfig(name='files', path=str(tmp_path / 'mine.yaml')))
  (tmp_path / 'mine.yaml').write_text('tasks: []')
  with pytest.raises(UserError, match=r'mine\.yaml: this is no manifest, which is a \.json or'):
    load(StreamConfig(name='files', path=str(tmp_path / 'mine.yaml')))


@pytest.fixture
def cache(tmp_path, monkeypatch):
  datasets = pytest.importorskip('datasets')
  monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
  return datasets


def test_hugging_face_folders(cache, tmp_path):
  kinds = {'text': cache.Value('string'), 'label': cache.ClassLabel(names=['no', 'yes'])}
  saved = cache.Dataset.from_dict(
    {'text': ['a', 'b', 'c'], 'label': [1, 0, 1]}, features=cache.Features(kinds)
  )
  folder = tmp_path / 'mine'
  cache.DatasetDict(train=saved.select([0, 1]), test=saved.select([2])).save_to_disk(
    folder / 'kept'
  )
  (folder / 'parquet').mkdir()
  saved.select([2]).to_parquet(folder / 'parquet' / 'test.parquet')
  (folder / 'lines').mkdir()
  write(folder, {'lines/rows.jsonl': '{"text": "d", "label": "no"}\n'})
  splits = {
    'train': {'hf': 'kept'},
    'dev': {'hf': 'lines', 'split': 'train'},
    'test': {'hf': './parquet'},
  }
  made = stream(folder, task(**splits))
  assert made.classes == ('yes', 'no')
  assert pairs(made.tasks[0].train) == [('a', 'yes'), ('b', 'no')]
  assert pairs(made.tasks[0].dev) == [('d', 'no')]
  assert [e.name for e in made.tasks[0].test] == ['./parquet[test]:0']
  with pytest.raises(UserError, match=r'kept\[valid\]: cannot be loaded') as error:
    stream(folder, task(**splits | {'dev': {'hf': 'kept', 'split': 'valid'}}))
  assert '\n' not in str(error.value)


def test_hugging_face_rows_without_a_class_are_refused(cache, tmp_path):
  kinds = {'text': cache.Value('string'), 'label': cache.ClassLabel(names=['no', 'yes'])}
  data = cache.Dataset.from_dict(
    {'text': ['a', 'b'], 'label': [1, -1]}, features=cache.Features(kinds)
  )
  data.save_to_disk(tmp_path / 'kept')
  with pytest.raises(UserError, match=r"kept\[train\]:1: column 'label' is null"):
    stream(tmp_path, task(train={'hf': 'kept'}))
