"""Low-rank adapters: W + scale · AᵀB in place of W, with A and B beside the model they change.

An adapter is a plain tree that stands in `params['lora']`, where `layers.Dense` reads it:

    layers/<projection>: a [L, r, in], b [L, r, out], scale [L]

L layers, r the rank, which may differ from projection to projection. `scale` is a constant: it must
not be trained.
Source: Hu et al., LoRA, 2022; rank-stabilised scale: Kalajdzievski, 2023.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jcl.backbones.backbone import Params
from jcl.errors import UserError, count_of

Kernels = Mapping[str, tuple[int, int, int]]
"""{projection: (L, in, out)}."""


def kernels(params: Params) -> dict[str, tuple[int, int, int]]:
  """Returns the projections of a model that can be adapted: {q, k, v, o, …: (L, in, out)}."""
  layers = sorted(params['layers'].items())
  return {name: leaves['kernel'].shape for name, leaves in layers if 'kernel' in leaves}


def scaling(alpha: float, rank: int, rslora: bool = False) -> float:
  """Returns alpha / r, or alpha / √r for a rank-stabilised adapter."""
  return alpha / rank ** (0.5 if rslora else 1)


def init_adapter(
  params: Params,
  key: jax.Array,
  rank: int,
  alpha: float,
  names: Sequence[str],
  rslora: bool = False,
) -> dict[str, Any]:
  """Returns an adapter that changes nothing yet: A uniform in ±1/√in as in PEFT, B zero.

  Args:
    params: of the model.
    key: of A; the A of a projection does not depend on which others are adapted.
    rank: r.
    alpha: the scale is alpha / r.
    names: projections to adapt.
    rslora: the scale is alpha / √r.

  Raises:
    UserError: there are no projections, an unknown one, or the rank is not positive.
    AssertionError: `key` is not one typed key.
  """
  known = kernels(params)
  for name in names:
    if name not in known:
      raise UserError(f'the model has no projection {name!r}; it has {", ".join(known)}')
  if not names or rank < 1:
    places = count_of(len(names), 'projection')
    raise UserError(f'an adapter of rank {rank} for {places}: give one or more')
  chex.assert_rank(key, 0, custom_message='key: one typed key, of jax.random.key')
  layers = {}
  for name in names:
    (depth, width_in, width_out), dtype = known[name], params['layers'][name]['kernel'].dtype
    draw, shape = jax.random.fold_in(key, list(known).index(name)), (depth, rank, width_in)
    bound = width_in**-0.5  # what PEFT's kaiming_uniform(a=√5) comes to
    layers[name] = {
      'a': jax.random.uniform(draw, shape, dtype, -bound, bound),
      'b': jnp.zeros((depth, rank, width_out), dtype),
      'scale': jnp.full(depth, scaling(alpha, rank, rslora), dtype),
    }
  return {'layers': layers}


def check_shapes(adapter: Params) -> None:
  """Checks at trace time that a, b and scale of each projection belong together.

  Raises:
    AssertionError: naming the projection and the array.
  """
  for name, part in adapter['layers'].items():
    chex.assert_rank(part['a'], 3, custom_message=f'a of {name}: [L, r, in]')
    depth, rank, _ = part['a'].shape
    chex.assert_shape(part['b'], (depth, rank, None), custom_message=f'b of {name}: [L, r, out]')
    chex.assert_shape(part['scale'], (depth,), custom_message=f'scale of {name}: [L]')


def check_alike(adapters: Mapping[str, Params]) -> None:
  """Checks that adapters are of one model and adapt the same projections; ranks may differ.

  Args:
    adapters: {name for messages: adapter}.

  Raises:
    UserError: naming the adapters and the projection that differs.
  """
  (first, wanted), *others = adapters.items()
  width = lambda part: (part['a'].shape[0], part['a'].shape[2], part['b'].shape[2])
  for name, found in others:
    mine, theirs = sorted(wanted['layers']), sorted(found['layers'])
    if mine != theirs:
      raise UserError(f'{name} adapts {", ".join(theirs)}, but {first} {", ".join(mine)}')
    for projection in mine:
      one, other = (width(x['layers'][projection]) for x in (wanted, found))
      if one != other:
        raise UserError(
          f'{name}: {projection} has (layers, in, out) {other}, but {one} in {first}: '
          'they are of different models'
        )


def check_fits(adapter: Params, model: Kernels, name: str = 'the adapter') -> None:
  """Checks that an adapter is of this model.

  Args:
    adapter: its tree.
    model: `kernels` of the model.
    name: of the adapter, for messages.

  Raises:
    UserError: naming the adapter and the projection.
  """
  for projection, part in adapter['layers'].items():
    (depth, _, width_in), width_out = part['a'].shape, part['b'].shape[2]
    if model.get(projection) != (depth, width_in, width_out):
      raise UserError(
        f'{name}: {projection} is for (layers, in, out) {(depth, width_in, width_out)}; the model '
        f'has {model.get(projection, "no such projection")}'
      )


def concatenate(adapters: Sequence[Params]) -> dict[str, Any]:
  """Returns one adapter whose ΔW is exactly the sum of theirs, of scale 1.

  Its rank is the sum of their ranks; each scale is multiplied into B.

  Raises:
    UserError: the adapters are not alike.
    AssertionError: arrays of one adapter do not belong together.
  """
  check_alike({f'adapter {i}': adapter for i, adapter in enumerate(adapters)})
  for adapter in adapters:
    check_shapes(adapter)
  layers = {}
  for name in adapters[0]['layers']:
    parts = [adapter['layers'][name] for adapter in adapters]
    layers[name] = {
      'a': jnp.concatenate([part['a'] for part in parts], 1),
      'b': jnp.concatenate([part['scale'][:, None, None] * part['b'] for part in parts], 1),
      'scale': jnp.ones_like(parts[0]['scale']),
    }
  return {'layers': layers}


def weight_deltas(adapter: Params) -> Iterator[tuple[str, jax.Array]]:
  """Yields (projection, ΔW [L, in, out]), one at a time: each is as large as the kernel.

  Raises:
    AssertionError: arrays of the adapter do not belong together.
  """
  check_shapes(adapter)
  for name, part in adapter['layers'].items():
    product_LIO = jnp.einsum('lri,lro->lio', part['a'], part['b'], precision='highest')
    yield name, part['scale'][:, None, None] * product_LIO


def add_to_kernels(
  params: Params, changes: Iterable[tuple[str, jax.Array | np.ndarray]]
) -> dict[str, Any]:
  """Returns the parameters with ΔW added to kernels.

  Args:
    params: of the model.
    changes: (projection, ΔW [L, in, out]).

  Raises:
    AssertionError: a ΔW has not the shape of the kernel.
  """
  layers = dict(params['layers'])
  for name, delta_LIO in changes:
    kernel_LIO = layers[name]['kernel']
    chex.assert_equal_shape([kernel_LIO, delta_LIO], custom_message=f'ΔW of {name}: [L, in, out]')
    layers[name] = {**layers[name], 'kernel': kernel_LIO + delta_LIO}
  return {**params, 'layers': layers}


def merged(params: Params) -> Params:
  """Returns the parameters with their adapter added to the kernels, and without it."""
  if 'lora' not in params:
    return params
  base = {name: part for name, part in params.items() if name != 'lora'}
  return add_to_kernels(base, weight_deltas(params['lora']))
