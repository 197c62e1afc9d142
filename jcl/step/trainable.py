"""The parameters that train: a tree of parameters is split in two, and joined again."""

import re
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
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
    mask is float32, 1 where an entry trains, with dimensions of size 1 behind those of the rule. A
    mask of size 1 is 1: a rule of one entry is `True` or `False`.

  Raises:
    AssertionError: a mask does not broadcast over the leading axes of a leaf that it matches.
  """

  def rule(path, x):
    name = '/'.join(str(k.key) for k in path)
    found = next((r for pattern, r in rules if re.search(pattern, name)), False)
    if isinstance(found, bool):
      return found
    if np.size(found) == 1:
      return bool(np.all(found))
    leading = tuple({1, size} for size in x.shape[: np.ndim(found)])
    chex.assert_shape(np.asarray(found), leading, custom_message=f'argument params, mask of {name}')
    return np.reshape(found, (*np.shape(found), *[1] * (x.ndim - np.ndim(found))))

  kinds = jax.tree_util.tree_map_with_path(rule, params)
  trained = jax.tree.map(lambda k, x: None if k is False else x, kinds, params)
  frozen = jax.tree.map(lambda k, x: x if k is False else None, kinds, params)
  masks = jax.tree.map(
    lambda k: None if k is False else np.not_equal(k, 0).astype(np.float32), kinds
  )
  return trained, frozen, masks


def held(trained: Tree, masks: Tree) -> Tree:
  """Returns `trained`, through whose masked entries no gradient goes.

  Args:
    trained: parameters that train, from `split`.
    masks: from `split`, or {} where every entry trains.
  """
  return _masked(trained, masks, jax.lax.stop_gradient)


def counted(trained: Tree, masks: Tree) -> Tree:
  """Returns `trained` with 0 in place of masked entries, as sums over what trains see it."""
  return _masked(trained, masks, jnp.zeros_like)


def _masked(trained: Tree, masks: Tree, otherwise: Callable[[jax.Array], jax.Array]) -> Tree:
  """Returns `trained`, and `otherwise` of it where a mask is 0."""
  if not masks:
    return trained
  pick = lambda x, m: x if m.size == 1 else jnp.where(m > 0, x, otherwise(x))
  return jax.tree.map(pick, trained, masks)


def join(trained: Tree, frozen: Tree) -> Tree:
  """Returns the whole tree from the two that `split` made."""
  return jax.tree.map(lambda a, b: b if a is None else a, trained, frozen, is_leaf=is_none)


def is_none(x: object) -> bool:
  """Whether a leaf belongs to the other tree of `split`."""
  return x is None
