"""How rows are laid out: nothing is lost, doubled or moved, on any number of blocks."""

import dataclasses

import jax
import numpy as np
import pytest
from support import rounding, tiny

from jcl.batching import batch as batches
from jcl.batching import batch_shapes
from jcl.batching.batch import Heads, Row, Shape, layout
from jcl.errors import UserError

KEYS = tiny.keys(13)


def read(batch, blocks):
  """Returns what a batch holds, block by block: {tokens: (targets, wanted, row fields, key)}."""
  rows, targets = len(batch.length) // blocks, len(batch.target_weight) // blocks
  width, found = batch.tokens.shape[1], {}
  for b in range(blocks):
    own = slice(b * targets, (b + 1) * targets)
    real = batch.target_weight[own] > 0
    position, wanted = batch.target_position[own][real], batch.target_token[own][real]
    assert ((position >= 0) & (position < rows * width)).all()
    for place in range(rows):
      i = b * rows + place
      length = batch.length[i]
      assert (batch.tokens[i, length:] == 0).all()
      mine = position // width == place
      if not length:
        assert not mine.any()
        assert batch.task[i] == -1
        continue
      about = (int(batch.task[i]), bool(batch.replay[i]), bool(batch.generative[i]))
      ids = tuple(batch.tokens[i, :length].tolist())
      at = (position[mine] % width).tolist()
      assert ids not in found
      found[ids] = (at, wanted[mine].tolist(), about, tuple(batch.key[i].tolist()), b)
  return found


@pytest.mark.parametrize('microbatches', [1, 2, 4])
@pytest.mark.parametrize('devices', [1, 2, 3, 8])
def test_every_row_arrives_with_its_targets_and_key(devices, microbatches):
  """13 rows are divisible by no number of blocks but 1; of 32 blocks most are empty."""
  rows, blocks = tiny.rows(), devices * microbatches
  (shape,) = batch_shapes.rungs([rows], blocks, 13)
  assert shape.rows % blocks == 0
  assert 13 <= shape.rows < 13 + blocks
  batch = layout(rows, blocks, shape, KEYS)
  assert batch.tokens.shape == (shape.rows, shape.tokens)
  assert batch.target_weight.shape == (blocks * shape.targets,)
  found = read(batch, blocks)
  assert len(found) == 13
  for i, row in enumerate(rows):
    at, wanted, about, key, _ = found[tuple(row.tokens.tolist())]
    assert (at, wanted) == (row.targets.tolist(), row.wanted.tolist())
    assert about == (row.task, row.replay, row.generative)
    assert key == tuple(KEYS[i].tolist())
  assert batch.target_weight.sum() == sum(len(r.targets) for r in rows)


def test_types_are_those_of_the_contract():
  batch = layout(tiny.rows(), 1, Shape(13, 20, 64), KEYS)
  kinds = {k: v.dtype for k, v in vars(batch).items() if isinstance(v, np.ndarray)}
  assert kinds == {
    'tokens': np.int32, 'length': np.int32, 'replay': bool, 'generative': bool, 'task': np.int32,
    'key': np.uint32, 'target_row': np.int32, 'target_position': np.int32, 'target_token': np.int32,
    'target_weight': np.float32,
  }  # fmt: skip


def test_rows_are_dealt_in_turn_from_the_one_with_most_targets():
  counts = [2, 5, 1, 5, 3, 4, 0]
  rows = [
    Row(np.arange(9, dtype=np.int32), np.arange(n), np.arange(n), i, 0)
    for i, n in enumerate(counts)
  ]
  assert batches.deal(rows, 1) == [[1, 3, 5, 4, 0, 2, 6]]  # equal ones in their order
  assert batches.deal(rows, 3) == [[1, 4, 6], [3, 0], [5, 2]]
  assert batches.deal(rows[:2], 4) == [[1], [0], [], []]


def test_a_block_without_rows_or_targets_is_padding():
  rows = tiny.rows(3)
  batch = layout(rows, 8, Shape(8, 20, 8))
  weights = batch.target_weight.reshape(8, 8).sum(1)
  assert sorted(weights)[:5] == [0] * 5
  assert (batch.length == 0).sum() == 5
  assert (batch.target_position.reshape(8, 8)[weights == 0] == 0).all()


