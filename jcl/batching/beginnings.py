"""Which tokenizers read the beginning of a row as they would read it alone, and where it ends.

The prompt of a plain row must have the ids that it has at test time, without an answer behind it.
Where a tokenizer `begins_alike`, one look at the whole row gives them; other rows are tokenised
twice.
"""

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import BPE

from jcl.errors import UserError

BYTE = re.compile('<0x([0-9A-F]{2})>')  # a token that stands for one byte
NO_TEXT = -(2**40)

# How byte-level BPE splits a text into words, as in the tokenizer.json of the models. In all of
# them a blank behind another letter begins a word.
_END = r'|\s*[\r\n]+|\s+(?!\S)|\s+'
_CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r'|[^\r\n\p{L}\p{N}]?\p{L}+|'
_SIGNS = r'| ?[^\s\p{L}\p{N}]+[\r\n]*'
_UPPER, _LOWER = r'[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]', r'[\p{Ll}\p{Lm}\p{Lo}\p{M}]'
_CASED = (
  rf'[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+',
  rf'[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*',
)
_PATHS = r'| ?[^\s\p{L}\p{N}]+[\r\n/]*'
LLAMA3 = rf'{_CONTRACTED}{_LETTERS}\p{{N}}{{1,3}}{_SIGNS}{_END}'
QWEN2 = rf'{_CONTRACTED}{_LETTERS}\p{{N}}{_SIGNS}{_END}'
TEKKEN = rf'{"|".join(_CASED)}|\p{{N}}{_PATHS}{_END}'
GPT4O = rf'{"|".join(f"{word}{_CONTRACTED}?" for word in _CASED)}|\p{{N}}{{1,3}}{_PATHS}{_END}'
WORDS = (LLAMA3, QWEN2, TEKKEN, GPT4O)


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


class Pieces(NamedTuple):
  """How many letters of a text each token stands for, in a tokenizer that `begins_alike`.

  Attributes:
    letters: [V] letters of each token, bytes if the tokenizer reads bytes; of a token that does not
      say it, fewer than any text has.
    ahead: letters that are put in front of every text.
    normal: text -> what is read in its place, of a tokenizer that reads bytes; else None.
  """

  letters: np.ndarray
  ahead: int
  normal: Callable[[str], str] | None = None

  @classmethod
  def of(cls, tokenizer: Tokenizer) -> 'Pieces | None':
    """Returns the pieces of a tokenizer; None where a letter may become several."""
    steps, of_bytes = _steps(tokenizer), tokenizer.pre_tokenizer is not None
    if any(len(step['content']) != 1 for step in steps if step['type'] == 'Replace'):
      return None
    ids = tokenizer.get_vocab(with_added_tokens=True)
    letters = np.full(max(ids.values()) + 1, NO_TEXT)
    for piece, i in ids.items():
      byte = None if of_bytes else BYTE.fullmatch(piece)
      letters[i] = len(piece) if byte is None else 1 if int(byte[1], 16) < 128 else NO_TEXT
    for i in tokenizer.get_added_tokens_decoder():
      letters[i] = NO_TEXT
    unknown = tokenizer.model.unk_token
    if unknown in ids:
      letters[ids[unknown]] = NO_TEXT
    normal = tokenizer.normalizer.normalize_str if steps else str
    ahead = sum(len(s['prepend']) for s in steps if s['type'] == 'Prepend')
    return cls(letters, ahead, normal if of_bytes else None)

  def size(self, text: str) -> int:
    """Returns the letters of a text as the tokens have them."""
    if self.normal is None or text.isascii():
      return len(text) + self.ahead
    return len(self.normal(text).encode())

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


def begins_alike(tokenizer: Tokenizer, template: Template) -> bool:
  """Whether a row up to its answer is tokenised as it would be alone, if a token ends there.

  That is so for byte-pair encoding without words: of the merges within the beginning none depends
  on what follows, if none joins the two. It is so, too, for the byte-level kind with words, where
  the template puts a blank before the answer and something else before that. Others are not looked
  into.
  """
  model = tokenizer.model
  if not isinstance(model, BPE) or model.dropout:
    return False
  if model.continuing_subword_prefix or model.end_of_word_suffix:
    return False
  added = tokenizer.get_added_tokens_decoder().values()
  if any(t.lstrip or t.rstrip or t.single_word for t in added):
    return False
  if tokenizer.pre_tokenizer is not None:
    spaced = template.around('', '')
    return (
      _splits_at_blanks(tokenizer)
      and all(step['type'] == 'NFC' for step in _steps(tokenizer))
      and not any(' ' in token.content for token in added)
      and bool(spaced[0].removeprefix(template.before))
      and spaced[1].startswith(' ')
    )
  if model.ignore_merges or not all(token.special for token in added):
    return False
  return all(map(_by_letter, _steps(tokenizer)))


def _splits_at_blanks(tokenizer: Tokenizer) -> bool:
  """Whether a blank behind another letter is known to begin a word, and letters become bytes."""
  found = json.loads(tokenizer.pre_tokenizer.__getstate__())
  *before, last = found['pretokenizers'] if found['type'] == 'Sequence' else [found]
  if last['type'] != 'ByteLevel' or last['add_prefix_space']:
    return False
  splits = [step for step in before if step['type'] != 'Digits']
  return all(map(_is_known, splits)) and bool(splits or last['use_regex'])


def _is_known(step: Mapping[str, Any]) -> bool:
  """Whether a step of a pre-tokenizer splits a text into words by one of `WORDS`."""
  given = step.get('pattern') or {}
  return (
    step['type'] == 'Split'
    and step['behavior'] == 'Isolated'
    and not step['invert']
    and given.get('Regex') in WORDS
  )


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
