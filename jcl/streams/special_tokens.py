"""Special tokens in the text of a row: those that are meant, and letters that only look like one.

A chat template marks the structure of a text with special tokens (`<s>`, `<|im_end|>`); the same
letters in what a user wrote are text. A template renders both into one text, so `guarded` marks the
user's before it is rendered, and `batching.special_text` reads the marked ones as
`stream.special_tokens_in_text` says.
"""

import re
from collections.abc import Iterable

GUARD = '\ufdd0'  # a noncharacter of Unicode: no text has it


def guarded(text: str, tokens: Iterable[str]) -> str:
  """Returns a user's text with a `GUARD` behind the first letter of every special token in it.

  Args:
    text: what a user wrote, before a template renders it.
    tokens: texts of the special tokens.
  """
  pattern = pattern_of(tokens)
  text = unguarded(text)
  return text if pattern is None else pattern.sub(lambda m: m[0][0] + GUARD + m[0][1:], text)


def unguarded(text: str) -> str:
  """Returns a text without its guards, as the user wrote it."""
  return text.replace(GUARD, '')


def cut(text: str, length: int) -> str:
  """Returns the first letters of a text with their guards; guards do not count in `length`."""
  places = [place for place, letter in enumerate(text) if letter != GUARD]
  return text if length >= len(places) else text[: places[length]]


def pattern_of(tokens: Iterable[str]) -> re.Pattern[str] | None:
  """Returns a pattern of all special tokens, the longest first; None if there are none."""
  listed = sorted((re.escape(token) for token in tokens if token), key=len, reverse=True)
  return re.compile('|'.join(listed)) if listed else None
