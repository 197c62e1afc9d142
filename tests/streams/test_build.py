"""A stream is checked and assembled in one place: what it refuses, leaves out and numbers."""

import dataclasses

import pytest
from support.raw_streams import rows, stream

from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams import load
from jcl.streams.build import build
from jcl.streams.raw import RawRow, RawTask, normalized_text, permutation
from jcl.streams.splits import class_tasks


def task(name='first', label='a', count=10, **splits):
  train = rows(f'{name}-train', *((f'{name} {label} train {i}', label) for i in range(count)))
  test = rows(f'{name}-test', (f'{name} {label} test', label))
  return RawTask(name, **{'train': train, 'test': test} | splits)


def test_examples_are_numbered_over_tasks_and_splits():
  raw = stream(task('first', 'play_music'), task('second', 'b', dev=rows('dev', ('so', 'b'))))
  made = build(raw, StreamConfig())
  assert [e.number for e in made.examples] == list(range(len(made.examples)))
  assert made.classes == ('play music', 'b')
  assert [t.classes for t in made.tasks] == [(0,), (1,)]
  assert [t.last for t in made.tasks] == [False, True]
  assert [(e.task, e.label, e.answer) for e in made.tasks[1].dev] == [(1, 1, 'b')]
  assert made.tasks[0].train[0].answer == 'play music'
  assert build(raw, StreamConfig()) == made


def test_a_free_answer_has_no_class_and_an_id_names_its_row():
  row = RawRow('f:1', ' who? ', ' Me ', id='q1')
  made = build(stream(RawTask('t', [row], [RawRow('f:2', 'where?', 'here')])), StreamConfig())
  assert made.classes == made.tasks[0].classes == ()
  (example,) = made.tasks[0].train
  assert (example.text, example.answer, example.label, example.name) == ('who?', 'Me', -1, 'q1')
  assert made.tasks[0].test[0].name == 'f:2'


def test_domains_share_their_classes():
  made = build(stream(task('home', 'yes'), task('car', 'yes')), StreamConfig())
  assert made.classes == ('yes',)
  assert [t.classes for t in made.tasks] == [(0,), (0,)]


def overlapping():
  first, second = task('first', 'a'), task('second', 'b')
  leak = rows('second-test', ('First  A train 3', 'b'), ('fresh', 'b'), ('first a train 3 ', 'b'))
  return first, second._replace(test=leak)


def test_overlap_is_refused_with_both_places():
  with pytest.raises(UserError, match=r'first-train:4.*second-test:1.*stream\.overlap'):
    build(stream(*overlapping()), StreamConfig())


@pytest.mark.parametrize(('policy', 'left'), [('drop', 9), ('keep', 10)])
def test_overlap_is_dropped_or_kept_and_always_counted(policy, left):
  made = build(stream(*overlapping()), StreamConfig(overlap=policy))
  assert made.overlap == {'first': 0, 'second': 2}
  assert len(made.tasks[0].train) == left
  assert len(made.tasks[1].test) == 3


def test_overlap_is_counted_before_anything_is_left_out():
  config = StreamConfig(max_tasks=1, max_train_per_task=2, max_test_per_task=1)
  made = build(stream(*overlapping(), overlap='keep'), config)
  assert made.overlap == {'first': 0, 'second': 2}
  with pytest.raises(UserError, match='first-train:4'):
    build(stream(*overlapping()), config)


def test_dropping_a_whole_class_is_refused():
  first = task('first', 'a', train=rows('train', ('x', 'a'), ('y', 'b')))
  first = first._replace(test=rows('test', ('Y', 'b')))
  with pytest.raises(UserError, match="task 'first': every training text of class 'b'"):
    build(stream(first), StreamConfig(overlap='drop'))


def three_classes():
  pairs = [(f'{label}{i}', label) for label in 'abc' for i in range(20)]
  return RawTask('t', rows('train', *pairs), rows('test', *((f'{p} test', q) for p, q in pairs)))


