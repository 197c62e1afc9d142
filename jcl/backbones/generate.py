"""Sampling with a key-value cache in one compiled loop: greedy answers and pseudo samples.

Letters in shapes: B rows, P prompt tokens, N new tokens, S = P + N cache positions, V token ids,
K candidates.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jcl.backbones.backbone import Backbone, Cache, Params


class State(NamedTuple):
  """State of the loop between one token and the next.

  Attributes:
    step: [] int32, new tokens written so far.
    tokens: [B, N] int32, `pad` after the first end-of-sequence.
    last: [B] int32, the newest token.
    done: [B] bool, whether end-of-sequence has been written.
    cache: of the backbone.
  """

  step: jax.Array
  tokens: jax.Array
  last: jax.Array
  done: jax.Array
  cache: Cache


def top_k_sample(
  key_B: jax.Array, logits_BV: jax.Array, k: int, temperature: jax.Array | float
) -> jax.Array:
  """Draws one token for each row among its k likeliest -> [B] int32.

  Args:
    key_B: a key for each row.
    logits_BV: logits of the next token.
    k: candidates; 1 is greedy.
    temperature: [] float32 that the logits are divided by.

  Raises:
    AssertionError: an argument has another shape.
  """
  chex.assert_rank(logits_BV, 2, custom_message='logits_BV: [B, V]')
  chex.assert_shape(key_B, (logits_BV.shape[0],), custom_message='key_B: [B], a key for each row')
  chex.assert_rank(temperature, 0, custom_message='temperature: one number')
  values_BK, ids_BK = lax.top_k(logits_BV.astype(jnp.float32), k)
  choice_B = jax.vmap(jax.random.categorical)(key_B, values_BK / temperature)
  return jnp.take_along_axis(ids_BK, choice_B[:, None], 1)[:, 0]


def generate(
  backbone: Backbone,
  max_new: int,
  k: int,
  eos: int,
  pad: int,
  params: Params,
  prompt_BP: jax.Array,
  valid_BP: jax.Array,
  key_B2: jax.Array,
  temperature: jax.Array,
  limit: jax.Array,
) -> jax.Array:
  """Continues every prompt by top-k sampling with at most `limit` <= `max_new` tokens.

  It may run inside a shard_map: there is no collective, and each device stops when its own rows
  have ended.

  Args:
    backbone, max_new, k, eos, pad: static.
    params: of the backbone.
    prompt_BP: [B, P] int32 token ids, left-padded.
    valid_BP: [B, P] bool, real tokens; a row without any is padding and ended from the start.
    key_B2: [B, 2] uint32, key data of each row; token i draws from fold_in(key, i).
    temperature: [] float32.
    limit: [] int32.

  Returns:
    [B, max_new] int32, `pad` after the first `eos`.

  Raises:
    ValueError: the backbone is an encoder.
    AssertionError: an array has another shape or type.
  """
  if backbone.decode is None or backbone.cache is None:
    raise ValueError('backbone: an encoder cannot generate; give a decoder')
  _check(prompt_BP, valid_BP, key_B2, temperature, limit)
  decode = backbone.decode
  rows, width = prompt_BP.shape
  valid_BS = jnp.concatenate([valid_BP, jnp.ones((rows, max_new), bool)], 1)
  keys_B = jax.vmap(jax.random.wrap_key_data)(key_B2)

  def write(state: State, logits_BV: jax.Array) -> State:
    key_B = jax.vmap(lambda key: jax.random.fold_in(key, state.step))(keys_B)
    token_B = top_k_sample(key_B, logits_BV, k, temperature)
    token_B = jnp.where(state.done, pad, token_B)
    tokens_BN = lax.dynamic_update_slice_in_dim(state.tokens, token_B[:, None], state.step, 1)
    return State(state.step + 1, tokens_BN, token_B, state.done | (token_B == eos), state.cache)

  def body(state: State) -> State:
    index = width + state.step - 1
    logits_BV, cache = decode(params, state.last[:, None], valid_BS, state.cache, index)
    return write(state._replace(cache=cache), logits_BV)

  cache = backbone.cache(params, rows, width + max_new)
  logits_BV, cache = decode(params, prompt_BP, valid_BS, cache, 0)
  blank = jnp.full((rows, max_new), pad, jnp.int32)
  state = State(jnp.int32(0), blank, prompt_BP[:, -1], ~valid_BP.any(1), cache)
  more = lambda state: (state.step < limit) & ~state.done.all()
  return lax.while_loop(more, body, write(state, logits_BV)).tokens


def _check(
  prompt_BP: jax.Array,
  valid_BP: jax.Array,
  key_B2: jax.Array,
  temperature: jax.Array,
  limit: jax.Array,
) -> None:
  """Checks shapes and types of the arguments of `generate`."""
  chex.assert_rank(prompt_BP, 2, custom_message='prompt_BP: [B, P]')
  chex.assert_type(prompt_BP, int, custom_message='prompt_BP: token ids')
  chex.assert_equal_shape([prompt_BP, valid_BP], custom_message='valid_BP: [B, P] as prompt_BP')
  chex.assert_type(valid_BP, bool, custom_message='valid_BP: bool')
  shape = (prompt_BP.shape[0], 2)
  chex.assert_shape(key_B2, shape, custom_message='key_B2: [B, 2], key data of each row')
  chex.assert_type(key_B2, jnp.uint32, custom_message='key_B2: uint32')
  chex.assert_rank(temperature, 0, custom_message='temperature: one number')
  chex.assert_rank(limit, 0, custom_message='limit: one number')
  chex.assert_type(limit, int, custom_message='limit: an integer')
