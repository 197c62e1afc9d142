"""How the devices of one group share a model: heads, feed-forward width and rows of the embedding.

Each device has its part of the kernels and computes its part of a layer; what enters a layer and
what leaves it is whole on all of them. So a layer sends two sums forward and two backward.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax

from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.model_config import ModelConfig
from jcl.errors import UserError


def _same(x: jax.Array) -> jax.Array:
  return x


class Split(NamedTuple):
  """Functions by which the devices of a group exchange arrays; a device alone has the whole model.

  Attributes:
    parts: devices of a group.
    enter: whole array -> the same, whose gradient is summed over the group.
    summed: part of a sum -> the sum, whole.
    joined: part along the last axis -> the array, whole.
    number: () -> place of the device in its group.
  """

  parts: int = 1
  enter: Callable[[jax.Array], jax.Array] = _same
  summed: Callable[[jax.Array], jax.Array] = _same
  joined: Callable[[jax.Array], jax.Array] = _same
  number: Callable[[], jax.Array | int] = int

  def own(self, x: jax.Array) -> jax.Array:
    """Returns this device's part of a whole array along the last axis."""
    if self.parts == 1:
      return x
    size = x.shape[-1] // self.parts
    return lax.dynamic_slice_in_dim(x, self.number() * size, size, x.ndim - 1)


ALONE = Split()


def check(config: ModelConfig, parts: int) -> None:
  """Refuses a model that cannot be split into so many parts.

  Args:
    config: of the model.
    parts: `train.tensor`.

  Raises:
    UserError: naming `train.tensor` and what it does not divide.
  """
  if parts == 1:
    return
  if not isinstance(config, DecoderConfig):
    raise UserError(f'train.tensor is {parts}; an encoder is not split: give 1')
  if config.qk_norm and config.qk_norm_over == 'all':
    raise UserError(
      f'train.tensor is {parts}; a model that norms queries over all heads is not split: give 1'
    )
  sizes = {
    'attention heads': config.heads, 'key-value heads': config.kv_heads,
    'entries of the feed-forward part': config.feed_forward,
  }  # fmt: skip
  for name, size in sizes.items():
    if size % parts:
      raise UserError(
        f'train.tensor is {parts}, which does not divide the {size} {name}; '
        f'give {divisors(math.gcd(*sizes.values()))}'
      )
  if config.rows % parts:
    raise UserError(
      f'train.tensor is {parts}, which does not divide the {config.rows} rows of the embedding; '
      f'give backbone.vocabulary_multiple={parts}'
    )


def divisors(number: int) -> str:
  """Returns the numbers that divide `number`, in words: '1, 2 or 4'."""
  *more, last = (str(n) for n in range(1, number + 1) if number % n == 0)
  return f'{", ".join(more)} or {last}' if more else last
