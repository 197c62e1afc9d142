"""One data set with classes that names no tasks: what is found, how it is cut, what is refused."""

import gzip
import json

import pytest

from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams import class_data, load, task_order

LABELS = ('pay', 'fly', 'eat', 'pay', 'nap', 'dig')  # five classes, in order of appearance


def table(split, labels=LABELS, columns=('text', 'label'), mark=','):
  """A csv file of a row a label."""
  rows = [columns, *((f'{split} {i}', label) for i, label in enumerate(labels))]
  return '\n'.join(mark.join(row) for row in rows) + '\n'


def stream(folder, files, name='', **settings):
  """The stream of files in a folder, cut into tasks of two classes."""
  for file, content in files.items():
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(content) if isinstance(content, dict) else content
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
  given = {'classes_per_task': 2} | settings
  return load(StreamConfig(name='classes', path=str(folder / name), **given))


def classes(made):
  """Labels of each task's training rows and test rows."""
  of = lambda examples: [made.labels[e.label] for e in examples]
  return [(of(task.train), of(task.test)) for task in made.tasks]


CUT = [
  (['pay', 'fly', 'pay'], ['pay', 'fly', 'pay']), (['eat', 'nap'], ['eat', 'nap']),
  (['dig'], ['dig']),
]  # fmt: skip


@pytest.mark.parametrize(
  'files',
  [
    {'train.csv': table('train'), 'test.csv': table('test')},
    {'Train.csv': table('train'), 'test.csv.gz': gzip.compress(table('test').encode())},
    {'train.tsv': table('train', mark='\t'), 'test.csv': table('test'), 'notes.txt': 'train'},
    {
      'manifest.json': {'text': 'said', 'label': 'meant', 'train': 'a.csv', 'test': 'b/test.csv'},
      'a.csv': table('train', columns=('said', 'meant')),
      'b/test.csv': table('test', columns=('said', 'meant')),
    },
  ],
  ids=['csv', 'packed', 'tsv', 'manifest'],
)
def test_classes_are_cut_into_tasks(files, tmp_path):
  made = stream(tmp_path / 'intents', files)
  assert made.name == 'intents'
  assert [task.name for task in made.tasks] == ['classes-1-2', 'classes-3-4', 'classes-5-5']
  assert classes(made) == CUT
  assert made.unread == ()
  orders = {stream(tmp_path / 'intents', {}, order_seed=seed).labels for seed in range(9)}
  assert len(orders) > 3
  assert all(sorted(labels) == sorted({*LABELS}) for labels in orders)


@pytest.mark.parametrize('name', ['dev', 'validation', 'val'])
def test_dev_rows_go_by_any_of_their_names(name, tmp_path):
  files = {'train.csv': table('train'), 'test.csv': table('test')}
  made = stream(tmp_path, files | {f'{name}.csv': table('dev', ['fly', 'dig', 'dig'])})
  assert [len(task.dev) for task in made.tasks] == [1, 0, 2]
  splits = {'train': 'train.csv', 'dev': f'{name}.csv', 'test': 'test.csv'}
  assert class_data.found_in(tmp_path) == {'text': 'text', 'label': 'label', **splits}


def test_a_table_alone_gives_its_test_rows_itself(tmp_path):
  rows = {'mine.csv': table('all', LABELS * 3)}
  made = stream(tmp_path, rows, 'mine.csv', test_fraction=0.3)
  assert made.name == tmp_path.name
  assert [(len(t.train), len(t.test)) for t in made.tasks] == [(6, 3), (4, 2), (2, 1)]
  with pytest.raises(UserError, match=r"mine\.csv has no 'test'.*test_fraction"):
    stream(tmp_path, {}, 'mine.csv')


def test_folders_of_the_hugging_face_library(tmp_path, monkeypatch):
  datasets = pytest.importorskip('datasets')
  monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
  names = sorted({*LABELS})
  kinds = {'text': datasets.Value('string'), 'label': datasets.ClassLabel(names=names)}
  of = lambda split: datasets.Dataset.from_dict(
    {'text': [f'{split} {i}' for i in range(6)], 'label': [names.index(x) for x in LABELS]},
    features=datasets.Features(kinds),
  )
  parts = {split: of(split) for split in ('train', 'validation', 'test')}
  datasets.DatasetDict(parts).save_to_disk(tmp_path / 'saved')
  (tmp_path / 'hub' / 'data').mkdir(parents=True)
  for split, part in parts.items():
    part.to_parquet(tmp_path / 'hub' / 'data' / f'{split}-00000-of-00001.parquet')
  for name in ('saved', 'hub'):
    made = stream(tmp_path / name, {})
    assert classes(made) == CUT
    assert [len(task.dev) for task in made.tasks] == [3, 2, 1]


TABLES = {'train.csv': table('train'), 'test.csv': table('test')}


@pytest.mark.parametrize(
  ('files', 'line'),
  [
    ({'a.csv': table('train')}, r'mine: no training rows: give the folder that holds train\.csv'),
    (TABLES | {'train.jsonl': '{}'}, r'train\.csv and train\.jsonl are both the train split'),
    ({'train.csv': table('train')}, r"has no 'test': name the file.*test_fraction"),
    (
      TABLES | {'test.csv': table('test', ['pay', 'swim'])},
      r"test\.csv:3: label 'swim' is not in the train split.*correct it, add .* or leave it out",
    ),
    (
      {**TABLES, 'train.csv': table('train', columns=('said', 'meant'))},
      r"train\.csv:2: no column 'label': the row has 'said', 'meant'; name one",
    ),
    (
      TABLES | {'manifest.json': {'answer': 'label', 'train': 'train.csv', 'test': 'test.csv'}},
      r"manifest\.json: 'answer' is given, but stream\.name=classes cuts tasks by classes",
    ),
    (
      TABLES | {'test.csv': table('test', ['pay', 'fly', 'eat'])},
      r"task 'classes-5-5' has no test examples.*test_fraction",
    ),
  ],
)
def test_refused(files, line, tmp_path):
  with pytest.raises(UserError, match=line):
    stream(tmp_path / 'mine', files)


@pytest.mark.parametrize(
  ('path', 'message'),
  [
    ('mine', r"^mine/train\.csv:2: no column 'label'"),
    ('mine/train.csv', r"^mine/train\.csv has no 'test'"),
  ],
)
def test_messages_have_the_path_as_it_was_given(path, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  files = {'mine/train.csv': table('a', columns=('text', 'x')), 'mine/test.csv': table('b')}
  with pytest.raises(UserError, match=message):
    stream(tmp_path.relative_to(tmp_path), files, path)


def test_what_does_not_name_a_data_set_is_refused(tmp_path):
  with pytest.raises(UserError, match=r'stream\.path is empty: give a table'):
    load(StreamConfig(name='classes'))
  named = {'label': 'label', 'tasks': [{'name': 'a', 'train': 'train.csv', 'test': 'test.csv'}]}
  with pytest.raises(UserError, match=r"manifest\.json: 'tasks' is given.*set stream\.name=files"):
    stream(tmp_path, TABLES | {'manifest.json': named})
  given = StreamConfig(name='files', path=str(tmp_path))
  untold = {'label': 'label', 'train': 'train.csv', 'test': 'test.csv'}
  (tmp_path / 'manifest.json').write_text(json.dumps(untold))
  with pytest.raises(UserError, match=r"'train' stands beside 'tasks'.*set stream\.name=classes"):
    load(given)


def test_a_comparison_draws_the_order_of_classes():
  assert task_order.is_drawn('classes')
  assert 'classes shuffled by' in task_order.describe_order(['a'], 'classes', 3)
