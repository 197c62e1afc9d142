"""Several rows in a line: none is lost, cut or moved, and every token knows its row and place."""

import dataclasses

import numpy as np
import pytest
from support import tiny

from jcl.batching import batch as batches
from jcl.batching.batch import Heads, Shape, layout
from jcl.batching.packing import WIDE, first_fit, mode

# Fields that say nothing of where a token stands, so that packing leaves them as they are.
OF_ROWS = ('length', 'replay', 'generative', 'task', 'key')
OF_TARGETS = ('target_row', 'target_token', 'target_weight', 'allowed', 'known')


@pytest.mark.parametrize(
  ('asked', 'packs', 'width', 'wanted'),
  [
    ('auto', True, WIDE, 'auto'), ('auto', True, WIDE - 1, 'off'), ('auto', False, WIDE, 'off'),
    ('on', True, 16, 'on'), ('off', True, WIDE, 'off'), ('on', False, WIDE, 'off'),
  ],
)  # fmt: skip
def test_rows_are_packed_where_it_pays_or_is_asked_for(asked, packs, width, wanted):
  assert mode(asked, packs, width) == wanted


def test_rows_go_from_the_longest_to_the_shortest_into_the_first_line_with_room():
  assert first_fit([3, 5, 2, 5, 1], 2, 8) == [(0, 5), (0, 0), (1, 5), (1, 0), (1, 7)]
  assert first_fit([3, 5, 2, 5, 2], 2, 8) is None  # 17 tokens
  assert first_fit([5, 5, 5], 2, 8) is None  # 15 tokens of 16, in lines that hold one each
  assert first_fit([9], 4, 8) is None
  assert first_fit([], 1, 8) == []


@pytest.mark.parametrize('seed', range(20))
def test_no_two_rows_overlap_and_none_leaves_its_line(seed):
  random = np.random.default_rng(seed)
  lengths = random.integers(0, 17, random.integers(1, 30)).tolist()
  lines = int(random.integers(1, 6))
  tokens = max(-(-sum(lengths) // lines) + 8, 16)
  starts = first_fit(lengths, lines, tokens)
  taken = np.zeros((lines, tokens), int)
  for (line, first), length in zip(starts, lengths, strict=True):
    taken[line, first : first + length] += 1
    assert first + length <= tokens
  assert taken.max() <= 1
  assert taken.sum() == sum(lengths)


@pytest.mark.parametrize('blocks', [1, 3])
def test_a_packed_batch_has_the_rows_and_targets_of_the_unpacked_one(blocks):
  rows, keys = tiny.class_rows(), tiny.keys(13)
  stored = {r.number: np.full((1, 2), 1.0 + r.number) for r in rows[::2]}
  rest = keys, {'teacher_hidden': batches.table(stored, (2,))}, Heads(tiny.OWN, 2, True)
  plain = layout(rows, blocks, Shape(15, 20, 16), *rest)
  packed = layout(rows, blocks, Shape(15, 48, 16, lines=6), *rest)
  assert packed.tokens.shape == packed.segment.shape == packed.position.shape == (6, 48)
  for name in (*OF_ROWS, *OF_TARGETS):
    np.testing.assert_array_equal(getattr(packed, name), getattr(plain, name), name)
  np.testing.assert_array_equal(packed.fields['teacher_hidden'], plain.fields['teacher_hidden'])
  assert plain.segment is None


@pytest.mark.parametrize('blocks', [1, 3])
def test_every_token_knows_its_row_and_its_place(blocks):
  rows = tiny.rows()
  batch = layout(rows, blocks, Shape(15, 40, 64, lines=12), tiny.keys(13))
  lines = 12 // blocks
  for b, block in enumerate(batches.deal(rows, blocks)):
    own, of_targets = slice(b * lines, (b + 1) * lines), slice(64 * b, 64 * b + 64)
    tokens, segment, position = (
      np.asarray(x)[own] for x in (batch.tokens, batch.segment, batch.position)
    )
    assert (segment >= 0).sum() == sum(len(rows[i].tokens) for i in block)
    assert (tokens[segment < 0] == 0).all()
    real = batch.target_weight[of_targets] > 0
    at, of_row = batch.target_position[of_targets][real], batch.target_row[of_targets][real]
    for place, i in enumerate(block):
      mine = segment == place
      assert len(set(np.nonzero(mine)[0])) == 1  # one line
      np.testing.assert_array_equal(tokens[mine], rows[i].tokens)
      np.testing.assert_array_equal(position[mine], np.arange(len(rows[i].tokens)))
      assert (segment.reshape(-1)[at[of_row == place]] == place).all()
      np.testing.assert_array_equal(position.reshape(-1)[at[of_row == place]], rows[i].targets)


def test_rows_that_do_not_fit_into_their_lines_are_refused():
  with pytest.raises(ValueError, match='do not fit into a block'):
    layout(tiny.rows(), 1, Shape(13, 40, 64, lines=2))


def test_the_mean_of_a_row_is_the_same_in_lines():
  rows, value = tiny.rows(), np.random.default_rng(0).standard_normal(64).astype(np.float32)
  plain, packed = (layout(rows, 1, s) for s in (Shape(13, 20, 64), Shape(13, 40, 64, lines=5)))
  np.testing.assert_array_equal(packed.row_mean(value), plain.row_mean(value))
  for name in ('replay_M', 'generative_M', 'task_M'):
    np.testing.assert_array_equal(getattr(packed, name), getattr(plain, name))


def test_real_tokens_are_those_of_rows():
  rows = [dataclasses.replace(r, replay=False) for r in tiny.rows(5)]
  plain, packed = (layout(rows, 1, s) for s in (Shape(8, 20, 64), Shape(8, 40, 64, lines=2)))
  assert packed.real_BT.sum() == plain.real_BT.sum() == sum(len(r.tokens) for r in rows)
