"""What models of all families are made of: projections, tables, norms, dropout, and their keys.

Every module reads what it needs off `config` (a DecoderConfig or an EncoderConfig): `dtype` of the
computation, `wide` of the parameters, `layers`, and for norms `norm` and `norm_epsilon`.
"""

import math
import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from jcl.backbones.backbone import Params
from jcl.batching.batch import Batch

# Chebyshev series in t = 2 / (2 + z) of exp(z²)·erfc(z) / t, which is smooth for z in [0, ∞).
_TAIL = np.polynomial.Chebyshev.interpolate(
  lambda t: scipy.special.erfcx(2 / t - 2) / t, 18, domain=[0, 1]
).coef


@jax.custom_jvp
def normal_cdf(x: jax.Array) -> jax.Array:
  """Φ(x), of any shape, at least in float32: jax 0.12 cannot lower `erf` inside a shard_map."""
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  z = jnp.abs(wide) * math.sqrt(0.5)
  t = 2 / (2 + z)
  last, sum_ = jnp.zeros_like(t), jnp.full_like(t, _TAIL[-1])
  for coefficient in _TAIL[-2:0:-1]:  # Clenshaw's recurrence
    last, sum_ = sum_, 2 * (2 * t - 1) * sum_ - last + coefficient
  tail = 0.5 * jnp.exp(-jnp.square(z)) * t * ((2 * t - 1) * sum_ - last + _TAIL[0])
  return jnp.where(wide < 0, tail, 1 - tail).astype(x.dtype)


@normal_cdf.defjvp
def _normal_cdf_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
  """The derivative is the density."""
  (x,), (dx,) = primals, tangents
  return normal_cdf(x), jnp.exp(-0.5 * jnp.square(x)) / math.sqrt(2 * math.pi) * dx


ACTIVATIONS = {
  'silu': nn.silu,
  'gelu': lambda x: x * normal_cdf(x),
  'gelu_tanh': lambda x: nn.gelu(x, approximate=True),
  'relu': nn.relu,
}


WEIGHTS = ('all_gather', 'convert_element_type')  # what makes a whole weight of a shard


def is_boxed(tree: Any) -> bool:
  """Whether a leaf is boxed and becomes whole only where a module reads it."""
  box = lambda x: isinstance(x, nn.meta.AxisMetadata)
  return any(map(box, jax.tree.leaves(tree, is_leaf=box)))


def rematerialised(block: type[nn.Module], everything: bool, boxed: bool) -> type[nn.Module]:
  """A layer's module, with what its backward pass computes again instead of keeping it.

  Args:
    block: the module.
    everything: all but its input.
    boxed: the whole weights that its shards were made into, which would fill the memory again.
  """
  if everything:
    return nn.remat(block, prevent_cse=False)
  if boxed:
    keep = lambda primitive, *_, **__: primitive.name not in WEIGHTS
    return nn.remat(block, prevent_cse=False, policy=keep)
  return block


class Dense(nn.Module):
  """x W + b, plus an adapter's scale · (x Aᵀ) B where the collection `lora` holds one.

  The adapter is a [r, in], b [r, out] and scale []; its input alone is dropped out, at
  `config.lora_dropout` and with a key a row. `output` marks what writes into the residual.
  """

  features: int
  bias: bool
  config: Any
  output: bool = False

  @nn.compact
  def __call__(self, x, key_B=None):
    """-> [..., features]."""
    config = self.config
    std = x.shape[-1] ** -0.5 / (np.sqrt(2 * config.layers) if self.output else 1)
    shape = (x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.normal(std), shape, config.wide)
    y = x @ kernel.astype(config.dtype)
    if self.bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,), config.wide)
      y += jnp.broadcast_to(bias.astype(config.dtype), y.shape)
    if self.has_variable('lora', 'a'):
      parts = (self.get_variable('lora', name) for name in ('a', 'b', 'scale'))
      a, b, scale = map(nn.meta.unbox, parts)
      if key_B is not None:
        own = np.uint32(zlib.crc32(self.name.encode()))  # projections of one layer differ in masks
        x = dropout(x, fold(key_B, own), config.lora_dropout)
      y += (x @ a.T.astype(config.dtype)) @ (scale * b).astype(config.dtype)
    return y


class Table(nn.Module):
  """Rows looked up by id."""

  rows: int
  width: int
  config: Any

  @nn.compact
  def __call__(self, ids):
    """-> [..., width]."""
    shape, draw = (self.rows, self.width), nn.initializers.normal(self.width**-0.5)
    table = self.param('embedding', draw, shape, self.config.wide)
    return table[ids].astype(self.config.dtype)


class Norm(nn.Module):
  """Root-mean-square or layer norm over the last axis, in float32."""

  config: Any

  @nn.compact
  def __call__(self, x):
    """-> the shape of x."""
    config, shape = self.config, x.shape[-1:]
    wide = x.astype(config.wide)
    if config.norm == 'layer':
      wide -= wide.mean(-1, keepdims=True)
    wide *= jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + config.norm_epsilon)
    scale = self.param('scale', nn.initializers.ones, shape, config.wide)
    wide *= jnp.broadcast_to(scale, x.shape)
    if config.norm == 'layer':
      bias = self.param('bias', nn.initializers.zeros, shape, config.wide)
      wide += jnp.broadcast_to(bias, x.shape)
    return wide.astype(config.dtype)


def fold(key_B: jax.Array | None, number: Any) -> jax.Array | None:
  """Another key a row."""
  return None if key_B is None else jax.vmap(jax.random.fold_in, (0, None))(key_B, number)


def dropout(x_BTD: jax.Array, key_B: jax.Array | None, rate: float) -> jax.Array:
  """Inverted dropout with a key per row: a mask follows its row, whatever the batch or bucket."""
  if key_B is None or not rate:
    return x_BTD
  draw = lambda key: jax.random.bernoulli(key, 1 - rate, x_BTD.shape[1:])
  return jnp.where(jax.vmap(draw)(key_B), x_BTD / (1 - rate), 0).astype(x_BTD.dtype)


def row_keys(config: Any, batch: Batch, train: bool) -> jax.Array | None:
  """[B] keys that dropout draws from; None where nothing is dropped."""
  if not train or not (config.dropout or config.lora_dropout):
    return None
  return jax.random.wrap_key_data(jnp.asarray(batch.key), impl='threefry2x32')


def moved(x_BTD: jax.Array, delta_BTD: jax.Array | None) -> jax.Array:
  """x + delta, in the dtype of x; x where there is none."""
  return x_BTD if delta_BTD is None else x_BTD + delta_BTD.astype(x_BTD.dtype)


def depth(params: Params) -> int:
  """L, read off the leaves."""
  return jax.tree.leaves(params['layers'])[0].shape[0]


def variables(params: Params) -> dict[str, Params]:
  """What Linen is given: `params` without what stands outside its modules, and `lora`."""
  outside = ('head', 'unembed', 'lora')
  collections = {'params': {k: v for k, v in params.items() if k not in outside}}
  return collections | {k: v for k, v in params.items() if k == 'lora'}
