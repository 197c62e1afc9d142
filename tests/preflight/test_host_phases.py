"""What a plan says that phases take on the host, against what they take."""

import json

import pytest
from support.launchers import forks

SLACK = 2**19  # bytes of plain data, and of Orbax's own


@pytest.mark.parametrize('fsdp', [pytest.param('false', marks=pytest.mark.slow), 'true'])
def test_the_host_holds_what_is_said(fsdp, tmp_path):
  """Eight devices; the model has 28 MB, its largest leaf 8."""
  done = forks().module('support.host_peaks', str(tmp_path), fsdp, devices=8)
  assert done.status == 0, done.err
  found = json.loads(done.out)
  assert found.keys() == {'load', 'digest of weights', 'snapshot', 'restore', 'digest'}
  for phase, one in found.items():
    assert one['largest'] <= one['measured'] <= 1.1 * one['stated'] + SLACK, (phase, one)
    if phase != 'digest of weights':  # its threads need not all be at work at once
      assert one['measured'] >= 0.8 * one['stated'], (phase, one)
