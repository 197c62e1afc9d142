"""Published streams of tasks: hand-written files always, the real ones where they are at hand."""

import json
import runpy

import pytest
from support import ROOT

from jcl.config import PUBLISHED_TASKS, StreamConfig
from jcl.errors import UserError
from jcl.streams import load, published_tasks, task_order

DATA = ROOT.parent / 'shared' / 'data'
COLUMNS = {name: stream.columns for name, stream in published_tasks.STREAMS.items()}


def put(folder, file, content):
  path = folder / file
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(content if isinstance(content, str) else json.dumps(content), 'utf-8')


def instances(name, split, count=4):
  """Rows of one task as its authors write them, with two outputs."""
  source, target = COLUMNS[name]
  return [
    {'id': str(i), source: f'{split} {i}?\nAnswer:', target: ('yes', 'no')[i % 2]}
    for i in range(count)
  ]


def loaded(name, folder, order, need_dev=False, **settings):
  config = StreamConfig(name=name, path=str(folder), task_order=order, **settings)
  return load(config, need_dev)


def long_files(folder, tasks=('cb', 'copa'), splits=('train', 'test')):
  for task in tasks:
    for split in splits:
      rows = instances('long_sequence', f'{task} {split}')
      put(folder, f'{split}/{task}_T5.json', rows)


def test_the_published_orders():
  """Each order of a stream has the same tasks, but those of four tasks, which leave yelp out."""
  for name, stream in published_tasks.STREAMS.items():
    orders = [order.split() for order in stream.orders.values()]
    assert all(len(set(order)) == len(order) for order in orders), name
    others = {frozenset(order) for order in orders} - {frozenset(orders[0])}
    assert all(frozenset(orders[0]) - other == {'yelp'} for other in others), name
    assert len(orders[0]) == {'standard_cl': 5, 'trace': 8}.get(name, 15)


@pytest.mark.skipif(not DATA.is_dir(), reason='the published data sets are not at shared/data')
def test_long_sequence_as_published():
  made = loaded('long_sequence', DATA / 'longsequence', '2', need_dev=True)
  assert len(made) == 15
  assert (made.tasks[0].name, made.tasks[-1].name) == ('multirc', 'yahoo')
  counts = [sum(len(getattr(t, s)) for t in made.tasks) for s in ('train', 'dev', 'test')]
  assert (counts[0] + counts[1], counts[2]) == (13_650, 16_943)
  cb = next(t for t in made.tasks if t.name == 'cb')
  assert cb.train[0].text.startswith('What is the logical relationship')
  assert {made.classes[c] for c in cb.classes} == {'entailment', 'contradiction', 'neutral'}
  ends = {e.task for e in made.examples if e.text.endswith('Answer:')}
  assert ends <= {14}  # yahoo, where the text of a row is a question and an answer, perhaps empty
  assert made.template == '{x}\nAnswer: {y}'


@pytest.mark.skipif(not DATA.is_dir(), reason='the published data sets are not at shared/data')
def test_trace_as_published():
  with pytest.raises(
    UserError, match=r"no file of task 'MeetingBank' is there: add it, or"
  ) as error:
    loaded('trace', DATA / 'trace500', '')
  there = str(error.value).rsplit('=', 1)[1]
  made = loaded('trace', DATA / 'trace500', there, need_dev=True)
  assert (len(made), made.classes) == (7, ())
  assert made.overlap['FOMC'] == 1
  assert made.notes == (
    'published dev files of 7 tasks are not read, for they share rows with the test file of '
    'FOMC 16: a dev split is carved from train where one is needed (stream.dev_fraction)',
  )


def test_a_dev_split_is_carved_from_train_though_a_file_of_one_is_there(tmp_path):
  long_files(tmp_path, ('cb', 'copa', 'wic'))
  put(tmp_path, 'dev/cb_T5.json', instances('long_sequence', 'cb test'))
  one = instances('long_sequence', 'copa test', 1)
  put(tmp_path, 'dev/copa_T5.json', [*one, *instances('long_sequence', 'copa dev')])
  put(tmp_path, 'dev/wic_T5.json', '[')
  made = loaded('long_sequence', tmp_path, 'cb,copa,wic', need_dev=True)
  assert made.notes == (
    'published dev files of 3 tasks are not read, for they equal the test file of cb and share '
    'rows with the test file of copa 1: a dev split is carved from train where one is needed '
    '(stream.dev_fraction)',
  )
  for task in made.tasks:
    assert task.dev
    assert not {e.text for e in task.dev} & {e.text for e in task.test}
    assert {e.text.split()[1] for e in task.dev} == {'train'}


def test_other_layouts_and_names_of_long_sequence(tmp_path):
  for split in ('train', 'test'):
    document = {'Definition': [], 'Instances': instances('long_sequence', split)}
    put(tmp_path, f'boolq/{split}.json', document)
  made = loaded('long_sequence', tmp_path, 'boolqa')
  assert [e.text for e in made.tasks[0].train[:2]] == ['train 0?', 'train 1?']
  assert made.tasks[0].train[1].name == 'boolq/train.json:Instances[1]'
  assert (made.classes, made.tasks[0].name) == (('yes', 'no'), 'boolqa')


