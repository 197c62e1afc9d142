"""Parts of every model: projections, tables, norms, activations and dropout, as Linen modules.

Every module reads what it needs off a DecoderConfig or EncoderConfig: `dtype` of the computation,
`wide`, the dtype of parameters, `layers` and, in norms, `norm` and `norm_epsilon`.

Letters in shapes: B rows, T tokens, D width.
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from flax.core.meta import AxisMetadata
from jax.ad_checkpoint import checkpoint_name
from jax.extend.random import threefry_2x32
from jax.tree_util import DictKey, KeyPath

from jcl.backbones.backbone import Params
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.encoder_config import EncoderConfig
from jcl.backbones.model_config import ModelConfig
from jcl.backbones.split import ALONE, Split
from jcl.batching.batch import Batch

# Chebyshev series in t = 2 / (2 + z) of exp(z²)·erfc(z) / t, which is smooth for z in [0, ∞).
_TAIL = np.polynomial.Chebyshev.interpolate(
  lambda t: scipy.special.erfcx(2 / t - 2) / t, 18, domain=[0, 1]
).coef


@jax.custom_jvp
def normal_cdf(x: jax.Array) -> jax.Array:
  """Standard normal distribution function Φ(x), elementwise, computed at least in float32.

  `jax.scipy.stats.norm.cdf` needs `erf`, which jax 0.12 cannot lower inside a shard_map.
  """
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
  """The derivative of Φ is the normal density."""
  (x,), (dx,) = primals, tangents
  return normal_cdf(x), jnp.exp(-0.5 * jnp.square(x)) / math.sqrt(2 * math.pi) * dx


ACTIVATIONS = {
  'silu': nn.silu,
  'gelu': lambda x: x * normal_cdf(x),
  'gelu_tanh': lambda x: nn.gelu(x, approximate=True),
  'relu': nn.relu,
}
ATTENDED = 'attended'  # name of the result of attention
SUMMED = 'summed'  # name of a sum over the devices that share a layer
BLOCKS = 'blocks'  # collection of the states between blocks; kept where it is asked for


def with_remat(block: type[nn.Module], everything: bool) -> type[nn.Module]:
  """Returns a layer's module that recomputes in the backward pass what it does not keep.

  The products of states and weights are kept, and what attention returns. All else takes longer to
  write and to read again than to compute: norms, activations, the scores of attention, and whole
  weights that were gathered from shards. A sum over devices is kept too: it would be sent again.

  Args:
    block: the module.
    everything: keep the layer's input alone.
  """
  return nn.remat(block, prevent_cse=False, policy=None if everything else _is_kept)


def _is_kept(primitive: Any, *args: Any, **params: Any) -> bool:
  """Whether the result of an operation is kept for the backward pass."""
  product = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  attended = params.get('name') in (ATTENDED, SUMMED) or 'dot_product_attention' in primitive.name
  return attended or product(primitive, *args, **params)


def attended(x: jax.Array) -> jax.Array:
  """Marks the result of attention, which `with_remat` keeps."""
  return checkpoint_name(x, ATTENDED)


class RowKeys(NamedTuple):
  """A key for each row of a batch, and which row and place of it every token has.

  Attributes:
    key_R: keys.
    segment_BT: row of each token, -1 for padding; None: line r is row r.
    position_BT: place of each token in its row; None: its place in the line.
  """

  key_R: jax.Array
  segment_BT: jax.Array | None = None
  position_BT: jax.Array | None = None


def fold_in_rows(keys: RowKeys | None, number: Any) -> RowKeys | None:
  """Folds a number into each row's key; None stays None."""
  if keys is None:
    return None
  return keys._replace(key_R=jax.vmap(jax.random.fold_in, (0, None))(keys.key_R, number))


def dropout(x_BTD: jax.Array, keys: RowKeys | None, rate: float, split: Split = ALONE) -> jax.Array:
  """Inverted dropout whose mask depends on the row's key and the place in the row alone.

  A row has the same mask in every batch, packed or not, and, up to its own length, in every length
  of row.

  Args:
    x_BTD: of lines of tokens.
    keys: a key for each row; None: no dropout.
    rate: probability that an entry becomes 0; the others are divided by 1 - rate.
    split: of whose last axis x is a part.
  """
  if keys is None or not rate:
    return x_BTD
  tokens, width = x_BTD.shape[1], x_BTD.shape[2] * split.parts
  if keys.segment_BT is None:
    draw = lambda key: jax.random.bernoulli(key, 1 - rate, (tokens, width))
    kept_BTD = jax.vmap(draw)(keys.key_R)
  else:
    kept_BTD = _packed_bernoulli(keys, 1 - rate, width)
  kept_BTD = split.own(kept_BTD)
  return jnp.where(kept_BTD, x_BTD / (1 - rate), 0).astype(x_BTD.dtype)


