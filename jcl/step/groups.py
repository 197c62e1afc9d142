"""Groups of the loss's terms: a method with `combine` sees one gradient for each of them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
from chex import assert_trees_all_equal_shapes_and_dtypes

from jcl.errors import UserError
from jcl.types import Tree

ALL = 'all'


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Groups:
  """The group of every term of the loss, as a static part of the compiled step.

  A jitted function takes it as an argument without arrays: other groups compile anew.

  Attributes:
    group_of: ((term, group), …) in the order of terms; empty: all terms are one group.
  """

  group_of: tuple[tuple[str, str], ...] = ()

  @classmethod
  def of(cls, groups: Mapping[str, str]) -> 'Groups':
    """The groups that `TaskPlan.groups` names."""
    return cls(tuple(sorted(groups.items())))

  @property
  def names(self) -> tuple[str, ...]:
    """The name of every group, in order; `ALL` alone where there is one group."""
    return tuple(sorted({group for _, group in self.group_of})) or (ALL,)

  def values(
    self, weighted: Callable[[Mapping[str, jax.Array]], jax.Array], means: Mapping[str, jax.Array]
  ) -> dict[str, jax.Array]:
    """{group: Σ_k weights[k]·means[k] over its terms}, scalars.

    Args:
      weighted: {term: mean} -> their weighted sum.
      means: {term: mean} of all terms of the loss.

    Raises:
      UserError: the groups name a term that the loss does not have, or leave one out.
    """
    if not self.group_of:
      return {ALL: weighted(means)}
    group_of = dict(self.group_of)
    if unknown := sorted(group_of.keys() - means.keys()):
      raise UserError(
        f'TaskPlan.groups names {_listed(unknown)}, which the loss does not have; '
        f'its terms are {_listed(means)}'
      )
    if missing := sorted(means.keys() - group_of.keys()):
      raise UserError(f'TaskPlan.groups leaves out {_listed(missing)}; give each term a group')
    terms = lambda name: {k: v for k, v in means.items() if group_of[k] == name}
    return {name: weighted(terms(name)) for name in self.names}


NO_GROUPS = Groups()


def gradients(fn: Callable, params: Tree) -> tuple[Tree, dict[str, Tree]]:
  """Differentiates every value of `fn`: one forward pass, and one backward pass a value.

  Args:
    fn: params -> ({group: scalar}, auxiliary output).
    params: where the gradients are taken.

  Returns:
    The auxiliary output, and {group: tree like `params`}.
  """
  values, pull_back, auxiliary = jax.vjp(fn, params, has_aux=True)
  one = lambda name: {
    k: jnp.ones_like(v) if k == name else jnp.zeros_like(v) for k, v in values.items()
  }
  return auxiliary, {name: pull_back(one(name))[0] for name in values}


@jax.tree_util.register_pytree_node_class
class _ByGroup(dict[str, Tree]):
  """{group: gradient}, a pytree; a group that is not there is refused in words."""

  def __missing__(self, name: str) -> Tree:
    raise UserError(
      f'Method.combine asks for the gradient of group {name!r}; TaskPlan.groups has {_listed(self)}'
    )

  def tree_flatten(self) -> tuple[tuple[Tree, ...], tuple[str, ...]]:
    """The gradients, and the names of their groups."""
    return tuple(self.values()), tuple(self)

  @classmethod
  def tree_unflatten(cls, names: tuple[str, ...], gradients: Iterable[Tree]) -> '_ByGroup':
    """The mapping that `tree_flatten` took apart."""
    return cls(zip(names, gradients, strict=True))


def combined(combine: Callable | None, by_group: dict[str, Tree], teacher_params: Tree) -> Tree:
  """The one gradient that a step follows.

  Args:
    combine: `Method.combine`; None: there is one group, and its gradient is the step's.
    by_group: {group: gradient}, whole arrays in the global view.
    teacher_params: as the loss sees them.

  Raises:
    UserError: `combine` asks for a group that is not there, or returns another tree or other shapes
      than those of a gradient.
  """
  if combine is None:
    return by_group[ALL]
  found = combine(_ByGroup(by_group), teacher_params)
  check_like('Method.combine', found, next(iter(by_group.values())), 'a gradient')
  return found


def check_like(function: str, found: Tree, wanted: Tree, what: str) -> None:
  """Refuses, at trace time, a result that is not a tree of the arrays that it must be.

  Raises:
    UserError: structure, shapes or types differ.
  """
  try:
    assert_trees_all_equal_shapes_and_dtypes(found, wanted)
  except AssertionError as error:
    difference = ' '.join(str(error).partition('failed:')[2].split())
    raise UserError(
      f'{function} must return {what} of the structure, shapes and types that it is given: '
      f'{difference}'
    ) from error


def _listed(names: Iterable[str]) -> str:
  return ', '.join(map(repr, sorted(names)))
