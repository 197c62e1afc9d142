"""The phases of a plan; tests/step/test_sharded_model.py compiles them for eight devices."""

import pytest
from support.launchers import call

from jcl.preflight import phases

PROGRAM = """\
HloModule jit_step, entry_computation_layout={(f32[2]{0})->f32[2]{0}}

%fused_computation (p: f32[8,900]) -> f32[8,900] {
  ROOT %a = f32[8,900]{1,0} add(%p, %p)
}

ENTRY %main (p: f32[8,30]) -> bf16[8,30] {
  %p = f32[8,30]{1,0} parameter(0), metadata={op_name="f32[9999]"}
  %n = pred[500]{0} constant(0)
  ROOT %b = bf16[8,30]{1,0} convert(%p)
}
"""


def test_the_largest_array_is_one_that_stands_outside_of_fused_operations():
  assert phases.largest_array(PROGRAM) == (8 * 30 * 4, 'f32[8,30]')
  assert phases.largest_array(PROGRAM.replace('[500]', '[1000]')) == (1000, 'pred[1000]')


@pytest.mark.parametrize('more', ['--scaling'])
def test_phases_go_without_scaling(more):
  done = call('plan', '--config=configs/quickstart.py:seq', '--phases', more)
  assert done.returncode == 2
  assert done.stderr.splitlines() == ['error: --phases goes without --scaling; give one of them']
