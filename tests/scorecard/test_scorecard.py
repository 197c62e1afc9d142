"""Every registered method against every check: `python launch/check.py`."""

import pytest
from oracles.objectives import ORACLES

from jcl.methods import BUILT_IN
from scorecard import cases
from scorecard.checks import CHECKS, SHARED
from scorecard.does_not_apply import DOES_NOT_APPLY
from scorecard.wrong import Wrong

pytestmark = pytest.mark.scorecard
ROW = '(shared)'  # of the columns that belong to no method


@pytest.mark.parametrize('check', list(CHECKS))
@pytest.mark.parametrize('method', list(BUILT_IN))
def test_cell(method, check, record_property):
  if method not in ORACLES:
    raise Wrong(f'{method} is registered and has no oracle in tests/oracles/objectives.py')
  case, reason = cases.case(method), DOES_NOT_APPLY.get((check, method))
  could = CHECKS[check].could(case)
  if reason is None:
    if not could:
      raise Wrong('it could not run, and does_not_apply.py gives no reason')
    CHECKS[check].run(case)
  elif could:
    raise Wrong(f'it could run, but does_not_apply.py says: {reason}')
  else:
    record_property('does not apply', reason)


@pytest.mark.parametrize('check', list(SHARED))
@pytest.mark.parametrize('method', [ROW])
def test_shared_cell(method, check):
  SHARED[check]()
