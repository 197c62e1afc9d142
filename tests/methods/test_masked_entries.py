"""Entries that a plan's mask freezes: no inner or virtual step moves them, no norm counts them."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import meta as oracle
from support import rounding, slow, tiny

from jcl import methods
from jcl.backbones import Backbone
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.batching.batch import Shape, layout
from jcl.memory.interference import most_interfered
from jcl.methods import Method
from jcl.step import losses, sharding, train_step, trainable
from jcl.step.adversarial import adversarial

VOCABULARY, WIDTH, OWN = tiny.CONFIG.vocabulary, 16, 5
BACKBONE = tiny.recurrent(VOCABULARY)
MIXES = np.arange(WIDTH) < OWN
RULES = (('embed', False), ('mix', MIXES), ('.*', True))
TRAINS = {'embed': 0.0, 'mix': 1.0 * MIXES[:, None], 'bias': 1.0}
DIFFERENCES = 1e7  # as in test_meta.py: the oracle's quotients, in float64


def judged(method, rows, *, params, backbone=BACKBONE, rules=RULES, teacher=None, **how):
  """-> loss, values and gradient of what trains, on one device."""
  trained, frozen, masks = trainable.split(params, rules)
  batch = layout(rows, 1, Shape(16, 20, 64), tiny.keys(len(rows)))
  loss_fn = method.loss_fn or losses.plain(backbone)
  fn = train_step.make_gradient(method, loss_fn, sharding.make_mesh(1), **how)
  (loss, values), gradient = jax.jit(lambda *args: fn(*args, masks=masks))(
    trained, frozen, teacher or {}, {}, batch
  )
  return float(loss), values, gradient


def arrays(params):
  return {name: np.asarray(leaf['kernel'], np.float64) for name, leaf in params.items()}


@pytest.mark.parametrize('steps', slow.but([2], [1, 2]))
def test_inner_steps_of_maml_leave_what_is_frozen(steps):
  with jax.enable_x64(True):
    params, rows = tiny.params(BACKBONE), tiny.rows()
    chosen = methods.settings_class('maml')(inner_lr=0.3, inner_steps=steps)
    loss, _, _ = judged(methods.make(BACKBONE, chosen), rows, params=params)
    args = arrays(params), rows, VOCABULARY, 0.3, steps
    wanted, moved = oracle.maml(*args, TRAINS), oracle.maml(*args, {**TRAINS, 'mix': 1.0})
  rel = rounding.tolerance(**tiny.LOSS, dtype=np.float64, margin=DIFFERENCES)
  assert loss == pytest.approx(wanted, rel=rel)
  assert abs(wanted - moved) > 1e-4


def test_virtual_steps_of_interfered_retrieval_leave_what_is_frozen():
  params = tiny.params(BACKBONE)
  rows = [
    dataclasses.replace(r, replay=i >= 4, generative=False) for i, r in enumerate(tiny.rows(13))
  ]
  args = arrays(params), rows, VOCABULARY, 3, 8.0
  chosen = oracle.interfered(*args, TRAINS)
  assert chosen != oracle.interfered(*args, {**TRAINS, 'mix': 1.0})
  kept = [r for r in rows if not r.replay or r.number in chosen]
  found = judged(Method(objective=most_interfered('ce', 3, 8.0)), rows, params=params)
  wanted = judged(Method(), kept, params=params)
  assert found[0] == tiny.nearly(wanted[0])
  rounding.assert_close(found[2], wanted[2], **tiny.GRADIENT)


def parted() -> Backbone:
  """The same model with the rows of its matrix that train in a leaf of their own."""

  def whole(params):
    mix = {'kernel': jnp.concatenate([params['own']['kernel'], params['rest']['kernel']])}
    return {'embed': params['embed'], 'mix': mix, 'bias': params['bias']}

  hidden = lambda params, batch, train=False: BACKBONE.hidden(whole(params), batch, train)
  return dataclasses.replace(BACKBONE, hidden=hidden)


def cut(params):
  kernel = params['mix']['kernel']
  rest = {name: leaf for name, leaf in params.items() if name != 'mix'}
  return {**rest, 'own': {'kernel': kernel[:OWN]}, 'rest': {'kernel': kernel[OWN:]}}


def wrapped(name, backbone):
  """A method that wraps the objective or combines gradients, or one that does neither."""
  if name == 'adversarial':
    return Method(objective=adversarial(Method().objective, WIDTH, 0.3, 0.7))
  if name == 'adversarial of MIR':
    mir = most_interfered('ce', 3, 8.0)
    return Method(objective=adversarial(mir, WIDTH, 0.3, 0.7))
  if name == 'maml':
    return methods.make(backbone, methods.settings_class('maml')(inner_lr=0.3, inner_steps=2))
  if name == 'penalty':  # of the whole parameters, what is frozen included
    squares = lambda params: sum(jnp.square(x).sum() for x in jax.tree.leaves(params))
    return Method(penalty_fn=lambda params, teacher_params: {'pull': squares(params)})
  if name == 'first order':
    return methods.make(backbone, methods.settings_class('maml')(inner_lr=0.3, first_order=True))
  return Method()


@pytest.mark.parametrize(
  'name',
  slow.but(
    ['penalty', 'maml'],
    ['plain', 'penalty', 'maml', 'first order', 'adversarial', 'adversarial of MIR'],
  ),
)
def test_a_masked_leaf_is_two_leaves_of_which_one_is_frozen(name):
  """Objective, terms, norms and gradient are those of a model in which no leaf is masked."""
  params = tiny.params(BACKBONE)
  rows = [dataclasses.replace(r, generative=False) for r in tiny.rows()]
  found = judged(wrapped(name, BACKBONE), rows, params=params, norms=losses.norms)
  other = parted()
  rules = (('embed', False), ('rest', False), ('.*', True))
  wanted = judged(
    wrapped(name, other), rows, params=cut(params), backbone=other, rules=rules, norms=losses.norms
  )
  assert found[0] == tiny.nearly(wanted[0])
  for term, value in wanted[1].items():
    assert float(found[1][term]) == tiny.nearly(float(value)), term
  own, bias = found[2]['mix']['kernel'][:OWN], found[2]['bias']['kernel']
  rounding.assert_close(own, wanted[2]['own']['kernel'], **tiny.GRADIENT)
  rounding.assert_close(bias, wanted[2]['bias']['kernel'], **tiny.GRADIENT)
  np.testing.assert_array_equal(found[2]['mix']['kernel'][OWN:], 0)


INNER, RANK = 0.3, 2  # rate of the inner step, columns of a task


def stacked():
  """maml+lora in its second task -> backbone, method, memory, plan, parameters and rows."""
  settings = methods.settings('maml+lora')
  settings.maml.inner_lr, settings.lora.r, settings.lora.stack = INNER, RANK, True
  small = lambda vocabulary: decoder(
    DecoderConfig(vocabulary, width=8, layers=1, heads=2, feed_forward=8)
  )
  tools = tiny.tools('plain', make=small)
  method, params = methods.make(tools.backbone, settings), tiny.params(tools.backbone)
  memory = method.init(params, tools.stream, tools)
  for task in tools.stream.tasks[:2]:
    memory, params = method.before_task(memory, params, task, tools)
  random = np.random.default_rng(0)
  params = jax.tree.map(lambda x: x + np.float32(0.3 * random.standard_normal(x.shape)), params)
  old, new = ([r for e in t.train for r in tools.text.rows(e)] for t in tools.stream.tasks[:2])
  rows = [*new, *(dataclasses.replace(r, replay=True) for r in old)]
  return tools.backbone, method, memory, method.plan(memory, tools.stream.tasks[1]), params, rows


@pytest.mark.slow
def test_maml_of_stacked_adapters_steps_in_the_columns_of_the_task_alone():
  """Loss and gradient are those of a function of these columns, all else being constant."""
  backbone, method, memory, plan, params, rows = stacked()
  loss, _, gradient = judged(
    method, rows, params=params, backbone=backbone, rules=plan.trainable, teacher=memory['teacher']
  )
  batch = layout(rows, 1, Shape(16, 20, 64), tiny.keys(len(rows)))
  layers, mine = params['lora']['layers'], slice(RANK, 2 * RANK)
  columns = lambda tree, of: {
    name: {way: part[way][:, of] for way in 'ab'} for name, part in tree.items()
  }

  def ce(own, batch):
    adapter = {name: {**part, **own[name]} for name, part in layers.items()}
    logits_MV = backbone.logits({**params, 'lora': {'layers': adapter}}, batch)
    ce_M = losses.cross_entropy(logits_MV, batch.target_token)
    return (ce_M * batch.target_weight).sum() / batch.target_weight.sum()

  @jax.jit
  @jax.value_and_grad
  def after(own, moves_R1):
    down = jax.grad(ce)(own, batch.only(~batch.replay_M))
    moved = jax.tree.map(lambda x, g: x - INNER * moves_R1[None] * g, own, down)
    return ce(moved, batch)

  own, moves_R1 = columns(layers, slice(None)), np.zeros((3 * RANK, 1), np.float32)
  moves_R1[mine] = 1
  wanted, slope = after(own, moves_R1)
  slope, found = columns(slope, mine), columns(gradient['lora']['layers'], mine)
  assert loss == pytest.approx(float(wanted), rel=tiny.DEEP_ROUNDING)
  largest = max(np.abs(x).max() for x in jax.tree.leaves(slope))
  chex.assert_trees_all_close(found, slope, rtol=0, atol=tiny.DEEP_ROUNDING * largest)
  others = [
    np.delete(part[way], np.arange(RANK, 2 * RANK), 1)
    for part in gradient['lora']['layers'].values() for way in 'ab'
  ]  # fmt: skip
  assert not any(x.any() for x in others)
  moved, _ = after(own, np.ones_like(moves_R1))
  assert abs(float(moved) - loss) > 1e-4  # what inner steps in all columns would give


def test_a_rule_of_one_entry_is_true_or_false():
  leaf = {'layers': {'kernel': np.ones((1, 3), np.float32)}}
  for own in (False, True):
    trained, frozen, masks = trainable.split(leaf, (('.*', np.array([own])),))
    there = trained if own else frozen
    assert there['layers']['kernel'] is leaf['layers']['kernel']
    assert (masks['layers']['kernel'] is None) == (not own)
