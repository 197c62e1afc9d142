"""Moving averages of the parameters: how they follow, and what a run makes of them."""

import jax
import numpy as np
import pytest
from support import runs, tiny

from jcl import methods
from jcl.errors import UserError
from jcl.training import experiment


def taken(name, updates, **given):
  """The parameters 1, 2, …, `updates` after updates, and the averages that follow them."""
  tools = tiny.tools('plain', examples=7)
  method = methods.make(tools.backbone, methods.settings_class(name)(**given))
  kept = method.init({'w': np.zeros(2, np.float32)}, tools.stream, tools)['teacher']
  move, found = jax.jit(method.after_step), []
  for number in range(1, updates + 1):
    params = {'w': np.float32([number, 0])}
    kept, same = move(kept, params, np.int32(0))  # steps of a task begin at 0 again
    np.testing.assert_array_equal(same['w'], params['w'])
    found.append(kept)
  return found


def test_an_average_is_at_first_the_mean_of_all_and_then_decays():
  found = [float(kept['average']['w'][0]) for kept in taken('ema', 6, decay=0.75)]
  wanted = [np.mean(range(n + 1)) for n in (0, 1, 2, 3)]  # with the initial 0
  for number in (4, 5, 6):
    wanted.append(0.75 * wanted[-1] + 0.25 * number)
  np.testing.assert_allclose(found, wanted[1:], rtol=1e-6)


def test_what_does_not_move_stays_the_same_to_the_bit():
  for kept in taken('ema', 3):
    assert kept['average']['w'][1] == 0
  still = np.float32([0.1, 1 / 3])
  method = methods.make(tiny.recurrent(9), methods.settings('ema'))
  moved, _ = method.after_step({'average': still, 'updates': np.int32(7)}, still, 0)
  np.testing.assert_array_equal(moved['average'], still)


def test_each_average_follows_as_often_as_its_rate_says():
  found = taken('cls_er', 200, fast_rate=0.9, slow_rate=0.3)
  values = {name: [0.0, *(float(k[name]['w'][0]) for k in found)] for name in ('fast', 'slow')}
  for name, rate in (('fast', 0.9), ('slow', 0.3)):
    share = np.mean(np.diff(values[name]) != 0)
    assert abs(share - rate) < 4 * np.sqrt(rate * (1 - rate) / 200)
  again = taken('cls_er', 200, fast_rate=0.9, slow_rate=0.3)
  assert [float(k['slow']['w'][0]) for k in again] == values['slow'][1:]


@pytest.mark.parametrize(
  ('name', 'field', 'value'),
  [
    ('ema', 'decay', 1.0), ('ema', 'decay', -0.1), ('cls_er', 'lambda_cls', -1.0),
    ('cls_er', 'fast_decay', 1.0), ('cls_er', 'slow_decay', 1.5), ('cls_er', 'fast_rate', 0.0),
    ('cls_er', 'slow_rate', 1.1),
  ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_field(name, field, value):
  settings = methods.settings_class(name)(**{field: value})
  with pytest.raises(UserError, match=rf'method\.{field} is {value!r}'):
    settings.check()


@pytest.mark.parametrize('name', ['ema', 'cls_er', 'replay+ema'])
def test_the_best_of_parameters_that_are_not_evaluated_is_refused(name):
  made = runs.config(name, train={'keep_best': True})
  with pytest.raises(UserError, match=r'train\.keep_best is true, but'):
    experiment.with_knobs(methods.make(tiny.recurrent(9), made.method), made, tiny.recurrent(9))


def test_two_kinds_of_slow_parameters_are_refused():
  with pytest.raises(UserError, match='both bring slow parameters'):
    methods.settings('cls_er+ema')
