"""Streams of a program's own rows: what they become, what is carved, and a table of refusals."""

import dataclasses
import json
import re

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from support.hostile import JSON, TEXT, many, outcome

from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams import (
  Lazy,
  RawStream,
  Stream,
  TaskPlan,
  build,
  label_text,
  load,
  normalized_text,
  rebuild,
)


def labelled(task, labels=('data_loss', 'refund'), count=5):
  """Training rows: `count` texts of each label."""
  return [{'text': f'{task} {label} {i}', 'label': label} for label in labels for i in range(count)]


TRAIN = {'billing': labelled('billing'), 'travel': labelled('travel', ('book', 'cancel'))}
TEST = {
  'billing': [{'text': 'lost my data', 'label': 'data_loss'}],
  'travel': [{'text': 'book it', 'label': 'book'}, {'text': 'no trip', 'label': 'cancel'}],
}


def pairs(examples):
  return [(example.text, example.answer) for example in examples]


def test_rows_with_labels_become_a_stream():
  made = Stream.from_rows(TRAIN, test=TEST, dev={'travel': [{'text': 'dev', 'label': 'book'}]})
  assert made.name == 'rows'
  assert [t.name for t in made.tasks] == ['billing', 'travel']
  assert made.classes == ('data loss', 'refund', 'book', 'cancel')
  assert pairs(made.tasks[0].train)[:2] == [
    ('billing data_loss 0', 'data loss'),
    ('billing data_loss 1', 'data loss'),
  ]
  assert pairs(made.tasks[1].dev) == [('dev', 'book')]
  assert [e.name for e in made.tasks[1].test] == ['travel/test[0]', 'travel/test[1]']
  assert [e.number for e in made.examples] == list(range(len(made.examples)))
  assert len(made) == 2


def test_rows_with_answers_and_ids():
  rows = [{'text': 'who?', 'answer': 'Me', 'n': 7}, {'text': 'where?', 'answer': 'here', 'n': 8}]
  test = [{'text': 'when?', 'answer': 'now', 'n': 9}]
  made = Stream.from_rows(
    {'facts': rows}, test={'facts': test}, id='n', name='mine', template='{x} -> {y}'
  )
  assert (made.name, made.template, made.classes) == ('mine', '{x} -> {y}', ())
  assert pairs(made.tasks[0].train) == [('who?', 'Me'), ('where?', 'here')]
  assert [e.name for e in made.examples] == ['7', '8', '9']


def test_rows_may_be_any_iterable_and_have_fields_that_are_not_read():
  rows = ({'text': f't{i}', 'label': 'a', 'url': object()} for i in range(4))
  made = Stream.from_rows({'t': rows}, test={'t': ({'text': 'x', 'label': 'a'},)})
  assert len(made.tasks[0].train) == 4


def test_the_same_rows_from_a_file_and_from_python_are_the_same_stream(tmp_path):
  tasks = []
  for task in TRAIN:
    for split, rows in (('train', TRAIN[task]), ('test', TEST[task])):
      lines = '\n'.join(map(json.dumps, rows))
      (tmp_path / f'{task}-{split}.jsonl').write_text(lines)
    tasks.append({'name': task, 'train': f'{task}-train.jsonl', 'test': f'{task}-test.jsonl'})
  manifest = {'name': 'rows', 'label': 'label', 'tasks': tasks}
  (tmp_path / 'manifest.json').write_text(json.dumps(manifest))
  read = load(StreamConfig(name='files', path=str(tmp_path)))
  made = Stream.from_rows(TRAIN, test=TEST)
  unnamed = lambda e: dataclasses.replace(e, name='')
  assert list(map(unnamed, read.examples)) == list(map(unnamed, made.examples))
  assert (read.classes, read.labels, read.template) == (made.classes, made.labels, made.template)
  assert read.digest == made.digest


# Fields of other names.


def renamed(rows, **names):
  return [{names.get(field, field): value for field, value in row.items()} for row in rows]


def test_fields_of_other_names_give_the_same_stream():
  names = {'text': 'utterance', 'label': 'intent'}
  given = [{task: renamed(some, **names) for task, some in of.items()} for of in (TRAIN, TEST)]
  made = Stream.from_rows(given[0], test=given[1], **names)
  assert made == Stream.from_rows(TRAIN, test=TEST)


