"""A-GEM: the direction of a step, by hand and against the oracle, and what it does to the loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import penalties
from support import rounding, tiny
from support.lives import Life

from jcl import methods
from jcl.batching.batch import Shape, layout
from jcl.config import Config
from jcl.errors import UserError
from jcl.methods import Method, composed
from jcl.step import losses, sharding, train_step, trainable
from jcl.step.groups import Groups
from jcl.training import experiment

BACKBONE = tiny.recurrent(tiny.CONFIG.vocabulary)
AGEM = methods.make(BACKBONE, methods.settings('agem'))
GROUPS = Groups.of({'new': 'new', 'old': 'old'})


@pytest.mark.parametrize(
  ('new', 'old', 'wanted'),
  [
    ([1.0, 0.0], [-1.0, 1.0], [0.5, 0.5]),  # apart: product -1, of old with itself 2
    ([1.0, 0.0], [1.0, 1.0], [1.0, 0.0]),  # together: nothing is taken away
    ([1.0, 0.0], [0.0, 3.0], [1.0, 0.0]),
    ([1.0, 2.0], [0.0, 0.0], [1.0, 2.0]),  # no old row
    ([2.0, 1.0], [-4.0, -2.0], [0.0, 0.0]),
  ],
)
def test_the_direction_by_hand_over_two_leaves(new, old, wanted):
  tree = lambda pair: {'a': jnp.array([pair[0]]), 'b': jnp.array([[pair[1]]])}
  found = AGEM.combine({'new': tree(new), 'old': tree(old)}, {})
  rounding.assert_close(found, tree(wanted), terms=2, scale=2)


COMBINED = jax.jit(train_step.make_gradient(AGEM, AGEM.loss_fn, sharding.make_mesh(1)))


def direction(params, rows):
  trained, frozen, _ = trainable.split(params, (('.*', True),))
  batch = layout(rows, 1, Shape(24, 20, 96), tiny.keys(len(rows)))
  (loss, values), gradient = COMBINED(trained, frozen, {}, {}, batch, GROUPS)
  return float(loss), values, gradient


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]).astype(np.float64)


def arrays(params):
  return {name: np.asarray(leaf['kernel'], np.float64) for name, leaf in params.items()}


def replayed(params, how):
  """New rows, and the same texts as old rows.

  `together` they want the same tokens. `apart` the old rows want the tokens that the model finds
  likeliest: their gradient keeps these likely, and that of the new rows makes them less likely.
  """
  new = [r for r in tiny.rows() if not r.replay]
  likeliest = lambda r: penalties.logits(arrays(params), (r.tokens, r.targets), 30).argmax(1)
  wanted = lambda r: r.wanted if how == 'together' else likeliest(r).astype(np.int32)
  return [*new, *(dataclasses.replace(r, wanted=wanted(r), replay=True) for r in new)]


@pytest.mark.parametrize('how', ['apart', 'together'])
def test_the_direction_of_a_batch_is_the_oracles(how):
  params = jax.tree.map(lambda p: 2 * p, tiny.params(BACKBONE))
  rows, theta = replayed(params, how), arrays(params)
  slope = lambda replay: penalties.nats_gradient(
    theta, [(r.tokens, r.targets, r.wanted) for r in rows if r.replay == replay], 30
  )
  new, old = slope(False), slope(True)
  assert (new @ old < -1e-2) == (how == 'apart')
  wanted = new - (new @ old) / (old @ old) * old if how == 'apart' else new
  loss, values, found = direction(params, rows)
  rounding.assert_close(flat(found), wanted, terms=96, depth=6)
  assert loss == pytest.approx(float(values['new']) + float(values['old']), rel=1e-6)
  if how == 'apart':
    assert abs(flat(found) @ old) <= rounding.tolerance(1000) * np.linalg.norm(new) * (
      np.linalg.norm(old)
    )


def test_without_old_rows_a_step_is_that_of_plain_fine_tuning():
  params = tiny.params(BACKBONE)
  rows = [r for r in tiny.rows() if not r.replay]
  loss, values, found = direction(params, rows)
  assert float(values['old']) == 0
  seq = train_step.make_gradient(Method(), losses.plain(BACKBONE), sharding.make_mesh(1))
  trained, frozen, _ = trainable.split(params, (('.*', True),))
  batch = layout(rows, 1, Shape(24, 20, 96), tiny.keys(len(rows)))
  (wanted_loss, _), wanted = jax.jit(seq)(trained, frozen, {}, {}, batch)
  rounding.assert_close((loss, found), (float(wanted_loss), wanted), terms=96, depth=6)


def test_plans_of_three_tasks_name_the_groups_and_replay_the_past():
  life = Life('agem', tiny.tools('plain', examples=7), buffer_size=5)
  assert [len(plan.old) for plan in life.plans] == [0, 5, 5]
  assert {tuple(plan.groups.items()) for plan in life.plans} == {(('new', 'new'), ('old', 'old'))}
  assert {plan.level for plan in life.plans} == {'batch'}


def test_the_old_loss_falls_or_stays_to_first_order():
  """A small step along the direction; along the new gradient alone the old loss rises."""
  with jax.enable_x64(True):
    params = jax.tree.map(lambda p: 2 * np.asarray(p, np.float64), tiny.params(BACKBONE))
    rows = replayed(params, 'apart')
    _, values, found = direction(params, rows)
    small = lambda p, g, norm: p - 1e-4 / norm * np.asarray(g)
    step = lambda slope: jax.tree.map(
      functools.partial(small, norm=np.linalg.norm(flat(slope))), params, slope
    )
    _, after, _ = direction(step(found), rows)
    alone = [r for r in rows if not r.replay]
    plain = direction(params, alone)[2]
    _, worse, _ = direction(step(plain), rows)
  old = float(values['old'])
  assert float(after['new']) < float(values['new']) - 1e-6
  assert float(after['old']) - old < 1e-7
  assert float(worse['old']) - old > 1e-6


def test_what_agem_cannot_have_is_refused_by_field():
  with pytest.raises(UserError, match=r"method\.select is 'adversarial'; it must be 'random'"):
    methods.settings_class('agem')(select='adversarial').check()
  with pytest.raises(UserError, match='agem and derpp both bring a loss'):
    methods.settings('agem+derpp')
  made = Config(method=methods.settings('agem'))
  made.adversarial.epsilon = 0.5
  knobs = experiment.with_knobs(AGEM, made, BACKBONE)
  with pytest.raises(UserError, match=r'set adversarial\.epsilon to 0'):
    train_step.make_gradient(knobs, AGEM.loss_fn, sharding.make_mesh(1))


def test_methods_that_combine_and_wrap_cannot_be_one():
  parts = {'agem': methods.settings('agem'), 'wrapping': methods.settings('seq')}
  kind = type('Wrapping', (type(parts['wrapping']),), {'brings': ('objective',)})
  with pytest.raises(UserError, match='agem combines the gradients of groups of terms, which'):
    composed.check_fit(('agem', 'wrapping'), {**parts, 'wrapping': kind()})
