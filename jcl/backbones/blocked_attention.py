"""Causal attention of long lines, a block of queries at a time.

Plain attention holds the scores of all T² pairs of tokens and computes both halves of them. Here a
block of queries meets only the keys up to its own end, the backward pass computes the scores again,
and memory holds those of one block.

Letters in shapes: B rows, T tokens, H attention heads, K key-value heads, G attention heads for
each of those, d width of a head, q queries of a block, m = G·q, s keys that a block sees.

Source: Rabe and Staats 2021, "Self-attention Does Not Need O(n²) Memory", and for the backward pass
Dao et al. 2022, "FlashAttention"; here the blocks of keys are one.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

LONG = 512  # tokens of a line from which on it is computed in blocks
BLOCK = 256  # queries of a block at least
BLOCKS = 16  # blocks of a line at most; each is compiled by itself


class Options(NamedTuple):
  """Static settings.

  Attributes:
    scale: factor of the scores.
    window: tokens that each sees, itself among them; 0: all up to its own.
    name: under which what the backward pass needs is kept by a policy of `jax.checkpoint`.
  """

  scale: float
  window: int
  name: str


class Block(NamedTuple):
  """Queries `first` to `end`, and the keys `seen` to `end` that they may see."""

  first: int
  end: int
  seen: int


def attention(
  q_BTHd: jax.Array,
  k_BTKd: jax.Array,
  v_BTKd: jax.Array,
  mask_B1TT: jax.Array | None,
  options: Options,
) -> jax.Array:
  """Returns the attended values [B, T, H, d]; those of plain attention, up to rounding.

  Args:
    q_BTHd: queries.
    k_BTKd, v_BTKd: keys and values; H is a multiple of K.
    mask_B1TT: bool, [B or 1, 1, T, T], which places each token sees; none behind its own. None: all
      up to its own, or those in the window.
    options: static settings.
  """
  heads = k_BTKd.shape[2]
  q_BKGTd = _by_head(q_BTHd, heads)
  k_BKTd, v_BKTd = (x.swapaxes(1, 2) for x in (k_BTKd, v_BTKd))
  out_BKGTd = _attention(options, q_BKGTd, k_BKTd, v_BKTd, mask_B1TT)
  return out_BKGTd.transpose(0, 3, 1, 2, 4).reshape(q_BTHd.shape)


def _by_head(x_BTHd: jax.Array, kv_heads: int) -> jax.Array:
  """Returns [B, K, G, T, d] of [B, T, H, d]."""
  batch, length, heads, width = x_BTHd.shape
  return x_BTHd.reshape(batch, length, kv_heads, heads // kv_heads, width).transpose(0, 2, 3, 1, 4)


def _blocks(length: int, window: int) -> Iterator[Block]:
  """Yields the blocks of a line."""
  size = max(BLOCK, math.ceil(length / BLOCKS))
  for first in range(0, length, size):
    yield Block(first, min(first + size, length), max(first - window + 1, 0) if window else 0)


def _scores(
  options: Options, block: Block, q_BKGTd: jax.Array, k_BKTd: jax.Array, mask_B1TT: jax.Array | None
) -> jax.Array:
  """Returns the scores [B, K, m, s] of a block, in float32 or wider; unseen ones are very small."""
  first, end, seen = block
  batch, kv_heads, groups, _, width = q_BKGTd.shape
  q_BKmd = q_BKGTd[..., first:end, :].reshape(batch, kv_heads, -1, width)
  wide = jnp.promote_types(q_BKGTd.dtype, jnp.float32)
  k_BKsd = k_BKTd[:, :, seen:end]
  score_BKms = jnp.einsum('bkmd,bksd->bkms', q_BKmd, k_BKsd, preferred_element_type=wide)
  if mask_B1TT is None:
    back_qs = jnp.arange(first, end)[:, None] - jnp.arange(seen, end)[None]
    sees = ((back_qs >= 0) & (back_qs < (options.window or end)))[None, None]
  else:
    sees = mask_B1TT[:, :, first:end, seen:end]
  shape = batch, kv_heads, groups, end - first, end - seen
  least = jnp.finfo(wide).min / 2
  score_BKGqs = jnp.where(sees[:, :, None], score_BKms.reshape(shape) * options.scale, least)
  return score_BKGqs.reshape(score_BKms.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
  options: Options,
  q_BKGTd: jax.Array,
  k_BKTd: jax.Array,
  v_BKTd: jax.Array,
  mask_B1TT: jax.Array | None,
) -> jax.Array:
  """Returns the attended values [B, K, G, T, d]; arguments as of `attention`, by head."""
  return _forward(options, q_BKGTd, k_BKTd, v_BKTd, mask_B1TT)[0]


def _forward(
  options: Options,
  q_BKGTd: jax.Array,
  k_BKTd: jax.Array,
  v_BKTd: jax.Array,
  mask_B1TT: jax.Array | None,
) -> tuple[jax.Array, tuple]:
  """Returns the attended values, and what the backward pass needs."""
  batch, kv_heads, groups, length, _ = q_BKGTd.shape
  outs: list[jax.Array] = []
  peaks: list[jax.Array] = []
  sums: list[jax.Array] = []
  for block in _blocks(length, options.window):
    score_BKms = _scores(options, block, q_BKGTd, k_BKTd, mask_B1TT)
    peak_BKm1 = score_BKms.max(-1, keepdims=True)
    weight_BKms = jnp.exp(score_BKms - peak_BKm1)
    sum_BKm1 = weight_BKms.sum(-1, keepdims=True)
    v_BKsd = v_BKTd[:, :, block.seen : block.end]
    out_BKmd = jnp.einsum(
      'bkms,bksd->bkmd', weight_BKms.astype(v_BKsd.dtype), v_BKsd,
      preferred_element_type=score_BKms.dtype,
    ) / sum_BKm1  # fmt: skip
    for found, x in ((outs, out_BKmd), (peaks, peak_BKm1), (sums, sum_BKm1)):
      found.append(x.reshape(batch, kv_heads, groups, -1, x.shape[-1]))
  kept = lambda parts: checkpoint_name(jnp.concatenate(parts, 3), options.name)
  out_BKGTd = kept([x.astype(q_BKGTd.dtype) for x in outs])
  return out_BKGTd, (q_BKGTd, k_BKTd, v_BKTd, mask_B1TT, out_BKGTd, kept(peaks), kept(sums))


def _backward(options: Options, residuals: tuple, grad_BKGTd: jax.Array) -> tuple:
  """Returns the gradients of queries, keys and values; the mask has none.

  Gradients of keys and values are summed as [B, K, d, s]: there the small factor is transposed,
  not the weights of a whole block.
  """
  q_BKGTd, k_BKTd, v_BKTd, mask_B1TT, out_BKGTd, peak_BKGT1, sum_BKGT1 = residuals
  batch, kv_heads, groups, length, width = q_BKGTd.shape
  wide, narrow = peak_BKGT1.dtype, k_BKTd.dtype
  # exp(score − peak) is the weight times the sum, so the gradient is divided by the sum.
  part_BKGTd = grad_BKGTd.astype(wide) / sum_BKGT1
  mean_BKGT1 = (part_BKGTd * out_BKGTd).sum(-1, keepdims=True)
  dq: list[jax.Array] = []
  dk_BKdT = jnp.zeros((batch, kv_heads, width, length), wide)
  dv_BKdT = jnp.zeros_like(dk_BKdT)
  for block in _blocks(length, options.window):
    first, end, seen = block
    cut = lambda x, a=first, z=end: x[..., a:z, :].reshape(batch, kv_heads, -1, x.shape[-1])
    product = functools.partial(jnp.einsum, preferred_element_type=wide)
    score_BKms = _scores(options, block, q_BKGTd, k_BKTd, mask_B1TT)
    weight_BKms = jnp.exp(score_BKms - cut(peak_BKGT1))
    part_BKmd = cut(part_BKGTd).astype(narrow)
    dv_BKds = product('bkmd,bkms->bkds', part_BKmd, weight_BKms.astype(narrow))
    dv_BKdT = dv_BKdT.at[..., seen:end].add(dv_BKds)
    seen_BKms = product('bkmd,bksd->bkms', part_BKmd, v_BKTd[:, :, seen:end])
    dscore_BKms = weight_BKms * (seen_BKms - cut(mean_BKGT1)) * options.scale
    dscore_BKms = dscore_BKms.astype(narrow)
    dq_BKmd = product('bkms,bksd->bkmd', dscore_BKms, k_BKTd[:, :, seen:end])
    dq.append(dq_BKmd.reshape(batch, kv_heads, groups, -1, width))
    dk_BKds = product('bkmd,bkms->bkds', cut(q_BKGTd), dscore_BKms)
    dk_BKdT = dk_BKdT.at[..., seen:end].add(dk_BKds)
  dq_BKGTd = jnp.concatenate(dq, 3).astype(q_BKGTd.dtype)
  turned = lambda x_BKdT, like: x_BKdT.swapaxes(2, 3).astype(like.dtype)
  return dq_BKGTd, turned(dk_BKdT, k_BKTd), turned(dv_BKdT, v_BKTd), None


_attention.defvjp(_forward, _backward)
