"""Prompts that show an example's own answer: what a model reads that teaches itself.

Without a template the whole training row of an example stands in front of its prompt, as the first
of two examples would. With a template the filled template takes the place of the input in the
prompt. That of Shenfeld et al. 2026 is, in one line, `{x}\\n\\nThis is an example for a response to
the question:\\n{y}\\n\\nNow answer with a response of your own, including the thinking process:`.

A prompt that is too long loses the end of the input *in the demonstration*, never an answer and,
without a template, never the prompt behind it.
"""

import copy
import dataclasses
from typing import NamedTuple

from jcl.batching.text_formats import Text
from jcl.errors import UserError
from jcl.streams.special_tokens import cut
from jcl.streams.stream import Example

ANY = 2**30  # tokens: no row is cut


class Shown(NamedTuple):
  """A prompt with a demonstration.

  Attributes:
    ids: its tokens.
    is_cut: whether the input of the demonstration had to be cut.
  """

  ids: list[int]
  is_cut: bool


def shown(text: Text, example: Example, room: int, template: str = '') -> Shown:
  """Returns the prompt of an example with its demonstration.

  Args:
    text: the text format, a plain one.
    example: an example of the stream.
    room: tokens that the prompt may have.
    template: text with `{x}` and `{y}`; empty: the training row of the example.

  Raises:
    UserError: the prompt does not fit even without the input of its demonstration.
  """
  return _in_template(text, example, room, template) if template else _row(text, example, room)


def _row(text: Text, example: Example, room: int) -> Shown:
  """Returns the training row of an example and, behind it, its prompt."""
  prompt = text.prompt(example)[len(text.start) :]
  row = text.first_row(example).tokens.tolist()
  is_cut = len(row) + len(prompt) > room
  if is_cut:
    shorter = copy.copy(text)
    shorter.max_length, shorter.reserve = room - len(prompt), 0
    try:
      row = shorter.question(dataclasses.replace(example, number=-1)).tokens.tolist()
    except UserError:
      raise _too_long(text, example, len(row) + len(prompt), room) from None
  return Shown([*row, *prompt], is_cut)


def _in_template(text: Text, example: Example, room: int, template: str) -> Shown:
  """Returns the prompt of an example whose input is the filled template."""
  if example.messages:
    raise UserError(
      f"method.demonstration is {template!r}; it must be '' with conversations, such as example "
      f'{example.called}'
    )
  free = copy.copy(text)
  free.max_length, free.reserve = ANY, 0
  words, is_cut = example.text, False
  while True:
    filled = _filled(template, words, example.answer)
    ids = free.prompt(dataclasses.replace(example, number=-1, text=filled))
    if (excess := len(ids) - room) <= 0:
      return Shown(ids, is_cut)
    pieces = text.encoder.encode(words, f'example {example.called}')
    if excess > len(pieces.ids):
      raise _too_long(text, example, len(ids), room)
    words, is_cut = cut(words, pieces.offsets[len(pieces.ids) - excess][0]), True


def _filled(template: str, words: str, answer: str) -> str:
  """Returns the template with an input and an answer, neither of which is read as a template."""
  before, _, rest = template.partition('{x}')
  between, _, after = rest.partition('{y}')
  return f'{before}{words}{between}{answer}{after}'


def _too_long(text: Text, example: Example, size: int, room: int) -> UserError:
  """Returns the error of a prompt that no shorter input would make fit."""
  return UserError(
    f'example {example.called}: its prompt with a demonstration has {size} tokens, of which {room} '
    f'fit beside the longest answer into stream.max_length {text.max_length}; raise it'
  )
