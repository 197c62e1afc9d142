"""Checks of the regular expressions that users and files give, before they are matched."""

import re
import warnings

MAX_COST = 24  # a costlier expression can take minutes to match a name of 40 letters


def fault(pattern: str) -> str:
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
