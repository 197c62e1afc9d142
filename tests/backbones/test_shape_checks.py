"""Wrong shapes and types are refused when a function is traced, and the message names the argument.

Each of these calls gave wrong numbers without a word before: JAX broadcasts, clamps and promotes.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from jcl.backbones import block_expansion, heads, layers, lora, new_tokens
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.generate import generate, top_k_sample
from jcl.batching.batch import Row, Shape, layout

CONFIG = DecoderConfig(vocabulary=8, width=6, layers=3, heads=1, feed_forward=8)
LINEAR = dataclasses.replace(CONFIG, classes=3)
COSINE = dataclasses.replace(LINEAR, head='cosine')
ADAPTER = {'a': jnp.ones((3, 2, 6)), 'b': jnp.ones((3, 2, 6)), 'scale': jnp.ones(3)}
KEY = jax.random.key(0)


def params(config=CONFIG):
  return tiny.params(decoder(config))


def batch():
  rows = [Row(np.arange(4, dtype=np.int32), np.arange(2), np.arange(2), 0, 0)]
  return layout(rows, 1, Shape(2, 4, 2))


def continued(**changes):
  """Traces `generate` with one argument that is wrong."""
  arguments = {
    'prompt_BP': np.ones((2, 3), np.int32), 'valid_BP': np.ones((2, 3), bool),
    'real_B': np.ones(2, bool), 'key_B2': np.ones((2, 2), np.uint32),
    'shared_1C': np.ones((1, 2), np.int32), 'valid_1C': np.ones((1, 2), bool),
    'temperature': np.float32(1), 'limit': np.int32(2),
  } | changes  # fmt: skip
  call = lambda params, arguments: generate(decoder(CONFIG), 2, 2, 1, 0, params, *arguments)
  return jax.eval_shape(call, params(), tuple(arguments.values()))


def hidden(**changes):
  config = dataclasses.replace(CONFIG, dropout=0.1, lora_dropout=0.1)
  call = functools.partial(decoder(config).hidden, train=True)
  return jax.eval_shape(call, params(), batch().replace(**changes))


def adapted(**changes):
  layer = {'layers': {'q': ADAPTER | changes}}
  return jax.eval_shape(decoder(CONFIG).hidden, {**params(), 'lora': layer}, batch())


CALLS = {
  'head kernel': (
    lambda: heads.project(
      {'kernel': jnp.ones((6, 1)), 'bias': jnp.zeros(3)}, jnp.ones((2, 6)), LINEAR
    ),
    r"head\['kernel'\]: \[D or P, C\]",
  ),
  'head bias': (
    lambda: heads.project(
      {'kernel': jnp.ones((6, 3)), 'bias': jnp.zeros(1)}, jnp.ones((2, 6)), LINEAR
    ),
    r"head\['bias'\]: \[C\]",
  ),
  'head scale': (
    lambda: heads.project(
      {'kernel': jnp.ones((6, 3)), 'scale': jnp.ones((2, 3))}, jnp.ones((2, 6)), COSINE
    ),
    r"head\['scale'\]: one number",
  ),
  'states of a head': (
    lambda: heads.project(heads.init(KEY, LINEAR), jnp.ones((1, 2, 6)), LINEAR),
    r'hidden_MD: \[M, D\]',
  ),
  'states of other rows': (
    lambda: heads.pool(jnp.ones((2, 8, 6)), batch(), 'last'),
    r'hidden_BTD: \[B, T, D\] of batch.tokens',
  ),
  'positions that are floats': (
    lambda: heads.pool(
      jnp.ones((2, 4, 6)), batch().replace(target_position=np.ones(2, np.float32)), 'mean'
    ),
    'batch.target_position: integers',
  ),
  'one length for all rows': (
    lambda: heads.row_mean(jnp.ones((2, 4, 6)), np.array([4])),
    r'length_R: \[R\]',
  ),
  'prompt': (lambda: continued(prompt_BP=np.ones((2, 3), np.float32)), 'prompt_BP: token ids'),
  'validity of another length': (
    lambda: continued(valid_BP=np.ones((2, 4), bool)),
    r'valid_BP: \[B, P\]',
  ),
  'rows that may be padding': (
    lambda: continued(real_B=np.ones(3, bool)), r'real_B: \[B\]'
  ),
  'shared tokens of each row': (
    lambda: continued(shared_1C=np.ones((2, 2), np.int32)), r'shared_1C: \[1, C\]'
  ),
  'validity of other shared tokens': (
    lambda: continued(valid_1C=np.ones((1, 3), bool)), r'valid_1C: \[1, C\]'
  ),
  'validity in numbers': (lambda: continued(valid_BP=np.ones((2, 3), np.int32)), 'valid_BP: bool'),
  'keys of other rows': (
    lambda: continued(key_B2=np.ones((3, 2), np.uint32)),
    r'key_B2: \[B, 2\]',
  ),
  'a temperature for each candidate': (
    lambda: continued(temperature=np.ones(2, np.float32)),
    'temperature: one number',
  ),
  'limits': (lambda: continued(limit=np.ones(2, np.int32)), 'limit: one number'),
  'a limit that is no integer': (
    lambda: continued(limit=np.float32(1.5)),
    'limit: an integer',
  ),
  'sampling keys': (
    lambda: top_k_sample(jax.random.split(KEY, 1), jnp.ones((2, 8)), 2, 1.0),
    r'key_B: \[B\]',
  ),
  'dropout keys': (lambda: hidden(key=np.ones((1, 2), np.uint32)), r'batch.key: \[R, 2\]'),
  'a delta for all rows': (
    lambda: hidden(embedding_delta=np.ones((1, 4, 6), np.float32)),
    r'batch.embedding_delta: \[B, T, D\]',
  ),
  'a of an adapter': (lambda: adapted(a=jnp.ones((3, 2, 1))), r'lora a of q: \[r, in\]'),
  'b of an adapter': (lambda: adapted(b=jnp.ones((3, 2, 1))), r'lora b of q: \[r, out\]'),
  'scale of an adapter': (
    lambda: adapted(scale=jnp.ones((3, 6))),
    'lora scale of q: one number a layer',
  ),
  'keys of an adapter': (
    lambda: lora.init_adapter(params(), jax.random.split(KEY, 2), 2, 1.0, ['q']),
    'key: one typed key',
  ),
  'ΔW of one layer': (
    lambda: lora.add_to_kernels(params(), [('q', jnp.ones((6, 6)))]),
    r'ΔW of q: \[L, in, out\]',
  ),
  'one scale for all layers': (
    lambda: dict(lora.weight_deltas({'layers': {'q': ADAPTER | {'scale': jnp.ones(1)}}})),
    r'scale of q: \[L\]',
  ),
  'ranks of a and b': (
    lambda: lora.concatenate([{'layers': {'q': ADAPTER | {'b': jnp.ones((3, 1, 6))}}}]),
    r'b of q: \[L, r, out\]',
  ),
  'groups of too many layers': (
    lambda: block_expansion.expand(params(), [2, 2]),
    'sizes: they sum to L',
  ),
  'groups of too few layers': (lambda: block_expansion.expand(params(), [2]), 'sizes: they sum'),
  'an empty group': (lambda: block_expansion.expand(params(), [3, 0]), 'sizes: each is positive'),
  'a table of other rows': (
    lambda: new_tokens.add_token_rows(
      CONFIG, {'embed': {'embedding': np.ones((7, 6), np.float32)}}, 1, [0], 0
    ),
    r"params\['embed'\]: \[config.rows, D\]",
  ),
}  # fmt: skip


@pytest.mark.parametrize(('call', 'says'), CALLS.values(), ids=CALLS)
def test_a_wrong_argument_is_named(call, says):
  with pytest.raises(AssertionError, match=says):
    call()


def test_right_arguments_pass():
  assert continued().shape == (2, 2)
  assert hidden().shape == (2, 6)
  assert adapted().shape == (2, 6)
  assert layers.depth(block_expansion.expand(params(), [2, 1])[0]) == 5


def test_values_that_have_no_shape_are_refused_by_name():
  with pytest.raises(ValueError, match=r'config.classes is 0; a head needs at least 1'):
    heads.init(KEY, CONFIG)
  blind = dataclasses.replace(decoder(CONFIG), decode=None, cache=None)
  with pytest.raises(ValueError, match='backbone: an encoder cannot generate'):
    generate(blind, 2, 2, 1, 0, {}, *[None] * 8)
  with pytest.raises(ValueError, match='every is 0; a group has at least 1 layer'):
    block_expansion.group_sizes(params(), 0)