def test_a_field_of_another_name_is_read_where_its_usual_name_stands_too():
  some = [{'text': 'a', 'label': 'x', 'body': 'b', 'topic': 'y'}]
  first = lambda **names: pairs(
    Stream.from_rows({'t': some}, test={'t': [{**some[0], 'text': 'c', 'body': 'd'}]}, **names)
    .tasks[0]
    .train
  )
  assert first(text='body') == [('b', 'x')]
  assert first(label='topic') == [('a', 'y')]
  assert first(answer='topic') == [('a', 'y')]
  some[0]['answer'] = 'z'
  assert first(label='topic') == [('a', 'y')]


def test_text_may_be_a_template_of_fields():
  some = [{'title': f'T{i}', 'body': f'B{i}', 'a': 'yes'} for i in range(4)]
  made = Stream.from_rows({'t': some}, text='{title}: {body}', answer='a')
  assert ('T0: B0', 'yes') in pairs(made.examples)
  for row in some:
    del row['a']
  made = Stream.from_rows({'t': some}, text='{title}: {body}')  # raw text
  assert ('T0: B0', '') in pairs(made.examples)


# Labels.


def test_labels_are_kept_as_the_user_wrote_them():
  made = Stream.from_rows(TRAIN, test=TEST)
  assert made.labels == ('data_loss', 'refund', 'book', 'cancel')
  rows = [{'text': 'a', 'label': 'Data_Loss'}]
  other = Stream.from_rows({'t': rows}, test={'t': [{'text': 'b', 'label': 'Data_Loss'}]})
  assert other.written_labels == ('Data_Loss',)
  assert [made.labels[e.label] for e in made.tasks[0].test] == ['data_loss']


def test_numbers_are_labels_as_in_files():
  rows = [{'text': f'{i}', 'label': label} for i, label in enumerate((3, 1.5, np.int64(4)))]
  made = Stream.from_rows({'t': rows}, test={'t': [{'text': 'x', 'label': '3'}]})
  assert made.labels == ('3', '1.5', '4')


def test_an_array_of_one_number_is_a_label_and_one_of_several_is_none():
  of = [np.array(3), np.array(0.1, np.float32), np.array(True), np.array('a')]
  rows = [{'text': f'{i}', 'label': label} for i, label in enumerate(of)]
  made = Stream.from_rows({'t': rows}, test={'t': [{'text': 'x', 'label': 3}]})
  assert made.labels == ('3', '0.1', 'true', 'a')
  with pytest.raises(UserError, match=r"name one of its entries: 'label\.0'"):
    Stream.from_rows({'t': [{'text': 'x', 'label': np.arange(3)}]}, test_fraction=0.5)


def test_a_column_of_pandas_is_no_table():
  pandas = pytest.importorskip('pandas')
  with pytest.raises(UserError, match=r't/train\[0\] is a str: give a dict'):
    Stream.from_rows({'t': pandas.Series(['a', 'b'])}, test_fraction=0.5)


@pytest.mark.parametrize('kind', ['float64', 'float32', 'Int64', 'object', 'datetime64[ns]'])
def test_a_missing_value_of_pandas_is_named_by_the_index_of_the_frame(kind):
  pandas = pytest.importorskip('pandas')
  missing = pandas.NA if kind == 'object' else None  # which pandas gives as None
  labels = pandas.Series([1, 2, missing, 4], dtype=kind)
  frame = pandas.DataFrame({'task': list('abab'), 'text': list('wxyz'), 'label': labels})
  told = r": field 'label' is \S+: give text or a number, or leave the row out$"
  of_a = dict(list(frame.groupby('task', sort=False)))['a']
  relabelled = frame.set_axis(['w', 'x', 'y', 'z'])
  for table, place in (
    (of_a, r'^t/train\[1\] \(index 2\)'),
    (frame, r'^t/train\[2\]'),  # index and place agree
    (relabelled, r"^t/train\[2\] \(index 'y'\)"),
    (relabelled.to_dict('records'), r'^t/train\[2\]'),
  ):
    with pytest.raises(UserError, match=place + told):
      Stream.from_rows({'t': table})
  for value in (pandas.NA, np.float32('nan'), np.float64('nan')):
    with pytest.raises(UserError, match=r'^t/train\[0\]' + told):
      Stream.from_rows({'t': [{'text': 'a', 'label': value}]})


