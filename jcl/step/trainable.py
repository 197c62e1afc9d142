"""The parameters that train: a tree of parameters is split in two, and joined again."""

import re
from collections.abc import Sequence

import chex
import jax
import numpy as np

from jcl.types import Params, Tree

Rules = Sequence[tuple[str, bool | np.ndarray]]
"""((pattern of names, True | False | mask over leading axes), …); the first match wins."""


def split(params: Params, rules: Rules) -> tuple[Tree, Tree, Tree]:
  """Splits parameters into those that train and those that are frozen.

  Args:
    params: a nested dict of arrays.
    rules: what trains; a leaf that no pattern matches is frozen.

  Returns:
    trained, frozen and masks, trees like `params` with None where a leaf belongs to the other. A
    mask is float32, 1 where an entry trains, with dimensions of size 1 behind those of the rule.

  Raises:
    AssertionError: a mask does not broadcast over the leading axes of a leaf that it matches.
  """

  def rule(path, x):
    name = '/'.join(str(k.key) for k in path)
    found = next((r for pattern, r in rules if re.search(pattern, name)), False)
    if isinstance(found, bool):
      return found
    leading = tuple({1, size} for size in x.shape[: np.ndim(found)])
    chex.assert_shape(np.asarray(found), leading, custom_message=f'argument params, mask of {name}')
    return np.reshape(found, (*np.shape(found), *[1] * (x.ndim - np.ndim(found))))

  kinds = jax.tree_util.tree_map_with_path(rule, params)
  trained = jax.tree.map(lambda k, x: None if k is False else x, kinds, params)
  frozen = jax.tree.map(lambda k, x: x if k is False else None, kinds, params)
  masks = jax.tree.map(
    lambda k: None if k is False else np.asarray(1 if k is True else k, np.float32), kinds
  )
  return trained, frozen, masks


def join(trained: Tree, frozen: Tree) -> Tree:
  """Returns the whole tree from the two that `split` made."""
  return jax.tree.map(lambda a, b: b if a is None else a, trained, frozen, is_leaf=is_none)


def is_none(x: object) -> bool:
  """Whether a leaf belongs to the other tree of `split`."""
  return x is None
