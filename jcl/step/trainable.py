"""Which leaves of the parameters train: the tree split in two, and joined again."""

import re
from typing import Any

import jax
import numpy as np

Tree = Any


def split(params: Tree, rules: tuple) -> tuple[Tree, Tree, Tree]:
  """Which leaves train.

  Args:
    params: a nested dict.
    rules: ((pattern, True | False | mask over leading axes), …), first match wins, unmatched leaves
      are frozen.

  Returns:
    trained, frozen and masks, trees like `params` with None where a leaf is not theirs.
  """

  def rule(path, x):
    name = '/'.join(str(k.key) for k in path)
    found = next((r for pattern, r in rules if re.search(pattern, name)), False)
    if isinstance(found, bool):
      return found
    return np.reshape(found, (*np.shape(found), *[1] * (x.ndim - np.ndim(found))))

  kinds = jax.tree_util.tree_map_with_path(rule, params)
  trained = jax.tree.map(lambda k, x: None if k is False else x, kinds, params)
  frozen = jax.tree.map(lambda k, x: x if k is False else None, kinds, params)
  masks = jax.tree.map(
    lambda k: None if k is False else np.asarray(1 if k is True else k, np.float32), kinds
  )
  return trained, frozen, masks


def join(trained: Tree, frozen: Tree) -> Tree:
  """The whole tree from the two that `split` made."""
  return jax.tree.map(lambda a, b: b if a is None else a, trained, frozen, is_leaf=is_none)


def is_none(x: Any) -> bool:
  """Whether a leaf is not this tree's."""
  return x is None
