"""The ids of many examples, tokenised in batches on other threads.

What needs more than one look is left to the reader of single examples (`text_formats.Text`): a text
that is too long, or that holds a special token.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding

from jcl.batching.beginnings import Pieces, Template, begins_alike
from jcl.batching.special_text import TextEncoder
from jcl.streams.special_tokens import unguarded
from jcl.streams.stream import Example

LAMOL_FORMATS = ('lamol', 'lamol_task')


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
    self._alike = text_format == 'plain' and begins_alike(encoder.tokenizer, template)
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
