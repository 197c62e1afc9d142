"""What counts as the same answer, over tokenizers of every kind and answers in many scripts."""

import itertools

import pytest
from support import tokenizer_kinds

from jcl.batching.answers import Answer, Answers
from jcl.streams.raw import class_form, label_text
from jcl.streams.stream import Example

LABELS = (
  '天气', '音乐 播放', 'حالة الطقس', 'تشغيل_موسيقى', 'আবহাওয়া', 'য়ে', 'สภาพอากาศ', 'เล่นเพลง', '☀️',
  '👩‍👩‍👧',  'Data_Loss', ' spaced  out ', 'ＦＵＬＬ', 'half', 'İstanbul', 'straße', 'naïve',
  "don't", 'C++', 'a/b, c',
)  # fmt: skip
FREE = ('boil water\nadd the egg', 'a\tb', '  x = 1\n  y = 2', *LABELS)
FORMATS = ('plain', 'lamol')


def decoded(text, example):
  """The answer of a model that learned an example by heart: its own target tokens."""
  return text.answer(text.rows(example)[0].wanted.tolist())


@pytest.mark.parametrize('text_format', FORMATS)
@pytest.mark.parametrize('kind', tokenizer_kinds.KINDS)
def test_a_class_that_was_learned_by_heart_is_right_and_no_other_is(kind, text_format):
  classes = [label_text(label) for label in LABELS]
  text = tokenizer_kinds.text(kind, classes, text_format)
  answers = Answers(text, classes)
  backs = [class_form(text.written(c)) for c in classes]
  examples = [Example(i, f'the {i}', c, 0, i) for i, c in enumerate(classes)]
  for one, other in itertools.product(examples, repeat=2):
    said = answers.read(text.rows(one)[0].wanted.tolist())
    alike = backs[one.label] == backs[other.label]
    assert answers.right(said, other) == alike, (one.answer, other.answer)
    assert said.label >= 0, one.answer
  assert answers.read([text.eos]).label == -1
  assert not answers.right(answers.read([text.eos]), examples[0])


@pytest.mark.parametrize('text_format', FORMATS)
@pytest.mark.parametrize('kind', tokenizer_kinds.KINDS)
def test_a_free_answer_that_was_learned_by_heart_is_right_unless_it_cannot_be_said(
  kind, text_format
):
  free = [answer.strip() for answer in FREE]
  text = tokenizer_kinds.text(kind, free, text_format)
  answers = Answers(text, ())
  for number, answer in enumerate(free):
    example = Example(number, 'how', answer, 0)
    wanted = text.rows(example)[0].wanted.tolist()
    assert answers.right(answers.read(wanted), example) == (text.unknown not in wanted)
    assert answers.read(wanted).label == -1
    assert not answers.right(Answer('something else'), example)


def test_free_answers_that_a_tokenizer_tells_apart_stay_apart():
  free = ('if a:\n  b', 'if a: b', 'if a:\n    b', 'ａ', 'a', 'é', 'e')
  text = tokenizer_kinds.text('byte_bpe', free)
  answers = Answers(text, ())
  examples = [Example(i, 'how', answer, 0) for i, answer in enumerate(free)]
  for one, other in itertools.product(examples, repeat=2):
    said = answers.read(text.rows(one)[0].wanted.tolist())
    assert answers.right(said, other) == (one is other)


def test_case_and_surrounding_spaces_do_not_count_in_any_answer():
  text = tokenizer_kinds.text('byte_bpe', ['data loss', 'Paris'])
  answers = Answers(text, ('data loss',))
  assert answers.class_of(' DATA  loss\n') == answers.class_of('data_loss') == 0
  assert answers.right(Answer('PARIS '), Example(0, 'where', 'Paris', 0))
  assert not answers.right(Answer('Pa ris'), Example(0, 'where', 'Paris', 0))


@pytest.mark.parametrize('kind', tokenizer_kinds.KINDS)
@pytest.mark.parametrize('template', ['Q: {x}\nA: {y}.', '{x} => {y} [end of it]', '{x} {y}\n\n'])
def test_words_of_the_template_after_an_answer_are_no_part_of_it(kind, template):
  text = tokenizer_kinds.text(kind, ['data loss', 'refund', '天气'], template=template)
  answers = Answers(text, ('data loss', 'refund', '天气'))
  for label, name in enumerate(('data loss', 'refund', '天气')):
    example = Example(label, 'the refund', name, 0, label)
    said = answers.read(text.rows(example)[0].wanted.tolist())
    assert answers.right(said, example)
    assert said.label == label
    free = Example(10 + label, 'the refund', name, 0)
    assert Answers(text, ()).right(answers.read(text.wanted(free)), free)


def test_a_free_answer_of_an_unknown_word_is_never_right():
  text = tokenizer_kinds.text('word', ['red', 'blue'])
  answers = Answers(text, ())
  for answer in ('zebra', 'red zebra'):
    example = Example(0, 'what', answer, 0)
    assert not answers.right(answers.read(text.wanted(example)), example)
