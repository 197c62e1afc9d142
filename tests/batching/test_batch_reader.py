"""Rows that are tokenised in batches: those that are made one by one, whatever the tokenizer."""

import dataclasses
import re
import threading

import chex
import numpy as np
import pytest
from support import tokenizer_kinds

from jcl.batching.batch_reader import unread
from jcl.batching.row_store import PART, Frame, Kept, RowStore
from jcl.batching.special_text import in_threads
from jcl.errors import UserError
from jcl.streams.stream import Example

TEXTS = [
  'turn the music up', 'xa', 'a' * 60, 'café', 'cafe\u0301', '天气 好', 'two  spaces', '😀 x', '.',
  'ends with a newline\nin it', "it's", '12345', 'Ünïcode', '\u0301x',
]  # fmt: skip
ANSWERS = ['bab', 'start music', '.5', "'s", '\u0301e', '天', 'x', '  up', '345', 'ab' * 30]
TEMPLATES = {
  'spaced': 'Input sentence: {x}\n The label: {y}',
  'touching': '{x}{y}.',
  'one space': '{x} {y} done',
  'ends in a space': 'Q: {x} \n{y}',
}
KINDS = tuple(tokenizer_kinds.KINDS)
EXAMPLES = [
  Example(i, text, answer, i % 2, i % 3)
  for i, (text, answer) in enumerate((t, a) for t in TEXTS for a in ANSWERS)
]


def same(one, other):
  for a, b in zip(one, other, strict=True):
    chex.assert_trees_all_equal(dataclasses.asdict(a), dataclasses.asdict(b))


def one_by_one(text, examples, reserve):
  """The rows of each example by itself, in a text that has nothing prepared."""
  text.reserve = reserve
  return [text._make_rows(example, False) for example in examples]


@pytest.mark.parametrize('template', list(TEMPLATES))
@pytest.mark.parametrize('kind', KINDS)
def test_rows_of_a_batch_are_those_of_single_examples(kind, template):
  for text_format in ('plain', 'lamol', 'lamol_task', 'class'):
    if text_format != 'plain' and template != 'spaced':
      continue  # they have no template
    make = lambda text_format=text_format: tokenizer_kinds.text(
      kind, [*TEXTS, *ANSWERS], text_format, TEMPLATES[template]
    )
    batch, alone = make(), make()
    batch.prepare(EXAMPLES)
    for example, rows in zip(EXAMPLES, one_by_one(alone, EXAMPLES, batch.reserve), strict=True):
      same(batch.rows(example), rows)
      lengths = [(len(r.tokens), len(r.targets)) for r in rows]
      assert [(len(o.tokens), len(o.targets)) for o in batch.outlines(example)] == lengths
      assert [r.replay for r in batch.rows(example, True)] == [True] * len(rows)
    assert batch.cut == alone.cut


def test_pieces_that_make_up_the_text_say_where_the_answer_begins(monkeypatch):
  """The tokenizer is asked for places in the other texts alone, whose letters are bytes here."""
  batch, alone = (tokenizer_kinds.text('llama_bpe', [*TEXTS, *ANSWERS]) for _ in range(2))
  asked, placed = [], batch.encoder.placed
  monkeypatch.setattr(batch.encoder, 'placed', lambda some: asked.extend(some) or placed(some))
  plain = [e for e in EXAMPLES if e.text.isascii() and e.answer.isascii()]
  examples = [dataclasses.replace(e, number=i) for i, e in enumerate(plain)]
  batch.prepare(examples)
  assert asked == []
  for example, rows in zip(examples, one_by_one(alone, examples, batch.reserve), strict=True):
    same(batch.rows(example), rows)
  batch.prepare([dataclasses.replace(examples[0], text='a ☃', number=0), *examples[1:]])
  assert ['☃' in text for text in asked] == [True]


