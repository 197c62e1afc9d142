"""Rows that are tokenised once: the tokenizers and templates of which that is known, and why."""

import itertools
import random

import pytest
from support import tokenizer_kinds
from tokenizers import AddedToken, Regex
from tokenizers import pre_tokenizers as pre

from jcl.backbones.files.gguf_tokenizer import WORD_SPLITS
from jcl.batching import beginnings
from jcl.batching.beginnings import Template, begins_alike

KINDS = tuple(tokenizer_kinds.KINDS)
SPACED = Template.of('Input: {x}\n The label: {y}')
LETTERS = [*"aZé9 '.:/\n\t\r-", '天', '\u0301', '\xa0', '😀', "'s", "'LL", '  ', '１', '__']


def alike(template, kind='byte_bpe', change=lambda tokenizer: None):
  tokenizer = tokenizer_kinds.text(kind, ['some words of a text', 'yes']).tokenizer
  change(tokenizer)
  return begins_alike(tokenizer, template)


@pytest.mark.parametrize('kind', KINDS)
def test_without_words_any_row_is_tokenised_once_and_of_bytes_those_with_a_blank(kind):
  by_bytes, without = kind in ('byte_bpe', 'nfc_bpe'), kind == 'llama_bpe'
  for template, blank in {
    SPACED: True, Template.of('{x}: {y}'): True, Template.of('{x}{y}.'): False,
    Template.of('{x} {y} done'): False, Template.of('Q: {x} \n{y}'): False,
    Template.of('{x}:\n{y}'): False, Template.of('{x}:\xa0{y}'): False,
  }.items():  # fmt: skip
    assert alike(template, kind) == (without or (by_bytes and blank)), template


def added(content, **how):
  return lambda tokenizer: tokenizer.add_tokens([AddedToken(content, normalized=False, **how)])


def split(pattern, behavior='isolated', invert=False, regex=False):
  last = pre.ByteLevel(add_prefix_space=False, use_regex=regex)

  def change(tokenizer):
    tokenizer.pre_tokenizer = pre.Sequence([pre.Split(Regex(pattern), behavior, invert), last])

  return change


def first_space(tokenizer):
  tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=True)


CHANGES = {
  'a token of its own': (added('<call>'), True),
  'a token with a blank': (added(': yes'), False),
  'a token that takes blanks': (added('<call>', lstrip=True), False),
  'words of Llama 3': (split(beginnings.LLAMA3), True),
  'other words': (split(r'.{1,5}'), False),
  'words that are left out': (split(beginnings.LLAMA3, 'removed'), False),
  'what is no word': (split(beginnings.LLAMA3, invert=True), False),
  'a blank before every text': (first_space, False),
}


@pytest.mark.parametrize('name', CHANGES)
def test_a_tokenizer_that_is_not_known_to_do_so_reads_twice(name):
  change, expected = CHANGES[name]
  assert alike(SPACED, change=change) == expected


@pytest.mark.parametrize('name', ['gpt-2', 'smollm', 'llama-bpe', 'qwen2', 'tekken', 'gpt-4o'])
def test_no_word_goes_over_a_blank_behind_another_letter(name):
  words = WORD_SPLITS[name].split.pre_tokenize_str
  draw = random.Random(0)
  some = lambda: ''.join(draw.choices(LETTERS, k=draw.randrange(6)))
  ends = itertools.cycle(letter for letter in LETTERS if letter.strip())
  for _ in range(2000):
    head, tail = some() + next(ends), ' ' + some()
    alone = words(head)
    assert words(head + tail)[: len(alone)] == alone, (head, tail)
