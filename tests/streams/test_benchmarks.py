"""Readers of published files: hand-written ones always, the real ones where they are at hand."""

import functools
import json
import runpy

import pytest
from support import ROOT

from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams import load
from jcl.streams.benchmarks import BENCHMARKS

DATA = ROOT.parent / 'shared' / 'data'

published = pytest.mark.skipif(
  not DATA.is_dir(), reason=f'the published data sets are not at {DATA.parent.name}/{DATA.name}'
)


def write(folder, files):
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), 'utf-8')


@functools.cache
def real(name, path='', need_dev=False, **settings):
  return load(StreamConfig(name=name, path=str(DATA / (path or name)), **settings), need_dev)


def sizes(stream):
  return tuple(sum(len(getattr(t, s)) for t in stream.tasks) for s in ('train', 'dev', 'test'))


@published
def test_clinc150():
  made = real('clinc150')
  assert (len(made), len(made.classes), sizes(made)) == (15, 150, (15000, 3000, 4500))
  assert {len(t.classes) for t in made.tasks} == {10}
  assert made.classes[:4] == ('translate', 'transfer', 'timer', 'definition')
  assert 'oos' not in made.classes
  assert sum(made.overlap.values()) == 2
  assert made.tasks[0].train[0].name == 'data_full.json:train[0]'


@published
def test_clinc150_in_slices_keeps_its_overlap_in_sight():
  made = real(
    'clinc150', 'clinc150/data_full.json', max_tasks=3, max_train_per_task=20, max_test_per_task=10
  )
  assert sizes(made) == (60, 30, 30)
  assert sum(made.overlap.values()) == 2
  for task in made.tasks:
    assert sorted(e.label for e in task.train) == sorted(list(task.classes) * 2)
    assert sorted(e.label for e in task.test) == list(task.classes)


@published
def test_a_seed_orders_the_classes():
  plain, seeded = real('clinc150'), real('clinc150', order_seed=1)
  assert set(plain.classes) == set(seeded.classes)
  assert plain.classes != seeded.classes
  for task in seeded.tasks:
    assert {e.answer for e in task.test} == {seeded.classes[c] for c in task.classes}


@published
def test_hwu64():
  made = real('hwu64', classes_per_task=8)
  assert (len(made), len(made.classes), sizes(made)) == (8, 64, (9960, 0, 1076))
  assert made.tasks[0].train[0].text == 'what alarms do i have set right now'
  assert made.tasks[0].train[0].answer == 'alarm query'
  assert sum(made.overlap.values()) == 0


@published
def test_snips():
  made = real('snips', classes_per_task=2)
  assert [len(t.classes) for t in made.tasks] == [2, 2, 2, 1]
  assert sizes(made) == (13084, 700, 700)
  assert sum(made.overlap.values()) == 26
  assert sizes(real('snips', classes_per_task=2, overlap='drop')) == (13084 - 64, 700, 700)
  with pytest.raises(UserError, match=r'train/seq\.in:\d+: this training text stands also'):
    real('snips', overlap='refuse')


@published
@pytest.mark.parametrize(
  ('path', 'train', 'test', 'same_relation'),
  [
    ('fewrel', 1350, 11, 7),
    ('fewrel/cfrl/CFRLdata_10_100_10_2/train_0.txt', 1140, 11, 4),
  ],
)
def test_fewrel(path, train, test, same_relation):
  """Of the test texts that stand in train, some have another relation there."""
  made = real('fewrel', path)
  assert (len(made), len(made.classes), sizes(made)) == (8, 80, (train, 0, 8000))
  assert sum(made.overlap.values()) == test
  trained = {(e.text, e.label) for t in made.tasks for e in t.train}
  assert sum((e.text, e.label) in trained for t in made.tasks for e in t.test) == same_relation
  assert made.template == '{x}\n The relation: {y}'
  dropped = real('fewrel', path, overlap='drop')
  texts = {e.text for t in dropped.tasks for e in t.train}
  assert not any(e.text in texts for t in dropped.tasks for e in t.test)


@published
def test_fewrel_texts_name_both_entities():
  made = real('fewrel')
  (example,) = (e for t in made.tasks for e in t.test if e.name.endswith('test_0.txt:1'))
  assert example.text.endswith(' . Head: kim campbell. Tail: prime minister of canada.')
  assert example.answer == 'position held'