def _packed_bernoulli(keys: RowKeys, rate: float, width: int) -> jax.Array:
  """Draws for each token of a packed batch what `jax.random.bernoulli` draws for its row.

  The draws [t, D] of a row are those of the counters 0 … t·D − 1 under the row's key, so token
  p has the counters p·D … p·D + D − 1.

  Args:
    keys: of the rows, with `segment_BT` and `position_BT`.
    rate: probability of True.
    width: D.

  Returns:
    [B, T, D] bool.
  """
  assert keys.segment_BT is not None
  assert keys.position_BT is not None
  data_BT2 = jax.random.key_data(keys.key_R)[jnp.maximum(keys.segment_BT, 0)]
  first_BT = (keys.position_BT * width).astype(jnp.uint32)
  wide = jnp.zeros((), jnp.result_type(float)).dtype == jnp.float64
  zero_D, place_D = jnp.zeros(width, jnp.uint32), jnp.arange(width, dtype=jnp.uint32)

  def draw(data_2: jax.Array, first: jax.Array) -> jax.Array:
    count_2D = jnp.concatenate([zero_D, first + place_D])
    high_D, low_D = jnp.split(threefry_2x32((data_2[0], data_2[1]), count_2D), 2)
    if wide:
      bits_D = (high_D.astype(jnp.uint64) << np.uint64(32)) | low_D.astype(jnp.uint64)
      one_D = (bits_D >> np.uint64(12)) | np.uint64(0x3FF0000000000000)
      return jax.lax.bitcast_convert_type(one_D, jnp.float64) - 1
    one_D = ((high_D ^ low_D) >> np.uint32(9)) | np.uint32(0x3F800000)
    return jax.lax.bitcast_convert_type(one_D, jnp.float32) - 1

  return jax.vmap(jax.vmap(draw))(data_BT2, first_BT) < rate


def dropout_keys(config: ModelConfig, batch: Batch, train: bool) -> RowKeys | None:
  """Returns each row's key for dropout; None where nothing is dropped.

  Args:
    config: of the model.
    batch: whose `key` [R, 2] uint32 is read.
    train: whether dropout acts.
  """
  if not train or not (config.dropout or config.lora_dropout):
    return None
  shape = (batch.length.shape[0], 2)
  chex.assert_shape(batch.key, shape, custom_message='batch.key: [R, 2], key data of each row')
  key_R = jax.random.wrap_key_data(jnp.asarray(batch.key), impl='threefry2x32')
  return RowKeys(key_R, batch.segment, batch.position)


class Dense(nn.Module):
  """x W + b, plus scale · (x Aᵀ) B where the variable collection `lora` holds an adapter.

  The adapter of a layer is a [r, in], b [r, out] and scale [], r its rank. Dropout acts on the
  adapter's input alone, at the rate `config.lora_dropout`.

  Attributes:
    features: out, width of the result.
    bias: whether there is b.
    config: of the model.
    output: whether the result is added to the residual stream, which makes the initial kernel
      smaller.
    split: of the model; an output is the sum of what its devices compute of their parts of x, other
      kernels give each device its part of the result.
  """

  features: int
  bias: bool
  config: ModelConfig
  output: bool = False
  split: Split = ALONE

  @nn.compact
  def __call__(self, x: jax.Array, keys: RowKeys | None = None) -> jax.Array:
    """Returns [..., features] for x [..., in].

    Args:
      x: input.
      keys: a key for each row, for the adapter's dropout; None: no dropout.
    """
    config = self.config
    std = x.shape[-1] ** -0.5 / (np.sqrt(2 * config.layers) if self.output else 1)
    shape = (x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.normal(std), shape, config.wide)
    flat = x.reshape(-1, x.shape[-1])
    y = (flat @ kernel.astype(config.dtype)).reshape(*x.shape[:-1], self.features)
    parts = self.split if self.output else ALONE
    if parts.parts > 1:  # the bias is added once
      total = parts.summed(self._adapted(x, y, shape, keys, parts))
      return self._biased(checkpoint_name(total, SUMMED))
    return self._adapted(x, self._biased(y), shape, keys)

  def _biased(self, y: jax.Array) -> jax.Array:
    """Returns y + b where there is b."""
    config = self.config
    if self.bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,), config.wide)
      y += jnp.broadcast_to(bias.astype(config.dtype), y.shape)
    return y

  def _adapted(
    self, x: jax.Array, y: jax.Array, shape: tuple[int, int], keys: RowKeys | None,
    split: Split = ALONE,
  ) -> jax.Array:  # fmt: skip
    """Returns y and what the adapter of a kernel of `shape` adds to it."""
    config = self.config
    if self.has_variable('lora', 'a'):
      a, b, scale = (nn.meta.unbox(self.get_variable('lora', x)) for x in ('a', 'b', 'scale'))
      chex.assert_shape(a, (None, shape[0]), custom_message=f'lora a of {self.name}: [r, in]')
      chex.assert_shape(b, (len(a), shape[1]), custom_message=f'lora b of {self.name}: [r, out]')
      chex.assert_rank(scale, 0, custom_message=f'lora scale of {self.name}: one number a layer')
      if keys is not None:
        own = np.uint32(
          zlib.crc32(str(self.name).encode())
        )  # projections of one layer differ in masks
        x = dropout(x, fold_in_rows(keys, own), config.lora_dropout, split)
      y += (x @ a.T.astype(config.dtype)) @ (scale * b).astype(config.dtype)
    return y