@pytest.mark.parametrize(
  ('one', 'other'), [('caf\xe9', 'cafe\u0301'), ('a', 'a\u200b'), ('\uac00', '\u1100\u1161')]
)
def test_a_test_label_that_looks_as_one_of_training_is_told_apart_by_its_letters(one, other):
  rows = [{'text': 'a', 'label': one}, {'text': 'b', 'label': other}]
  said = re.escape(f'label {other!a} looks as {one!a} of the train split')
  with pytest.raises(UserError, match=said):
    Stream.from_rows({'t': rows[:1]}, test={'t': rows[1:]})


def test_labels_that_the_model_would_write_alike_are_refused():
  rows = [{'text': 'a', 'label': 'data_loss'}, {'text': 'b', 'label': 'Data loss'}]
  with pytest.raises(UserError, match="'data_loss' and 'Data loss' read the same in an answer"):
    Stream.from_rows({'t': rows}, test={'t': [{'text': 'x', 'label': 'data_loss'}]})
  across = {'t': rows[:1], 'u': rows[1:]}
  test = {'t': [{'text': 'x', 'label': 'data_loss'}], 'u': [{'text': 'y', 'label': 'Data loss'}]}
  with pytest.raises(UserError, match='read the same'):
    Stream.from_rows(across, test=test)


# Splits.


def test_a_task_without_test_rows_gets_some_of_train_and_never_shares_a_text():
  twice = {'text': 'Billing data_loss  0', 'label': 'data_loss'}
  train = TRAIN | {'billing': [*TRAIN['billing'], twice]}
  made = Stream.from_rows(train, test={'travel': TEST['travel']}, test_fraction=0.4)
  billing, travel = made.tasks
  assert [e.label for e in billing.test] == [0, 0, 1, 1]
  assert len(billing.train) == 11 - 4
  assert pairs(travel.test) == [('book it', 'book'), ('no trip', 'cancel')]
  texts = lambda examples: {normalized_text(e.text) for e in examples}
  trained = texts(billing.train) | texts(travel.train)
  assert 'billing data_loss 0' in trained  # train holds it twice
  assert not trained & texts(billing.test)
  assert made.overlap == {'billing': 0, 'travel': 0}


def test_the_seed_chooses_the_test_rows():
  chosen = lambda **more: {e.text for e in Stream.from_rows(TRAIN, **more).tasks[0].test}
  assert chosen() == chosen(seed=0)
  assert len({frozenset(chosen(seed=seed)) for seed in range(8)}) > 3
  assert {len(chosen(test_fraction=f)) for f in (0.01, 0.2, 0.4, 0.99)} == {2, 4, 8}


def test_every_class_keeps_a_training_row():
  made = Stream.from_rows({'t': labelled('t', count=2)}, test_fraction=0.99)
  assert [e.label for e in made.tasks[0].train] == [0, 1]


def test_raw_text():
  rows = [{'text': f'document {i}'} for i in range(10)]
  made = Stream.from_rows({'corpus': rows}, test={'corpus': [{'text': 'other'}]})
  assert (made.classes, made.tasks[0].classes) == ((), ())
  assert pairs(made.tasks[0].train)[0] == ('document 0', '')
  carved = Stream.from_rows({'corpus': rows})
  assert (len(carved.tasks[0].train), len(carved.tasks[0].test)) == (8, 2)
  with pytest.raises(
    UserError, match=r"stream 'rows' is raw text.*scenario cpt.*label or an answer"
  ):
    rebuild(made, made.settings, targets=True)


# Other settings.


def test_a_stream_of_rows_is_built_again_under_other_settings():
  made = Stream.from_rows(TRAIN, test=TEST)
  few = dataclasses.replace(made.settings, max_train_per_task=3, max_tasks=1)
  again = rebuild(made, few)
  assert [len(t.train) for t in again.tasks] == [3]
  assert rebuild(again, made.settings) == made
  with_dev = rebuild(made, made.settings, need_dev=True)
  assert [[e.label for e in t.dev] for t in with_dev.tasks] == [[0, 1], [2, 3]]
  assert len(with_dev.tasks[0].train) == 8
  assert not any(t.dev for t in made.tasks)
  as_text = rebuild(made, made.settings, targets=False)
  assert not as_text.classes
  assert {e.answer for e in as_text.examples} == {''}


def test_the_order_of_tasks_follows_the_seed():
  made = Stream.from_rows({f't{i}': labelled(f't{i}', (f'l{i}',)) for i in range(4)})
  order = lambda seed: tuple(
    t.name for t in rebuild(made, dataclasses.replace(made.settings, order_seed=seed)).tasks
  )
  assert order(-1) == ('t0', 't1', 't2', 't3')
  assert len({order(seed) for seed in range(9)}) > 3
  assert order(3) == order(3)


