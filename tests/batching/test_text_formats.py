"""Text formats: what is a target, what is cut, what is a well-formed sample, what is refused."""

import dataclasses

import chex
import numpy as np
import pytest
from support import tiny

from jcl.backbones.files import hf
from jcl.backbones.tokenizers import SpecialIds, add_tokens, bpe_tokenizer, word_tokenizer
from jcl.batching.text_formats import Text, added_tokens
from jcl.errors import UserError
from jcl.streams.stream import Example

TEMPLATE = 'Input sentence: {x}\n The label: {y}'
EXAMPLE = Example(7, 'play some jazz', 'start music', 1, 3, 'row-7')
FORMATS = ('plain', 'lamol', 'lamol_task', 'class')


def word_text(text_format, max_length=64, template=TEMPLATE):
  """The format with a word tokenizer, which has no beginning-of-sequence in rows."""
  frame = template.replace('{x}', ' ').replace('{y}', ' ')
  tokenizer, special = word_tokenizer(['play some jazz now please', 'start music', frame])
  add_tokens(tokenizer, added_tokens(text_format, 3))
  return Text(tokenizer, special, template, text_format, max_length)


@pytest.fixture(scope='module', params=['word', 'bpe', 'stories260k'])
def make(request):
  """-> f(text_format, …) -> Text, with a tokenizer from scratch or that of a real model."""
  if request.param == 'word':
    return word_text
  if request.param == 'stories260k':
    folder = request.getfixturevalue('shared') / 'models' / 'stories260k-hf'
    if not folder.is_dir():
      pytest.skip('no models/stories260k-hf in the shared folder')

  def build(text_format, max_length=64, template=TEMPLATE):
    if request.param == 'bpe':
      tokenizer, special = bpe_tokenizer(['play some jazz', 'start music'] * 3, 300)
    else:
      _, _, tokenizer, special, *_ = hf.load(str(folder))
    add_tokens(tokenizer, added_tokens(text_format, 3))
    return Text(tokenizer, special, template, text_format, max_length)

  return build


def names(text, ids):
  """Tokens of ids."""
  return [text.tokenizer.id_to_token(int(i)) for i in ids]


def test_plain_row_by_hand():
  text = word_text('plain')
  (row,) = text.rows(EXAMPLE)
  assert names(text, row.tokens) == [
    'Input', 'sentence:', 'play', 'some', 'jazz', 'The', 'label:', 'start', 'music', '<eos>',
  ]  # fmt: skip
  assert names(text, row.wanted) == ['start', 'music', '<eos>']
  assert row.targets.tolist() == [6, 7, 8]
  assert (row.number, row.task, row.replay, row.generative) == (14, 1, False, False)


@pytest.mark.parametrize(('text_format', 'token'), [('lamol', '__gen__'), ('lamol_task', '__1__')])
def test_lamol_rows_by_hand(text_format, token):
  text = word_text(text_format)
  question, generation = text.rows(EXAMPLE, replay=True)
  words = ['play', 'some', 'jazz', '__ans__', 'start', 'music', '<eos>']
  assert names(text, question.tokens) == words
  assert names(text, question.wanted) == words[4:]
  assert question.targets.tolist() == [3, 4, 5]
  assert names(text, generation.tokens) == [token, *words]
  assert names(text, generation.wanted) == words
  assert generation.targets.tolist() == [0, 1, 2, 3, 4, 5, 6]
  assert (question.number, generation.number) == (14, 15)
  assert (question.generative, generation.generative) == (False, True)
  assert question.replay
  assert generation.replay


@pytest.mark.parametrize('text_format', FORMATS)
def test_targets_are_the_answer_and_its_end_whatever_the_tokenizer(make, text_format):
  text = make(text_format)
  rows = text.rows(EXAMPLE)
  assert len(rows) == (2 if 'lamol' in text_format else 1)
  for row in rows:
    start = len(text.start)
    assert row.tokens[:start].tolist() == text.start
    if text_format == 'class':
      assert row.targets.tolist() == [len(row.tokens) - 1]
      assert row.wanted.tolist() == [3]
      assert text.decode(row.tokens[start:]) == EXAMPLE.text
      continue
    assert row.tokens[row.targets + 1].tolist() == row.wanted.tolist()  # shifted once
    assert row.targets[-1] == len(row.tokens) - 2
    assert row.targets[0] >= start  # beginning-of-sequence is never a target, nor predicts alone
    assert (np.diff(row.targets) == 1).all()
    assert row.wanted[-1] == text.eos
    assert row.wanted.tolist().count(text.eos) == 1
    if row.generative:
      assert row.targets[0] == start
      assert row.tokens[start] == text.generation_token(1)
    else:
      assert text.decode(row.wanted) == EXAMPLE.answer
      assert len(text._pieces(EXAMPLE)[1]) == len(row.wanted)


@pytest.mark.parametrize('text_format', FORMATS[:3])
def test_prompt_is_the_prefix_of_the_question_row(make, text_format):
  text = make(text_format)
  row = text.rows(EXAMPLE)[0]
  prompt = text.prompt(EXAMPLE)
  assert prompt == row.tokens[: row.targets[0] + 1].tolist()
  assert prompt + row.wanted.tolist() == row.tokens.tolist()


