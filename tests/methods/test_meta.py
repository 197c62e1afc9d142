"""Methods that wrap the objective or the step: MAML, Reptile, MIR, adversarial training."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import pytest
from oracles import meta as oracle
from support import rounding, slow, tiny

from jcl import methods
from jcl.batching.batch import Shape, layout
from jcl.config import Config, TrainConfig
from jcl.errors import UserError
from jcl.memory.interference import most_interfered
from jcl.methods import Method
from jcl.step import device_maps, losses, sharding, train_step, trainable
from jcl.step.adversarial import adversarial
from jcl.step.optimizer import make_optimizer
from jcl.training import experiment

VOCABULARY = tiny.CONFIG.vocabulary
BACKBONE = tiny.recurrent(VOCABULARY)
PLAIN = losses.plain(BACKBONE)
# In float64, where the oracle takes difference quotients of step 1e-5, which are off by
# step² of a third derivative and by eps / step, each about 1e6 eps, in every inner step.
DIFFERENCES = 1e7


@functools.cache
def of(name, **settings):
  return methods.make(BACKBONE, methods.settings_class(name)(**settings))


def batch_of(rows):
  return layout(rows, 1, Shape(16, 20, 64), tiny.keys(len(rows)))


@functools.cache
def compiled(method, loss_fn):
  """The compiled gradient of a method's objective on one device."""
  return jax.jit(train_step.make_gradient(method, loss_fn, sharding.make_mesh(1)))


def objective(method, rows, params=None, loss_fn=None):
  """-> loss, values, gradient, in float64 on one device."""
  params = tiny.params(BACKBONE) if params is None else params
  fn = compiled(method, loss_fn or method.loss_fn or PLAIN)
  trained, frozen, _ = trainable.split(params, (('.*', True),))
  (loss, values), grads = fn(trained, frozen, {}, {}, batch_of(rows))
  return float(loss), values, grads


def exactly(wanted):
  """A loss in float64 up to the error of the oracle's difference quotients."""
  rel = rounding.tolerance(**tiny.LOSS, dtype=np.float64, margin=DIFFERENCES)
  return pytest.approx(wanted, rel=rel)


def plain_arrays(params):
  return {name: np.asarray(leaf['kernel'], np.float64) for name, leaf in params.items()}


@pytest.mark.parametrize(
  ('steps', 'first_order'), slow.but([(3, False), (2, True)], [(1, False), (3, False), (2, True)])
)
def test_maml_is_the_loss_after_steps_down_the_new_rows(steps, first_order):
  with jax.enable_x64(True):
    params, rows = tiny.params(BACKBONE), tiny.rows()
    method = of('maml', inner_lr=0.3, inner_steps=steps, first_order=first_order)
    loss, _, _ = objective(method, rows, params)
    wanted = oracle.maml(plain_arrays(params), rows, VOCABULARY, 0.3, steps)
  assert loss == exactly(wanted)
  assert abs(wanted - oracle.maml(plain_arrays(params), rows, VOCABULARY, 0.0, 1)) > 1e-2


def test_first_order_maml_leaves_the_second_derivative_out():
  """The first-order gradient is that of the loss after the inner steps; the full one differs."""
  with jax.enable_x64(True):
    params, rows = tiny.params(BACKBONE), tiny.rows()
    _, _, found = objective(of('maml', inner_lr=0.3, first_order=True), rows, params)
    _, _, whole = objective(of('maml', inner_lr=0.3), rows, params)
    moved = oracle.descended(
      plain_arrays(params), [r for r in rows if not r.replay], VOCABULARY, 0.3
    )
    there = {name: {'kernel': np.asarray(x)} for name, x in moved.items()}
    _, _, wanted = objective(Method(), rows, there)
    apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), found, whole)
  rounding.assert_close(found, wanted, dtype=np.float64, margin=DIFFERENCES, **tiny.GRADIENT)
  assert min(jax.tree.leaves(apart)) > 1e-3


def replay_rows(count=13):
  """Rows of which nine are old, three wanted of them."""
  return [
    dataclasses.replace(r, replay=i >= 4, generative=False) for i, r in enumerate(tiny.rows(count))
  ]