def test_values_of_rows_reach_their_targets():
  rows = tiny.rows()
  batch = layout(rows, 1, Shape(16, 20, 64))
  real = batch.target_weight > 0
  order = batches.deal(rows, 1)[0]
  wanted = [rows[i] for i in order for _ in rows[i].targets]
  assert np.asarray(batch.replay_M)[real].tolist() == [r.replay for r in wanted]
  assert np.asarray(batch.generative_M)[real].tolist() == [r.generative for r in wanted]
  assert np.asarray(batch.task_M)[real].tolist() == [r.task for r in wanted]


def test_only_leaves_the_weight_of_some_targets():
  batch = layout(tiny.rows(), 1, Shape(16, 20, 64))
  some = np.arange(64) % 3 == 0
  kept = batch.only(some).target_weight
  assert (np.asarray(kept) == np.where(some, batch.target_weight, 0)).all()
  assert 0 < kept.sum() < batch.target_weight.sum()


def test_mean_of_a_row_is_over_its_own_targets():
  rows = tiny.rows()
  batch = layout(rows, 1, Shape(16, 20, 64))
  value = np.random.default_rng(0).standard_normal(64).astype(np.float32)
  found, start = np.asarray(batch.row_mean(value)), 0
  for place, i in enumerate(batches.deal(rows, 1)[0]):
    end = start + len(rows[i].targets)
    mine = value[start:end]
    rounding.assert_close(found[place], mine.mean(), len(mine), scale=np.abs(mine).max())
    start = end
  assert (found[13:] == 0).all()
  none = batch.only(np.zeros(64, bool))
  assert (np.asarray(none.row_mean(value)) == 0).all()


@pytest.mark.parametrize('blocks', [1, 3, 8])
def test_a_row_of_a_table_stands_at_its_targets_and_others_are_zero(blocks):
  rows = tiny.rows()
  stored = {r.number: 1 + r.number + np.random.rand(len(r.targets), 2) for r in rows[::2]}
  entries = batches.table(stored, (2,))
  (shape,) = batch_shapes.rungs([rows], blocks, 13)
  batch = layout(rows, blocks, shape, tables={'teacher_hidden': entries})
  field = batch.fields['teacher_hidden']
  assert field.shape == (len(batch.target_weight), 2)
  assert field.dtype == np.float32
  for b, block in enumerate(batches.deal(rows, blocks)):
    start = b * shape.targets
    for i in block:
      end = start + len(rows[i].targets)
      wanted = stored.get(i, np.zeros((end - start, 2)))
      np.testing.assert_array_equal(field[start:end], wanted.astype(np.float32))
      start = end
    assert (field[start : (b + 1) * shape.targets] == 0).all()


def test_table_finds_its_rows_and_no_others():
  entries = batches.table(
    {9: np.ones((2, 3)), 4: np.full((1, 3), 4), 2**30: np.zeros((3, 3))}, (3,)
  )
  assert entries['rows'].tolist() == [4, 9, 2**30]
  assert batches.look_up(entries, 4).tolist() == [[4, 4, 4]]
  assert batches.look_up(entries, 9).shape == (2, 3)
  assert batches.look_up(entries, 2**30).shape == (3, 3)
  assert all(batches.look_up(entries, n) is None for n in (0, 5, 10, 2**30 + 1))
  assert batches.look_up(batches.table({}, (3,)), 4) is None


