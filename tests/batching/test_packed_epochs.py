"""The mix of new and old blocks: exact shares, every new block once, a function of the seed."""

import collections
import json

import numpy as np
import pytest

from jcl.batching import packed_epochs, packed_text
from jcl.streams.stream import Example, TaskPlan


class Line:
  """Blocks of given sizes, whose tokens are all different: block i has 100·i, 100·i + 1, …"""

  def __init__(self, task, *sizes):
    self.sizes = np.array(sizes, np.int64)
    self.examples = [Example(i, '', '', task) for i in range(len(sizes))]

  def rows(self, example):
    tokens = 100 * example.number + np.arange(self.sizes[example.number], dtype=np.int32)
    return tokens


NEW, OLD = Line(1, *[10] * 23, 4), Line(0, *[10] * 6, 7)


def epochs(share, count, new=NEW, old=OLD, seed=0, task=1, size=4):
  plan = TaskPlan(new.examples, old.examples, 'even', share / (1 - share), 'tokens')

  def rows_of(example, replay):
    tokens = (old if replay else new).rows(example)
    places = np.arange(len(tokens))
    return (packed_text.Row(tokens, places, tokens + 1, example.number, example.task, replay),)

  sizes = new.sizes, old.sizes
  return [packed_epochs.Epoch(plan, sizes, rows_of, seed, task, e, size) for e in range(count)]


def rows_in(made):
  return [row for e in made for step in e for row in step.rows]


@pytest.mark.parametrize('share', [0.0, 0.05, 0.2, 1 / 3, 0.5, 0.8])
def test_the_share_of_old_tokens_is_exact_over_the_epochs_and_even_after_every_block(share):
  new_tokens = int(NEW.sizes.sum())
  for count in (1, 2, 5):
    made = epochs(share, count)
    new = old = 0
    for row in rows_in(made):
      if row.replay:
        old += len(row.tokens)
      else:
        new += len(row.tokens)
      assert abs(old - share * (new + old)) <= 10
    assert new == count * new_tokens
    assert old == round(share / (1 - share) * count * new_tokens)
    assert [sum(t) for t in zip(*(e.tokens for e in made), strict=True)] == [new, old]


def test_every_new_block_comes_whole_and_once_an_epoch():
  for one in epochs(0.2, 3):
    whole = [r.number for r in rows_in([one]) if not r.replay]
    assert sorted(whole) == list(range(24))
    assert all(len(r.tokens) == NEW.sizes[r.number] for r in rows_in([one]) if not r.replay)


def test_no_old_token_comes_again_before_all_have_come():
  """Over eight epochs; a block that an epoch cuts goes on in the next."""
  made = epochs(0.2, 8)
  seen = [token for row in rows_in(made) if row.replay for token in row.tokens.tolist()]
  every = sorted(token for e in OLD.examples for token in OLD.rows(e).tolist())
  turns = len(every)
  assert len(seen) == 2 * 234  # 0.25 · 8 · 234 = 468 tokens
  for start in range(0, len(seen) - turns + 1, turns):
    assert sorted(seen[start : start + turns]) == every
  assert max(collections.Counter(seen).values()) == -(-len(seen) // turns)
  first, second = seen[:turns], seen[turns : 2 * turns]
  assert first != second


def test_a_cut_row_keeps_the_targets_of_its_part():
  row = packed_text.Row(
    np.arange(10), np.array([1, 4, 5, 9]), np.array([21, 24, 25, 29]), 3, 2, True
  )
  part = packed_epochs.cut(row, 4, 9)
  assert part.tokens.tolist() == [4, 5, 6, 7, 8]
  assert part.targets.tolist() == [0, 1]
  assert part.wanted.tolist() == [24, 25]
  assert (part.number, part.task, part.replay) == (3, 2, True)
  assert packed_epochs.cut(row, 0, 10) is row


def test_steps_are_full_and_a_function_of_seed_task_and_epoch():
  content = lambda e: [
    ([(r.number, r.replay, r.tokens.tolist()) for r in s.rows], s.keys.tolist()) for s in e
  ]
  first = [content(e) for e in epochs(0.2, 3)]
  assert [content(e) for e in epochs(0.2, 3)] == first
  assert len({json.dumps(e) for e in first}) == 3
  for other in (epochs(0.2, 3, seed=1), epochs(0.2, 3, task=2)):
    assert all(content(e) != f for e, f in zip(other, first, strict=True))
  for one in epochs(0.2, 3):
    assert [len(s.rows) for s in one][:-1] == [4] * (len(one) - 1)
    keys = [tuple(k) for s in one for k in s.keys.tolist()]
    assert len(set(keys)) == len(keys)
    last = one[len(one) - 1]  # made alone, as after a kill
    assert content([last]) == content(list(one))[-1:]


def test_old_text_alone_does_not_fill_an_epoch_and_without_it_all_is_new():
  nothing = Line(0)
  assert not any(row.replay for row in rows_in(epochs(0.2, 2, old=nothing)))
  assert epochs(0.2, 1, old=nothing)[0].tokens == (234, 0)