@pytest.mark.parametrize('candidates', [1, 2, 3, 9])
def test_the_most_interfered_rows_are_replayed(candidates):
  rows, params = replay_rows(), tiny.params(BACKBONE)
  method = Method(objective=most_interfered('ce', candidates, 0.5))
  chosen = oracle.interfered(plain_arrays(params), rows, VOCABULARY, candidates, 0.5)
  assert len(chosen) == 9 // candidates
  kept = [r for r in rows if not r.replay or r.number in chosen]
  found, wanted = objective(method, rows), objective(Method(), kept)
  assert found[0] == tiny.nearly(wanted[0])
  rounding.assert_close(found[2], wanted[2], **tiny.GRADIENT)
  others = {r.number for r in rows if r.replay} - chosen
  if others:
    least = [r for r in rows if not r.replay or r.number in list(others)[: len(chosen)]]
    assert abs(found[0] - objective(Method(), least)[0]) > 1e-4


def test_replay_offers_candidates_at_level_batch_and_derpp_ranks_its_old_rows():
  tools = tiny.tools('plain')
  for name in ('replay', 'derpp'):
    chosen = methods.settings_class(name)(select='adversarial', level='batch', candidates=2)
    chosen.check()
    method = methods.make(tools.backbone, chosen)
    memory = method.init(tiny.params(tools.backbone), tools.stream, tools)
    assert method.plan(memory, tools.stream.tasks[0]).candidates == 2
    assert method.objective is not Method().objective
  rows, params = replay_rows(), tiny.params(BACKBONE)
  term = of('derpp', select='adversarial', candidates=3, virtual_lr=0.5)
  values = objective(term, rows, params, loss_fn=lambda p, _, batch: _terms(p, batch))[1]
  chosen = oracle.interfered(plain_arrays(params), rows, VOCABULARY, 3, 0.5)
  wanted = np.mean([x for r in rows if r.number in chosen for x in nats(params, r)])
  assert float(values['old']) == tiny.nearly(wanted)


def _terms(params, batch):
  ce_M = losses.target_cross_entropy(BACKBONE, params, batch)
  return {'new': (ce_M, ~batch.replay_M), 'old': (ce_M, batch.replay_M)}


def nats(params, row):
  return oracle.nats(plain_arrays(params), row, VOCABULARY)


def test_ties_of_interference_are_broken_by_key_not_by_place():
  """The same row six times: with another order of rows the same keys are chosen."""
  row = tiny.rows(1)[0]
  rows = [dataclasses.replace(row, number=i, replay=True) for i in range(6)]
  keys = tiny.keys(6)
  shape = Shape(6, 24, 48)

  def chosen(order):
    batch = layout([rows[i] for i in order], 1, shape, keys[list(order)])
    pick = jax.shard_map(
      lambda b: device_maps.largest(b.length * 0.0, b.replay, b.key, 2),
      mesh=sharding.make_mesh(1), in_specs=sharding.ROWS, out_specs=sharding.ROWS,
    )  # fmt: skip
    return {tuple(k) for k, kept in zip(batch.key, jax.jit(pick)(batch), strict=True) if kept}

  one = chosen(range(6))
  assert len(one) == 3
  assert chosen([3, 5, 0, 1, 4, 2]) == one
  assert one == {tuple(k) for k in sorted(map(tuple, keys))[:3]}


OPTIMIZER = make_optimizer(TrainConfig(clip_norm=0.0, weight_decay=0.0))


@functools.cache
def compiled_step(method):
  return train_step.make_step(method, PLAIN, OPTIMIZER, sharding.make_mesh(1))


@functools.cache
def stepped(outer_step, count, inner_steps=3, rate=1e-2):
  """-> slow and fast parameters after `count` steps of Reptile, and all of plain training."""
  method, params = (
    of('reptile', outer_step=outer_step, inner_steps=inner_steps),
    tiny.params(BACKBONE),
  )
  trained, frozen, masks = trainable.split(params, (('.*', True),))
  own = lambda tree: jax.tree.map(lambda x: x + 0, tree)
  state = {
    'params': own(trained), 'optimizer': OPTIMIZER.init(trained), 'step': np.int32(0),
    'teacher': own(params),
  }  # fmt: skip
  step, seen = compiled_step(method), []
  for i in range(count):
    rows = tiny.rows(13, seed=i)
    state, _ = step(state, (frozen, masks, {}), {}, np.float32(rate), batch_of(rows))
    seen.append(jax.tree.map(np.asarray, (state['teacher'], state['params'])))
  return method, params, seen


def steps(count):
  """Roundings of so many training steps, each of which starts from the one before."""
  return dict(terms=64, depth=10 * count)


