"""Gradients of groups of terms, what combines them, and what changes updates before they apply."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import rounding, tiny

from jcl import methods
from jcl.batching.batch import Shape, layout
from jcl.config import TrainConfig
from jcl.errors import UserError
from jcl.methods import Method
from jcl.step import flops, losses, sharding, train_step, trainable
from jcl.step.adversarial import adversarial
from jcl.step.groups import NO_GROUPS, Groups
from jcl.step.optimizer import make_optimizer

BACKBONE = tiny.recurrent(tiny.CONFIG.vocabulary)
ALL = (('.*', True),)
WEIGHTS = {'ce': 0.7, 'mse': 0.3}
GROUPS = Groups.of({'ce': 'new', 'mse': 'old'})
CLOSE = functools.partial(rounding.assert_close, terms=64, depth=6)  # a mean over 64 targets


def total(gradients, teacher_params):
  """The gradient of the whole objective."""
  return jax.tree.map(lambda *leaves: sum(leaves), *gradients.values())


@functools.cache
def taught(combine=None, **fields):
  return tiny.taught(BACKBONE)._replace(combine=combine, **fields)


def given(rules=ALL):
  """-> trained, frozen, masks, teacher, batch."""
  trained, frozen, masks = trainable.split(tiny.params(BACKBONE), rules)
  batch = layout(tiny.rows(), 1, Shape(16, 20, 64), tiny.keys(13))
  return trained, frozen, masks, tiny.params(BACKBONE, 1), batch


def gradient_of(method, rules=ALL, weights=WEIGHTS, groups=GROUPS, loss_fn=None, **how):
  """-> (loss, values), gradient."""
  trained, frozen, masks, teacher, batch = given(rules)
  loss_fn = loss_fn or method.loss_fn or losses.plain(BACKBONE)
  return compiled(method, loss_fn, **how)(trained, frozen, teacher, weights, batch, groups, masks)


@functools.cache
def compiled(method, loss_fn, **how):
  return jax.jit(train_step.make_gradient(method, loss_fn, sharding.make_mesh(1), **how))


def seen(rules=ALL, **more):
  """{group: gradient} as `combine` is given them."""
  kept = {}

  def combine(gradients, teacher_params):
    kept.update(gradients)
    return total(gradients, teacher_params)

  trained, frozen, masks, teacher, batch = given(rules)
  method = taught(combine)
  fn = train_step.make_gradient(method, method.loss_fn, sharding.make_mesh(1))

  @jax.jit
  def call(trained):
    fn(trained, frozen, teacher, WEIGHTS, batch, GROUPS, masks)
    return dict(kept)

  return call(trained)


def test_a_group_has_the_gradient_of_its_weighted_terms_alone():
  found = seen()
  assert set(found) == {'new', 'old'}
  for term, group in GROUPS.group_of:
    only = {name: weight * (name == term) for name, weight in WEIGHTS.items()}
    _, wanted = gradient_of(taught(), weights=only, groups=NO_GROUPS)
    assert optax.tree.norm(wanted) > 1e-2
    CLOSE(found[group], wanted)


def test_the_sum_of_all_groups_is_the_gradient_of_the_objective():
  (loss, values), gradient = gradient_of(taught(total))
  (wanted_loss, wanted_values), wanted = gradient_of(taught(), groups=NO_GROUPS)
  CLOSE((loss, values, gradient), (wanted_loss, wanted_values, wanted))


def test_terms_of_one_group_are_summed_in_it():
  together = Groups.of({'ce': 'one', 'mse': 'one'})
  one = lambda gradients, _: jax.tree.map(lambda x: x, gradients)['one']  # a tree of its own
  _, gradient = gradient_of(taught(one), groups=together)
  _, wanted = gradient_of(taught(), groups=NO_GROUPS)
  CLOSE(gradient, wanted)


def test_what_does_not_train_is_no_part_of_a_groups_gradient():
  """A frozen leaf is None and a masked entry 0, so that norms and products are of what trains."""
  some = np.arange(16) < 5
  found = seen((('embed', False), ('mix', some), ('.*', True)))
  for gradient in found.values():
    assert gradient['embed']['kernel'] is None
    assert not np.any(gradient['mix']['kernel'][5:])
    assert np.all(gradient['mix']['kernel'][:5])


def test_penalties_and_norms_are_added_to_what_combine_returns():
  method = taught(
    lambda g, _: jax.tree.map(lambda x: 100 * x, g['old']),
    penalty_fn=lambda params, teacher: {'pull': jnp.square(params['bias']['kernel']).sum()},
  )
  weights = {'pull': 0.5, 'l2_norm': 0.25}
  (_, values), gradient = gradient_of(method, weights=weights, norms=losses.norms)
  assert {'ce', 'mse', 'pull', 'l1_norm', 'l2_norm'} == set(values)
  params = tiny.params(BACKBONE)
  _, old = gradient_of(taught(), weights={'ce': 0.0, 'mse': 1.0}, groups=NO_GROUPS)
  norm = lambda p: losses.norms(p)['l1_norm'] + 0.25 * losses.norms(p)['l2_norm']
  norms = jax.jit(jax.grad(norm))(params)
  wanted = jax.tree.map(lambda g, n: 100 * g + n, old, norms)
  wanted['bias']['kernel'] += params['bias']['kernel']
  CLOSE(gradient, wanted)


def test_two_groups_cost_one_forward_pass_and_two_backward_passes():
  """By XLA's count of the traced program's operations."""
  trained, frozen, masks, teacher, batch = given()
  of = lambda method, groups: train_step.make_gradient(
    method, method.loss_fn, sharding.make_mesh(1)
  )(trained, frozen, teacher, WEIGHTS, batch, groups, masks)
  forward = flops.count(lambda: of(taught(), NO_GROUPS)[0]).mapped
  whole = flops.count(lambda: of(taught(), NO_GROUPS)).mapped
  groups = flops.count(lambda: of(taught(total), GROUPS)).mapped
  backward = whole - forward
  assert backward > 0.5 * forward
  assert groups <= 1.02 * (forward + 2 * backward)
  assert groups >= 0.9 * (forward + 2 * backward)


@pytest.mark.parametrize(
  ('combine', 'groups', 'words'),
  [
    (total, {'ce': 'a', 'wrong': 'b'}, "names 'wrong', which the loss does not have; its terms are "
     "'ce', 'mse'"),
    (total, {'ce': 'a'}, "leaves out 'mse'; give each term a group"),
    (total, {}, r'has combine, so its TaskPlan\.groups must give each term a group'),
    (None, {'ce': 'a', 'mse': 'b'}, "TaskPlan.groups has 'a', 'b', but the method has no combine"),
    (lambda g, _: g['new'], {'ce': 'a', 'mse': 'b'}, "asks for the gradient of group 'new'; "
     "TaskPlan.groups has 'a', 'b'"),
    (lambda g, _: g['a']['mix'], {'ce': 'a', 'mse': 'b'}, 'combine must return a gradient'),
    (lambda g, _: jax.tree.map(jnp.sum, g['a']), {'ce': 'a', 'mse': 'b'},
     r'Method\.combine must return a gradient of the structure, shapes and types .*bias'),
  ],
)  # fmt: skip
@pytest.mark.parametrize('microbatches', [1, 2])
def test_groups_that_do_not_fit_are_refused_in_one_line(combine, groups, words, microbatches):
  with pytest.raises(UserError, match=words) as error:
    gradient_of(taught(combine), groups=Groups.of(groups), microbatches=microbatches)
  assert '\n' not in str(error.value)


def test_a_key_error_of_a_combine_stays_what_it_is():
  with pytest.raises(KeyError, match='mistaken'):
    gradient_of(taught(lambda g, _: {}['mistaken'] or g['old']), groups=GROUPS)


def test_a_wrapped_objective_has_no_groups():
  wrapped = adversarial(Method().objective, BACKBONE.width, 0.5, 1.0)
  with pytest.raises(UserError, match=r'cannot wrap its objective: set adversarial\.epsilon to 0'):
    gradient_of(taught(total, objective=wrapped))


# Projected updates.


def stepped(method, rules=ALL, rate=0.1, **how):
  """-> parameters that train before and after one step, and the masks."""
  trained, frozen, masks, teacher, batch = given(rules)
  optimizer = make_optimizer(TrainConfig(weight_decay=0.1))
  own = jax.tree.map(jnp.array, trained)
  state = {'params': own, 'optimizer': optimizer.init(trained), 'step': np.int32(0)}
  loss_fn = method.loss_fn or losses.plain(BACKBONE)
  step = train_step.make_step(method, loss_fn, optimizer, sharding.make_mesh(1), **how)
  groups = GROUPS if method.combine else NO_GROUPS
  state, metrics = step(state, (frozen, masks, teacher), {}, np.float32(rate), batch, groups)
  return trained, state['params'], metrics


def test_a_projection_sees_updates_after_rate_and_masks_and_whole_parameters():
  some = np.arange(16) < 5
  rules = (('embed', False), ('mix', some), ('.*', True))
  kept = {}

  def project(updates, params, teacher_params, step):
    kept.update(updates=updates, params=params, teacher=teacher_params)
    jax.debug.callback(lambda **x: kept.update(x), found=updates)
    return jax.tree.map(lambda u: 3 * u, updates)

  before, plain, _ = stepped(taught(), rules)
  _, projected, _ = stepped(taught(project=project), rules)
  jax.effects_barrier()
  shapes = lambda tree: jax.tree.map(jnp.shape, tree)
  assert shapes(kept['params']) == shapes(tiny.params(BACKBONE))
  assert shapes(kept['teacher']) == shapes(tiny.params(BACKBONE, 1))
  assert kept['updates']['embed']['kernel'] is None
  updates = kept['found']
  assert not np.any(updates['mix']['kernel'][5:])
  CLOSE(updates, jax.tree.map(jnp.subtract, plain, before))
  assert float(optax.tree.norm(updates)) > 0.1
  CLOSE(projected, jax.tree.map(lambda p, u: p + 3 * u, before, updates))


def test_a_projection_that_returns_another_tree_is_refused():
  for bad in (lambda u, p, t, s: u['mix'], lambda u, p, t, s: jax.tree.map(jnp.sum, u)):
    with pytest.raises(UserError, match=r'Method\.project must return updates of the structure'):
      stepped(taught(project=bad))


def test_a_step_follows_the_combined_gradient_and_reports_its_norm():
  ignoring = taught(lambda g, _: jax.tree.map(jnp.zeros_like, g['new']))
  before, after, metrics = stepped(ignoring)
  assert float(metrics['gradient_norm']) == 0
  assert float(metrics['loss']) > 1
  decayed = jax.tree.map(lambda p: p - 0.1 * 0.1 * p, before)
  CLOSE(after, decayed)


def test_other_groups_compile_the_step_anew_and_the_same_ones_do_not():
  trained, frozen, masks, teacher, batch = given()
  fn = chex.assert_max_traces(
    train_step.make_gradient(taught(total), taught().loss_fn, sharding.make_mesh(1)), n=2
  )
  fn = jax.jit(fn)
  call = lambda groups: fn(trained, frozen, teacher, WEIGHTS, batch, Groups.of(groups), masks)
  for _ in range(2):
    call({'mse': 'old', 'ce': 'new'})
    call({'ce': 'new', 'mse': 'old'})
  call({'ce': 'one', 'mse': 'one'})
  assert fn._cache_size() == 2


# A composition.


def test_a_composition_combines_by_one_and_projects_by_all_in_the_order_of_names():
  order = []

  def scaling(name, factor):
    def project(updates, params, teacher_params, step):
      order.append((name, teacher_params))
      return jax.tree.map(lambda u: factor * u, updates)

    return Method(project=project)

  def combine(gradients, teacher_params):
    return jax.tree.map(lambda x: teacher_params * x, gradients['all'])

  combining = Method(
    combine=combine,
    plan=lambda memory, task: methods.TaskPlan(task.train, groups={'ce': 'all'}),
  )
  parts = {'z': scaling('z', 2), 'm': combining, 'a': scaling('a', 3)}
  whole = methods.compose(parts)
  memory = {'teacher': {'z': 'of z', 'm': 5.0, 'a': 'of a'}, 'z': {}, 'm': {}, 'a': {}}
  task = tiny.stream().tasks[0]
  assert whole.plan(memory, task).groups == {'ce': 'all'}
  assert whole.combine({'all': {'x': 2.0}}, memory['teacher']) == {'x': 10.0}
  assert whole.project({'x': 1.0}, {}, memory['teacher'], 0) == {'x': 6.0}
  assert order == [('a', 'of a'), ('z', 'of z')]
  without = methods.compose({'a': Method(), 'b': Method()})
  assert without.combine is without.project is None
