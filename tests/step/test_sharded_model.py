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


def test_a_teacher_of_another_folder_is_read_by_parts_when_it_is_needed():
  one = found(False)['taught']
  assert (one['sharded'], one['bits'], one['read 0']) == (True, True, 1)
  assert max(one['largest 0'], one['largest 2048']) <= 1 / 8
  # Where its states are kept: the projection at the start, and all of it before each task.
  assert 1 < one['read 2048'] < 2


@ALL
def test_hooks_compute_on_sharded_layers_what_they_compute_on_whole_ones(every):
  for name, one in found(every)['computed'].items():
    narrow = 'bfloat16' in name
    for what, value in one.items():
      if isinstance(value, bool):
        assert value, (name, what)
      else:  # labels drawn from bfloat16 logits may differ in rounding
        assert value < (5e-3 if narrow else 2e-6), (name, what)


def test_phases_that_gather_once_have_the_bits_of_those_that_gather_layers():
  assert found(False)['by layers'] == dict.fromkeys(('importance', 'states', 'samples'), True)


def test_a_phase_gathers_once_where_the_whole_fits_and_by_layers_elsewhere():
  one = found(False)['gathers']
  layered = {name: x for name, x in one.items() if name.endswith(' 0')}
  assert {name.split()[0] for name in layered} == {'importance', 'sampling'}
  for name, (whole, sent) in layered.items():
    once, left = one[name.replace(' 0', ' None')]
    assert (whole, left) == (0, 0), name
    assert once > 0, name
    assert sent >= one['gathering'], name
  assert one['gathering'] == one['split'] * 7 / 8  # XLA's CPU compiler sends bfloat16 as float32
  assert one['sent as'] >= 7  # q, k, v, o and three of the feed-forward


@pytest.mark.slow
def test_no_phase_makes_a_layer_stack_whole():
  for method, planned in found(True)['phases'].items():
    assert len(planned) >= 2
    for phase, one in planned.items():
      assert one['largest'] <= sharded.WHOLE / 2, (method, phase, one)