@published
def test_a_carved_dev_split_shares_no_text_with_its_train_split():
  made = real('hwu64', 'hwu64/KFold_1', need_dev=True, classes_per_task=8)
  assert sizes(made) == (8942, 1018, 1076)
  for task in made.tasks:
    assert {e.label for e in task.dev} == set(task.classes)
    assert not {e.text for e in task.dev} & {e.text for e in task.train}


BANKING = {
  'categories.json': ['pin', 'top_up?', 'Card'],
  'train.csv': (
    'text,category\n"I forgot, my pin",pin\nadd money,top_up?\nnew card,Card\npin?,pin\n'
  ),
  'test.csv': 'text,category\nwrong pin,pin\nwhere is my card,Card\n"fill\nup",top_up?\n',
}


def banking(folder, **files):
  write(folder, BANKING | {name.replace('__', '.'): text for name, text in files.items()})
  return load(StreamConfig(name='banking77', path=str(folder), classes_per_task=2))


def test_banking77(tmp_path):
  made = banking(tmp_path)
  assert made.classes == ('pin', 'top up?', 'Card')
  assert [t.classes for t in made.tasks] == [(0, 1), (2,)]
  assert made.tasks[0].train[0].text == 'I forgot, my pin'
  assert made.tasks[0].test[1].name == 'test.csv:4'
  file = StreamConfig(name='banking77', path=str(tmp_path / 'train.csv'), classes_per_task=2)
  assert load(file) == made
  (tmp_path / 'categories.json').unlink()
  assert load(file) == made


def concept_block(concept, fact):
  return (
    f'({concept}, UsedFor, Fact{fact})\nQ1: What is {concept} {fact} for?\nA1: fact {fact}\n'
    f'Q2: Why have {concept} {fact}?\nQ2: fact {fact}\n'
  )


CONCEPTS = ''.join(concept_block(f'thing {c}', f) for f in range(2) for c in range(21))


def test_concept1k(tmp_path):
  write(tmp_path, {'dataset.txt': CONCEPTS})
  config = StreamConfig(name='concept1k', path=str(tmp_path))
  made = load(config)
  assert (len(made), made.classes, sizes(made)) == (10, (), (42, 0, 42))
  assert [len(t.train) for t in made.tasks] == [4] * 9 + [6]
  first, second = made.tasks[0].train[:2]
  assert (first.text, first.answer) == ('What is thing 0 0 for?', 'fact 0')
  assert (second.text, second.answer) == ('What is thing 0 1 for?', 'fact 1')
  assert made.tasks[0].test[0].text == 'Why have thing 0 0?'
  assert (first.label, first.name) == (-1, 'dataset.txt:2')
  assert made.template == 'Question: {x}\n Short Answer: {y}'
  seeded = load(StreamConfig(name='concept1k', path=str(tmp_path / 'dataset.txt'), order_seed=5))
  assert {e.text for t in seeded.tasks for e in t.train} == {
    e.text for t in made.tasks for e in t.train
  }
  assert seeded.tasks[0].train != made.tasks[0].train


