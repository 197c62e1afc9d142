"""Sampling with a key-value cache in one compiled loop: greedy answers and pseudo samples.

Letters in shapes: B rows, b of them still computed, C tokens of the beginning that all prompts
share, P tokens of the rest of a prompt, N new tokens, S = C + P + N cache positions, V token ids, K
candidates, G blocks of W token ids.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jcl.backbones.backbone import Backbone, Cache, CacheFn, DecodeFn, Params

SHRINKS = 2  # times that a batch is halved at most
FEWEST = 16  # rows that a halved batch has at least
CHUNKS = 4  # of columns in which prompts are computed, at most
NARROWEST = 8  # columns of such a chunk, at least
BLOCK = 128  # token ids of which the largest logit is taken before the likeliest are looked for


class State(NamedTuple):
  """State of the loop between one token and the next.

  Attributes:
    step: [] int32, new tokens written so far.
    tokens: [B, N] int32, `pad` after the first end-of-sequence.
    row: [b] int32, indices of the rows that are still computed.
    last: [b] int32, the newest token of each.
    done: [b] bool, whether end-of-sequence has been written.
    cache: keys and values of these b rows.
  """

  step: jax.Array
  tokens: jax.Array
  row: jax.Array
  last: jax.Array
  done: jax.Array
  cache: Cache


def top_k_sample(
  key_B: jax.Array, logits_BV: jax.Array, k: int, temperature: jax.Array | float
) -> jax.Array:
  """Draws one token for each row from its k likeliest -> [B] int32.

  Args:
    key_B: a key for each row.
    logits_BV: logits of the next token.
    k: number of candidates; 1 is greedy.
    temperature: [] float32, by which the logits are divided.

  Raises:
    AssertionError: an argument has another shape.
  """
  chex.assert_rank(logits_BV, 2, custom_message='logits_BV: [B, V]')
  chex.assert_shape(key_B, (logits_BV.shape[0],), custom_message='key_B: [B], a key for each row')
  chex.assert_rank(temperature, 0, custom_message='temperature: one number')
  values_BK, ids_BK = top_k(logits_BV.astype(jnp.float32), k)
  choice_B = jax.vmap(jax.random.categorical)(key_B, values_BK / temperature)
  return jnp.take_along_axis(ids_BK, choice_B[:, None], 1)[:, 0]


def top_k(logits_BV: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """Returns what `lax.top_k` returns, the lower id first where logits are equal, but sooner.

  The K likeliest ids lie in the K blocks with the largest maxima, the earlier ones of equals: any
  other block has K ids before it that are as likely as all of its own.

  Args:
    logits_BV: no NaN.
    k: number of candidates, at most V.
  """
  rows, width = logits_BV.shape
  blocks = -(-width // BLOCK)
  if blocks < 2 * k:
    return lax.top_k(logits_BV, k)
  filled = jnp.pad(logits_BV, ((0, 0), (0, blocks * BLOCK - width)), constant_values=-jnp.inf)
  logits_BGW = filled.reshape(rows, blocks, BLOCK)
  block_BK = jnp.sort(lax.top_k(logits_BGW.max(-1), k)[1], -1)  # in order, so that equals are too
  found_BKW = jnp.take_along_axis(logits_BGW, block_BK[..., None], 1)
  values_BK, place_BK = lax.top_k(found_BKW.reshape(rows, k * BLOCK), k)
  first_BK = jnp.take_along_axis(block_BK, place_BK // BLOCK, 1) * BLOCK
  return values_BK, first_BK + place_BK % BLOCK


def alone(count: jax.Array) -> jax.Array:
  """Returns a number as it is: each device goes by its own rows."""
  return count


def generate(
  backbone: Backbone, max_new: int, k: int, eos: int, pad: int, params: Params,
  prompt_BP: jax.Array, valid_BP: jax.Array, real_B: jax.Array, key_B2: jax.Array,
  shared_1C: jax.Array, valid_1C: jax.Array, temperature: jax.Array, limit: jax.Array,
  largest: Callable = alone,
) -> jax.Array:  # fmt: skip
  """Continues every prompt by top-k sampling with at most `limit` <= `max_new` tokens.

  Inside a shard_map a device stops when its rows have ended, and there is no collective (`alone`).

  Args:
    backbone: a decoder; static, like the next four arguments.
    max_new: N, new tokens for which the result has room.
    k: candidates of each token; 1 is greedy.
    eos, pad: ids of end-of-sequence and of padding.
    params: of the backbone.
    prompt_BP: [B, P] int32 token ids after the shared ones, left-padded; P is 0 where all prompts
      are the shared tokens alone.
    valid_BP: [B, P] bool, real tokens.
    real_B: [B] bool; a row that is not real is padding and has ended from the start.
    key_B2: [B, 2] uint32, key data of each row; token i draws from fold_in(key, i).
    shared_1C: [1, C] int32 token ids with which every prompt begins, left-padded; computed once.
    valid_1C: [1, C] bool, real tokens of them.
    temperature: [] float32, by which the logits are divided.
    limit: [] int32, new tokens at most.
    largest: a number of each device -> that of all, for devices that must leave loops together.

  Returns:
    [B, max_new] int32, `pad` after the first `eos`.

  Raises:
    ValueError: the backbone is an encoder.
    AssertionError: an array has another shape or type.
  """
  decode, _ = _functions(backbone)
  _check(prompt_BP, valid_BP, real_B, key_B2, shared_1C, valid_1C, temperature, limit)
  rows, width = len(prompt_BP), shared_1C.shape[1] + prompt_BP.shape[1]
  keys_B = jax.vmap(jax.random.wrap_key_data)(key_B2)
  valid_BC = jnp.repeat(valid_1C, rows, 0)
  valid_BS = jnp.concatenate([valid_BC, valid_BP, jnp.ones((rows, max_new), bool)], 1)

  def write(state: State, logits_bV: jax.Array) -> State:
    key_b = jax.vmap(lambda key: jax.random.fold_in(key, state.step))(keys_B[state.row])
    token_b = jnp.where(state.done, pad, top_k_sample(key_b, logits_bV, k, temperature))
    tokens_BN = state.tokens.at[state.row, state.step].set(token_b)
    done_b = state.done | (token_b == eos)
    return State(state.step + 1, tokens_BN, state.row, token_b, done_b, state.cache)

  def body(state: State) -> State:
    index, valid_bS = width + state.step - 1, valid_BS[state.row]
    logits_bV, cache = decode(params, state.last[:, None], valid_bS, state.cache, index)
    return write(state._replace(cache=cache), logits_bV)

  logits_BV, cache = _prefilled(
    backbone, largest, params, prompt_BP, shared_1C, valid_BS, valid_1C, real_B
  )
  state = write(_first(real_B, max_new, pad, cache), logits_BV)
  for size in _halves(rows):
    state = _shrunk(_until(size, body, state, limit, largest), size)
  return _until(0, body, state, limit, largest).tokens


def _functions(backbone: Backbone) -> tuple[DecodeFn, CacheFn]:
  """Returns `decode` and `cache` of a decoder; raises a ValueError for an encoder."""
  if backbone.decode is None or backbone.cache is None:
    raise ValueError('backbone: an encoder cannot generate; give a decoder')
  return backbone.decode, backbone.cache


def _prefilled(
  backbone: Backbone, largest: Callable, params: Params, prompt_BP: jax.Array, shared_1C: jax.Array,
  valid_BS: jax.Array, valid_1C: jax.Array, real_B: jax.Array,
) -> tuple[jax.Array, Cache]:  # fmt: skip
  """Returns the logits of the first new token [B, V], and the cache of all prompts.

  A large batch is computed a quarter of its rows at a time, up to the last real row: a batch of few
  prompts costs little, and a full one holds the activations of a quarter. Each quarter is computed
  in chunks of columns, from the one on in which its longest prompt begins: where rows come sorted
  by length, a long prompt does not widen all the others.

  Args:
    valid_BS: bool, cache positions that hold, or will hold, real tokens.
    backbone, largest, params, prompt_BP, shared_1C, valid_1C, real_B: as in `generate`.
  """
  decode, new_cache = _functions(backbone)
  (rows, positions), shared = valid_BS.shape, shared_1C.shape[1]
  cache = new_cache(params, 1, positions)
  # These zeros are returned where every prompt is empty.
  logits_BV = jnp.zeros((rows, backbone.vocabulary), jnp.float32)
  if shared:
    valid_1S = jnp.pad(valid_1C, ((0, 0), (0, positions - shared)), constant_values=True)
    logits_1V, cache = decode(params, shared_1C, valid_1S, cache, 0)
    logits_BV = jnp.repeat(logits_1V.astype(jnp.float32), rows, 0)
  copies = lambda count: jax.tree.map(lambda x: jnp.repeat(x, count, 1), cache)  # of [L, 1, S, …]
  if not prompt_BP.shape[1]:
    return logits_BV, copies(rows)

  width = prompt_BP.shape[1]
  step = min(max(-(-width // CHUNKS), NARROWEST), width)

  def prefill(prompt_bP: jax.Array, valid_bS: jax.Array) -> tuple[jax.Array, Cache]:
    longest = largest(width - jnp.argmax(valid_bS[:, shared : shared + width].any(0)))
    chunks = -(-longest // step)

    def chunk(number: jax.Array, before: tuple[jax.Array, Cache]) -> tuple[jax.Array, Cache]:
      start = jnp.maximum(width - (chunks - number) * step, 0)
      token_bT = lax.dynamic_slice_in_dim(prompt_bP, start, step, 1)
      logits_bV, own = decode(params, token_bT, valid_bS, before[1], shared + start)
      return logits_bV.astype(jnp.float32), own

    blank_bV = jnp.zeros((len(prompt_bP), backbone.vocabulary), jnp.float32)
    return lax.fori_loop(0, chunks, chunk, (blank_bV, copies(len(prompt_bP))))

  size = min(_halves(rows), default=rows)
  if size == rows:
    return prefill(prompt_BP, valid_BS)

  def part(number: jax.Array, filled: tuple[jax.Array, Cache]) -> tuple[jax.Array, Cache]:
    start = jnp.minimum(number * size, rows - size)
    cut = lambda x: lax.dynamic_slice_in_dim(x, start, size)
    put = lambda axis: lambda x, own: lax.dynamic_update_slice_in_dim(x, own, start, axis)
    logits_bV, own = prefill(cut(prompt_BP), cut(valid_BS))
    logits_BV, caches = filled
    logits_BV = put(0)(logits_BV, logits_bV.astype(logits_BV.dtype))
    return logits_BV, jax.tree.map(put(1), caches, own)

  end = largest(jnp.max(jnp.where(real_B, jnp.arange(rows) + 1, 0)))
  return lax.fori_loop(0, -(-end // size), part, (logits_BV, copies(rows)))


def _first(real_B: jax.Array, max_new: int, pad: int, cache: Cache) -> State:
  """Returns the state of all rows before the first new token."""
  rows = len(real_B)
  blank_BN, row_B = jnp.full((rows, max_new), pad, jnp.int32), jnp.arange(rows, dtype=jnp.int32)
  return State(jnp.int32(0), blank_BN, row_B, jnp.zeros(rows, jnp.int32), ~real_B, cache)


def _until(
  most: int, body: Callable[[State], State], state: State, limit: jax.Array, largest: Callable
) -> State:
  """Repeats `body` until at most `most` rows of each device have not ended, or at the limit."""
  left = lambda state: (state, largest((~state.done).sum()))
  more = lambda carry: (carry[0].step < limit) & (carry[1] > most)
  return lax.while_loop(more, lambda carry: left(body(carry[0])), left(state))[0]


def _halves(rows: int) -> list[int]:
  """Returns the sizes to which a batch shrinks as its rows end; each is a loop of its own."""
  sizes = [rows >> n for n in range(1, SHRINKS + 1)]
  return [size for size in sizes if rows >= 4 * FEWEST and size >= FEWEST]


def _shrunk(state: State, size: int) -> State:
  """Returns the state of `size` rows; rows that have not ended are taken first."""
  kept_b = jnp.argsort(state.done, stable=True)[:size]
  row, last, done = (x[kept_b] for x in (state.row, state.last, state.done))
  cache = jax.tree.map(lambda x: x[:, kept_b], state.cache)  # of [L, b, S, …]
  return State(state.step, state.tokens, row, last, done, cache)


def _check(
  prompt_BP: jax.Array,
  valid_BP: jax.Array,
  real_B: jax.Array,
  key_B2: jax.Array,
  shared_1C: jax.Array,
  valid_1C: jax.Array,
  temperature: jax.Array,
  limit: jax.Array,
) -> None:
  """Checks shapes and types of the arguments of `generate`."""
  rows = prompt_BP.shape[0]
  chex.assert_rank(prompt_BP, 2, custom_message='prompt_BP: [B, P]')
  chex.assert_equal_shape([prompt_BP, valid_BP], custom_message='valid_BP: [B, P] as prompt_BP')
  chex.assert_shape(shared_1C, (1, None), custom_message='shared_1C: [1, C], for all rows')
  chex.assert_equal_shape([shared_1C, valid_1C], custom_message='valid_1C: [1, C] as shared_1C')
  chex.assert_shape(real_B, (rows,), custom_message='real_B: [B]')
  chex.assert_shape(key_B2, (rows, 2), custom_message='key_B2: [B, 2], key data of each row')
  for name, ids in (('prompt_BP', prompt_BP), ('shared_1C', shared_1C)):
    chex.assert_type(ids, int, custom_message=f'{name}: token ids')
  for name, x in (('valid_BP', valid_BP), ('valid_1C', valid_1C), ('real_B', real_B)):
    chex.assert_type(x, bool, custom_message=f'{name}: bool')
  chex.assert_type(key_B2, jnp.uint32, custom_message='key_B2: uint32')
  chex.assert_rank(temperature, 0, custom_message='temperature: one number')
  chex.assert_rank(limit, 0, custom_message='limit: one number')
  chex.assert_type(limit, int, custom_message='limit: an integer')