def test_a_dev_split_is_carved_from_every_class_and_only_when_needed():
  raw = stream(three_classes())
  assert build(raw, StreamConfig()).tasks[0].dev == ()
  made = build(raw, StreamConfig(), need_dev=True).tasks[0]
  assert [e.label for e in made.dev] == [0, 0, 1, 1, 2, 2]
  texts = {split: {e.text for e in getattr(made, split)} for split in ('train', 'dev')}
  assert not texts['train'] & texts['dev']
  assert len(texts['train']) == 54
  assert made == build(raw, StreamConfig(), need_dev=True).tasks[0]


def test_a_given_dev_split_is_left_as_it_is():
  raw = stream(task('t', 'a', dev=rows('dev', ('mine', 'a'))))
  made = build(raw, StreamConfig(), need_dev=True).tasks[0]
  assert [e.text for e in made.dev] == ['mine']
  assert len(made.train) == 10


def test_a_text_that_train_holds_twice_is_not_carved():
  pairs = [('same', 'a'), ('Same ', 'a'), ('one', 'a'), ('two', 'a')]
  raw = stream(task('t', 'a', train=rows('train', *pairs)))
  made = build(raw, StreamConfig(dev_fraction=0.9), need_dev=True).tasks[0]
  assert [normalized_text(e.text) for e in made.dev] == ['one', 'two']
  assert {normalized_text(e.text) for e in made.train} == {'same'}


def test_carving_never_takes_the_last_example_of_a_class():
  raw = stream(task('t', 'a', train=rows('train', ('x', 'a'), ('y', 'a'), ('z', 'b'))))
  made = build(raw, StreamConfig(dev_fraction=0.99), need_dev=True).tasks[0]
  assert {e.label for e in made.train} == {0, 1}
  with pytest.raises(UserError, match="task 't' has too few training examples"):
    build(stream(task('t', 'a', count=1)), StreamConfig(), need_dev=True)


def test_examples_are_taken_from_each_class_in_turn_in_file_order():
  config = StreamConfig(max_train_per_task=7, max_test_per_task=2)
  made = build(stream(three_classes()), config).tasks[0]
  assert [e.text for e in made.train] == ['a0', 'a1', 'a2', 'b0', 'b1', 'c0', 'c1']
  assert [e.text for e in made.test] == ['a0 test', 'b0 test']


def test_max_tasks_leaves_later_tasks_and_their_classes_out():
  made = build(stream(task('x', 'a'), task('y', 'b'), task('z', 'c')), StreamConfig(max_tasks=2))
  assert [t.name for t in made.tasks] == ['x', 'y']
  assert made.classes == ('a', 'b')
  assert made.tasks[-1].last


def test_class_tasks_follow_appearance_or_the_seed():
  data = three_classes()
  splits = {'train': data.train, 'test': data.test}
  plain = class_tasks(splits, 2, -1)
  assert [t.name for t in plain] == ['classes-1-2', 'classes-3-3']
  assert [{row.label for row in t.train} for t in plain] == [{'a', 'b'}, {'c'}]
  orders = {
    tuple(build(stream(*class_tasks(splits, 1, seed)), StreamConfig()).classes)
    for seed in range(20)
  }
  assert len(orders) > 3
  assert class_tasks(splits, 1, 7) == class_tasks(splits, 1, 7)
  with pytest.raises(UserError, match="test:1: label 'd' is not in the train split, which has 'a'"):
    class_tasks(splits | {'test': rows('test', ('x', 'd'))}, 2, -1)
  with pytest.raises(UserError, match='classes_per_task is 0'):
    class_tasks(splits, 0, -1)


def test_permutation_is_one():
  assert permutation(3, -1) == [0, 1, 2]
  assert sorted(permutation(50, 3)) == list(range(50)) != permutation(50, 3)


