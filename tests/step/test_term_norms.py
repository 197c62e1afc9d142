"""The gradient of each term alone: its norm is that of the term's own weighted mean."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import rounding, tiny
from support.launchers import forks

from jcl.batching.batch import Shape, layout
from jcl.memory import fisher
from jcl.step import losses, sharding, trainable
from jcl.step.adversarial import adversarial
from jcl.step.term_norms import make_term_norms

BACKBONE = tiny.recurrent(tiny.CONFIG.vocabulary)
WEIGHTS = {'ce': 0.7, 'mse': 0.3, 'ewc': 20.0}
CLOSE = functools.partial(rounding.assert_close, terms=64, depth=6)  # a mean over 64 targets
# Devices add gradients that they have rounded to bfloat16. A norm averages what its entries were
# rounded by, and no sum of many of them is left: at most one rounding.
BFLOAT16 = float(jnp.finfo(jnp.bfloat16).eps)


def method(**fields):
  """Cross-entropy of new rows, distance of old ones to a teacher, and a quadratic."""
  penalty = lambda params, teacher: {'ewc': fisher.quadratic(params, tiny.past(teacher))}
  return tiny.taught(BACKBONE)._replace(penalty_fn=penalty, **fields)


def given(rules=(('.*', True),), blocks=1):
  """-> parameters that train, fixed, teacher, batch."""
  trained, frozen, masks = trainable.split(tiny.params(BACKBONE), rules)
  batch = layout(tiny.rows(), blocks, Shape(16, 20, 64), tiny.keys(13))
  return trained, (frozen, masks, {}), tiny.params(BACKBONE, 1), batch


def norms(weights, rules=(('.*', True),), made=None, **how):
  trained, fixed, teacher, batch = given(rules, how.get('microbatches', 1))
  made = made or method()
  fn = make_term_norms(made, made.loss_fn, sharding.make_mesh(1), **how)
  weights = {name: np.float32(weight) for name, weight in weights.items()}
  return fn(trained, fixed, teacher, weights, batch)


def by_hand(term, rules=(('.*', True),)):
  """The norm of weight · gradient of one term, differentiated alone."""
  trained, (frozen, *_), teacher, batch = given(rules)

  @jax.jit
  def norm(trained):
    def value(trained):
      params = trainable.join(trained, frozen)
      if term == 'ewc':
        return fisher.quadratic(params, tiny.past(teacher))
      value_M, where_M = method().loss_fn(params, teacher, batch)[term]
      counted_M = jnp.where(where_M, batch.target_weight, 0)
      return (value_M * counted_M).sum() / counted_M.sum()

    return optax.tree.norm(jax.grad(value)(trained))

  return WEIGHTS[term] * norm(trained)


@pytest.mark.parametrize('rules', [(('.*', True),), (('embed', False), ('.*', True))])
@pytest.mark.parametrize('how', [{}, {'microbatches': 2}])
def test_each_term_has_the_norm_of_its_own_gradient(rules, how):
  found = norms(WEIGHTS, rules, **how)
  assert found.keys() == WEIGHTS.keys()
  for term, norm in found.items():
    assert float(norm) > 0.1
    CLOSE(norm, by_hand(term, rules))


def test_a_term_without_weight_is_not_measured_and_those_of_the_run_are():
  assert norms({**WEIGHTS, 'mse': 0.0}).keys() == {'ce', 'ewc'}
  more = {**WEIGHTS, 'l1_norm': 0.5, 'l2_norm': 0.0}
  found = norms(more, norms=losses.norms)
  decayed = sum(x.size for x in jax.tree.leaves(given()[0]))  # no leaf is a bias
  CLOSE(found['l1_norm'], 0.5 * np.sqrt(decayed))


def test_what_combines_and_projects_gradients_is_left_out():
  nothing = lambda gradient, *_: jax.tree.map(jnp.zeros_like, gradient)
  made = method(combine=lambda gradients, teacher: gradients['old'], project_gradient=nothing)
  CLOSE(norms(WEIGHTS, made=made)['ce'], by_hand('ce'))


def test_one_program_serves_all_terms():
  made = method()
  traced = []

  def loss_fn(*arguments):
    traced.append(0)
    return made.loss_fn(*arguments)

  trained, fixed, teacher, batch = given()
  fn = make_term_norms(made, loss_fn, sharding.make_mesh(1))
  for weights in (WEIGHTS, {**WEIGHTS, 'ewc': 5.0}):
    fn(trained, fixed, teacher, {k: np.float32(v) for k, v in weights.items()}, batch)
  assert len(traced) == 1


@pytest.mark.parametrize('made', [
  tiny.inner_step(BACKBONE),
  tiny.taught(BACKBONE)._replace(objective=adversarial(lambda plain: plain, 16, 0.1, 1.0)),
])  # fmt: skip
def test_an_objective_that_wraps_the_loss_has_no_gradient_of_a_term(made):
  assert (
    make_term_norms(made, made.loss_fn or losses.plain(BACKBONE), sharding.make_mesh(1)) is None
  )


def in_many_ways(every=False):
  """{cell: {way: {term: norm}}} on eight fake devices."""
  done = forks().module('support.terms', *['every'] * every, devices=8, limit=400)
  assert done.status == 0, done.err[-3000:]
  return json.loads(done.out)


@pytest.mark.parametrize('every', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_devices_shards_microbatches_and_packed_rows_give_the_norms_of_one_device(every):
  for name, ways in in_many_ways(every).items():
    one, tolerance = ways.pop('one'), BFLOAT16 if name == 'bfloat16' else tiny.DEEP_ROUNDING
    assert len({*one.values()}) == len(one)
    assert min(one.values()) > 0.1
    assert ways
    for way, found in ways.items():
      assert found == pytest.approx(one, rel=tolerance), (name, way)
