"""Readers by name: built-in ones, those of a module on the path, and what is refused."""

import importlib.metadata
import re

import pytest

from jcl import plugins
from jcl.config import PUBLISHED_TASKS, StreamConfig
from jcl.errors import UserError
from jcl.streams import load, published_tasks, rebuild, registry
from jcl.streams.benchmarks import BENCHMARKS

READERS = '''
"""Stream readers of somebody else."""

from jcl.errors import UserError
from jcl.streams import Lazy, RawRow, RawStream, RawTask, StreamConfig


def raw(**fields):
  rows = [RawRow(f'mine:{i}', f'text {i}', label='data_loss') for i in range(9)]
  return RawStream('mine', [RawTask('only', rows[:6], rows[6:])])._replace(**fields)


def read(config: StreamConfig) -> RawStream:
  return raw(name=config.path)


def read_either(config, *, targets):
  if targets:
    return raw()
  documents = Lazy(range(9), lambda _, i: RawRow(f'mine:{i}', f'document {i}'))
  return RawStream('text', [RawTask('only', documents, documents)], overlap='keep', targets=False)


def refuses(config):
  raise UserError('mine.db: no such table: correct stream.path')


def raises(config):
  raise KeyError('two\\nlines')


def ends(config):
  raise KeyboardInterrupt


def needs_room(config):
  raise MemoryError


def needs_more(config, password):
  return raw()


def gives_nothing(config):
  return None


def gives_rows(config):
  return [{'text': 'a'}]


def gives_a_name(config):
  return raw(name=3)


def gives_no_template(config):
  return raw(template='x')


def gives_a_policy(config):
  return raw(overlap='ignore')


def gives_a_generator(config):
  return raw(tasks=(task for task in raw().tasks))


def gives_pairs(config):
  return raw(tasks=[('only', [], [])])


def gives_no_list(config):
  return raw(tasks=[raw().tasks[0]._replace(train=iter(()))])


def gives_dicts(config):
  return raw(tasks=[raw().tasks[0]._replace(train=[{'text': 'a', 'label': 'b'}])])


def gives(**fields):
  def reader(config):
    (task,) = raw().tasks
    return raw(tasks=[task._replace(train=[task.train[0]._replace(**fields)])])
  return reader


gives_no_text = gives(text=None)
gives_a_number = gives(label=3)
gives_a_list = gives(label=['a'])
gives_bytes = gives(label=None, answer=b'a')
gives_an_id = gives(id=3)


def newer(config):
  return raw()


newer.needs_jcl = '999.0'
constant = 3
'''


@pytest.fixture
def readers(tmp_path, monkeypatch):
  (tmp_path / 'their_readers.py').write_text(READERS)
  (tmp_path / 'their_broken.py').write_text('raise OSError("no licence")')
  monkeypatch.syspath_prepend(tmp_path)
  return lambda name, **more: StreamConfig(name=f'their_readers:{name}', **more)


def test_a_reader_from_outside(readers):
  made = load(readers('read', path='helpdesk', max_train_per_task=4), need_dev=True)
  assert made.name == 'helpdesk'
  assert made.labels == ('data_loss',)
  (task,) = made.tasks
  assert (len(task.train), len(task.dev), len(task.test)) == (4, 1, 3)
  assert made.settings.name == 'their_readers:read'
  again = rebuild(made, readers('read', path='helpdesk', max_test_per_task=1))
  assert [len(t.test) for t in again.tasks] == [1]


def test_a_reader_may_ask_whether_targets_are_needed(readers):
  assert load(readers('read_either')).classes == ('data loss',)
  text = load(readers('read_either'), targets=False)
  assert (text.name, text.classes) == ('text', ())
  assert [e.text for e in text.tasks[0].train[:2]] == ['document 0', 'document 1']
  assert {e.answer for e in load(readers('read'), targets=False).examples} == {''}


def test_a_reader_of_an_entry_point(readers, monkeypatch):
  point = importlib.metadata.EntryPoint('theirs', 'their_readers:read', 'jcl.streams')
  points = lambda **asked: [
    p for p in (point,) if asked['group'] == p.group and asked.get('name', p.name) == p.name
  ]
  monkeypatch.setattr(plugins.importlib.metadata, 'entry_points', points)
  assert load(StreamConfig(name='theirs')).labels == ('data_loss',)
  with pytest.raises(
    UserError, match=r"nothing is called 'their'; did you mean theirs[?] there are .*, theirs, and"
  ):
    load(StreamConfig(name='their'))


