"""New blocks in a stack of pre-norm layers: each adds nothing yet (Wu et al., LLaMA Pro, 2024).

A pre-norm block is x + attention(norm(x)) + feed-forward(norm(…)): with both output projections and
their biases zero it is the identity, and its other parameters have a gradient once those move.
"""

from collections.abc import Sequence

import jax
import numpy as np

from jcl.backbones.backbone import Params
from jcl.backbones.layers import depth
from jcl.errors import UserError

OUTPUTS = ('o', 'down')  # what writes into the residual


def groups(params: Params, every: int) -> list[int]:
  """How many layers stand in each group of `every`; the last may be shorter."""
  count = depth(params)
  return [min(every, count - first) for first in range(0, count, every)]


def grown(params: Params, sizes: Sequence[int]) -> tuple[Params, np.ndarray]:
  """A new block at the end of each group, a copy of the one before it that changes nothing.

  Args:
    params: of a decoder.
    sizes: layers of each group, in order.

  Returns:
    The parameters, and [L] 1 for a new layer, else 0.

  Raises:
    UserError: the model's layers have no output projections that can be zero.
  """
  layers = params['layers']
  if not all(name in layers for name in OUTPUTS):
    raise UserError(f'expand needs layers with {" and ".join(OUTPUTS)}; it has {sorted(layers)}')
  source, new = [], []
  for end, size in zip(np.cumsum(sizes), sizes, strict=True):
    source += [*range(end - size, end), end - 1]
    new += [0] * size + [1]
  new_L = np.array(new, np.float32)
  copied = jax.tree.map(lambda x: x[np.array(source)], layers)
  zero = lambda x: x * (1 - new_L).reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)
  outputs = {name: jax.tree.map(zero, copied[name]) for name in OUTPUTS}
  return {**params, 'layers': {**copied, **outputs}}, new_L
