"""The lowered step of every method is the one that was last looked at."""

import json

import jax
import pytest
from support import programs
from support.launchers import forks


@pytest.fixture(scope='module')
def found():
  done = forks().module('support.programs', '--json', devices=programs.DEVICES, limit=600)
  assert done.status == 0, done.err[-3000:]
  return json.loads(done.out.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize('method', programs.STEPPING)
def test_a_step_is_made_of_what_the_file_says(method, found):
  wanted = programs.kept()
  if not wanted:
    pytest.skip(f'programs.json has no part of jax {jax.__version__}')
  lines = programs.differences(found[method], wanted.get(method, {}))
  assert lines == [], 'if that is meant: python -m support.programs --write, in tests'


def test_each_figure_that_differs_is_named():
  one = {'flops': 3, 'collectives': {'all_reduce': 2}}
  assert programs.differences(one, dict(one)) == []
  two = {'flops': 4, 'collectives': {'all_reduce': 2}}
  assert programs.differences(one, two) == ['flops: 4 in the file, now 3']
  assert programs.differences(one, {'flops': 3}) == [
    "collectives: None in the file, now {'all_reduce': 2}"
  ]
