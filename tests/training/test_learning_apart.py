"""A model that trains inside a hook: its steps, and what a kill between two chunks costs."""

import jax
import numpy as np
import pytest
from support import tiny

from jcl.step import losses
from jcl.streams.stream import TaskPlan
from jcl.training import learning_apart
from jcl.training.folds import FoldRunner, Journal


class Killed(Exception):
  """Ends a fold between two chunks."""


@pytest.fixture(scope='module')
def run():
  """() -> parameters that have learned three epochs of the first task, by tools with `folds`."""
  tools = tiny.tools('plain', examples=40)
  plan, loss_fn = TaskPlan(tools.stream.tasks[0].train), losses.plain(tools.backbone)
  params = tiny.params(tools.backbone)

  def learn(folds=None):
    given = tiny.dataclasses.replace(tools, folds=folds or FoldRunner())
    return params, given.learn(params, plan, loss_fn, 3)

  return learn


def bits(tree):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def test_a_kill_between_two_chunks_changes_no_bit(run, monkeypatch):
  monkeypatch.setattr(learning_apart, 'STEPS', 2)  # of six steps
  start, whole = run()
  assert all(a != b for a, b in zip(bits(start), bits(whole), strict=True))
  killed = FoldRunner()

  def after(name, done, chunks):
    assert chunks == 3
    if done == 2:
      raise Killed

  killed.on_chunk = after
  with pytest.raises(Killed):
    run(killed)
  (entry,) = jax.tree.map(np.array, [entry[2] for entry in killed.journal.copied()])
  left = [[*e[:2], entry, *e[3:]] for e in killed.journal.entries]
  _, again = run(FoldRunner(Journal(left)))
  assert bits(again) == bits(whole)
