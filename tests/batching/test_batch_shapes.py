"""Shapes of packed steps: few, shared by tasks alike, each step fits, and little is padding."""

import numpy as np
import pytest
from support import tiny

from jcl.batching import batch as batches
from jcl.batching import batch_shapes, outlines
from jcl.batching.batch import Row, Shape, layout
from jcl.batching.chunks import chunked, item_chunks

WIDE = 576  # of a model whose attention is cheap beside the rest


def short_rows(seed, count=32, mean=13, most=34):
  """Rows like those of short utterances with their labels, four targets each."""
  random = np.random.default_rng(seed)
  lengths = np.clip(random.poisson(mean, count), 6, most)
  four = np.arange(4)
  return [Row(np.ones(n, np.int32), four, four, i, 0) for i, n in enumerate(lengths)]


def equal_rows(seed):
  """Rows of 64 tokens."""
  four = np.arange(4)
  return [Row(np.ones(64, np.int32), four, four, i, 0) for i in range(32)]


def long_rows(seed, count=16):
  """Rows of 36 to 512 tokens, most of them short."""
  random = np.random.default_rng(seed)
  lengths = np.clip(np.exp(random.normal(5, 0.6, count)), 36, 512).astype(int)
  return [
    Row(np.ones(n, np.int32), np.arange(4), np.arange(4), i, 0) for i, n in enumerate(lengths)
  ]


@pytest.mark.parametrize('make', [short_rows, long_rows])
@pytest.mark.parametrize('blocks', [1, 2])
def test_every_step_fits_into_one_of_few_shapes(make, blocks):
  steps = [make(seed) for seed in range(60)]
  shapes = batch_shapes.packed_rungs(steps, blocks, 32, WIDE)
  assert len(shapes) <= 5
  assert shapes == sorted(shapes, key=lambda s: s.places)
  for shape in shapes:
    lines = shape.lines // blocks
    assert lines & (lines - 1) == 0  # a power of two
    assert shape.tokens % 4 == 0
    assert shape.rows == 32
  for step in steps:
    shape = batch_shapes.fit(step, blocks, shapes)
    assert shape in shapes
    assert np.asarray(layout(step, blocks, shape).real_BT).sum() == sum(len(r.tokens) for r in step)


def test_padding_is_little_where_it_was_half():
  steps = [short_rows(seed) for seed in range(60)]
  plain, packed = (batch_shapes.rungs(steps, 1, 32), batch_shapes.packed_rungs(steps, 1, 32, WIDE))
  assert batch_shapes.padding(steps, 1, plain) > 0.4
  assert batch_shapes.padding(steps, 1, packed) < 0.08
  by_hand = 1 - sum(len(r.tokens) for s in steps for r in s) / sum(
    batch_shapes.fit(s, 1, packed).places for s in steps
  )
  assert batch_shapes.padding(steps, 1, packed) == pytest.approx(by_hand)


