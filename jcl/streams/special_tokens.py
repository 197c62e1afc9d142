"""Special tokens in the text of a row: those that are meant, and letters that only look like one.

A chat template marks the structure of a text with special tokens (`<s>`, `<|im_end|>`); the same
letters in what a user wrote are text. A template renders both into one text, so `guarded` marks the
user's before it is rendered, and `batching.special_text` reads the marked ones as
`stream.special_tokens_in_text` says.
"""

import functools
import itertools
import re
from collections.abc import Iterable

GUARD = '\ufdd0'  # a noncharacter of Unicode: no text has it


def guarded(text: str, tokens: Iterable[str]) -> str:
  """Returns a user's text with a `GUARD` behind the first letter of every special token in it.

  The beginning of a special token at the end of the text has one too, for a template may put the
  rest of that token behind it; `without_strays` takes it out where it does not.

  Args:
    text: what a user wrote, before a template renders it.
    tokens: texts of the special tokens.
  """
  tokens, text = tuple(tokens), unguarded(text)
  pattern = pattern_of(tokens)
  if pattern is None:
    return text
  begun, longest = _beginnings(tokens)
  ends = {len(text) - k for k in range(1, min(longest, len(text) + 1)) if text[-k:] in begun}
  places = sorted({found.start() for found in pattern.finditer(text)} | ends)
  pieces = [text[i + 1 : j + 1] for i, j in itertools.pairwise([-1, *places, len(text)])]
  return GUARD.join(pieces)


def without_strays(text: str, tokens: Iterable[str]) -> str:
  """Returns a rendered text without the guards behind which no special token stands."""
  if GUARD not in text:
    return text
  tokens = tuple(tokens)
  longest = max(map(len, tokens), default=0)
  first, *pieces = text.split(GUARD)
  found = [first]
  for number, piece in enumerate(pieces):
    rest = ''.join(pieces[number : number + longest])[:longest]
    stands = any((found[-1][-1:] + rest).startswith(token) for token in tokens)
    found.append(f'{GUARD}{piece}' if stands else piece)
  return ''.join(found)


@functools.lru_cache(16)
def _beginnings(tokens: tuple[str, ...]) -> tuple[frozenset[str], int]:
  """Returns all that a special token begins with and is longer than, and the longest's length."""
  begun = frozenset(token[:k] for token in tokens for k in range(1, len(token)))
  return begun, max(map(len, tokens), default=0)


def unguarded(text: str) -> str:
  """Returns a text without its guards, as the user wrote it."""
  return text.replace(GUARD, '')


def cut(text: str, length: int) -> str:
  """Returns the first letters of a text with their guards; guards do not count in `length`."""
  places = [place for place, letter in enumerate(text) if letter != GUARD]
  return text if length >= len(places) else text[: places[length]]


def pattern_of(tokens: Iterable[str]) -> re.Pattern[str] | None:
  """Returns a pattern of all special tokens, the longest first; None if there are none."""
  return _pattern(tuple(tokens))


@functools.lru_cache(16)
def _pattern(tokens: tuple[str, ...]) -> re.Pattern[str] | None:
  listed = sorted((re.escape(token) for token in tokens if token), key=len, reverse=True)
  return re.compile('|'.join(listed)) if listed else None
