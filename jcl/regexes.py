"""Regular expressions that users and files hand in, looked at before they are used."""

import re
import warnings

MOST = 24  # of `cost`; what is above can take minutes on a name of 40 letters


def fault(pattern: str) -> str:
  """What is wrong with a regular expression, as the end of a sentence; empty if nothing is.

  Python's matcher tries all ways to divide a text among repeats. Their number is exponential where
  a group that repeats holds a repeat or a choice, and a power of the text's length otherwise; so
  repeated groups are refused, and more than a few repeats.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('error')  # of what a later Python will read differently
      re.compile(pattern)
  except (re.error, RecursionError, OverflowError, Warning) as error:
    return f'is no regular expression ({error})'
  bare = re.sub(r'\\.|\[\^?\]?(\\.|[^]\\])*\]', '_', pattern, flags=re.DOTALL)
  if re.search(r'\)[*+{]', bare):
    return 'repeats a group, which can take forever'
  if cost(bare) > MOST:
    return 'has too many repeats, which can take forever'
  return ''


def cost(bare: str) -> int:
  """The logarithm, roughly, of how many ways an expression without classes has to fail."""
  kinds = [m[0][0] for m in re.finditer(r'(?<!\()[*+?{][?+]?', bare)]
  return sum(1 if kind == '?' else 4 for kind in kinds)