REFUSED = {
  'raises': r"the reader their_readers:raises raises KeyError: 'two\\nlines'",
  'needs_more': r"raises TypeError: needs_more\(\) missing 1 required positional argument: 'pass",
  'gives_nothing': 'the reader their_readers:gives_nothing returns a NoneType; .* a RawStream',
  'gives_rows': 'returns a list; it must return a RawStream',
  'gives_a_name': 'the reader their_readers:gives_a_name: name is 3: give text',
  'gives_no_template': r"their_readers:gives_no_template: template 'x': needs \{x\} once",
  'gives_a_policy': "their_readers:gives_a_policy: overlap is 'ignore': give refuse, drop or keep",
  'gives_a_generator': 'gives_a_generator: tasks is a generator: give a list of RawTask',
  'gives_pairs': 'gives_pairs has a tuple among its tasks: give a RawTask',
  'gives_no_list': "train of 'only' is a tuple_iterator: give a list of RawRow",
  'gives_dicts': 'train of task .only. has a dict as a row: give a RawRow',
  'gives_no_text': 'mine:0: the text is None: give text',
  'gives_a_number': 'mine:0: the label is 3: give text',
  'gives_a_list': r"mine:0: the label is \['a'\]: give text",
  'gives_bytes': "mine:0: the answer is b'a': give text",
  'gives_an_id': 'mine:0: the id is 3: give text',
  'newer': r'stream\.name: their_readers:newer needs jcl 999\.0 or newer',
  'constant': 'their_readers:constant is a int: give a function from StreamConfig to RawStream',
  'nowhere': r"stream\.name: their_readers:nowhere: their_readers has no 'nowhere'",
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused(name, readers):
  with pytest.raises(UserError, match=REFUSED[name]) as error:
    load(readers(name))
  assert '\n' not in str(error.value)


def test_a_reader_refuses_in_its_own_words(readers):
  with pytest.raises(UserError, match=r'^mine\.db: no such table: correct stream\.path$'):
    load(readers('refuses'))
  with pytest.raises(KeyboardInterrupt):
    load(readers('ends'))
  with pytest.raises(MemoryError):
    load(readers('needs_room'))


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('their_broken:read', 'importing it raises OSError: no licence'),
    ('no_such_module:read', "there is no module 'no_such_module'"),
    ('their readers:read', 'is not of the form package.module:name'),
    ('', "nothing is called ''; there are synthetic, files"),
  ],
)
def test_names_that_stand_for_nothing(name, message, readers):
  with pytest.raises(UserError, match=re.escape(message)):
    load(StreamConfig(name=name))


@pytest.mark.parametrize(
  ('file', 'name', 'message'),
  [
    (
      'mine/all.csv', 'mine/all.csv',
      "'mine/all.csv' is a table: give jcl.load_stream('classes', path='mine/all.csv', "
      'test_fraction=0.2), as flags --config.stream.name=classes --config.stream.path=mine/all.csv '
      '--config.stream.test_fraction=0.2',
    ),
    ('all.csv', 'all.csv', "'all.csv' is a table: give jcl.load_stream('classes'"),
    ('all.jsonl.gz', './all.jsonl.gz', "is a table: give jcl.load_stream('classes'"),
    (
      'mine/tasks.json', 'mine/tasks.json',
      "is a manifest: give jcl.load_stream('files', path='mine/tasks.json'), as flags "
      '--config.stream.name=files --config.stream.path=mine/tasks.json',
    ),
    ('mine/manifest.py', './mine', "is a manifest: give jcl.load_stream('files', path='./mine')"),
    (
      'mine/train.csv', './mine',
      "is a folder without a manifest: give jcl.load_stream('classes', path='./mine'), as flags "
      '--config.stream.name=classes --config.stream.path=./mine',
    ),
    ('mine/train.csv', 'mine', "is a folder without a manifest: give jcl.load_stream('classes'"),
    ('mine/all.docx', 'mine/all.docx', 'is a file of another kind: give a manifest'),
  ],
)  # fmt: skip
def test_a_path_in_place_of_a_name(file, name, message, tmp_path, monkeypatch):
  (tmp_path / file).parent.mkdir(exist_ok=True)
  (tmp_path / file).write_text('text,label\na,b\n')
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=re.escape(message)):
    load(StreamConfig(name=name))


def test_a_wrong_name_is_not_answered_with_what_no_name_reads():
  with pytest.raises(UserError, match=r'did you mean synthetic[?] there are synthetic,') as error:
    load(StreamConfig(name='syntetic'))
  assert 'rows' not in str(error.value)
  with pytest.raises(UserError, match="'rows': a stream made in Python"):
    load(StreamConfig(name='rows'))


def test_a_folder_of_the_name_of_a_reader(tmp_path, monkeypatch):
  (tmp_path / 'synthetic').mkdir()
  monkeypatch.chdir(tmp_path)
  assert load(StreamConfig(max_train_per_task=4)).name == 'synthetic'


def test_every_benchmark_has_a_name():
  named = [name for name, place in registry.BUILT_IN.items() if 'benchmarks' in place]
  assert named == list(BENCHMARKS)
  named = [name for name, place in registry.BUILT_IN.items() if 'published_tasks' in place]
  assert named == list(published_tasks.STREAMS) == list(PUBLISHED_TASKS)
  with pytest.raises(UserError, match=r"stream\.name is 'jcl.streams.benchmarks:read': give one"):
    load(StreamConfig(name='jcl.streams.benchmarks:read'))


def test_an_error_of_a_built_in_reader_is_no_users_error(monkeypatch):
  def read(config):
    raise ZeroDivisionError

  monkeypatch.setattr('jcl.streams.synthetic.read', read)
  with pytest.raises(ZeroDivisionError):
    load(StreamConfig())
