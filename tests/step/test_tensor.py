"""A model whose heads, feed-forward part and vocabulary devices share, on eight fake devices."""

import dataclasses
import functools
import json

import jax
import pytest
from support import runs, tiny
from support.decoders import GPT2_LIKE
from support.launchers import forks

from jcl.backbones import split
from jcl.backbones.encoder_config import EncoderConfig
from jcl.errors import UserError
from jcl.step import sharding
from jcl.training import experiment

ALL = pytest.mark.parametrize('every', [False, pytest.param(True, marks=pytest.mark.slow)])
# Of the loss, a mean over targets: one rounding of bfloat16. Of the gradient, whose partial sums
# each of up to four devices rounds: √4 times the error of one device.
NARROW = {'narrow loss': 2.0**-8, 'narrow gradient': 2.0}
SCALARS = 16  # bytes of the numbers that a step sums beside arrays: loss, terms, counts


@functools.cache
def found(every: bool) -> dict:
  """The output of the program."""
  done = forks().module('support.tensor', *['every'] * every, devices=8)
  assert done.status == 0, done.err
  return json.loads(done.out)


@ALL
def test_devices_that_share_a_model_compute_what_one_computes(every):
  for name, one in found(every).items():
    for what, value in one.items():
      if isinstance(value, bool):
        assert value, (name, what)
      elif what in ('loss', 'gradient', 'importance', 'states', 'logits'):
        assert value < tiny.DEEP_ROUNDING, (name, what)
      elif what.startswith('narrow'):
        assert value < NARROW[what], (name, what)


@ALL
def test_a_layer_sends_two_sums_forward_and_two_backward(every):
  cells = [one for one in found(every).values() if 'sums' in one]
  assert len(cells) >= 2
  for one in cells:
    assert 0 <= one['sums'] <= SCALARS, one
    assert one['gathers'] == 0, one
    assert one['sent otherwise'] == [], one


@pytest.mark.parametrize(
  ('changes', 'parts', 'said'),
  [
    ({}, 3, 'the 4 attention heads; give 1, 2 or 4'),
    ({'kv_heads': 1}, 2, 'the 1 key-value heads; give 1'),
    ({'feed_forward': 25}, 2, 'the 25 entries of the feed-forward part; give 1'),
    ({'rows': 33}, 2, 'the 33 rows of the embedding; give backbone.vocabulary_multiple=2'),
  ],
)
def test_what_devices_cannot_share_evenly_is_refused(changes, parts, said):
  config = dataclasses.replace(GPT2_LIKE, **changes)
  with pytest.raises(UserError, match=f'^train.tensor is {parts}, which does not divide {said}$'):
    split.check(config, parts)
  split.check(config, 1)


def test_models_that_are_not_split_are_refused():
  normed = dataclasses.replace(GPT2_LIKE, qk_norm=True, qk_norm_over='all')
  for config in (normed, EncoderConfig(30, width=16, layers=2, heads=4, feed_forward=24)):
    with pytest.raises(UserError, match=r'^train\.tensor is 2; .* is not split: give 1$'):
      split.check(config, 2)


def test_the_numbers_that_divide_are_named():
  said = [split.divisors(number) for number in (1, 2, 12)]
  assert said == ['1', '1 or 2', '1, 2, 3, 4, 6 or 12']


def test_a_mesh_that_does_not_divide_the_devices_is_refused():
  config = runs.config('seq', train={'tensor': 2}, backbone={'vocabulary_multiple': 2})
  count = len(jax.devices())
  if count % 2:
    with pytest.raises(UserError, match=f'^train.tensor is 2, .* divide {count} devices?; give 1'):
      experiment.assemble(config)
  one = sharding.make_mesh(1)
  with pytest.raises(UserError, match=r"^mesh has the axes .*\(N, 2\), \('data', 'tensor'\)"):
    experiment.assemble(config, one)


def test_a_model_that_cannot_be_split_is_refused_before_anything_is_compiled():
  config = runs.config('seq', train={'tensor': 3})
  with pytest.raises(UserError, match=r'^train\.tensor is 3, which does not divide the'):
    experiment.assemble(config)