def test_slow_parameters_move_every_few_steps_and_then_the_fast_ones_join_them():
  _, first, seen = stepped(0.5, 6)
  chex.assert_trees_all_equal(seen[0][0], seen[1][0], first)
  with pytest.raises(AssertionError):
    chex.assert_trees_all_equal(seen[1][1], first)
  for i in (2, 5):
    chex.assert_trees_all_equal(*seen[i])
  chex.assert_trees_all_equal(seen[3][0], seen[2][0])
  _, _, straight = stepped(1.0, 3)  # the same three updates, all of the way
  half = jax.tree.map(lambda s, f: s + 0.5 * (f - s), first, straight[2][1])
  rounding.assert_close(seen[2][0], half, **steps(3))


def test_an_outer_step_of_one_is_plain_training():
  _, _, seen = stepped(1.0, 4)
  _, _, other = stepped(1.0, 4, inner_steps=1)
  rounding.assert_close(seen[3][1], other[3][1], **steps(4))


def test_a_short_last_round_is_joined_and_slow_parameters_are_evaluated():
  method, _, seen = stepped(0.5, 4)
  slow, fast = seen[3]
  tools = tiny.tools('plain')
  memory = {**method.init(slow, tools.stream, tools), 'teacher': slow}
  assert method.params_for(memory, fast, None) is slow
  memory, params = method.after_task(memory, fast, tools.stream.tasks[0], tools)
  wanted = jax.tree.map(lambda s, f: s + 0.5 * (f - s), slow, fast)
  rounding.assert_close(params, wanted, terms=3)
  assert method.params_for(memory, {}, None) is params
  assert len(memory['buffer']['examples']) == 6
  apart = jax.tree.map(lambda s, f: np.abs(s - f).max(), slow, fast)
  assert max(jax.tree.leaves(apart)) > 1e-3


# Adversarial training.


@pytest.mark.parametrize(('epsilon', 'weight'), [(0.5, 1.0), (2.0, 0.3)])
def test_adversarial_training_adds_the_loss_at_embeddings_moved_for_worse(epsilon, weight):
  with jax.enable_x64(True):
    params, rows = tiny.params(BACKBONE), tiny.rows(5, longest=7)
    method = Method(objective=adversarial(Method().objective, BACKBONE.width, epsilon, weight))
    loss, values, _ = objective(method, rows, params)
    clean, wanted = oracle.adversarial(plain_arrays(params), rows, VOCABULARY, epsilon, weight)
  assert loss == exactly(wanted)
  assert float(values['ce']) == exactly(clean)
  assert float(values['adversarial']) == exactly((wanted - clean) / weight)
  assert float(values['adversarial']) > clean + 0.01


def test_no_gradient_goes_through_the_move():
  """The gradient is that of clean + weight · moved, the move held still, by finite differences."""
  with jax.enable_x64(True):
    params, rows = tiny.params(BACKBONE), tiny.rows(5, longest=7)
    batch = batch_of(rows)
    value = lambda p, delta: _mean(p, batch.replace(embedding_delta=delta))
    slopes = jax.jit(jax.grad(value, (0, 1)))
    clean, gradient_BTD = jax.device_get(slopes(params, np.zeros((16, 20, BACKBONE.width))))
    norms = np.linalg.norm(gradient_BTD, axis=(1, 2), keepdims=True)
    held = np.where(norms > 0, 0.7 * gradient_BTD / np.where(norms > 0, norms, 1), 0)
    wanted = jax.tree.map(np.add, clean, jax.device_get(slopes(params, held)[0]))
    method = Method(objective=adversarial(Method().objective, BACKBONE.width, 0.7, 1.0))
    _, _, found = objective(method, rows, params)
  rounding.assert_close(found, wanted, dtype=np.float64, **tiny.GRADIENT)
  apart = jax.tree.map(lambda a, b: np.abs(np.array(a) - 2 * np.array(b)).max(), found, clean)
  assert max(jax.tree.leaves(apart)) > 1e-2


def _mean(params, batch):
  ce_M = losses.target_cross_entropy(BACKBONE, params, batch)
  return (ce_M * batch.target_weight).sum() / batch.target_weight.sum()


def knobs(name='seq', **sections):
  config = Config(method=methods.settings(name))
  for section, fields in sections.items():
    for field, value in fields.items():
      setattr(getattr(config, section), field, value)
  return experiment.with_knobs(methods.make(BACKBONE, config.method), config, BACKBONE)


