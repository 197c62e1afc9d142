"""Copies of the train state that a snapshot reads while the next steps go on."""

import errno
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import runs

from jcl.errors import UserError
from jcl.step import sharding
from jcl.storage import parts
from jcl.training import experiment, state_copy
from jcl.training.state_copy import StateCopy


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch):
  """The memory of small states is used again, too."""
  monkeypatch.setattr(state_copy, 'LARGE', 0)


def state(seed):
  """A state of two arrays, one of which is sharded where there are several devices."""
  mesh = sharding.make_mesh()
  made = {'w': np.random.default_rng(seed).random((8, 16), np.float32), 'n': np.int32(seed)}
  return sharding.place(made, mesh, sharding.specs(made, mesh, fsdp=True))


def places(tree):
  """Where the arrays of a tree stand in memory."""
  return [
    s.data.unsafe_buffer_pointer() for x in jax.tree.leaves(tree) for s in x.addressable_shards
  ]


def values(tree):
  return [np.array(x).tolist() for x in jax.tree.leaves(tree)]


def test_a_copy_takes_the_memory_of_the_one_before():
  copies, states = StateCopy(), [state(seed) for seed in range(3)]
  first = copies.of(states[0])
  where = places(first)
  assert not set(where) & set(places(states[0]))
  second = copies.of(states[1])
  assert places(second) == where
  assert all(x.is_deleted() for x in jax.tree.leaves(first))
  assert values(second) == values(states[1])
  copies.keep()
  third = copies.of(states[2])
  assert not set(places(third)) & set(where)
  assert values(second) == values(states[1])
  assert [x.sharding for x in jax.tree.leaves(third)] == [
    x.sharding for x in jax.tree.leaves(states[2])
  ]


def test_a_state_of_another_kind_gets_memory_of_its_own():
  copies = StateCopy()
  first = copies.of({'w': jnp.ones(3)})
  for other in ({'w': jnp.ones(4)}, {'v': jnp.ones(4)}, {'v': jnp.ones(4, jnp.int32)}):
    assert values(copies.of(other)) == values(other)
  assert values(first) == [[1, 1, 1]]


SOME = {'stream': {'max_tasks': 1}, 'checkpoint': {'every_steps': 2}, 'train': {'epochs': 3}}


@pytest.mark.parametrize('best', [False, True])
def test_a_run_that_copies_so_ends_in_the_same_bits(tmp_path, monkeypatch, best):
  """With the best parameters kept, which may be those of a copy."""
  made = runs.config('seq', **SOME)
  made.train.keep_best = best
  again = runs.run(made, tmp_path / 'again')
  monkeypatch.setattr(state_copy, 'LARGE', 2**60)
  apart = runs.run(made, tmp_path / 'apart')
  assert again['params_sha256'] == apart['params_sha256']
  assert again['matrix'] == apart['matrix']


def test_a_snapshot_that_cannot_be_written_ends_the_run_at_one_of_the_next_steps(
  tmp_path, monkeypatch
):
  made = runs.config('seq', **SOME | {'checkpoint': {'every_steps': 8}})
  real, taken, failed = parts.write, [0], []

  def write(folder, arrays, older=None):
    if folder.parent.name == '1':
      failed.append(taken[0])
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    real(folder, arrays, older)

  def announce(event):
    if event.kind == 'step':
      taken[0] = event.steps
      if failed:  # the worker comes to its end before the next step is asked for
        loop.output.snapshots._thread.join()

  monkeypatch.setattr(parts, 'write', write)
  loop = runs.Loop(experiment.assemble(made), tmp_path, quiet=True, announce=announce)
  with pytest.raises(UserError, match='1 cannot be written: No space left on device; snapshot 0'):
    loop.run()
  assert taken[0] <= failed[0] + 2
