"""The ids of many examples, tokenised in batches on other threads.

What needs more than one look is left to the reader of single examples (`text_formats.Text`): a text
that is too long, or that holds a special token.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer
from tokenizers.models import BPE

from jcl.batching.special_text import TextEncoder
from jcl.errors import UserError
from jcl.streams.special_tokens import unguarded
from jcl.streams.stream import Example

LAMOL_FORMATS = ('lamol', 'lamol_task')


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


class Read(NamedTuple):
  """The ids of N examples, tokenised in a batch; nothing stands between them yet.

  Attributes:
    ids: [n] of the input and, after it, of the answer of each example, one after another.
    inputs, answers: [N] number of ids of each.
    alone: places of examples that must be read by themselves; they have no ids here.
  """

  ids: np.ndarray
  inputs: np.ndarray
  answers: np.ndarray
  alone: list[int]


def unread(count: int) -> Read:
  """Returns what was read of examples that are all read by themselves."""
  none = np.zeros(count, np.int64)
  return Read(np.zeros(0, np.int32), none, none, list(range(count)))


class BatchReader:
  """Reads the inputs and the answers of examples.

  Args:
    encoder: reads the texts of users.
    text_format: of the run.
    template: of plain rows.
    room: ids that the texts of an example may have together.
  """

  def __init__(self, encoder: TextEncoder, text_format: str, template: Template, room: int):
    self._encoder, self._format, self._template = encoder, text_format, template
    self._room = room
    self._alike = text_format == 'plain' and begins_alike(encoder.tokenizer)
    self._forbidden = np.zeros(max(encoder.forbidden, default=0) + 2, bool)
    self._forbidden[list(encoder.forbidden)] = True

  def read(self, parts: Sequence[Sequence[Example]]) -> Iterator[Read]:
    """Yields the ids of the examples of each part."""
    texts = ([text for e in part for text in self._texts(e)] for part in parts)
    for part, found in zip(parts, self._encoder.ahead(texts), strict=True):
      yield self._of_part(part, found)

  def _texts(self, example: Example) -> tuple[str, ...]:
    """Returns the texts that the ids of an example are read from."""
    text = unguarded(example.text)
    if self._format == 'class':
      return (text,)
    answer = unguarded(example.answer)
    if self._format in LAMOL_FORMATS:
      return text, answer
    head, tail = self._template.around(text, answer)
    return (head + tail,) if self._alike else (head + tail, head)

  def _of_part(self, part: Sequence[Example], found: Sequence[Encoding]) -> Read:
    """Returns the ids of some examples from the tokens of their `_texts`."""
    ids, inputs = self._divided(part, found)
    sizes = np.array([*map(len, ids)])
    flat = np.fromiter(itertools.chain.from_iterable(ids), np.int32, sizes.sum())
    last = len(self._forbidden) - 1  # stands for all greater ids, which may stand in a text
    bad = self._forbidden[np.minimum(flat, last)]
    alone = (inputs < 0) | (sizes > self._room)
    if bad.any():
      alone[np.repeat(np.arange(len(part)), sizes)[bad]] = True
    if alone.any():
      flat = flat[np.repeat(~alone, sizes)]
    inputs, sizes = np.where(alone, 0, inputs), np.where(alone, 0, sizes)
    return Read(flat, inputs, sizes - inputs, np.flatnonzero(alone).tolist())

  def _divided(
    self, part: Sequence[Example], found: Sequence[Encoding]
  ) -> tuple[list[list[int]], np.ndarray]:
    """Returns the ids of each example, and how many of them are the input's; -1: read it alone."""
    if self._format == 'class':
      ids = [one.ids for one in found]
      return ids, np.array([*map(len, ids)])
    if self._format in LAMOL_FORMATS:
      texts = [one.ids for one in found[::2]]
      both = [a + b.ids for a, b in zip(texts, found[1::2], strict=True)]
      return both, np.array([*map(len, texts)])
    whole = found if self._alike else found[::2]
    borders = [self._border(e, one) for e, one in zip(part, whole, strict=True)]
    if self._alike:
      return [one.ids for one in whole], np.array(borders)
    # Each is tokenised twice, since the end of a text may change how its beginning is.
    ids, inputs = [], []
    for one, before, border in zip(whole, found[1::2], borders, strict=True):
      head, clean = before.ids, border >= 0 and self._encoder.is_plain(one)
      ids.append(head + one.ids[border:] if clean else [])
      inputs.append(len(head) if clean else -1)
    return ids, np.array(inputs)

  def _border(self, example: Example, whole: Encoding) -> int:
    """Returns the first token of the answer in a row; -1 if there is none, or it begins before."""
    border = len(self._template.around(unguarded(example.text), '')[0])
    first = whole.char_to_token(border)
    place = None if first is None else whole.token_to_chars(first)
    return -1 if first is None or place is None or place[0] < border else first


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