@pytest.mark.parametrize(
  ('current', 'task_id_given', 'allowed', 'known'),
  [
    (1, False, {0: '1111..', 1: '1111..'}, {0: '11....', 1: '11....'}),  # class-incremental
    (2, True, {0: '11....', 1: '..11..', 2: '....11'}, {0: '11....', 1: '..11..', 2: '......'}),
    (0, False, {0: '11....'}, {0: '......'}),  # nothing was learned before
  ],
)
def test_which_classes_may_answer_and_which_the_teacher_knows(
  current, task_id_given, allowed, known
):
  heads = Heads(tiny.OWN, current, task_id_given)
  rows = [r for r in tiny.class_rows() if r.task <= current]
  batch = layout(rows, 2, Shape(14, 20, 16), heads=heads)
  assert batch.allowed.shape == batch.known.shape == (32, 6)
  shown = lambda bits: ''.join('1' if b else '.' for b in bits)
  tasks, real = np.zeros(32, int), batch.target_weight > 0
  for b in range(2):
    own = slice(16 * b, 16 * b + 16)
    tasks[own] = batch.task[7 * b : 7 * b + 7][batch.target_position[own] // 20]
  assert set(tasks[real]) == set(allowed)
  for m in np.flatnonzero(real):
    assert shown(batch.allowed[m]) == allowed[tasks[m]]
    assert shown(batch.known[m]) == known[tasks[m]]
  assert not batch.allowed[~real].any()


def test_in_a_domain_stream_a_class_counts_from_its_first_task():
  """The same two classes in every task: all may answer, and all were learned before."""
  heads = Heads(np.ones((3, 2), bool), 2, False)
  rows = [dataclasses.replace(r, wanted=np.array([r.number % 2])) for r in tiny.class_rows()]
  batch = layout(rows, 1, Shape(13, 20, 16), heads=heads)
  assert batch.allowed[:13].all()
  assert batch.known[:13].all()


def test_stored_logits_say_themselves_which_classes_they_cover():
  rows = tiny.class_rows()
  covers = {r.number: np.array([[1, 1, 0, 0, 0, 0]]) for r in rows if r.number in (2, 5)}
  heads = Heads(tiny.OWN, 2, False)
  batch = layout(
    rows, 1, Shape(13, 20, 16), tables={'known': batches.table(covers, (6,))}, heads=heads
  )
  assert batch.fields == {}
  for m, i in enumerate(batches.deal(rows, 1)[0]):
    wanted = [1, 1, 0, 0, 0, 0] if rows[i].number in covers else [1, 1, 1, 1, 0, 0]
    assert batch.known[m].tolist() == [bool(x) for x in wanted]


def test_shapes_depend_on_lengths_alone():
  steps = [tiny.rows(8, seed=s) for s in range(12)]
  random = np.random.default_rng(0)
  other = [
    [
      dataclasses.replace(r, tokens=random.permutation(r.tokens), task=2, replay=True, number=99)
      for r in step
    ]
    for step in steps
  ]
  assert batch_shapes.rungs(steps, 3, 8) == batch_shapes.rungs(other, 3, 8)


def test_one_number_of_targets_a_length_bucket_and_every_step_fits():
  steps = [tiny.rows(8, seed=s, longest=8 + 8 * (s % 4)) for s in range(40)]
  for blocks in (1, 3, 8):
    shapes = batch_shapes.rungs(steps, blocks, 8)
    assert len({s.tokens for s in shapes}) == len(shapes) <= 4
    assert {s.rows for s in shapes} == {-(-8 // blocks) * blocks}
    assert all(s.tokens in batches.LENGTHS and s.targets in batches.TARGETS for s in shapes)
    for step in steps:
      shape = batch_shapes.fit(step, blocks, shapes)
      assert shape in shapes
      assert shape.tokens >= max(len(r.tokens) for r in step)
      assert len(read(layout(step, blocks, shape), blocks)) == 8


def test_rare_lengths_are_lifted_and_a_step_beyond_all_shapes_still_fits():
  steps = [tiny.rows(4, seed=s, longest=7) for s in range(2)]
  steps += [tiny.rows(4, seed=s, longest=40) for s in range(20)]
  steps = [s for s in steps if max(len(r.tokens) for r in s) not in range(9, 25)]
  shapes = batch_shapes.rungs(steps, 2, 4)
  assert min(s.tokens for s in shapes) > 8
  long = [Row(np.zeros(300, np.int32), np.arange(299), np.arange(299), 0, 0)]
  beyond = batch_shapes.fit(long, 2, shapes)
  assert beyond not in shapes
  assert beyond.tokens >= 300
  assert beyond.targets >= 299
  assert layout(long, 2, beyond).target_weight.sum() == 299


def test_the_ladders_rise_and_what_no_rung_holds_is_refused():
  for ladder in (batches.LENGTHS, batches.TARGETS):
    assert list(ladder) == sorted(set(ladder))
    assert [batches.bucket(n, ladder) for n in ladder] == list(ladder)
    assert batches.bucket(ladder[3] + 1, ladder) == ladder[4]
    with pytest.raises(UserError, match='more than a batch can hold'):
      batches.bucket(ladder[-1] + 1, ladder)


def test_a_batch_is_a_tree_whose_leaves_are_its_arrays():
  batch = layout(tiny.rows(), 1, Shape(13, 20, 64))
  assert len(jax.tree.leaves(batch)) == 10
  twice = jax.tree.map(lambda x: x, batch)
  assert isinstance(twice, batches.Batch)
