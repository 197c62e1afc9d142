"""Attention against softmax written out: windows, capped scores, a cache."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from support import rounding

from jcl.backbones.attention import Place, causal_attention
from jcl.backbones.decoder_config import DecoderConfig

PLAIN = DecoderConfig(9, width=16, layers=2, heads=4, kv_heads=2, feed_forward=8)
ROW = 6  # tokens
WINDOWS = {  # window, windowed layers
  'none': (0, ()), 'all': (3, (True, True)), 'some': (3, (True, False)),
  'one less than a row': (ROW - 1, (False, True)), 'a row': (ROW, (True, True)),
}  # fmt: skip


def drawn(*shape):
  return np.random.default_rng(len(shape) + shape[1]).standard_normal(shape).astype(np.float32)


def written_out(config, q, k, v, layer, index):
  """Attended values of queries whose first one stands at place `index`, head by head."""
  out = np.zeros(q.shape)
  window = config.window if any(config.windowed_layers) and config.windowed_layers[layer] else ROW
  for b, t, h in itertools.product(*map(range, q.shape[:3])):
    group = h // (config.heads // config.kv_heads)
    place = index + t
    seen = np.arange(max(place - window + 1, 0), place + 1)
    score = k[b, seen, group] @ q[b, t, h] * (config.query_scale or q.shape[-1] ** -0.5)
    if config.attention_cap:
      score = config.attention_cap * np.tanh(score / config.attention_cap)
    share = np.exp(score - score.max())
    out[b, t, h] = share / share.sum() @ v[b, seen, group]
  return out


@pytest.mark.parametrize('windows', WINDOWS)
@pytest.mark.parametrize('cap', [0.0, 0.7])
@pytest.mark.parametrize('scale', [0.0, 0.9])
def test_attention_is_softmax_over_what_a_token_sees(windows, cap, scale):
  window, windowed = WINDOWS[windows]
  config = dataclasses.replace(
    PLAIN, window=window, windowed=windowed, attention_cap=cap, query_scale=scale
  )
  q, k, v = drawn(2, ROW, 4, 4), drawn(2, ROW, 2, 4), drawn(2, ROW, 2, 4)[::-1]
  for layer in (0, 1):
    place = Place(jnp.arange(ROW)[None], None, None, 0)
    found = causal_attention(config, q, jnp.asarray(k), jnp.asarray(v), layer, place)
    wanted = written_out(config, q, k, v, layer, 0)
    rounding.assert_close(found, wanted, terms=ROW, depth=4)
    for start in (0, 2, ROW - 1):  # the queries from there on, with a cache
      seen = np.tri(ROW, dtype=bool)[None, None, start:]
      places = jnp.broadcast_to(jnp.arange(ROW), (2, ROW))
      place = Place(places[:, start:], None, jnp.asarray(seen), start, places)
      found = causal_attention(config, q[:, start:], jnp.asarray(k), jnp.asarray(v), layer, place)
      rounding.assert_close(found, wanted[:, start:], terms=ROW, depth=4)