def test_a_beginning_of_sequence_that_the_tokenizer_adds_stands_first_everywhere(shared):
  folder = shared / 'models' / 'stories260k-hf'
  if not folder.is_dir():
    pytest.skip('no models/stories260k-hf in the shared folder')
  _, _, tokenizer, special, *_ = hf.load(str(folder))
  add_tokens(tokenizer, added_tokens('lamol', 3))
  text = Text(tokenizer, special, TEMPLATE, 'lamol', 64)
  adds = tokenizer.encode('a').ids[0] == special.bos
  assert (text.bos == special.bos) == adds
  for row in text.rows(EXAMPLE):
    assert (row.tokens[0] == special.bos) == adds
    assert special.bos not in row.wanted
    assert (row.tokens == special.bos).sum() == adds


@pytest.mark.parametrize('text_format', FORMATS)
def test_a_row_that_is_too_long_loses_input_and_never_answer(make, text_format):
  long = dataclasses.replace(EXAMPLE, text='play some jazz ' * 20)
  whole, cut = make(text_format, 400), make(text_format, 40)
  assert whole.rows(long)
  assert whole.cut == set()
  for row, full in zip(cut.rows(long), whole.rows(long), strict=True):
    assert len(row.tokens) <= 40 < len(full.tokens)
    if text_format == 'class':
      assert row.wanted.tolist() == [3]
    else:
      tail = len(cut._pieces(long)[1])
      assert row.wanted[-tail:].tolist() == full.wanted[-tail:].tolist()
  assert cut.cut == {7}
  short = dataclasses.replace(EXAMPLE, number=8)
  cut.rows(short)
  assert (8 in cut.cut) == (len(whole.rows(short)[0].tokens) > 40)


@pytest.mark.parametrize('text_format', FORMATS[:3])
def test_an_answer_that_does_not_fit_is_refused_by_name(make, text_format):
  text = make(text_format, 8)
  long = dataclasses.replace(EXAMPLE, answer='start music ' * 12)
  with pytest.raises(UserError, match=r'example row-7: the answer does not fit .* 8; raise it'):
    text.rows(long)


@pytest.mark.parametrize('text_format', ['lamol', 'lamol_task'])
def test_rows_parse_back_to_input_and_answer(make, text_format):
  text = make(text_format)
  for row in text.rows(EXAMPLE):
    ids = row.tokens[len(text.start) + row.generative :].tolist()
    assert text.parse(ids) == (EXAMPLE.text, EXAMPLE.answer)
    assert text.parse(ids + [text.eos] * 3) == (EXAMPLE.text, EXAMPLE.answer)
    assert text.parse(ids + ids) == (EXAMPLE.text, EXAMPLE.answer)  # nothing counts after eos


@pytest.mark.parametrize('text_format', ['lamol', 'lamol_task'])
def test_a_sample_goes_on_as_the_ids_it_was_drawn_as(make, text_format):
  text = make(text_format)
  question, generation = text.rows(EXAMPLE)
  drawn = tuple(question.tokens[len(text.start) :].tolist())
  sample = Example(2**29, '', '', 1, tokens=drawn)
  again, generated = text.rows(sample, replay=True)
  assert again.tokens.tolist() == question.tokens.tolist()
  assert again.targets.tolist() == question.targets.tolist()
  assert generated.tokens.tolist() == generation.tokens.tolist()
  assert generated.targets.tolist() == generation.targets.tolist()


@pytest.mark.parametrize(
  ('sample', 'well_formed'),
  [
    ('play jazz __ans__ music <eos>', True),
    ('jazz __ans__ start <eos> __ans__', True),
    ('play jazz __ans__ music', False),  # does not end
    ('play jazz music <eos>', False),  # no answer token
    ('play __ans__ jazz __ans__ music <eos>', False),
    ('play __gen__ jazz __ans__ music <eos>', False),
    ('play jazz __ans__ <pad> music <eos>', False),
    ('<bos> play jazz __ans__ music <eos>', False),
    ('__ans__ music <eos>', False),
    ('play jazz __ans__ <eos>', False),
    ('<eos>', False),
    ('', False),
    ('<eos> play jazz __ans__ music <eos>', False),
  ],
)
def test_well_formed_samples(sample, well_formed):
  text = word_text('lamol')
  ids = [text.tokenizer.token_to_id(word) for word in sample.split()]
  assert None not in ids
  assert (text.parse(ids) is not None) == well_formed


def test_a_task_token_of_another_task_is_as_bad_as_any():
  text = word_text('lamol_task')
  ids = lambda words: [text.tokenizer.token_to_id(w) for w in words.split()]
  assert text.parse(ids('play __ans__ jazz <eos>')) == ('play', 'jazz')
  assert text.parse(ids('play __2__ __ans__ jazz <eos>')) is None


