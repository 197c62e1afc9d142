"""Blocks of general text: exact numbers of tokens or targets, and every token once a turn."""

import numpy as np
import pytest

from jcl.batching.batch import Row
from jcl.batching.corpus import Corpus
from jcl.batching.packed_epochs import Epoch
from jcl.batching.token_lines import pieces
from jcl.errors import UserError
from jcl.streams.stream import Example, TaskPlan

START = 7


@pytest.mark.parametrize('wanted', [0.0, 3.0, 10.5, 61.25])
def test_an_epoch_takes_its_share_and_nothing_comes_twice_in_a_turn(wanted):
  sizes = np.array([5, 9, 1, 8])
  seen = []
  for epoch in range(9):
    found = pieces(sizes, wanted, 3, 'corpus', 1, epoch)
    units = [(b, i) for b, first, end in zip(*found, strict=True) for i in range(first, end)]
    assert len(units) == round((epoch + 1) * wanted) - round(epoch * wanted)
    seen += units
  turn = int(sizes.sum())
  for first in range(0, len(seen), turn):
    part = seen[first : first + turn]
    assert len(set(part)) == len(part)


def test_no_block_gives_nothing():
  assert not any(len(x) for x in pieces(np.zeros(0, np.int64), 5.0, 0, 'corpus', 0, 0))


@pytest.mark.parametrize('unit', ['tokens', 'targets'])
@pytest.mark.parametrize('start', [(), (START,)])
def test_pieces_are_of_the_text_and_each_target_is_one_once(unit, start):
  ids = list(range(100, 153))
  corpus = Corpus(ids, start, 10, 'method.corpus')
  predicted: list[int] = []
  for epoch in range(5):
    examples = corpus.drawn(10.6, unit, 0, 2, epoch)
    for example in examples:
      assert (example.task, example.prompt_size) == (-1, 1)
      words = [t for t in example.tokens if t != START]
      assert words == [words[0] + i if i else words[0] for i in range(len(words))]
      assert len(example.tokens) <= 10
      predicted += example.tokens[1:]
    size = sum(len(example.tokens) - (unit == 'targets') for example in examples)
    assert size == round((epoch + 1) * 10.6) - round(epoch * 10.6)
  assert len(set(predicted[:40])) == len(predicted[:40])


def test_a_text_without_a_target_is_refused():
  with pytest.raises(UserError, match=r'method\.corpus t\.txt: a single token'):
    Corpus([5], (), 10, 'method.corpus t.txt')


def test_raw_text_is_mixed_with_old_and_general_text_in_exact_numbers():
  new, old, general = ([Example(n, '', '', 0) for n in range(f, f + 8)] for f in (0, 10, 20))
  rows_of = lambda e, replay: (
    Row(np.full(6, e.number, np.int32), np.arange(6), np.zeros(6), 2 * e.number, 0, replay),
  )
  sizes = np.full(8, 6)
  plan = TaskPlan(new, old, 'even', 0.25, 'tokens', 0.4)
  kinds = {0: 0, 1: 0, 2: 0}
  for number in range(4):
    epoch = Epoch(plan, (sizes, sizes), rows_of, 0, 1, number, 4, general, sizes)
    rows = [row for step in epoch for row in step.rows]
    assert [row.replay for row in rows] == [row.tokens[0] >= 10 for row in rows]
    for row in rows:
      kinds[int(row.tokens[0]) // 10] += len(row.tokens)
    assert epoch.tokens == (48, sum(len(row.tokens) for row in rows if row.replay))
  assert kinds == {0: 4 * 48, 1: 48, 2: round(4 * 48 * 0.4)}
