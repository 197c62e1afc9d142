"""Tiny decoders of every kind, and random rows for them."""

import dataclasses

import numpy as np
import pytest

from jcl.backbones.decoder_config import DecoderConfig

TINY = DecoderConfig(30, width=16, layers=3, heads=4, kv_heads=2, feed_forward=24, rows=32)
GPT2_LIKE = dataclasses.replace(
  TINY,
  kv_heads=4,
  norm='layer',
  positions='learned',
  max_positions=64,
  gated=False,
  activation='gelu_tanh',
  qkv_bias=True,
  o_bias=True,
  mlp_bias=True,
  tied=False,
)
BOTH = pytest.mark.parametrize('config', [TINY, GPT2_LIKE], ids=['llama', 'gpt2'])


def random_tokens(rows, length):
  return np.random.default_rng(0).integers(0, TINY.vocabulary, (rows, length))