GOOD = {
  'clinc150': {
    'data_full.json': {'train': [['a', 'x']], 'val': [['b', 'x']], 'test': [['c', 'x']]}
  },
  'banking77': BANKING,
  'hwu64': {
    'KFold_1/trainset/a.csv': 'scenario;intent;answer_from_anno\nbank;pay;pay it\n',
    'KFold_1/testset/csv/a.csv': 'scenario;intent;answer_from_anno\nbank;pay;pay me\n',
  },
  'snips': {
    f'{split}/{file}': f'{split if file == "seq.in" else "Play"}\n'
    for split in ('train', 'dev', 'test')
    for file in ('seq.in', 'label')
  },
  'fewrel': {
    'relation_name.txt': 'owner of\npart of\n',
    'CFRLdata_10_100_10_5/train_0.txt': '2\t1\tx is in y .\tx\t0\ty\t3\tQ1\tQ2\n',
    'CFRLdata_10_100_10_5/test_0.txt': '2\t1\tu is in v .\tu\t0\tv\t3\tQ1\tQ2\n',
  },
  'concept1k': {'dataset.txt': CONCEPTS},
}
REFUSED = [
  ('clinc150', {'data_full.json': None}, r'data_full\.json: cannot be read'),
  ('clinc150', {'data_full.json': ''}, r'data_full\.json: the file is empty'),
  ('clinc150', {'data_full.json': '{\n"train": [[}'}, r'data_full\.json:2: malformed JSON'),
  ('clinc150', {'data_full.json': {'train': []}}, r"data_full\.json: no list 'val'"),
  (
    'clinc150',
    {'data_full.json': {'train': [['a', 'x'], ['b']], 'val': [], 'test': []}},
    r'data_full\.json:train\[1\]: not a pair',
  ),
  (
    'clinc150',
    {'data_full.json': {'train': [['a', 'x']], 'val': [], 'test': [['b', 'y']]}},
    r"data_full\.json:test\[0\]: label 'y' is not in the train split",
  ),
  ('banking77', {'categories.json': {'a': 1}}, r'categories\.json: not a list'),
  ('banking77', {'test.csv': 'text,category\nhi,pan\n'}, r"test\.csv:2: category 'pan' is not in"),
  ('banking77', {'train.csv': 'text,label\nhi,pin\n'}, r"train\.csv:2: no column 'category'"),
  ('banking77', {'train.csv': BANKING['train.csv'] + ',pin\n'}, r'train\.csv:6: the text is empty'),
  ('hwu64', {'KFold_1/trainset/a.csv': None}, r'trainset: no csv files'),
  ('hwu64', {'KFold_1/trainset/a.csv': 'scenario;intent\na;b\n'}, "no column 'answer_from_anno'"),
  ('snips', {'dev/seq.in': None}, r'seq\.in: cannot be read'),
  ('snips', {'dev/seq.in': 'a\nb\n'}, r'dev: 2 lines in seq\.in and 1 in label'),
  (
    'snips',
    {'train/seq.in': ' \nb\n', 'train/label': 'Play\nPlay\n'},
    r'train/seq\.in:1: the text',
  ),
  ('fewrel', {'relation_name.txt': 'owner of\n'}, r'train_0\.txt:1: .*number from 1 to 1'),
  ('fewrel', {'CFRLdata_10_100_10_5/test_0.txt': '1\t2\tx\n'}, r'test_0\.txt:1: not a relation'),
  ('concept1k', {'dataset.txt': concept_block('a', 1)}, '1 concept: 10 tasks need'),
  ('concept1k', {'dataset.txt': CONCEPTS + '(a, b, c)\nQ1: d\n'}, r'dataset\.txt:211: not a block'),
  ('concept1k', {'dataset.txt': 'Q1: x\n' + CONCEPTS}, r'dataset\.txt:1: not a block'),
  (
    'concept1k',
    {'dataset.txt': CONCEPTS.replace('A1: fact 0', 'A1:', 1)},
    r'dataset\.txt:2: the answer is empty',
  ),
]


@pytest.mark.parametrize(('name', 'files', 'message'), REFUSED)
def test_refused(name, files, message, tmp_path):
  write(tmp_path, GOOD[name])
  config = StreamConfig(name=name, path=str(tmp_path))
  assert load(config).tasks
  for file, content in files.items():
    (tmp_path / file).unlink()
    if content is not None:
      write(tmp_path, {file: content})
  with pytest.raises(UserError, match=message) as error:
    load(config)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', BENCHMARKS)
def test_no_path(name):
  with pytest.raises(UserError, match=rf'stream\.path is empty: .*{name}'):
    load(StreamConfig(name=name))


@pytest.mark.parametrize('name', [*BENCHMARKS, 'own_tasks'])
def test_configs(name):
  module = runpy.run_path(str(ROOT / 'configs' / f'{name}.py'))
  config = module['get_config']('seq')
  assert config.stream.name == ('files' if name == 'own_tasks' else name)
  assert config.scenario == ('iil' if name == 'concept1k' else 'cil')
  assert f'jcl train --config={name}:lamol' in module['__doc__']
  with pytest.raises(UserError, match='nonesuch'):
    module['get_config']('nonesuch')
