"""A model that is sharded from the file on: values, places and sizes, on eight fake devices."""

import functools
import json
import tempfile

import pytest
from support import sharded
from support.launchers import forks

ALL = pytest.mark.parametrize('every', [False, pytest.param(True, marks=pytest.mark.slow)])


@functools.cache
def found(every: bool) -> dict:
  """The output of the program."""
  with tempfile.TemporaryDirectory() as folder:
    done = forks().module('support.sharded', f'{folder}/x', *['every'] * every, devices=8)
  assert done.status == 0, done.err
  return json.loads(done.out)


def test_parameters_and_moments_are_born_sharded_with_the_bits_of_one_device():
  wanted = dict.fromkeys(('bits', 'parameters', 'moments', 'digest'), True)
  assert found(False)['born'] == wanted


@pytest.mark.parametrize('name', [*sharded.FAMILIES, *sharded.GGUF])
def test_of_a_file_each_device_gets_its_part_which_is_read_once(name):
  one = found(False)['loaded'][name]
  assert (one['bits'], one['sharded'], one['read']) == (True, True, 1)
  assert one['largest'] <= one['leaf'] / 8


@ALL
def test_hooks_compute_on_sharded_layers_what_they_compute_on_whole_ones(every):
  for name, one in found(every)['computed'].items():
    narrow = 'bfloat16' in name
    for what, value in one.items():
      if isinstance(value, bool):
        assert value, (name, what)
      else:  # labels drawn from bfloat16 logits may differ in rounding
        assert value < (5e-3 if narrow else 2e-6), (name, what)


@pytest.mark.slow
def test_no_phase_makes_a_layer_stack_whole():
  for method, planned in found(True)['phases'].items():
    assert len(planned) >= 2
    for phase, one in planned.items():
      assert one['largest'] <= sharded.WHOLE / 2, (method, phase, one)