def test_a_loaded_stream_is_read_again():
  made = load(StreamConfig(max_tasks=2))
  again = rebuild(made, StreamConfig(max_tasks=3, order_seed=1))
  assert again == load(StreamConfig(max_tasks=3, order_seed=1))


@pytest.mark.parametrize('field', ['name', 'path'])
def test_two_streams_are_refused(field):
  made = Stream.from_rows(TRAIN, test=TEST)
  with pytest.raises(UserError, match=rf"stream\.{field} is 'x', but a stream was given"):
    rebuild(made, dataclasses.replace(made.settings, **{field: 'x'}))
  with pytest.raises(UserError, match='put together by hand'):
    rebuild(Stream('mine', made.tasks), made.settings)


def test_the_rows_of_a_stream_are_stored_nowhere():
  with pytest.raises(UserError, match=r"stream\.name is 'rows': .*jcl\.learn"):
    load(StreamConfig(name='rows'))


def test_the_digest_is_of_all_that_is_taught():
  made = Stream.from_rows(TRAIN, test=TEST)
  assert made.digest == Stream.from_rows(TRAIN, test=TEST, name='other').digest
  others = [
    Stream.from_rows(TRAIN, test=TEST, template='{x} {y}'),
    Stream.from_rows(dict(reversed(TRAIN.items())), test=TEST),
    Stream.from_rows(TRAIN, test={'billing': TEST['billing']}),
    Stream.from_rows(TRAIN | {'billing': TRAIN['billing'][1:]}, test=TEST),
    Stream.from_rows({'bills': TRAIN['billing'], 'travel': TRAIN['travel']}),
    Stream.from_rows(
      TRAIN | {'billing': [{**row, 'label': row['label'].upper()} for row in TRAIN['billing']]},
      test=TEST | {'billing': [{'text': 'lost my data', 'label': 'DATA_LOSS'}]},
    ),
    Stream.from_rows(
      TRAIN | {'billing': [{**row, 'label': label_text(row['label'])} for row in TRAIN['billing']]},
      test=TEST | {'billing': [{'text': 'lost my data', 'label': 'data loss'}]},
    ),
  ]
  assert len({made.digest, *(other.digest for other in others)}) == 8
  assert len(made.digest) == 64
  assert made.settings == StreamConfig(name='rows', path=f'sha256:{made.digest}')
  with pytest.raises(UserError, match=r"stream\.path is 'sha256:.*but a stream was given whose"):
    rebuild(made, others[0].settings)


def test_a_stream_shows_its_sizes():
  made = Stream.from_rows(TRAIN, test=TEST)
  assert repr(made) == ("Stream('rows', 4 classes, train/dev/test: billing 10/0/1, travel 10/0/2)")
  assert repr(TaskPlan(made.tasks[0].train))  # of a record that holds examples
  assert repr(made.tasks[1]) == "Task(1, 'travel', train/dev/test: 10/0/2, 2 classes)"
  free = Stream.from_rows({'t': [{'text': f'{i}', 'answer': 'a'} for i in range(5)]})
  assert repr(free.tasks[0]) == "Task(0, 't', train/dev/test: 4/0/1)"


def test_a_stream_is_a_sequence_of_its_tasks():
  made = Stream.from_rows(TRAIN, test=TEST)
  assert [task.name for task in made] == ['billing', 'travel']
  assert made[0] is made.tasks[0]
  assert made[-2] is made.tasks[0]
  assert made[1] is made.tasks[1]
  with pytest.raises(IndexError):
    made[2]


# Refusals.


def rows(*some, split='train', **more):
  """Arguments with these rows in place of billing's."""
  given = {'train': TRAIN, 'test': TEST}
  return {**given, split: {**given.get(split, {}), 'billing': list(some)}, **more}


def row(**fields):
  return {'text': 'hello', 'label': 'refund', **fields}


class Unwritable:
  """A value that cannot be shown."""

  def __repr__(self):
    raise RuntimeError('no')


circle: list = []
circle.append(circle)