twice = rows('train', ('x', 'a'), ('y', 'a'))
same_id = [row._replace(id='7') for row in twice]
REFUSED = {
  'no tasks': ((), 'no tasks'),
  'no train': ((task(train=[]),), "task 'first' has no train examples"),
  'no test': ((task(test=[]),), "task 'first' has no test examples"),
  'same task name': ((task('x'), task('x')), "'x' is given twice"),
  'empty task name': ((task(' '),), "task name ' '"),
  'task name with a slash': ((task('a/b'),), "task name 'a/b'"),
  'parent as task name': ((task('..'),), r"task name '\.\.'"),
  'task name with a line end': ((task('a\nb'),), r"task name 'a\\nb'"),
  'same id': ((task(train=same_id),), "train:2: id '7' stands also at train:1"),
  'same id in another task': (
    (task('x', train=same_id[:1]), task('y', train=same_id[1:])),
    "train:2: id '7' stands also at train:1",
  ),
  'empty text': ((task(train=rows('train', (' ', 'a'))),), 'train:1: the text is empty'),
  'empty label': ((task(train=rows('train', ('x', '_'))),), 'train:1: the label is empty'),
  'empty answer': ((task(train=[RawRow('train:9', 'x')]),), 'train:9: the answer is empty'),
  'NUL': ((task(train=rows('train', ('x\0', 'a'))),), 'train:1: the text holds a NUL'),
  'surrogate': ((task(train=rows('train', ('\ud800', 'a'))),), 'train:1: .* surrogate'),
  'unknown test label': (
    (task(test=rows('test', ('x', 'b'))),),
    "test:1: label 'b' is not in the train split of task 'first', which has 'a'",
  ),
  'unknown dev label': ((task(dev=rows('dev', ('x', 'b'))),), "dev:1: label 'b'"),
  'label of another task': (
    (task('x', 'a'), task('y', 'b', test=rows('test', ('x', 'a')))),
    "test:1: label 'a' is not in the train split of task 'y'",
  ),
  'answers and labels': (
    (task('x'), RawTask('y', [RawRow('f:1', 'x', 'y')], [RawRow('f:2', 'z', 'y')])),
    'f:1 has a free answer and x-train:1 a label',
  ),
  'labels that read the same': ((task('x', 'A_b'), task('y', 'a b')), "'A_b' and 'a b' read"),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refused_rows(case):
  tasks, message = REFUSED[case]
  with pytest.raises(UserError, match=message) as error:
    build(stream(*tasks), StreamConfig())
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('max_tasks', -1),
    ('max_train_per_task', -1),
    ('max_test_per_task', -2),
    ('overlap', 'ignore'),
    ('dev_fraction', 0.0),
    ('dev_fraction', 1.0),
    ('dev_fraction', float('nan')),
    ('template', 'no fields'),
    ('template', '{y} {x}'),
    ('template', '{x} {y} {y}'),
    ('template', '{x} {z}'),
    ('template', '{x} {y'),
  ],
)
def test_refused_settings(field, value):
  config = dataclasses.replace(StreamConfig(), **{field: value})
  with pytest.raises(UserError, match=rf'stream\.{field} '):
    build(stream(task()), config)


def test_no_class_loses_all_its_training_examples():
  both = ('one', 'a'), ('two', 'b'), ('three', 'a')
  raw = stream(task(train=rows('train', *both), test=rows('test', ('four', 'a'), ('five', 'b'))))
  with pytest.raises(UserError, match=r"max_train_per_task is 1.* task 'first' .*at least 2"):
    build(raw, StreamConfig(max_train_per_task=1))
  made = build(raw, StreamConfig(max_train_per_task=2))
  assert [e.answer for e in made.tasks[0].train] == ['a', 'b']
  assert len(build(raw, StreamConfig(max_train_per_task=1), targets=False).tasks[0].train) == 1


def test_an_unknown_stream_is_refused_with_the_names():
  with pytest.raises(
    UserError, match=r"stream\.name: nothing is called 'clinc'; did you mean clinc150[?] there are "
  ):
    load(StreamConfig(name='clinc'))
