"""Copies of the train state, which stay as they are while the next steps give the state up."""

import functools

import jax
import jax.numpy as jnp

from jcl.types import Tree

LARGE = 2**25  # bytes from which the memory of the last copy is used again


class StateCopy:
  """Makes copies of a train state, each in the memory of the one before.

  The pages of fresh memory come from the system while they are written, which takes a CPU several
  times as long as the copy itself.
  """

  def __init__(self) -> None:
    self._last: Tree | None = None

  def of(self, state: Tree) -> Tree:
    """Returns a copy of a state; the last copy is given up to it, unless it was kept."""
    last, self._last = self._last, None
    fits = last is not None and _kinds(last) == _kinds(state)
    copy = _into(state, last) if fits else jax.tree.map(jnp.array, state)
    if sum(x.nbytes for x in jax.tree.leaves(copy)) >= LARGE:
      self._last = copy
    return copy

  def keep(self) -> None:
    """Leaves the last copy to those who have it: the next one gets memory of its own."""
    self._last = None


def _kinds(tree: Tree) -> list:
  """Returns what two trees have in common whose arrays can take each other's memory."""
  leaves, structure = jax.tree.flatten(tree)
  return [structure, *((x.shape, x.dtype, x.sharding) for x in leaves)]


@functools.partial(jax.jit, donate_argnums=1, keep_unused=True)
def _into(new: Tree, old: Tree) -> Tree:
  """Returns a copy of `new` in the memory of `old`."""
  return jax.tree.map(jnp.copy, new)