REFUSED = {
  'no dict of tasks': ({'train': TRAIN['billing']}, 'train is a list: give a dict from task'),
  'no dict of test tasks': (
    {'train': TRAIN, 'test': TEST['billing']}, 'test is a list: give a dict'
  ),
  'a stream': ({'train': Stream.from_rows(TRAIN)}, 'train is a Stream: give a dict'),
  'nothing': ({'train': None}, 'no tasks: give at least one'),
  'no tasks': ({'train': {}}, 'no tasks: give at least one'),
  'task name that is no text': ({'train': {1: TRAIN['billing']}}, 'task name 1: give'),
  'task name with a slash': ({'train': {'a/b': TRAIN['billing']}}, "task name 'a/b'"),
  'task with test alone': (
    {'train': TRAIN, 'test': {'flights': TEST['billing']}},
    "test: task 'flights' has no training rows: give one of 'billing', 'travel'",
  ),
  'task with dev alone': ({'train': TRAIN, 'dev': {'x': []}}, "dev: task 'x' has no training"),
  'no rows': (rows(), "task 'billing': train has no rows: give at least one"),
  'no test rows': (rows(split='test'), "task 'billing': test has no rows.*leave the task out"),
  'rows that are text': (
    {'train': {'t': 'text'}}, "task 't': train is a str: give a list of dicts or a DataFrame"
  ),
  'rows that are a dict': ({'train': {'t': row()}}, "task 't': train is a dict: give a list"),
  'rows that are a number': ({'train': {'t': 3}}, "task 't': train is a int: give a list"),
  'row that is text': (rows(row(), 'hello'), r'billing/train\[1\] is a str: give a dict'),
  'row that is none': (rows(row(), None), r'billing/train\[1\] is a NoneType: give a dict'),
  'row that is a pair': (rows(('hello', 'refund')), r'billing/train\[0\] is a tuple: give a dict'),
  'row without text': (rows(row(), {'label': 'a'}), r"billing/train\[1\]: no field 'text'"),
  'row without label': (
    rows(row(), {'text': 'x', 'lable': 'a'}),
    r"billing/train\[1\]: no field 'label': the row has 'text', 'lable'; name one of these",
  ),
  'first row without label': (
    rows({'text': 'x', 'lable': 'a'}),
    r"billing/train\[0\] has 'lable' and no label or answer: name the fields with text= and label= "
    'or answer=, or, for raw text, give text alone',
  ),
  'first row with fields of other names': (
    rows({'utterance': 'x', 'intent': 'a'}),
    r"train\[0\] has 'utterance', 'intent' and no label or answer: name the fields with text= and",
  ),
  'named text that no row has': (
    {'train': TRAIN, 'text': 'utterance'},
    r"billing/train\[0\]: no field 'utterance': the row has 'text', 'label'; name one of these",
  ),
  'named text beside a prompt': (
    {'train': {'t': [{'prompt': 'a', 'completion': 'b'}]}, 'text': 'body', 'answer': ''},
    r"t/train\[0\] has 'prompt', 'completion' and no label or answer: name the fields",
  ),
  'named label that no row has': (
    {'train': TRAIN, 'label': 'intent'}, r"billing/train\[0\]: no field 'intent'"
  ),
  'text that reads the label': (
    {'train': TRAIN, 'text': '{text} {label}'}, "from_rows: text '{text} {label}' reads 'label'"
  ),
  'text that reads the named label': (
    {'train': TRAIN, 'text': '{text} {label}', 'label': 'label'}, "which is the label: an input"
  ),
  'template without a field': ({'train': TRAIN, 'text': '{{'}, "text '{{' names no column"),
  'both targets named': (
    {'train': TRAIN, 'label': 'label', 'answer': 'text'},
    'label and answer both name a field: give one of them',
  ),
  'field name that is no text': ({'train': TRAIN, 'text': 3}, 'text is 3: give the name of a'),
  'second answer beside a named text': (
    rows(row(body='b'), row(body='c', answer='a'), test=None, text='body'),
    r"billing/train\[1\] has 'answer', which the first row",
  ),
  'label and answer': (rows(row(answer='a')), r'billing/train\[0\] has a label and an answer'),
  'label among raw text': (
    {'train': {'t': [{'text': 'a'}, row()]}},
    r"t/train\[1\] has 'label', which the first row of the stream does not have: give it to every",
  ),
  'answer beside a label': (
    rows(row(), row(answer='a')), r"billing/train\[1\] has 'answer', which the first row"
  ),
  'answer among labels': (
    rows(row(), {'text': 'x', 'answer': 'a'}),
    r"billing/train\[1\] has 'answer', which the first row of the stream does not have",
  ),
  'text among labels': (
    rows({'text': 'x'}, split='test'),
    r"billing/test\[0\]: no field 'label': the row has 'text'",
  ),
  'empty text': (rows(row(), row(text=' \n')), r'billing/train\[1\]: the text is empty'),
  'empty label': (rows(row(label='_')), r'billing/train\[0\]: the label is empty'),
  'label that is none': (
    rows(row(label=None)),
    r"billing/train\[0\]: field 'label' is None: give text or a number, or leave the row out",
  ),
  'label that is NaN': (
    rows(row(label=float('nan'))), "field 'label' is nan: .* a number, or leave the row out"
  ),
  'infinite text': (rows(row(text=np.float32('inf'))), "'text' is .*inf.*: give text or a number$"),
  'bytes': (rows(row(text=b'hello')), "field 'text' is b'hello': give text or a number"),
  'array': (rows(row(label=np.zeros(2))), r"field 'label' is array\(\[0\., 0\.\]\)"),
  'list of labels': (rows(row(label=['a', 'b'])), r"field 'label' is \['a', 'b'\]: give text"),
  'circle': (rows(row(label=circle)), r"field 'label' is \[\[\.\.\.\]\]: give"),
  'value that cannot be shown': (rows(row(label=Unwritable())), "field 'label' is a Unwritable"),
  'number of too many digits': (rows(row(label=10**5000)), "field 'label' is a int: give text"),
  'long value': (rows(row(label=['x' * 10**6])), r"field 'label' is \['x{58}…: give text"),
  'long unknown label': (
    rows(row(label='y' * 10**6), split='test'),
    r"billing/test\[0\]: label 'y{59}… is not in the train split of task 'billing'",
  ),
  'NUL': (rows(row(text='a\0')), r'billing/train\[0\]: the text holds a NUL'),
  'half a surrogate pair': (rows(row(text='\ud83d')), 'the text holds half a surrogate pair'),
  'unknown test label': (
    rows(row(label='refnud'), split='test'),
    r"billing/test\[0\]: label 'refnud' is not in the train split of task 'billing', which has "
    "'data_loss', 'refund'",
  ),
  'answers and labels': (
    {'train': TRAIN | {'u': [{'text': 'a', 'answer': 'b'}]}, 'test': TEST},
    r"u/train\[0\] has 'answer', which the first row of the stream does not have",
  ),
  'same id': (
    {'train': {'t': [row(n=1), row(text='other', n=1)]}, 'id': 'n'},
    r"t/train\[1\]: id '1' stands also at t/train\[0\]",
  ),
  'row without id': (rows(row(), id='n'), r"billing/train\[0\]: no field 'n'"),
  'empty id': (rows(row(n=''), id='n'), r"billing/train\[0\]: field 'n' is empty"),
  'overlap': (
    rows(row(text='Billing data_loss 1', label='refund'), split='test'),
    r'billing/train\[1\]: this training text stands also in the test split at billing/test\[0\].*'
    'overlap= in Python',
  ),
  'one row': (
    {'train': {'t': [row()]}}, "task 't' has too few training examples to carve a test split"
  ),
  'name that is no text': ({'train': TRAIN, 'name': 3}, 'name is 3: give text'),
  'empty name': ({'train': TRAIN, 'name': ' '}, "name is ' ': give text"),
  'template that is no text': ({'train': TRAIN, 'template': 3}, 'template is 3: give text'),
  'template without fields': ({'train': TRAIN, 'template': 'x'}, "template 'x': needs {x} once"),
  'unknown policy': ({'train': TRAIN, 'overlap': 'ignore'}, "overlap is 'ignore': give refuse, dr"),
  'policy that cannot be compared': ({'train': TRAIN, 'overlap': np.zeros(2)}, 'overlap is array'),
  'fraction of everything': ({'train': TRAIN, 'test_fraction': 1.0}, 'test_fraction is 1.0: give'),
  'fraction that is NaN': ({'train': TRAIN, 'test_fraction': float('nan')}, 'test_fraction is nan'),
  'fraction that is text': ({'train': TRAIN, 'test_fraction': '1'}, "test_fraction is '1'"),
  'negative seed': ({'train': TRAIN, 'seed': -1}, 'seed is -1: give a whole number'),
  'seed that is no number': ({'train': TRAIN, 'seed': None}, 'seed is None: give a whole number'),
  'id that is no text': ({'train': TRAIN, 'id': 3}, 'id is 3: give the name of a field'),
}  # fmt: skip


