"""Parts of messages to the user: the error that a user can mend, counts, and the nearest name."""

import difflib
from collections.abc import Iterable

LIKE = 0.7  # share of letters that a wrong name has in common with the one that was meant


class UserError(ValueError):
  """Bad input: the message is one line that names the culprit and says what would be right.

  The library raises it; launchers print it as `error: …` on standard error and exit with status 2.
  """

  def __init__(self, message: str):
    super().__init__(' '.join(message.splitlines()))  # the message may quote a text of many lines


def count_of(number: int, noun: str, several: str = '') -> str:
  """Returns a count with its noun: '1 row', '2 rows', '1,200 classes'.

  Args:
    number: the count.
    noun: the singular; words may stand before the noun, as in `training row`.
    several: the plural; empty: the regular English one (-s, -es, -ies). Give it for an irregular
      plural, and where words follow the noun.
  """
  if number == 1:
    return f'1 {noun}'
  if not several and noun.endswith(('s', 'x', 'ch', 'sh')):
    several = f'{noun}es'
  elif not several and noun.endswith('y') and noun[-2] not in 'aeiou':
    several = f'{noun[:-1]}ies'
  return f'{number:,} {several or f"{noun}s"}'


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns 'did you mean X? ' where a known name is much like a wrong one; else ''.

  Args:
    name: the wrong one; its case, and whether it has - or _, do not matter.
    known: the right ones.
  """
  names = list(known)
  plain = name[:100].lower().replace('-', '_')
  near = difflib.get_close_matches(plain, names, 1, LIKE)
  return f'did you mean {near[0]}? ' if near else ''
