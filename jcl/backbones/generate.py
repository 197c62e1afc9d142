"""One jitted top-k loop with a KV cache and a key per row: greedy answers and pseudo samples."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jcl.backbones.backbone import Backbone, Params


class State(NamedTuple):
  """What the loop carries. B rows, N new tokens.

  Attributes:
    step: [] int32, tokens written so far.
    tokens: [B, N] int32, `pad` after the first end-of-sequence.
    last: [B] int32, the newest token.
    done: [B] bool, end-of-sequence was written.
    cache: the backbone's.
  """

  step: jax.Array
  tokens: jax.Array
  last: jax.Array
  done: jax.Array
  cache: Any


def top_k_sample(
  key_B: jax.Array, logits_BV: jax.Array, k: int, temperature: jax.Array
) -> jax.Array:
  """One token a row, drawn among the k likeliest -> [B] int32; k = 1 is greedy."""
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
  """Continues every prompt by at most `limit` <= `max_new` tokens.

  Runs inside a shard_map without a collective: each device stops by itself.

  Args:
    backbone, max_new, k, eos, pad: static.
    params: of the backbone.
    prompt_BP: [B, P] int32, left-padded.
    valid_BP: [B, P] bool; a row without any is a padding row and done from the start.
    key_B2: [B, 2] uint32, key data of each row; step i draws from fold_in(key, i).
    temperature: [] float32.
    limit: [] int32.

  Returns:
    [B, max_new] int32, `pad` after the first `eos`.
  """
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
    logits_BV, cache = backbone.decode(
      params, state.last[:, None], valid_BS, state.cache, width + state.step - 1
    )
    return write(state._replace(cache=cache), logits_BV)

  cache = backbone.cache(params, rows, width + max_new)
  logits_BV, cache = backbone.decode(params, prompt_BP, valid_BS, cache, 0)
  blank = jnp.full((rows, max_new), pad, jnp.int32)
  state = State(jnp.int32(0), blank, prompt_BP[:, -1], ~valid_BP.any(1), cache)
  more = lambda state: (state.step < limit) & ~state.done.all()
  return lax.while_loop(more, body, write(state, logits_BV)).tokens
