"""Prompts with a demonstration: what stands in them, and what is cut where they are too long."""

import dataclasses
import json

import pytest
from support import tiny

from jcl.batching.demonstrations import shown
from jcl.errors import UserError

TEMPLATE = '{x} please train {y} now'
ROOM = 60


@pytest.fixture(scope='module')
def text():
  return tiny.text('plain', tiny.stream())


@pytest.fixture(scope='module')
def example():
  return tiny.stream().tasks[0].train[4]  # please the lamp train now now -> switch on


def said(text, ids):
  return text.tokenizer.decode(ids, skip_special_tokens=False)


def test_the_training_row_stands_in_front_of_the_prompt(text, example):
  found = shown(text, example, ROOM)
  row, prompt = text.rows(example)[0].tokens.tolist(), text.prompt(example)
  assert found == ([*row, *prompt], False)
  assert found.ids[len(row) - 1] == text.eos
  assert said(text, row).endswith('switch on <eos>')


def test_a_template_takes_the_place_of_the_input(text, example):
  words = f'{example.text} please train switch on now'
  wanted = text.prompt(dataclasses.replace(example, number=-1, text=words))
  assert shown(text, example, ROOM, TEMPLATE) == (wanted, False)


def test_braces_in_a_text_are_no_place_of_the_template(text, example):
  given = dataclasses.replace(example, text='{y} {x}', answer='{x}')
  wanted = text.prompt(dataclasses.replace(example, number=-1, text='{y} {x} please train {x} now'))
  assert shown(text, given, ROOM, TEMPLATE).ids == wanted


@pytest.mark.parametrize('template', ['', TEMPLATE])
def test_a_long_prompt_loses_the_end_of_the_input_that_is_shown(text, example, template):
  whole = shown(text, example, ROOM, template).ids
  words = example.text.split()
  for fewer in range(1, len(words) + 1):
    found = shown(text, example, len(whole) - fewer, template)
    assert found.is_cut
    shorter = dataclasses.replace(example, number=-1, text=' '.join(words[:-fewer]))
    if template:
      wanted = shown(text, shorter, ROOM, template).ids
    else:
      wanted = [*text.question(shorter).tokens.tolist(), *text.prompt(example)]
    assert found.ids == wanted
  with pytest.raises(UserError, match=r'train-0-4: its prompt .* raise it') as error:
    shown(text, example, len(whole) - len(words) - 1, template)
  assert '\n' not in str(error.value)
  assert not text.cut  # the rows that train are whole


def test_conversations_have_their_row_in_front(text, example):
  talk = json.dumps([{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}])
  given = dataclasses.replace(example, messages=talk)
  with pytest.raises(UserError, match=r"method\.demonstration is .*; it must be '' with conv"):
    shown(text, given, ROOM, TEMPLATE)