@pytest.mark.parametrize('count', [3, 9, 17, 33, 64])
@pytest.mark.parametrize('blocks', [1, 2])
def test_at_most_an_eighth_of_the_targets_is_padding(count, blocks):
  steps = [short_rows(seed, count) for seed in range(9)]
  wanted = -(-count // blocks) * 4
  for shape in batch_shapes.packed_rungs(steps, blocks, 64, WIDE):
    assert wanted <= shape.targets <= max(wanted * 9 / 8, wanted + 7)
  beyond = batch_shapes.fit(short_rows(99, count + 30), blocks, [Shape(64, 64, 8, blocks)])
  wanted = -(-(count + 30) // blocks) * 4
  assert wanted <= beyond.targets <= wanted * 9 / 8


def test_tasks_of_about_as_many_tokens_share_their_shapes():
  found = [
    batch_shapes.packed_rungs(
      [short_rows(100 * task + s, mean=12 + task % 3) for s in range(60)], 1, 32, WIDE
    )
    for task in range(6)
  ]
  assert len({s[1:2] + s[3:] for shapes in found for s in shapes}) <= 8


def test_shapes_depend_on_lengths_alone():
  steps = [short_rows(seed) for seed in range(20)]
  other = [[Row(r.tokens + 3, r.targets, r.wanted + 1, 99, 2, True) for r in s] for s in steps]
  assert batch_shapes.packed_rungs(steps, 2, 32, WIDE) == batch_shapes.packed_rungs(
    other, 2, 32, WIDE
  )


def test_a_step_beyond_all_shapes_still_fits():
  shapes = batch_shapes.packed_rungs([short_rows(seed) for seed in range(9)], 2, 32, WIDE)
  four = np.arange(300)
  beyond = [Row(np.ones(700, np.int32), four, four, i, 0) for i in range(5)]
  shape = batch_shapes.fit(beyond, 2, shapes)
  assert shape not in shapes
  assert shape.rows == 32
  assert layout(beyond, 2, shape).target_weight.sum() == 1500
  assert batch_shapes.fit([], 2, shapes) == shapes[0]


def test_rare_steps_get_no_shape_of_their_own():
  """The last step of an epoch has fewer rows; a compilation costs more than it saves."""
  steps = [short_rows(seed) for seed in range(30)] + [short_rows(99, count=4)]
  assert min(s.places for s in batch_shapes.packed_rungs(steps, 1, 32, WIDE)) > 300


@pytest.mark.parametrize(
  ('packing', 'make', 'width', 'packed'),
  [
    ('on', short_rows, WIDE, True),
    ('off', short_rows, WIDE, False),
    ('auto', short_rows, WIDE, True),
    ('auto', long_rows, WIDE, True),
    ('auto', short_rows, 16, False),  # attention in longer lines costs more than the padding
    ('auto', equal_rows, WIDE, False),  # no padding
  ],
)  # fmt: skip
def test_rows_are_packed_where_it_is_asked_for_or_worth_while(packing, make, width, packed):
  steps = [make(seed) for seed in range(30)]
  shapes = batch_shapes.chosen(steps, 1, 32, packing, width)
  assert all(bool(shape.lines) == packed for shape in shapes)
  if packed:
    assert shapes == batch_shapes.packed_rungs(steps, 1, 32, width)
  else:
    assert shapes == batch_shapes.rungs(steps, 1, 32)


def test_a_shape_says_what_it_is():
  assert Shape(32, 24, 64).words == '32 rows of 24 tokens'
  assert Shape(32, 104, 64, 4).words == '32 rows in 4 lines of 104 tokens'
  assert (Shape(32, 24, 64).places, Shape(32, 104, 64, 4).places) == (768, 416)


def test_steps_of_the_tiny_rows_fit_with_their_targets():
  steps = [tiny.rows(13, seed=s) for s in range(20)]
  for blocks in (1, 3, 8):
    shapes = batch_shapes.packed_rungs(steps, blocks, 13, 16)
    for step in steps:
      batch = layout(step, blocks, batch_shapes.fit(step, blocks, shapes))
      assert batch.target_weight.sum() == sum(len(r.targets) for r in step)
      assert len(batch.length) == -(-13 // blocks) * blocks
      assert batches.deal(step, blocks)


@pytest.mark.parametrize('blocks', [1, 2])
@pytest.mark.parametrize('packing', ['off', 'auto', 'on'])
def test_chunks_have_every_row_once_and_hold_it(packing, blocks):
  rows = [row for seed in range(9) for row in short_rows(seed)] + long_rows(0)
  chunks = chunked(rows, 64, blocks, packing, WIDE)
  assert sorted(i for _, members in chunks for i in members) == list(range(len(rows)))
  for shape, members in chunks:
    batch = layout([rows[i] for i in members], blocks, shape)
    assert np.asarray(batch.real_BT).sum() == sum(len(rows[i].tokens) for i in members)


def test_packed_chunks_have_one_shape_and_little_padding():
  rows = [row for seed in range(30) for row in short_rows(seed)]
  tokens = sum(len(r.tokens) for r in rows)
  shapes = [shape for shape, _ in chunked(rows, 64, 1, 'auto', WIDE)]
  assert len(set(shapes)) == 1
  assert 1 - tokens / sum(s.places for s in shapes) < 0.08
  assert chunked([], 64, 1, 'on', WIDE) == []


def test_items_that_are_blocks_of_their_own_go_by_length_where_that_saves():
  items = [[row] for seed in range(9) for row in short_rows(seed)] + [[row] for row in long_rows(0)]
  off, auto = (item_chunks(items, 32, packing) for packing in ('off', 'auto'))
  assert {shape for shape, _ in off} == {Shape(1, 384, 4)}
  assert [i for _, members in off for i in members] == list(range(len(items)))
  assert sorted(i for _, members in auto for i in members) == list(range(len(items)))
  for shape, members in auto:
    assert len(members) <= 32
    assert all(len(items[i][0].tokens) <= shape.tokens for i in members)
  assert 1 < len({shape for shape, _ in auto}) <= 4
  assert sum(s.places for s, _ in auto) < 0.6 * sum(s.places for s, _ in off)
  assert item_chunks(items[:5], 32, 'auto') == item_chunks(items[:5], 32, 'off')


def test_outlines_choose_the_shapes_that_rows_choose():
  random = np.random.default_rng(0)
  sizes = [(int(n), int(random.integers(1, n))) for n in random.integers(4, 90, 160)]
  row = lambda n, m: Row(np.zeros(n, np.int32), np.arange(m), np.zeros(m, np.int32), 0, 0)
  made = [[row(*size) for size in sizes[i : i + 8]] for i in range(0, 160, 8)]
  outlined = [[outlines.outline(*size) for size in sizes[i : i + 8]] for i in range(0, 160, 8)]
  for packing in ('off', 'auto', 'on'):
    of_rows = batch_shapes.chosen(made, 2, 8, packing, 16)
    assert batch_shapes.chosen(outlined, 2, 8, packing, 16) == of_rows
    fits = [[batch_shapes.fit(step, 2, of_rows) for step in steps] for steps in (made, outlined)]
    assert fits[0] == fits[1]