def test_a_side_of_white_space_alone_is_empty():
  tokenizer, special = bpe_tokenizer(['play some jazz'] * 3, 300)
  add_tokens(tokenizer, added_tokens('lamol', 1))
  text = Text(tokenizer, special, TEMPLATE, 'lamol', 64)
  space, answer, word = text.encode(' '), tokenizer.token_to_id('__ans__'), text.encode('play')
  assert text.parse([*word, answer, *word, text.eos]) == ('play', 'play')
  assert text.parse([*space, answer, *word, text.eos]) is None
  assert text.parse([*word, answer, *space, text.eos]) is None


@pytest.mark.parametrize('text_format', FORMATS)
@pytest.mark.parametrize('field', ['text', 'answer'])
def test_special_tokens_in_a_users_text_are_refused_by_name(make, text_format, field):
  text = make(text_format)
  token = text.tokenizer.id_to_token(text.eos)
  if text_format == 'class' and field == 'answer':
    return  # never encoded
  bad = dataclasses.replace(EXAMPLE, **{field: f'play {token} jazz'})
  with pytest.raises(UserError, match=r'example row-7: the text contains .* a special token'):
    text.rows(bad)
  with pytest.raises(UserError, match='example 7: '):
    text.rows(dataclasses.replace(bad, name=''))
  if text_format == 'lamol':
    with pytest.raises(UserError, match='contains __ans__'):
      text.rows(dataclasses.replace(EXAMPLE, **{field: 'play __ans__ jazz'}))


def test_an_unknown_word_is_no_special_token():
  text = word_text('lamol')
  question, _ = text.rows(dataclasses.replace(EXAMPLE, text='play unheard jazz'))
  assert names(text, question.tokens)[:3] == ['play', '<unk>', 'jazz']
  sample = question.tokens.tolist()
  assert text.parse(sample) is None  # but none that may be kept of a sample


def test_a_token_across_the_border_of_prompt_and_answer_is_split_there():
  """Without a space between them BPE would merge the prompt's end with the answer's start."""
  tokenizer, special = bpe_tokenizer(['abab', 'xabab', 'ab ab'] * 8, 290)
  text = Text(tokenizer, special, '{x}{y}', 'plain', 64)
  border = Example(0, 'xa', 'bab', 0)
  assert len(text.encode('xabab')) < len(text.encode('xa')) + len(text.encode('bab'))
  (row,) = text.rows(border)
  assert text.prompt(border) == text.encode('xa')
  assert row.tokens[: row.targets[0] + 1].tolist() == text.prompt(border)
  assert text.decode(row.wanted) == 'bab'


def test_a_template_may_go_on_after_the_answer():
  text = word_text('plain', template='Question: {x}\n Answer: {y} done.')
  (row,) = text.rows(EXAMPLE)
  assert names(text, row.wanted) == ['start', 'music', 'done.', '<eos>']


@pytest.mark.parametrize('template', ['', '{x}', '{y}', '{y} {x}', '{x} {x} {y}', '{x} {y} {y}'])
def test_a_template_without_each_place_once_is_refused(template):
  tokenizer, special = word_tokenizer(['a'])
  with pytest.raises(UserError, match=r'stream\.template: .* needs \{x\} once'):
    Text(tokenizer, special, template, 'plain', 64)


def test_without_a_padding_token_padding_is_the_end():
  tokenizer, special = word_tokenizer(['a'])
  text = Text(tokenizer, SpecialIds(special.bos, special.eos, None), TEMPLATE, 'plain', 64)
  assert text.pad == special.eos


def test_all_examples_of_a_stream_have_rows_whose_identities_differ():
  stream = tiny.stream()
  for text_format in FORMATS:
    text = tiny.text(text_format, stream)
    numbers = [r.number for e in stream.examples for r in text.rows(e)]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize('text_format', ['plain', 'lamol', 'class'])
def test_rows_prepared_together_are_those_made_with_the_room_known_and_texts_are_encoded_once(
  text_format, monkeypatch
):
  stream = tiny.stream(examples=7)
  examples = [
    *stream.examples,
    Example(900, ' '.join(['the'] * 40), stream.tasks[0].train[0].answer, 0, 0, 'long'),
    Example(901, 'the', ' '.join([stream.tasks[0].train[0].answer] * 9), 0, 0, 'long answer'),
  ]
  once, twice = (tiny.text(text_format, stream, 40) for _ in range(2))
  longest = once.prepare(examples)
  twice.reserve = (
    0 if text_format == 'class' else max(len(twice.question(e).wanted) for e in examples)
  )
  twice.cut.clear()
  assert longest == twice.reserve
  for example in examples:
    for one, other in zip(once.rows(example), twice.rows(example), strict=True):
      chex.assert_trees_all_equal(dataclasses.asdict(one), dataclasses.asdict(other))
    if text_format != 'class':
      assert once.prompt(example) == list(twice._pieces(example)[0])
  assert once.cut == twice.cut
  calls = []
  monkeypatch.setattr(once.encoder, 'encode', lambda *given: calls.append(given))
  for example in examples:
    once.rows(example)
  assert calls == []
