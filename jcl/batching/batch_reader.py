"""The ids of many examples, tokenised in batches on other threads.

What needs more than one look is left to the reader of single examples (`text_formats.Text`): a text
that is too long, or that holds a special token.
"""

import itertools
import json
import re
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
BYTE = re.compile('<0x([0-9A-F]{2})>')  # a token that stands for one byte
NO_TEXT = -(2**40)


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


class Pieces(NamedTuple):
  """How many letters of a text each token stands for, in a tokenizer that `begins_alike`.

  Attributes:
    letters: [V] letters of each token; of one that does not say it, fewer than any text has.
    ahead: letters that are put in front of every text.
  """

  letters: np.ndarray
  ahead: int

  @classmethod
  def of(cls, tokenizer: Tokenizer) -> 'Pieces | None':
    """Returns the pieces of a tokenizer; None where a letter may become several."""
    steps = _steps(tokenizer)
    if any(len(step['content']) != 1 for step in steps if step['type'] == 'Replace'):
      return None
    ids = tokenizer.get_vocab(with_added_tokens=True)
    letters = np.full(max(ids.values()) + 1, NO_TEXT)
    for piece, i in ids.items():
      byte = BYTE.fullmatch(piece)
      letters[i] = len(piece) if byte is None else 1 if int(byte[1], 16) < 128 else NO_TEXT
    for i in tokenizer.get_added_tokens_decoder():
      letters[i] = NO_TEXT
    unknown = tokenizer.model.unk_token
    if unknown in ids:
      letters[ids[unknown]] = NO_TEXT
    return cls(letters, sum(len(s['prepend']) for s in steps if s['type'] == 'Prepend'))

  def size(self, text: str) -> int:
    """Returns the letters of a text as the tokens have them."""
    return len(text) + self.ahead

  def borders(
    self, whole: Sequence[list[int]], heads: np.ndarray, sizes: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number of tokens before a place in each text, and where that is known.

    Args:
      whole: tokens of N texts.
      heads, sizes: [N] letters before the place, and of the whole text.

    Returns:
      [N] numbers of tokens, -1 where a token straddles the place; [N] bool, the tokens make up the
      text.
    """
    counts = np.array([*map(len, whole)])
    flat = np.fromiter(itertools.chain.from_iterable(whole), np.int32, counts.sum())
    ends = np.concatenate([[0], np.cumsum(self.letters[flat])])
    last = np.cumsum(counts)
    begun = ends[last - counts]
    known = ends[last] - begun == sizes
    at = np.repeat(begun + heads, counts)
    before = np.concatenate([[0], np.cumsum(ends[1:] <= at)])
    border = before[last] - before[last - counts]
    reached = ends[last - counts + border] - begun == heads
    return np.where(reached & (border < counts), border, -1), known


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
    self._pieces = Pieces.of(encoder.tokenizer) if self._alike else None
    self._forbidden = np.zeros(max(encoder.forbidden, default=0) + 2, bool)
    self._forbidden[list(encoder.forbidden)] = True
    self._unknown = -1 if encoder.unknown is None else encoder.unknown

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
    unknown = flat == self._unknown
    if bad.any() or unknown.any():
      places = np.repeat(np.arange(len(part)), sizes)
      alone[places[bad]] = True
      for place in np.unique(places[unknown]).tolist():  # few rows have unknown words
        alone[place] |= any(map(self._encoder.writes_unknown, self._texts(part[place])))
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
      pairs = [a + b.ids for a, b in zip(texts, found[1::2], strict=True)]
      return pairs, np.array([*map(len, texts)])
    whole = [one.ids for one in (found if self._alike else found[::2])]
    borders = self._borders(part, whole)
    if self._alike:
      return whole, borders
    # Each is tokenised twice, since the end of a text may change how its beginning is.
    both, inputs = [], []
    for row, head, border in zip(whole, found[1::2], borders.tolist(), strict=True):
      clean = border >= 0 and self._encoder.forbidden.isdisjoint(row)
      both.append(head.ids + row[border:] if clean else [])
      inputs.append(len(head) if clean else -1)
    return both, np.array(inputs)

  def _borders(self, part: Sequence[Example], whole: Sequence[list[int]]) -> np.ndarray:
    """Returns the first token of the answer in each row; -1 if there is none, or it begins before.

    Where the pieces that tokens stand for make up the text, they are counted; the tokenizer is
    asked for the places of the others.
    """
    heads = [self._template.around(unguarded(e.text), unguarded(e.answer)) for e in part]
    borders = np.full(len(part), -1)
    left: Sequence[int] = range(len(part))
    if self._pieces is not None:
      wanted = np.array([[self._pieces.size(a), self._pieces.size(a + b)] for a, b in heads])
      borders, known = self._pieces.borders(whole, wanted[:, 0], wanted[:, 1])
      left = np.flatnonzero(~known).tolist()
    if left:
      for i, one in zip(left, self._encoder.placed([''.join(heads[i]) for i in left]), strict=True):
        borders[i] = self._border(len(heads[i][0]), one)
    return borders

  def _border(self, border: int, whole: Encoding) -> int:
    """Returns the first token from a letter of a text on; -1 if none does, or it begins before."""
    first = whole.char_to_token(border)
    place = None if first is None else whole.token_to_chars(first)
    return -1 if first is None or place is None or place[0] < border else first


def begins_alike(tokenizer: Tokenizer) -> bool:
  """Whether a text is tokenised like the beginning of a longer one that has a token border there.

  That is so for byte-pair encoding without words: of the merges within the beginning none depends
  on what follows, if none joins the two. Others are not looked into.
  """
  model = tokenizer.model
  if not isinstance(model, BPE) or tokenizer.pre_tokenizer is not None:
    return False
  if model.dropout or model.ignore_merges:
    return False
  if model.continuing_subword_prefix or model.end_of_word_suffix:
    return False
  added = tokenizer.get_added_tokens_decoder().values()
  if any(not t.special or t.lstrip or t.rstrip or t.single_word for t in added):
    return False
  return all(map(_by_letter, _steps(tokenizer)))


def _steps(tokenizer: Tokenizer) -> list[dict[str, Any]]:
  """Returns the steps of a tokenizer's normaliser as its file has them."""
  if (normalizer := tokenizer.normalizer) is None:
    return []
  found = json.loads(normalizer.__getstate__())
  return found['normalizers'] if found['type'] == 'Sequence' else [found]


def _by_letter(normalizer: Mapping[str, Any]) -> bool:
  """Whether a normaliser looks at one letter of a text at a time."""
  if normalizer['type'] == 'Prepend':
    return True
  pattern = normalizer.get('pattern', {})
  return normalizer['type'] == 'Replace' and len(pattern.get('String', '')) == 1
