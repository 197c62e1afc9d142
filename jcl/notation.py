"""Notation of users: lists, and the regular expressions that users and files give.

Lists are `a,b`, `('a', 'b')`, `["a", "b"]`, one value, or nothing. A comma inside brackets or after
a backslash divides nothing, so that a pattern such as `w{1,2}` is one entry. Quotes keep a comma
too: `'a,b'` is one entry. Regular expressions are checked before they are matched.
"""

import ast
import re
import warnings
from collections.abc import Sequence
from typing import TypeVar

Entry = TypeVar('Entry', str, int, float)
KINDS = {str: 'text', int: 'whole number', float: 'number'}
EXAMPLES = {str: 'a,b', int: '0,1,2', float: '0.5,0.25'}
OPENING, CLOSING = '([{', ')]}'
MAX_COST = 24  # a costlier expression can take minutes to match a name of 40 letters


def encodable(text: str, errors: str = 'strict') -> bool:
  """Whether UTF-8 can hold a text: no half of a surrogate pair, but for those that `errors` allows.

  Args:
    text: to be looked at.
    errors: `strict`, or `surrogateescape`, which allows what stands for a byte of a file's name.
  """
  if text.isascii():
    return True
  try:
    text.encode('utf-8', errors)
  except UnicodeEncodeError:
    return False
  return True


def parse(text: str, kind: type[Entry]) -> tuple[Entry, ...]:
  """Returns the entries of a list that is given as text.

  Args:
    text: the list.
    kind: `str`, `int` or `float`.

  Raises:
    ValueError: an entry is empty or not of the kind; the message says what would be right.
  """
  entries = _quoted(text)
  if entries is None:
    entries = _divided(text, numbers=kind is not str)
  found: list[Entry] = []
  for entry in entries:
    try:
      found.append(kind(entry if kind is str else entry.strip()))
    except ValueError:
      what = f'{entry.strip()[:60]!r} is no {KINDS[kind]}'
      raise ValueError(f'{what}; give {KINDS[kind]}s such as {EXAMPLES[kind]}') from None
  return tuple(found)


def convert(value: object, kind: type[Entry]) -> object:
  """Returns a value as a tuple of its kind if it is text, one number or a list; else as it is.

  Raises:
    ValueError: as `parse`.
  """
  if isinstance(value, str):
    return parse(value, kind)
  if isinstance(value, int | float) and not isinstance(value, bool) and kind is not str:
    return (value,)
  return tuple(value) if isinstance(value, list) else value


def _quoted(text: str) -> Sequence[str] | None:
  """Returns the entries of a Python or JSON literal of texts; None where it is no such literal.

  Raises:
    ValueError: an entry is itself a list.
  """
  try:
    value = ast.literal_eval(text.strip())
  except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
    return None
  if isinstance(value, str):
    return (value,)
  if isinstance(value, dict | set) or not isinstance(value, tuple | list):
    return None
  if any(isinstance(entry, tuple | list | dict | set) for entry in value):
    raise ValueError('it holds a list within a list; give a,b')
  return value if all(isinstance(entry, str) for entry in value) else None


def _divided(text: str, numbers: bool) -> list[str]:
  """Returns what stands between the commas of a text without quotes around its entries.

  Args:
    text: the list.
    numbers: whether its entries are numbers, which have no brackets of their own.

  Raises:
    ValueError: an entry is empty.
  """
  inside = text.strip()
  parts = _pieces(inside)
  if len(parts) == 1 and re.fullmatch(r'\(.*\)|\[.*\]', inside, re.DOTALL):
    within = _pieces(inside[1:-1])  # (a, b) is a list, (a|b) and [ab] are patterns
    parts = within if numbers or len(within) > 1 else parts
  if len(parts) > 1 and not parts[-1]:  # a comma at the end, as after the entry of a Python tuple
    parts.pop()
  if parts == [''] and inside != ',':
    return []
  if '' in parts:
    raise ValueError('it has an empty entry; give a,b')
  quoted = lambda part: len(part) > 1 and part[0] == part[-1] and part[0] in '\'"'
  return [part[1:-1] if quoted(part) else part for part in parts]


def _pieces(text: str) -> list[str]:
  """Returns the parts of a text between commas that stand outside brackets and quotes, stripped."""
  parts, depth, quote, before = [''], 0, '', ''
  for letter in text:
    escaped = before == '\\'
    if letter in '\'"' and not escaped and (letter == quote or not (quote or parts[-1].strip())):
      quote = '' if quote else letter
    if not quote and not escaped:
      depth += (letter in OPENING) - (letter in CLOSING)
    if letter == ',' and depth <= 0 and not quote and not escaped:
      parts.append('')
    else:
      parts[-1] += letter
    before = '' if escaped else letter
  return [part.strip() for part in parts]


def regex_fault(pattern: str) -> str:
  """Returns what is wrong with a regular expression, as the end of a sentence; empty if nothing.

  Python's matcher tries all ways to divide a text among the repeats of an expression. Their number
  is exponential in the text's length if a group that repeats holds a repeat or a choice, and a
  power of the length otherwise. So a repeated group is refused, and so are many repeats.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('error')  # a later Python may read the expression differently
      re.compile(pattern)
  except (re.error, RecursionError, OverflowError, Warning) as error:
    return f'is no regular expression ({error})'
  bare = re.sub(r'\\.|\[\^?\]?(\\.|[^]\\])*\]', '_', pattern, flags=re.DOTALL)
  if re.search(r'\)[*+{]', bare):
    return 'repeats a group, which can take forever'
  if backtracking_cost(bare) > MAX_COST:
    return 'has too many repeats, which can take forever'
  return ''


def backtracking_cost(bare: str) -> int:
  """Returns roughly the logarithm of the number of ways in which a match can fail.

  Args:
    bare: the expression, every escape and every character class replaced by one letter.
  """
  kinds = [m[0][0] for m in re.finditer(r'(?<!\()[*+?{][?+]?', bare)]
  return sum(1 if kind == '?' else 4 for kind in kinds)
