"""General text that no task has, as rows that replay: blocks of one text, cut to exact numbers.

A block is a part of the text, with beginning-of-sequence in front where the tokenizer adds one; at
each of its tokens but the last the next token is the target. Where an epoch needs only a part of a
block, the block is cut there, and the next epoch begins with the rest: counted in tokens, the rest
begins with the token after the cut; in targets, with the token before it, so that each token is a
target once.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from jcl.batching.token_lines import pieces
from jcl.errors import UserError
from jcl.streams.stream import Example

FIRST_NUMBER = 2**29 + 2**28  # of blocks; pseudo samples count from 2**29
NO_TASK = -1


class Corpus:
  """The blocks of a text.

  Args:
    ids: token ids of the text.
    start: ids in front of each block.
    length: most tokens of a block.
    field: name of the setting in messages.

  Attributes:
    digest: SHA-256 of the ids.

  Raises:
    UserError: the text has no token to predict.
  """

  def __init__(self, ids: Sequence[int], start: Sequence[int], length: int, field: str):
    size = length - len(start)
    tokens = np.asarray(ids, np.int32)
    parts = [tokens[first : first + size] for first in range(0, len(tokens), size)]
    blocks = [np.concatenate([np.asarray(start, np.int32), part]) for part in parts]
    self._blocks = [block for block in blocks if len(block) > 1]
    if not self._blocks:
      raise UserError(f'{field}: a single token, so that nothing is predicted: give more text')
    self._tokens_N = np.array(list(map(len, self._blocks)), np.int64)
    self.digest = hashlib.sha256(tokens.tobytes()).digest()

  def drawn(self, wanted: float, unit: str, seed: int, task: int, epoch: int) -> list[Example]:
    """Returns the examples of an epoch, which have together exactly as much text as is wanted.

    Args:
      wanted: tokens or targets of an epoch; epochs differ by one where it is no whole number.
      unit: `tokens` or `targets`.
      seed: seed of the run.
      task: index of the task.
      epoch: number of the epoch, from 0.
    """
    more = int(unit == 'targets')  # a row has a token more than it has targets
    found = pieces(self._tokens_N - more, wanted, seed, 'corpus', task, epoch)
    return [
      Example(
        FIRST_NUMBER + block, '', '', NO_TASK, prompt_size=1,
        tokens=tuple(self._blocks[block][first : end + more].tolist()),
      )
      for block, first, end in zip(*(x.tolist() for x in found), strict=True)
    ]  # fmt: skip
