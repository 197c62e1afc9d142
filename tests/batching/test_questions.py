"""Inputs of a trained model: what is answered, and what is refused in a line."""

import pytest

from jcl.batching import questions
from jcl.config import check_values
from jcl.errors import UserError

ASK, SAY = {'role': 'user', 'content': 'a lake'}, {'role': 'assistant', 'content': 'blue'}


def test_texts_and_conversations_become_examples():
  text = questions.example('a lake', 'x', 2, '', 'plain')
  assert (text.text, text.answer, text.messages, text.task) == ('a lake', '', '', 2)
  for talk in ([ASK], [ASK, SAY], (ASK,)):  # the answer is not shown
    made = questions.example(talk, 'x', 0, 'some template', 'plain')
    assert (made.text, made.answer) == ('a lake', '')
    assert 'blue' not in made.messages
  assert questions.example([ASK], 'x', 0, '', 'lamol').text == 'a lake'


@pytest.mark.parametrize(
  ('given', 'says'),
  [
    (None, '^x is a NoneType; give text'),
    (b'a', '^x is a bytes; give text'),
    (ASK, '^x is a dict; give text'),
    ('a\ud800', '^x holds half a surrogate pair'),
    ('a\0b', '^x holds a NUL character'),
    ([ASK], '^x is a conversation, on which this model was not trained'),
    ([], '^x is an empty list'),
    ([SAY], '^x: nothing stands before the answer'),
    ([{'role': 'user'}], r'^x\[0\]: the content is missing: give text'),
  ],
)
def test_what_cannot_be_asked_is_refused(given, says):
  with pytest.raises(UserError, match=says):
    questions.example(given, 'x', 0, '', 'plain')


@pytest.mark.parametrize('given', ['a lake', None, 3, {'a': 'lake'}, b'a'])
def test_inputs_are_a_list(given):
  with pytest.raises(UserError, match=r'^texts is .*; give a list of'):
    questions.listed(given, 'texts')
  assert questions.listed(iter(['a']), 'texts') == ['a']


def test_a_table_is_no_list_of_texts_and_a_set_has_no_order():
  pandas = pytest.importorskip('pandas')
  table = pandas.DataFrame({'text': ['a', 'b']}, index=[4, 7])
  with pytest.raises(UserError, match=r"^texts is a DataFrame; give one of its .* texts\['text'\]"):
    questions.listed(table, 'texts')
  assert questions.listed(table['text'], 'texts') == ['a', 'b']
  with pytest.raises(UserError, match=r'^texts is a set, which has no order'):
    questions.listed({'a', 'b'}, 'texts')


@pytest.mark.parametrize(
  'wrong',
  [{'top_k': 0}, {'max_new': 0}, {'max_new': '3'}, {'temperature': -1}, {'seed': -1},
   {'temperature': float('nan')}],
)  # fmt: skip
def test_sampling_has_bounds(wrong):
  with pytest.raises(UserError, match=rf'^generate: {next(iter(wrong))} is '):
    check_values(questions.Sampling(**wrong), 'generate: ')
  check_values(questions.Sampling(), 'generate: ')
