"""Each check of a raw stream by itself; `test_build.py` has them all at work."""

import pytest
from support.raw_streams import rows, stream

from jcl.errors import UserError
from jcl.streams import RawRow, RawTask, checks, normalized_text

TASK = RawTask('t', rows('train', ('x', 'a')), rows('test', ('y', 'a')))


def test_a_raw_stream_of_the_right_types_is_given_back():
  raw = stream(TASK)
  assert checks.check_raw(raw, 'mine:read') is raw
  with pytest.raises(UserError, match='mine:read returns a Stream; it must return a RawStream'):
    checks.check_raw(type('Stream', (), {})(), 'mine:read')
  for name in ('a\x1b[31m', 'a\nb', 'a' * 201):
    with pytest.raises(UserError, match='give at most 200 printable letters'):
      checks.check_raw(raw._replace(name=name), 'mine:read')


@pytest.mark.parametrize('name', ['a', 'ä b', '日本語', 'a.b', 'x' * 80])
def test_names_of_tasks(name):
  checks.check_names([name])


@pytest.mark.parametrize(
  'name', ['', ' ', '.', '..', 'a/b', 'a\\b', 'a\n', '\0', 'x' * 81, 3, None]
)
def test_names_that_no_folder_can_have(name):
  with pytest.raises(UserError, match='task name'):
    checks.check_names(['good', name])


@pytest.mark.parametrize('other', ['cafe\u0301', 'caf\u00e9\ufe0f'])
def test_names_of_tasks_that_look_the_same(other):
  with pytest.raises(UserError, match=r"task names 'caf\\xe9' and '.*' look the same"):
    checks.check_names(['caf\u00e9', other])


@pytest.mark.parametrize('nothing', ['\u200b', ' \u2060\ufeff ', '\ufe0f'])
def test_what_nobody_sees_is_empty(nothing):
  for row in (RawRow('f:1', nothing, label='a'), RawRow('f:1', 'x', label=nothing)):
    with pytest.raises(UserError, match=r'f:1: the \w+ is empty'):
      checks.check_fields(row)
  checks.check_fields(RawRow('f:1', f'x{nothing}', label='❤\ufe0f'))


def test_ids_are_unique_over_calls():
  places = {}
  checks.check_id(RawRow('f:1', 'x', id='7'), places)
  checks.check_id(RawRow('f:1', 'x', id='7'), places)  # the same row, seen again
  checks.check_id(RawRow('f:2', 'x'), places)
  with pytest.raises(UserError, match=r"f:3: id '7' stands also at f:1"):
    checks.check_id(RawRow('f:3', 'x', id='7'), places)


def test_labels_are_told_apart_over_tasks():
  answers = {}
  checks.check_labels(['data_loss', 'refund'], answers)
  checks.check_labels(['data_loss'], answers)  # tasks may share a class
  with pytest.raises(UserError, match="'refund' and ' Refund' read the same"):
    checks.check_labels([' Refund'], answers)


@pytest.mark.parametrize(
  'other', ['cafe\u0301', 'caf\u00e9\u200b', 'caf\u00e9\u200e', 'Cafe\u0301', 'caf\u00e9\ufe0f']
)
def test_labels_that_look_the_same_are_refused(other):
  with pytest.raises(
    UserError, match=r"labels 'caf\\xe9' and '.*' look the same and are two texts"
  ):
    checks.check_labels(['caf\u00e9', other], {})


def test_labels_that_differ_by_what_is_seen_are_two():
  checks.check_labels(['\uff21', 'A', 'é', 'e', '\u0645\u0640', '\u0645', '👩\u200d👦', '👩👦'], {})


def test_a_text_is_the_same_in_both_forms_of_unicode():
  assert normalized_text('Cafe\u0301  x') == normalized_text('caf\u00e9 x')


def test_targets_count_where_they_are_needed():
  bare = RawRow('f:1', 'x')
  checks.check_fields(bare, targets=False)
  with pytest.raises(UserError, match='f:1: the answer is empty'):
    checks.check_fields(bare)
  checks.check_targets(stream(TASK), targets=True)
  with pytest.raises(UserError, match="stream 'toy' is raw text"):
    checks.check_targets(stream(TASK, targets=False), targets=True)


def test_an_unknown_label_is_shown_with_some_of_the_known():
  error = checks.unknown_label(RawRow('f:1', 'x', label='z'), list('abcdefg'))
  assert "f:1: label 'z' is not in the train split, which has 'a', 'b', 'c', 'd', 'e', …" in str(
    error
  )