@pytest.mark.parametrize('case', REFUSED)
def test_refused(case):
  arguments, message = REFUSED[case]
  with pytest.raises(UserError, match=message) as error:
    Stream.from_rows(**arguments)
  assert '\n' not in str(error.value)
  assert len(str(error.value)) < 400


VALUES = (
  JSON | TEXT | st.binary(max_size=4) | st.sampled_from((np.int64(3), np.nan, circle, object))
)
ROWS = st.dictionaries(st.sampled_from(('text', 'label', 'answer', 'x')), VALUES, max_size=3)


@many(300)
@hypothesis.given(rows=st.lists(ROWS | st.just({'text': 'a', 'label': 'b'}) | VALUES, max_size=4))
def test_whatever_is_given_is_a_stream_or_refused_in_one_line(rows):
  test = [{'text': '#', 'label': 'b'}]
  names = ('t/', "'t'", 'read the same')
  made, said = outcome(lambda: Stream.from_rows({'t': rows}, test={'t': test}), *names)
  written = lambda x: str(x).lower() if isinstance(x, bool) else str(x).strip()
  if not said:
    assert [e.text for e in made.tasks[0].train] == [written(r['text']) for r in rows]
    assert made.labels == tuple(dict.fromkeys(written(r['label']) for r in rows))


