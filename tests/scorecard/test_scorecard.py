"""Every registered method against every check: `python launch/check.py`."""

import os

import jax
import pytest

from jcl.errors import UserError
from jcl.methods import BUILT_IN
from scorecard import cases, names
from scorecard.columns import CHECKS, OPTIMISED, SHARED
from scorecard.does_not_apply import DOES_NOT_APPLY, OUTSIDE
from scorecard.wrong import Wrong

pytestmark = pytest.mark.scorecard


@pytest.fixture(autouse=True)
def _optimised_by_column(request):
  """Sets whether XLA optimises what a cell compiles, unless the environment says it for all."""
  check = request.node.callspec.params['check']
  if 'JAX_DISABLE_MOST_OPTIMIZATIONS' not in os.environ:
    jax.config.update('jax_disable_most_optimizations', check not in OPTIMISED)


@pytest.mark.parametrize('check', list(CHECKS))
@pytest.mark.parametrize('method', list(dict.fromkeys([*BUILT_IN, *names.outside()])))
def test_cell(method, check, record_property):
  try:
    names.oracle(method)
  except UserError as error:
    raise Wrong(str(error)) from error
  case, reason = cases.case(method), DOES_NOT_APPLY.get((check, method))
  could = CHECKS[check].could(case)
  if method not in BUILT_IN and not could:
    reason = OUTSIDE
  if reason is None:
    if not could:
      raise Wrong('it could not run, and does_not_apply.py gives no reason')
    CHECKS[check].run(case)
  elif could:
    raise Wrong(f'it could run, but does_not_apply.py says: {reason}')
  else:
    record_property('does not apply', reason)


@pytest.mark.parametrize('check', list(SHARED))
@pytest.mark.parametrize('method', [names.SHARED_ROW])
def test_shared_cell(method, check):
  SHARED[check]()
