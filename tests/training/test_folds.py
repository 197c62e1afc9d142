"""A fold that was killed and goes on returns what one that nobody killed returns, in its order."""

import numpy as np
import pytest

from jcl.training.folds import FoldRunner, Journal

CHUNKS = [1.0, 2.0, 4.0]


class Killed(Exception):
  """Ends a fold between two chunks."""


def body(carry, chunk):
  """Adds to an array and to a sum that depends on the order in which keys are visited."""
  seen = carry['seen'] * 10 + sum(2.0**i * x.sum() for i, x in enumerate(carry['by_key'].values()))
  return {'seen': seen, 'by_key': {'z': carry['by_key']['z'] + chunk, 'a': carry['by_key']['a']}}


def start():
  return {'seen': np.zeros(()), 'by_key': {'z': np.ones(2), 'a': np.full(2, 3.0)}}


def leaves(carry):
  """The values of a carry with its keys, in the order in which a loop meets them."""
  return [list(carry), float(carry['seen']), [(k, x.tolist()) for k, x in carry['by_key'].items()]]


@pytest.mark.parametrize('after', [1, 2, 3])
def test_a_kill_after_any_chunk_changes_nothing(after):
  whole = leaves(FoldRunner().run('f', body, start(), CHUNKS, 1))
  killed = FoldRunner()

  def stop(name, done, chunks):
    if done == after:
      raise Killed

  killed.on_chunk = stop
  with pytest.raises(Killed):
    killed.run('f', body, start(), CHUNKS, 1)
  resumed = FoldRunner(Journal(killed.journal.copied()))
  assert leaves(resumed.run('f', body, start(), CHUNKS, 1)) == whole
