"""Low-rank adapters: W + scale · AᵀB in place of W, with A and B beside the model they change.

An adapter is a plain tree and stands in `params['lora']`, where `layers.Dense` reads it:

    layers/<projection>: a [L, r, in], b [L, r, out], scale [L]

L layers, r the rank (each projection has its own). `scale` is no parameter: freeze it.
Source: Hu et al., LoRA, 2022; rank-stabilised scale: Kalajdzievski, 2023.
"""

from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp

from jcl.backbones.backbone import Params
from jcl.errors import UserError


def kernels(params: Params) -> dict[str, tuple[int, int, int]]:
  """What can be adapted in this model: {q, k, v, o, gate, up, down, or fewer: (L, in, out)}."""
  layers = sorted(params['layers'].items())
  return {name: leaves['kernel'].shape for name, leaves in layers if 'kernel' in leaves}


def scaling(alpha: float, rank: int, rslora: bool = False) -> float:
  """alpha / r, or alpha / √r where it is rank-stabilised."""
  return alpha / rank ** (0.5 if rslora else 1)


def fresh(
  params: Params,
  key: jax.Array,
  rank: int,
  alpha: float,
  names: Sequence[str],
  rslora: bool = False,
) -> Params:
  """An adapter that changes nothing yet: A uniform in ±1/√in as in PEFT, B zero.

  Args:
    params: the model's.
    key: of A; a projection's A does not depend on which others are adapted.
    rank: r.
    alpha: the scale is alpha / r.
    names: projections to adapt.
    rslora: the scale is alpha / √r.

  Raises:
    UserError: no or unknown projections, or no positive rank.
  """
  known = kernels(params)
  for name in names:
    if name not in known:
      raise UserError(f'the model has no projection {name!r}; it has {", ".join(known)}')
  if not names or rank < 1:
    raise UserError(f'an adapter of rank {rank} for {len(names)} projections: give one or more')
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


def check_alike(adapters: Mapping[str, Params]) -> None:
  """Refuses adapters that are not of one model and the same projections; ranks may differ.

  Args:
    adapters: by a name for messages.

  Raises:
    UserError: naming the adapters and the projection.
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


def check_fits(
  adapter: Params, model: Mapping[str, tuple[int, int, int]], name: str = 'the adapter'
) -> None:
  """Refuses an adapter that is not of this model.

  Args:
    adapter: its tree.
    model: its `kernels`.
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


def concatenated(adapters: Sequence[Params]) -> Params:
  """One adapter whose ΔW is the sum of theirs, exactly: ranks side by side, each scale folded in B.

  Raises:
    UserError: they are not alike.
  """
  check_alike({f'adapter {i}': adapter for i, adapter in enumerate(adapters)})
  layers = {}
  for name in adapters[0]['layers']:
    parts = [adapter['layers'][name] for adapter in adapters]
    layers[name] = {
      'a': jnp.concatenate([part['a'] for part in parts], 1),
      'b': jnp.concatenate([part['scale'][:, None, None] * part['b'] for part in parts], 1),
      'scale': jnp.ones_like(parts[0]['scale']),
    }
  return {'layers': layers}


def deltas(adapter: Params) -> Iterable[tuple[str, jax.Array]]:
  """(projection, ΔW [L, in, out]), one after another: each is as large as the kernel."""
  for name, part in adapter['layers'].items():
    product_LIO = jnp.einsum('lri,lro->lio', part['a'], part['b'], precision='highest')
    yield name, part['scale'][:, None, None] * product_LIO


def plus(params: Params, changes: Iterable[tuple[str, jax.Array]]) -> Params:
  """The parameters with ΔW [L, in, out] added to the kernels of the named projections."""
  layers = dict(params['layers'])
  for name, delta_LIO in changes:
    layers[name] = {**layers[name], 'kernel': layers[name]['kernel'] + delta_LIO}
  return {**params, 'layers': layers}


def merged(params: Params) -> Params:
  """The parameters with the adapter folded into the kernels, and without it."""
  if 'lora' not in params:
    return params
  base = {name: part for name, part in params.items() if name != 'lora'}
  return plus(base, deltas(params['lora']))
