"""Block expansion: new layers in a decoder that at first change nothing.

A pre-norm layer computes x + attention(norm(x)) + feed-forward(norm(…)). With its two output
projections and their biases at zero it is the identity; its other parameters have a zero gradient
until the output projections have moved. Source: Wu et al., LLaMA Pro, 2024.
"""

from collections.abc import Sequence

import chex
import jax
import numpy as np

from jcl.backbones.backbone import Params
from jcl.backbones.layers import depth
from jcl.errors import UserError

OUTPUTS = ('o', 'down')  # projections whose results are added to the residual stream


def group_sizes(params: Params, every: int) -> list[int]:
  """Returns the number of layers of each group of `every` layers; the last may have fewer.

  Raises:
    ValueError: `every` is not positive.
  """
  if every < 1:
    raise ValueError(f'every is {every}; a group has at least 1 layer')
  count = depth(params)
  return [min(every, count - first) for first in range(0, count, every)]


def expand(params: Params, sizes: Sequence[int]) -> tuple[dict, np.ndarray]:
  """Adds a layer at the end of each group: a copy of the one before it whose outputs are zero.

  Args:
    params: of a decoder with L layers.
    sizes: number of layers of each group, in order; they sum to L.

  Returns:
    The parameters, and [L + groups] float32 that is 1 for a new layer, else 0.

  Raises:
    UserError: the layers have no output projections called `OUTPUTS`.
    AssertionError: the sizes do not sum to L, or one is not positive.
  """
  layers = params['layers']
  if not all(name in layers for name in OUTPUTS):
    raise UserError(f'expand needs layers with {" and ".join(OUTPUTS)}; it has {sorted(layers)}')
  # JAX clamps an index that is out of bounds, silently.
  chex.assert_equal(sum(sizes), depth(params), custom_message='sizes: they sum to L')
  chex.assert_scalar_positive(min(sizes), custom_message='sizes: each is positive')
  source: list[int] = []
  new: list[int] = []
  for end, size in zip(np.cumsum(sizes), sizes, strict=True):
    source += [*range(end - size, end), end - 1]
    new += [0] * size + [1]
  new_L = np.array(new, np.float32)
  copied = jax.tree.map(lambda x: x[np.array(source)], layers)
  zero = lambda x: x * (1 - new_L).reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)
  outputs = {name: jax.tree.map(zero, copied[name]) for name in OUTPUTS}
  return {**params, 'layers': {**copied, **outputs}}, new_L