def test_superni_in_splits_and_whole(tmp_path):
  name, other = 'task875_emotion_classification', 'task1572_samsum_summary'
  rows = instances('superni', 'x', 103)
  rows[101]['output'] = ['joy', 'love']
  put(tmp_path, f'tasks/{name}.json', {'Definition': ['Tell the feeling.'], 'Instances': rows})
  for split in ('train', 'test'):
    document = {'Definition': 'Sum up.', 'Instances': instances('superni', split)}
    put(tmp_path, f'{other}/{split}.json', document)
  made = loaded('superni', tmp_path, f'{name}, {other}')
  first, second = made.tasks
  assert (len(first.train), len(first.test), len(second.train)) == (3, 100, 4)
  assert (first.train[1].text, first.train[1].answer) == (
    'Definition: Tell the feeling.\n\nNow complete the following example -\nInput: x 101?\nAnswer:',
    'joy',
  )
  assert made.notes == (
    f'tasks/{name}.json: 1 rows have several outputs: the first one counts',
    'files without splits: the first 100 instances are test, others train',
  )
  put(tmp_path, f'tasks/{name}.json', {'Definition': [], 'Instances': rows[:100]})
  with pytest.raises(UserError, match='100 instances, of which the first 100 are test'):
    loaded('superni', tmp_path, name)


def test_the_order_of_tasks(tmp_path):
  long_files(tmp_path)
  names = lambda **more: [t.name for t in loaded('long_sequence', tmp_path, **more).tasks]
  assert names(order='copa,cb') == ['copa', 'cb']
  assert names(order='copa,cb', max_tasks=1) == ['copa']
  assert {tuple(names(order='copa,cb', order_seed=s)) for s in range(4)} == {
    ('copa', 'cb'), ('cb', 'copa'),
  }  # fmt: skip
  assert not any(map(task_order.is_drawn, PUBLISHED_TASKS))


@pytest.mark.parametrize('order', ['4', 'cb,cb', 'cb;copa', ',', 'CB'])
def test_no_order(order, tmp_path):
  with pytest.raises(
    UserError, match=r'stream\.task_order is .*: give a published order \(1, 2, 3'
  ):
    loaded('long_sequence', tmp_path, order)


ROW = {'id': '0', 'input': 'a', 'output': 'yes'}
DAMAGED = [
  (None, r'train/cb_T5\.json: no file of task .cb. is there: add it, or leave it out: .*=copa$'),
  ('', r'train/cb_T5\.json: the file is empty'),
  ('[{"input": "a",]', r'train/cb_T5\.json: malformed JSON'),
  ('[]', r'train/cb_T5\.json: the file has no rows'),
  ('{"Definition": []}', r"train/cb_T5\.json: no list 'Instances'"),
  ('{"Instances": ["a"]}', r"train/cb_T5\.json: no list 'Instances' of objects"),
  ('3', r'train/cb_T5\.json: not a list of rows'),
  (['a'], r'train/cb_T5\.json\[0\]: not a JSON object'),
  (
    [ROW, {'input': 'b'}],
    r"train/cb_T5\.json\[1\]: no field 'output': the row has .input.; name one",
  ),
  ([ROW | {'output': ' '}], r"train/cb_T5\.json\[0\]: field 'output' is empty: fill it in"),
  ([ROW | {'output': []}], r"train/cb_T5\.json\[0\]: field 'output' is \[\]: give text"),
  ([ROW | {'input': ''}], r"train/cb_T5\.json\[0\]: field 'input' is empty"),
  ('version https://git-lfs.github.com/spec/v1', r'train/cb_T5\.json: a pointer of Git LFS'),
]


@pytest.mark.parametrize(('content', 'message'), DAMAGED)
def test_refused(content, message, tmp_path):
  long_files(tmp_path)
  assert loaded('long_sequence', tmp_path, 'copa,cb').tasks
  if content is None:
    (tmp_path / 'train/cb_T5.json').unlink()
  else:
    put(tmp_path, 'train/cb_T5.json', content)
  with pytest.raises(UserError, match=message) as error:
    loaded('long_sequence', tmp_path, 'copa,cb')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', PUBLISHED_TASKS)
def test_configs(name):
  with pytest.raises(UserError, match=rf'stream\.path is empty: .*{name}'):
    load(StreamConfig(name=name))
  module = runpy.run_path(str(ROOT / 'configs' / f'{name}.py'))
  config = module['get_config']('seq')
  assert (config.stream.name, config.scenario) == (name, 'cil')
  assert f'jcl train --config={name}:lamol' in module['__doc__']
  with pytest.raises(UserError, match='nonesuch'):
    module['get_config']('nonesuch')