def test_knobs_that_are_off_leave_the_method_as_it_is():
  assert knobs() == Method()
  assert knobs(adversarial={'epsilon': 0.0, 'weight': 3.0}) == Method()


def test_norms_are_penalties_on_what_trains_without_norms_and_biases():
  random = np.random.default_rng(0)
  tree = {
    'a': {'kernel': random.standard_normal((3, 4)), 'bias': random.standard_normal(4)},
    'norm': {'scale': random.standard_normal(4)}, 'b': {'kernel': None},
  }  # fmt: skip
  found = losses.norms(tree)
  kernel = tree['a']['kernel']
  wanted = {'l1_norm': np.abs(kernel).sum(), 'l2_norm': np.square(kernel).sum()}
  rounding.assert_close(found, wanted, terms=kernel.size)


def test_norms_pull_at_the_parameters_by_their_weights():
  method = knobs('lamol', train={'l1': 0.01, 'l2': 0.1})
  tools = tiny.tools()
  plan = method.plan(method.init({}, tools.stream, tools), tools.stream.tasks[0])
  assert plan.weights == {'gen': 0.25, 'l1_norm': 0.01, 'l2_norm': 0.1}
  params, mesh = tiny.params(BACKBONE), sharding.make_mesh(1)
  trained, frozen, _ = trainable.split(params, (('embed', False), ('.*', True)))
  batch = batch_of(tiny.rows())
  found = [
    jax.jit(train_step.make_gradient(method, method.loss_fn, mesh, norms=norms))(
      trained, frozen, {}, weights, batch
    )
    for norms, weights in ((losses.norms, plan.weights), (lambda trained: {}, {'gen': 0.25}))
  ]
  ((loss, values), grads), ((plain, _), clean) = found
  mix, bias = (np.asarray(params[name]['kernel'], np.float64) for name in ('mix', 'bias'))
  wanted = 0.01 * (np.abs(mix).sum() + np.abs(bias).sum()) + 0.1 * (
    (mix**2).sum() + (bias**2).sum()
  )
  rounding.assert_close(float(loss - plain), wanted, scale=float(loss), **tiny.LOSS)
  assert set(values) == {'qa', 'gen', 'l1_norm', 'l2_norm'}
  pull = np.asarray(grads['mix']['kernel'] - clean['mix']['kernel'])
  scale = np.abs(grads['mix']['kernel']).max()  # of which the difference is the small rest
  rounding.assert_close(pull, 0.01 * np.sign(mix) + 0.2 * mix, scale=scale, **tiny.GRADIENT)


@pytest.mark.parametrize(
  ('name', 'field', 'value'),
  [
    ('maml', 'inner_lr', -0.1), ('maml', 'inner_steps', 0), ('maml', 'select', 'adversarial'),
    ('reptile', 'inner_steps', 0), ('reptile', 'update', 'every_epoch'),
    ('reptile', 'outer_step', 0.0), ('reptile', 'outer_step', 1.5),
    ('replay', 'select', 'adversarial'), ('replay', 'candidates', 0),
    ('replay', 'virtual_lr', -1.0),
  ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_field(name, field, value):
  settings = methods.settings_class(name)(**{field: value})
  with pytest.raises(UserError, match=rf'method\.{field} is {value!r}'):
    settings.check()


def test_the_best_of_parameters_that_are_not_evaluated_is_refused():
  with pytest.raises(UserError, match=r'train\.keep_best is true, but reptile'):
    knobs('reptile', train={'keep_best': True})


@pytest.mark.parametrize(
  ('section', 'field'), [('adversarial', 'epsilon'), ('adversarial', 'weight')]
)
def test_negative_knobs_are_refused(section, field):
  config = Config(method=methods.settings('seq'))
  setattr(getattr(config, section), field, -0.5)
  with pytest.raises(UserError, match=rf'{section}\.{field} is -0\.5; it must be at least 0'):
    experiment.check(config)


def test_microbatches_are_refused_where_the_objective_is_wrapped():
  for method in (of('maml'), of('replay', select='adversarial', level='batch')):
    with pytest.raises(UserError, match=r'train\.microbatches is 2; it must be 1'):
      train_step.make_gradient(
        method, losses.plain(BACKBONE), sharding.make_mesh(1), microbatches=2
      )
