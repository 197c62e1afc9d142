"""Texts of users and models as a terminal may show them: what would steer it is written out."""

import unicodedata

JOINERS = '\u200c\u200d'  # part of how Persian, Indic scripts and emoji are written
SHOWN = 80  # letters of a text that is quoted in a line


def escaped(text: str) -> str:
  """Returns a text on one line, without control characters.

  Line breaks, ANSI escapes, directions of writing that would turn what stands around the text, and
  other invisible or unassigned characters become what Python writes for them (`\\n`, `\\x1b`,
  `\\u202e`).
  """
  return ''.join(letter if _harmless(letter) else ascii(letter)[1:-1] for letter in text)


def quoted(text: str) -> str:
  """Returns an escaped text in quotes, so that spaces at its ends are seen."""
  return "'" + escaped(text).replace("'", "\\'") + "'"


def shortened(text: str, length: int = SHOWN) -> str:
  """Returns an escaped text, its end left out if it is longer than `length` letters."""
  text = escaped(text)
  return text if len(text) <= length else f'{text[: length - 1]}…'


def _harmless(letter: str) -> bool:
  """Returns whether a terminal shows a letter and does nothing else."""
  return letter.isprintable() or letter in JOINERS or unicodedata.category(letter) == 'Zs'