# Data sets of the Hugging Face library.


@pytest.fixture(scope='module')
def datasets():
  return pytest.importorskip('datasets')


def data_set(datasets, rows, names=('data_loss', 'refund')):
  """A data set whose labels are class indices."""
  kinds = {'text': datasets.Value('string'), 'label': datasets.ClassLabel(names=list(names))}
  columns = {'text': [text for text, _ in rows], 'label': [label for _, label in rows]}
  return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def test_data_sets_become_a_stream(datasets):
  mail = data_set(datasets, [('a', 0), ('b', 1), ('c', 1)])
  news = datasets.DatasetDict(
    train=data_set(datasets, [('d', 0), ('e', 1)]),
    validation=data_set(datasets, [('f', 1)]),
    test=data_set(datasets, [('g', 0)]),
    unlabelled=data_set(datasets, [('h', -1)]),
  )
  made = Stream.from_datasets(
    {'mail': mail, 'news': news}, test={'mail': data_set(datasets, [('i', 1)])}
  )
  assert made.labels == ('data_loss', 'refund')
  first, second = made.tasks
  assert pairs(first.train) == [('a', 'data loss'), ('b', 'refund'), ('c', 'refund')]
  assert pairs(first.test) == [('i', 'refund')]
  assert pairs(second.train) == [('d', 'data loss'), ('e', 'refund')]
  assert (pairs(second.dev), pairs(second.test)) == ([('f', 'refund')], [('g', 'data loss')])
  assert second.dev[0].name == 'news/dev[0]'
  assert rebuild(made, made.settings) == made


@pytest.mark.parametrize('kind', ['numpy', 'pandas'])
def test_the_format_of_a_data_set_does_not_count(kind, datasets):
  data = data_set(datasets, [('a', 0), ('b', 1)])
  test = {'t': data_set(datasets, [('c', 0)]).with_format(kind)}
  assert Stream.from_datasets({'t': data.with_format(kind)}, test=test) == Stream.from_datasets(
    {'t': data}, test=test
  )


def test_columns_of_a_data_set_have_names(datasets):
  columns = {'q': ['who?', 'where?'], 'ctx': ['A', 'B'], 'a': ['me', 'here'], 'n': [1, 2]}
  data = datasets.Dataset.from_dict(columns).with_format('numpy')
  made = Stream.from_datasets(
    {'t': data}, text='{ctx}: {q}', answer='a', id='n', test_fraction=0.5, name='mine'
  )
  assert {(e.text, e.answer, e.name) for e in made.examples} == {
    ('A: who?', 'me', '1'),
    ('B: where?', 'here', '2'),
  }
  assert made.name == 'mine'


def test_raw_text_of_a_data_set_stays_on_the_disk_until_it_is_read(datasets):
  data = datasets.Dataset.from_dict({'text': [f'document {i}' for i in range(40)]})
  made = Stream.from_datasets({'corpus': data}, label='')
  (task,) = made.tasks
  assert (len(task.train), len(task.test)) == (32, 8)
  (raw,) = made.reader(made.settings).tasks
  assert all(isinstance(some, Lazy) for some in (raw.train, raw.test, task.train, task.test))
  assert {e.text for e in made.examples} == {f'document {i}' for i in range(40)}
  assert [e.text for e in task.train[3:5]] == [task.train[3].text, task.train[4].text]
  assert rebuild(made, made.settings, targets=False) is not made


