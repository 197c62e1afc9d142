"""The ids of many examples, tokenised in batches on other threads.

What needs more than one look is left to the reader of single examples (`text_formats.Text`): a text
that is too long, or that holds a special token.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tokenizers import Encoding, Tokenizer
from tokenizers.models import BPE

from jcl.batching.special_text import TextEncoder
from jcl.errors import UserError
from jcl.streams.special_tokens import unguarded
from jcl.streams.stream import Example

LAMOL_FORMATS = ('lamol', 'lamol_task')
Pieces = tuple[list[int], list[int]]
"""The ids of a prompt, and those of its answer."""


class Template(NamedTuple):
  """The words of a plain row: before the input, between input and answer, after the answer."""

  before: str
  between: str
  after: str

  @classmethod
  def of(cls, template: str) -> 'Template':
    """Returns ('a', 'b', 'c') for the template 'a{x}b{y}c'."""
    before, found_x, rest = template.partition('{x}')
    between, found_y, after = rest.partition('{y}')
    if not (found_x and found_y) or '{x}' in rest or '{y}' in after:
      raise UserError(f'stream.template: {template!r} needs {{x}} once and, after it, {{y}} once')
    return cls(before, between, after)

  def around(self, text: str, answer: str) -> tuple[str, str]:
    """Returns a row up to its answer, and the rest; a space before the answer is its own."""
    words = self.between.rstrip()
    return self.before + text + words, self.between[len(words) :] + answer + self.after


class Marks(NamedTuple):
  """Ids around the texts of a row.

  Attributes:
    start: before every row.
    end: at the end of rows of `class`.
    eos: at the end of every answer.
    answer: between input and answer in the formats of LAMOL; else -1.
  """

  start: list[int]
  end: list[int]
  eos: int
  answer: int


class BatchReader:
  """Reads the prompts and the answers of examples.

  Args:
    encoder: reads the texts of users.
    text_format: of the run.
    template: of plain rows.
    marks: ids around the texts.
    max_length: tokens of a row at most.
  """

  def __init__(
    self, encoder: TextEncoder, text_format: str, template: Template, marks: Marks, max_length: int
  ):
    self._encoder, self._format, self._template = encoder, text_format, template
    self._marks, self._max_length = marks, max_length
    self._alike = text_format == 'plain' and begins_alike(encoder.tokenizer)

  def read(self, parts: Sequence[Sequence[Example]]) -> Iterator[list[Pieces | None]]:
    """Yields the ids of prompt and answer of each example of each part; None: read it alone."""
    texts = ([text for e in part for text in self._texts(e)] for part in parts)
    for part, found in zip(parts, self._encoder.ahead(texts), strict=True):
      width = len(found) // len(part)
      each = (found[i : i + width] for i in range(0, len(found), width))
      yield [self._pieces(e, some) for e, some in zip(part, each, strict=True)]

  def _texts(self, example: Example) -> tuple[str, ...]:
    """Returns the texts that the ids of an example are read from."""
    text, answer = unguarded(example.text), unguarded(example.answer)
    if self._format == 'class':
      return (text,)
    if self._format in LAMOL_FORMATS:
      return text, answer
    head, tail = self._template.around(text, answer)
    return (head + tail,) if self._alike else (head + tail, head)

  def _pieces(self, example: Example, found: Sequence[Encoding]) -> Pieces | None:
    """Returns the prompt and the answer of an example from the tokens of its `_texts`."""
    if not all(map(self._encoder.is_plain, found)):
      return None
    start, end, eos, mark = self._marks
    ids, room = found[0].ids, 0
    if self._format == 'class':
      prompt, answer = [*start, *ids, *end], list[int]()
    elif self._format in LAMOL_FORMATS:
      prompt, answer, room = [*start, *ids, mark], [*found[1].ids, eos], 1  # a generation token
    else:
      border = len(self._template.around(unguarded(example.text), '')[0])
      first = found[0].char_to_token(border)
      place = None if first is None else found[0].token_to_chars(first)
      if place is None or place[0] < border:  # nothing follows, or a token straddles the border
        return None
      prompt = [*start, *(ids[:first] if self._alike else found[1].ids)]
      answer = [*ids[first:], eos]
    return None if len(prompt) + len(answer) + room > self._max_length else (prompt, answer)


def begins_alike(tokenizer: Tokenizer) -> bool:
  """Whether a text is tokenised like the beginning of a longer one that has a token border there.

  That is so for byte-pair encoding without words: of the merges within the beginning none depends
  on what follows, if none joins the two. Others are not looked into.
  """
  model, normalizer = tokenizer.model, tokenizer.normalizer
  if not isinstance(model, BPE) or tokenizer.pre_tokenizer is not None:
    return False
  if model.dropout or model.ignore_merges:
    return False
  if model.continuing_subword_prefix or model.end_of_word_suffix:
    return False
  added = tokenizer.get_added_tokens_decoder().values()
  if any(not t.special or t.lstrip or t.rstrip or t.single_word for t in added):
    return False
  steps = [] if normalizer is None else [json.loads(normalizer.__getstate__())]
  if steps and steps[0]['type'] == 'Sequence':
    steps = steps[0]['normalizers']
  return all(_by_letter(step) for step in steps)


def _by_letter(normalizer: Mapping[str, Any]) -> bool:
  """Whether a normaliser looks at one letter of a text at a time."""
  if normalizer['type'] == 'Prepend':
    return True
  pattern = normalizer.get('pattern', {})
  return normalizer['type'] == 'Replace' and len(pattern.get('String', '')) == 1