class Table(nn.Module):
  """Vectors looked up by id: embeddings of tokens, positions or token types.

  Attributes:
    rows: number of ids.
    width: D.
    config: of the model.
    split: whose devices have a part of the rows each.
  """

  rows: int
  width: int
  config: ModelConfig
  split: Split = ALONE

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    """Returns [..., width] for integer ids [...]."""
    split, rows = self.split, self.rows // self.split.parts
    shape, draw = (rows, self.width), nn.initializers.normal(self.width**-0.5)
    table = self.param('embedding', draw, shape, self.config.wide)
    if split.parts == 1:
      return table[ids].astype(self.config.dtype)
    place = ids - split.number() * rows
    here = ((place >= 0) & (place < rows))[..., None]
    found = table[jnp.clip(place, 0, rows - 1)].astype(self.config.dtype)
    return split.summed(jnp.where(here, found, 0))


class Norm(nn.Module):
  """Root-mean-square or layer norm over the last axis, computed in the parameters' dtype."""

  config: DecoderConfig | EncoderConfig

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns an array of the shape of x."""
    config, shape = self.config, x.shape[-1:]
    wide = x.astype(config.wide)
    if config.norm == 'layer':
      wide -= wide.mean(-1, keepdims=True)
    wide *= jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + config.norm_epsilon)
    start = nn.initializers.constant(1 - config.norm_offset)
    scale = self.param('scale', start, shape, config.wide)
    if config.norm_offset:
      scale = scale + config.norm_offset  # in place it would change NumPy parameters
    wide *= jnp.broadcast_to(scale, x.shape)
    if config.norm == 'layer' and config.norm_bias:
      bias = self.param('bias', nn.initializers.zeros, shape, config.wide)
      wide += jnp.broadcast_to(bias, x.shape)
    return wide.astype(config.dtype)


def add_delta(x_BTD: jax.Array, delta_BTD: jax.Array | None) -> jax.Array:
  """Returns x + delta in the dtype of x; x where delta is None."""
  if delta_BTD is None:
    return x_BTD
  chex.assert_equal_shape([x_BTD, delta_BTD], custom_message='batch.embedding_delta: [B, T, D]')
  return x_BTD + delta_BTD.astype(x_BTD.dtype)


def depth(params: Params) -> int:
  """Returns L, the number of layers, read off the leaves of `params['layers']`."""
  return jax.tree.leaves(params['layers'])[0].shape[0]


def every_state(
  params: Params, config: DecoderConfig | EncoderConfig, found: Mapping[str, Any]
) -> jax.Array:  # fmt: skip
  """Returns the final states [L + 1, B, T, D] of models that end after 0 … L blocks.

  Args:
    params: parameters of the model.
    config: config of the model.
    found: the collection `BLOCKS` that a module's `apply` returned.
  """
  kept = found[BLOCKS]
  x_LBTD = jnp.concatenate([kept['state'][0][None], kept['layers']['state'][0]])
  if 'final_norm' not in params:
    return x_LBTD
  return cast(jax.Array, Norm(config).apply({'params': params['final_norm']}, x_LBTD))


def linen_variables(params: Params, config: ModelConfig) -> dict[str, Params]:
  """Returns the variable collections of the Linen module: `params` and, with an adapter, `lora`.

  The head and an output projection of its own are read outside the module and left out. Kernels
  that are sharded are gathered in the type that they are multiplied in.
  """
  outside = ('head', 'unembed', 'lora')
  boxed = lambda x: isinstance(x, AxisMetadata)

  def narrow(path: KeyPath, x: Any) -> Any:
    kernel = path[-1] == DictKey('kernel')
    return x.astype(config.dtype) if boxed(x) and kernel and hasattr(x, 'astype') else x

  own = {k: v for k, v in params.items() if k not in outside}
  collections = {'params': jax.tree_util.tree_map_with_path(narrow, own, is_leaf=boxed)}
  return collections | {k: v for k, v in params.items() if k == 'lora'}