@pytest.mark.parametrize('policy', ['text', 'refuse'])
@pytest.mark.parametrize('kind', ['llama_bpe', 'byte_bpe'])
def test_special_tokens_in_a_batch_are_read_or_refused_as_in_a_single_row(kind, policy):
  examples = [Example(i, t, 'yes', 0) for i, t in enumerate(['one', 'a </s> b<eos>', 'two'])]
  make = lambda: tokenizer_kinds.text(kind, [*TEXTS, 'yes one two'], special_tokens=policy)
  batch, alone = make(), make()
  if policy == 'refuse':
    with pytest.raises(UserError, match=r'example 1: the text contains .* a special token'):
      batch.prepare(examples)
    return
  batch.prepare(examples)
  for example, rows in zip(examples, one_by_one(alone, examples, batch.reserve), strict=True):
    same(batch.rows(example), rows)
  assert not batch.tokenizer.encode_special_tokens


@pytest.mark.parametrize('text_format', ['plain', 'lamol', 'class'])
@pytest.mark.parametrize('kind', ['word', 'wordpiece', 'unigram'])
def test_in_a_batch_unknown_words_are_read_and_the_written_token_is_refused(kind, text_format):
  text = tokenizer_kinds.text(kind, ['one two', 'yes'], text_format)
  unknown = text.tokenizer.id_to_token(text.unknown)
  some = [Example(0, 'one', 'yes', 0, 0), Example(1, 'ж two', 'yes', 0, 0)]
  text.prepare(some)
  assert text.unknown in text.rows(some[1])[0].tokens.tolist()
  written = Example(2, f'one {unknown} two', 'yes', 0, 0)
  with pytest.raises(UserError, match=rf'example 2: the text contains {re.escape(unknown)}, a '):
    text.prepare([*some, written])
  if text_format != 'class':
    with pytest.raises(UserError, match='example 3: '):
      text.prepare([*some, Example(3, 'one', unknown, 0, 0)])


def test_the_first_example_that_cannot_be_a_row_is_the_one_that_is_named():
  """Other threads are parts ahead of it."""
  many = [Example(i, 'one', 'yes', 0) for i in range(3 * PART)]
  for place in (5, PART + 1, 2 * PART + 7):
    many[place] = dataclasses.replace(many[place], text='a </s> b')
  text = tokenizer_kinds.text('llama_bpe', [*TEXTS, 'yes one'])
  with pytest.raises(UserError, match='example 5: '):
    text.prepare(many)


@pytest.mark.parametrize('numbers', [range(7, 7 + 2 * PART + 3), [5, 900, 3]])
def test_a_store_gives_back_what_was_added(numbers):
  numbers = list(numbers)
  store = RowStore(numbers, 70_000)
  row = lambda n: Kept([n, 69_999, *range(n % 5)], range(n % 3), 1, 1)
  for first in range(0, len(numbers), PART):
    some = numbers[first : first + PART]
    ids, inputs, answers, _ = unread(len(some))
    store.add(ids, inputs, answers, Frame([], [], [0]), None)
    store.replace(first // PART, {i: row(n) for i, n in enumerate(some)})
  for number in numbers:
    tokens, targets = store.find(number)
    assert (tokens.tolist(), targets.tolist()) == (row(number).tokens, list(row(number).targets))
    assert store.sizes(number) == tuple(map(len, row(number)[:2]))
  assert store.find(max(numbers) + 1) is None
  assert store.find(min(numbers) - 1) is None
  store.replace(0, {1: Kept([1, 2], [0], 1, 1)})
  assert store.find(numbers[1])[0].tolist() == [1, 2]
  assert store.find(numbers[2])[0].tolist() == row(numbers[2]).tokens
  assert RowStore(numbers, 256)._dtype == np.uint8


def test_threads_keep_the_order_and_raise_where_the_item_stands():
  assert list(in_threads(lambda x: x * x, range(50))) == [x * x for x in range(50)]
  taken, results = [], in_threads(lambda x: 1 / (x - 5), range(50))
  with pytest.raises(ZeroDivisionError):
    taken.extend(results)
  assert len(taken) == 5
  assert not [t for t in threading.enumerate() if t.name.startswith('jcl-tokens')]