def broken(data):
  """A data set whose rows cannot be read."""

  class Broken(type(data)):
    def __iter__(self):
      raise OSError('disk gone\nand more')

    def with_format(self, *_):
      return self

  data.__class__ = Broken
  return data


DATA_REFUSED = {
  'rows': (
    lambda d, good: {'train': {'t': [row()]}},
    "task 't': train is a list.*from_rows for Da",
  ),
  'streaming': (
    lambda d, good: {'train': {'t': good.to_iterable_dataset()}},
    'train is a IterableDataset.*streaming=False',
  ),
  'no such column': (
    lambda d, good: {'train': {'t': good}, 'label': 'intent'},
    "task 't': train has no column 'intent': give label= one of 'text', 'label', or label=''",
  ),
  'no text': (
    lambda d, good: {'train': {'t': good}, 'text': 'body'},
    "train has no column 'body': give text= one of 'text', 'label'$",
  ),
  'no column of a template': (
    lambda d, good: {'train': {'t': good}, 'text': '{body}'},
    r"t/train\[0\]: no column 'body'",
  ),
  'label and answer': (
    lambda d, good: {'train': {'t': good}, 'label': 'intent', 'answer': 'text'},
    "label is 'intent' and answer is 'text': give one",
  ),
  'column that is no text': (lambda d, good: {'train': {'t': good}, 'answer': 3}, 'answer is 3'),
  'empty text column': (lambda d, good: {'train': {'t': good}, 'text': ''}, "text is ''"),
  'no training split': (
    lambda d, good: {'train': {'t': d.DatasetDict(test=good, all=good)}},
    "task 't': its splits are 'test', 'all': give one, or one called train",
  ),
  'two test splits': (
    lambda d, good: {'train': {'t': d.DatasetDict(train=good, test=good)}, 'test': {'t': good}},
    "task 't' has two test splits: give one",
  ),
  'splits of a test split': (
    lambda d, good: {'train': {'t': good}, 'test': {'t': d.DatasetDict(test=good)}},
    "task 't': test is a DatasetDict: give one of its splits",
  ),
  'no rows': (lambda d, good: {'train': {'t': good.select([])}}, "task 't': train has no rows"),
  'row without a class': (
    lambda d, good: {'train': {'t': data_set(d, [('a', 0), ('b', -1)])}},
    r"t/train\[1\]: column 'label' is null: give text or a number",
  ),
  'unreadable': (
    lambda d, good: {'train': {'t': broken(good)}},
    r"task 't': train cannot be read \(disk gone and more\): load it anew",
  ),
}


@pytest.mark.parametrize('case', DATA_REFUSED)
def test_data_sets_refused(case, datasets):
  arguments, message = DATA_REFUSED[case]
  good = data_set(datasets, [('a', 0), ('b', 1), ('c', 0)])
  with pytest.raises(UserError, match=message) as error:
    Stream.from_datasets(**arguments(datasets, good))
  assert '\n' not in str(error.value)


def test_a_data_set_among_rows_is_refused(datasets):
  with pytest.raises(UserError, match=r"task 't': train is a data set: use Stream.from_datasets"):
    Stream.from_rows({'t': data_set(datasets, [('a', 0)])})


def test_rows_import_no_data_set_library():
  """Importing the library takes seconds."""
  import subprocess
  import sys

  code = (
    'import sys; from jcl.streams import Stream; '
    "Stream.from_rows({'t': [{'text': str(i), 'label': 'a'} for i in range(9)]}); "
    "assert not {'datasets', 'pandas', 'jax'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_readers_get_what_they_were_given():
  made = Stream.from_rows(TRAIN, test=TEST)
  raw = made.reader(made.settings)
  assert isinstance(raw, RawStream)
  assert build(raw, StreamConfig(name='rows')) == made


def test_a_path_in_place_of_a_name_is_refused_with_the_setting_that_reads_it(tmp_path):
  (tmp_path / 'own').mkdir()
  (tmp_path / 'own' / 'manifest.py').touch()
  with pytest.raises(UserError, match=r'stream.name: .*/own.*is a manifest: give jcl.load_stream'):
    load(StreamConfig(name=f'{tmp_path}/own'))
