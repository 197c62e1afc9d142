"""Prompts as arrays: left-padded, and what all of them begin with."""

from collections.abc import Sequence

import numpy as np

from jcl.batching.batch import bucket

WIDTHS = tuple(2**e for e in range(18))  # of padded prompts; few, since each is a compilation


def left_padded(
  prompts: Sequence[Sequence[int]], rows: int, pad: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns ids and real tokens of prompts, both [rows, width]; a width of 0 where all are empty.

  Args:
    prompts: lists of token ids, at most `rows`; the rows after them are empty.
    rows: of the arrays.
    pad: id of padding.
  """
  longest = max(map(len, prompts))
  width = bucket(longest, WIDTHS) if longest else 0
  ids = np.full((rows, width), pad, np.int32)
  valid = np.zeros((rows, width), bool)
  for i, prompt in enumerate(prompts):
    start = width - len(prompt)
    ids[i, start:], valid[i, start:] = prompt, True
  return ids, valid


def shared(prompts: Sequence[Sequence[int]], beginnings: bool) -> int:
  """Returns with how many tokens all prompts begin alike, less than each has unless all are equal.

  The first new token is predicted from the last token of a prompt, which must be computed.

  Args:
    prompts: lists of token ids.
    beginnings: whether prompts that go on differently may share their beginning.
  """
  if not prompts:
    return 0
  first, last = (list(x) for x in (min(prompts, key=list), max(prompts, key=list)))
  if first == last or not beginnings:
    return len(first) if first == last else 0
  alike = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
  return max(min(alike, min(map(len, prompts)) - 1), 0)
