"""The pmapped step: the same numbers however a batch is dealt out, and what a step may change."""

import dataclasses
import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from support import eight_devices as cells
from support import rounding, tiny
from support.tiny import DEEP_ROUNDING

from jcl import methods
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.batching.batch import Row, Shape, layout
from jcl.config import TrainConfig
from jcl.errors import UserError
from jcl.memory import fisher
from jcl.methods import Method
from jcl.step import device_maps, losses, sharding, train_step, trainable
from jcl.step.optimizer import check, learning_rate, make_optimizer, trainable_rules

BACKBONE = tiny.recurrent(tiny.CONFIG.vocabulary)
# Means over 64 targets; logits, their normaliser, the mean and its gradient follow each other.
# Rates are computed on the host; those of a cosine are written to nine digits.
DOUBLE = functools.partial(chex.assert_trees_all_close, rtol=0, atol=1e-9)
CLOSE = functools.partial(rounding.assert_close, terms=64, depth=4)
ROUNDING = rounding.tolerance(64, depth=4)  # of the largest entry
ALL = (('.*', True),)
NAMES = ('seq', 'lamol', 'inner_step', 'taught', 'derpp', 'distill', 'lamol_kd')


def made(name, backbone):
  """A registered method, or one of `tiny`."""
  if name in methods.BUILT_IN:
    return methods.make(backbone, methods.settings(name))
  return getattr(tiny, name)(backbone)


@functools.cache
def gradient_of(name, backbone=BACKBONE):
  """The jitted objective of a method on one device."""
  method = made(name, backbone)
  loss_fn = method.loss_fn or losses.plain(backbone)
  return jax.jit(train_step.make_gradient(method, loss_fn, sharding.make_mesh(1)))


def evaluate(name, batch, params=None, teacher=None, weights=None, backbone=BACKBONE):
  """-> loss, values, flat gradient of all leaves."""
  params = tiny.params(backbone) if params is None else params
  trained, frozen, _ = trainable.split(params, ALL)
  (loss, values), grads = gradient_of(name, backbone)(
    trained, frozen, teacher or {}, weights or {}, batch
  )
  return float(loss), values, cells.flat(grads)


def teacher_of(name):
  """Another model for those that look at one."""
  taught = ('taught', 'derpp', 'distill', 'lamol_kd')
  return tiny.params(BACKBONE, 1) if name in taught else {}


def laid_out(rows, count=16, tokens=20, targets=64, keys=None):
  """A batch on one device."""
  return layout(rows, 1, Shape(count, tokens, targets), keys)


def same(one, other):
  """Loss, every term's value and gradient agree."""
  CLOSE(one, other)


@pytest.mark.parametrize('count', [13, 3])
@pytest.mark.parametrize('name', cells.QUICK)
def test_objective_is_the_same_on_eight_devices_and_shards(eight_devices, name, count):
  """13 rows deal out unevenly on any number of devices; of 3 most of eight devices have none."""
  all_ways_agree(eight_devices, name, count, every=False)


@pytest.mark.slow
@pytest.mark.parametrize('count', [13, 3])
@pytest.mark.parametrize('name', cells.CELLS)
def test_objective_is_the_same_in_every_way(eight_devices_every_way, name, count):
  """On 1, 3 and 8 devices, with shards, with microbatches and with both."""
  all_ways_agree(eight_devices_every_way, name, count, every=True)


def all_ways_agree(computed, name, count, every):
  """Asserts that loss, terms and gradients of a cell are those on one device."""
  wanted = {k.split('/')[3]: v for k, v in computed.items() if k.startswith(f'{name}/1/{count}/')}
  assert {'loss', 'gradient'} < set(wanted)
  terms = {what for what in wanted if what.startswith('gradient of')}
  assert len(terms) == sum(what.startswith('term') for what in wanted) >= 1
  weighed = {'gradient', *terms} - {'gradient of adversarial'}  # which follows from the others
  assert all(np.abs(wanted[what]).max() > 1e-3 for what in weighed if count == 13)
  ways = {k.split('/')[1] for k in computed if k.startswith(f'{name}/')}
  assert {'1', '8 fsdp'} <= ways == set(cells.ways_of(name, every))
  for way in ways - {'1'}:
    for what, value in wanted.items():
      found = computed[f'{name}/{way}/{count}/{what}']
      worst = np.abs(found - value).max() / max(np.abs(value).max(), 1e-9)
      assert worst <= (DEEP_ROUNDING if 'coder' in name else ROUNDING), f'{way} {what}: {worst}'


@pytest.mark.slow
def test_cells_of_the_device_test_differ_from_each_other(eight_devices_every_way):
  names = ('seq', 'lamol', 'ewc', 'inner step', 'taught', 'derpp', 'distill', 'lamol_kd')
  names += ('lamol_kd published', 'decoder elder')
  losses_of = [float(eight_devices_every_way[f'{name}/1/13/loss']) for name in names]
  assert len({round(x, 3) for x in losses_of}) == len(names)


def test_states_of_the_teacher_in_the_batch_are_as_good_as_the_teacher(eight_devices):
  as_good_as_the_teacher(eight_devices, 'derpp', 'cached')


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'how'), [('lamol_kd', 'cached'), ('derpp', 'stored')])
def test_what_of_the_teacher_is_in_the_batch_is_as_good(eight_devices_every_way, name, how):
  as_good_as_the_teacher(eight_devices_every_way, name, how)


def as_good_as_the_teacher(computed, name, how):
  """Asserts that a cell has the loss and the gradient of that with the whole teacher."""
  for what in ('loss', 'gradient'):
    for way in ('1', '8 fsdp k4'):
      CLOSE(computed[f'{name} {how}/{way}/13/{what}'], computed[f'{name}/1/13/{what}'])


@pytest.mark.parametrize('way', ['3', '8', '8 fsdp'])
def test_three_clipped_and_projected_steps_with_a_moving_teacher_end_the_same(eight_devices, way):
  for what in ('params', 'teacher', 'norm'):
    one, many = (eight_devices[f'training/{w}/{what}'] for w in ('1', way))
    rounding.assert_close(many, one, terms=64, depth=3 * 4)  # three steps
  moved = eight_devices['training/1/params'] - cells.flat(tiny.params(BACKBONE))
  assert np.abs(moved).max() > 1e-2


def test_the_largest_dimension_is_sharded_but_never_that_of_layers():
  eight = types.SimpleNamespace(size=8, shape={'data': 8})
  zeros = lambda *shape: np.zeros(shape, np.float32)
  tree = {
    'embed': {'embedding': zeros(48, 16)},
    'layers': {'q': {'kernel': zeros(64, 16, 24), 'bias': zeros(64, 24)}, 'odd': zeros(64, 3, 5)},
    'norm': {'scale': zeros(16)},
    'moments': {'mu': {'layers': {'q': {'kernel': zeros(64, 16, 24)}}}},
  }
  wanted = {
    'embed': {'embedding': P('data')},
    'layers': {'q': {'kernel': P(None, None, 'data'), 'bias': P()}, 'odd': P()},
    'norm': {'scale': P()},
    'moments': {'mu': {'layers': {'q': {'kernel': P(None, None, 'data')}}}},
  }
  assert sharding.specs(tree, eight, fsdp=True) == wanted
  assert set(jax.tree.leaves(sharding.specs(tree, eight))) == {P()}


def test_sharding_reaches_parameters_and_optimizer(eight_devices):
  params, moments = eight_devices['training/sharded']
  assert params > 0.5
  assert moments == 1


def test_sharded_layers_are_never_whole_all_at_once(eight_devices):
  """Neither in the forward pass nor kept for the backward one."""
  params, whole, sharded = (int(eight_devices[f'memory/{k}']) for k in ('params', '8', '8 fsdp'))
  assert whole > params  # the gradient of all layers, at least
  assert sharded < params / 2


def test_maps_and_means_of_tools_are_the_same_on_all_devices(eight_devices):
  for what in ('map', 'empirical', 'sampled', 'outputs', 'of batches'):
    one, many = eight_devices[f'{what}/1'], eight_devices[f'{what}/8']
    assert np.isfinite(one).all()
    assert np.abs(one).max() > 1e-3
    assert np.abs(one - many).max() <= ROUNDING * np.abs(one).max()


@pytest.mark.slow
def test_long_work_of_hooks_drops_nothing():
  """Sampling, evaluation, a teacher's states and a Fisher are those of a model without dropout."""
  config = lambda vocabulary, rate: DecoderConfig(
    vocabulary, width=16, layers=2, heads=4, feed_forward=24, dropout=rate, lora_dropout=rate
  )
  found = []
  for rate in (0.0, 0.5):
    tools = tiny.tools(make=lambda vocabulary, rate=rate: decoder(config(vocabulary, rate)))
    params, backbone = tiny.params(tools.backbone), tools.backbone
    examples = tools.stream.tasks[0].train[:3]
    rows = [row for item in tools.rows(examples) for row in item]
    prompts = [tools.text.prompt(e) for e in examples]

    def gradient(params, batch, backbone=backbone):
      return jax.grad(lambda p: jnp.square(backbone.logits(p, batch)).mean())(params)

    drawn = tools.sample(params, prompts, tools.key('test'), k=5, temperature=2.0, max_new=6)
    states = np.concatenate(tools.map_targets(backbone.hidden, params, rows))
    found.append((drawn, states, cells.flat(tools.mean_examples(gradient, params, examples))))
  for still, dropping in zip(*found, strict=True):
    assert np.abs(still).max() > 0
    chex.assert_trees_all_equal(still, dropping)


def test_blocks_without_an_example_are_no_part_of_a_mean():
  """Where `fn` is 0/0 for want of targets: 7 examples in chunks of 4 and of 64, and one by one."""
  nats = fisher.answer_nats(cells.TOOLS.backbone)
  params, found = tiny.params(cells.TOOLS.backbone), {}
  for size in (1, 4, 64):
    tools = tiny.tools(batch_size=size, examples=7)
    found[size] = float(tools.mean_examples(nats, params, tools.stream.tasks[0].train))
  assert found[1] > 0.1
  CLOSE(found, dict.fromkeys(found, found[1]))


def test_loss_is_the_mean_over_targets_of_rows_taken_one_by_one():
  params, rows = tiny.params(BACKBONE), tiny.rows()
  nats, logits = {'qa': [], 'gen': []}, jax.jit(BACKBONE.logits)
  for row in rows:
    logits_MV = np.asarray(logits(params, layout([row], 1, Shape(1, 20, 6))), np.float64)
    logits_MV = logits_MV[: len(row.targets)]
    logs_M = np.log(np.exp(logits_MV).sum(1)) - logits_MV[range(len(row.wanted)), row.wanted]
    nats['gen' if row.generative else 'qa'].extend(logs_M)
  loss, values, _ = evaluate('lamol', laid_out(rows), weights={'gen': 0.5})
  qa, gen = np.mean(nats['qa']), np.mean(nats['gen'])
  CLOSE((values, loss), ({'qa': qa, 'gen': gen}, qa + 0.5 * gen))
  everything = np.mean(nats['qa'] + nats['gen'])
  CLOSE(evaluate('seq', laid_out(rows))[0], everything)


@pytest.mark.parametrize('name', NAMES)
def test_a_target_of_weight_zero_is_as_if_it_were_not_there(name):
  rows = tiny.rows()
  teacher = teacher_of(name)
  batch = laid_out(rows)
  gone = {3, 6, 10}
  row_M = np.asarray(batch.target_row)
  order = sorted(range(len(rows)), key=lambda i: -len(rows[i].targets))
  where_M = np.isin(row_M, [place for place, i in enumerate(order) if i in gone])
  masked = batch.only(~where_M)
  dropped = laid_out([r for r in rows if r.number not in gone])
  assert float(masked.target_weight.sum()) == float(dropped.target_weight.sum())
  same(evaluate(name, masked, teacher=teacher), evaluate(name, dropped, teacher=teacher))
  assert evaluate(name, batch, teacher=teacher)[0] != evaluate(name, masked, teacher=teacher)[0]


@pytest.mark.parametrize('name', NAMES)
def test_longer_bucket_more_rows_and_another_order_change_nothing(name):
  rows = tiny.rows()
  teacher = teacher_of(name)
  wanted = evaluate(name, laid_out(rows), teacher=teacher)
  shuffled = [rows[i] for i in np.random.default_rng(5).permutation(len(rows))]
  same(wanted, evaluate(name, laid_out(shuffled, 24, 32, 96), teacher=teacher))


def test_dropout_follows_its_row_whatever_its_place():
  """In the decoder; on eight devices and in a longer bucket see the test of all devices."""
  backbone, rows, keys = cells.DECODER, tiny.rows(), tiny.keys(13)
  order = np.random.default_rng(5).permutation(13)
  logits = functools.partial(backbone.logits, train=True)
  params = tiny.params(backbone)

  @jax.jit
  def summed(params, batch):
    nats_M = losses.cross_entropy(logits(params, batch), batch.target_token)
    return losses.total(nats_M, True, batch)[0]

  total = lambda batch: float(summed(params, batch))
  one = total(laid_out(rows, keys=keys))
  other = total(laid_out([rows[i] for i in order], keys=keys[order]))
  deep = functools.partial(rounding.assert_close, terms=64, depth=rounding.layers(2))
  deep(one, other)
  parts = [
    total(laid_out([rows[i] for i in part], keys=keys[part])) for part in np.split(order, [6])
  ]
  deep(sum(parts), one)
  assert abs(one - total(laid_out(rows, keys=keys[order]))) > 1e-2


@pytest.mark.parametrize(
  ('name', 'empty', 'rest'),
  [
    ('lamol', {'gen'}, 'qa'),
    ('taught', {'mse'}, 'ce'),
    ('derpp', {'old', 'mse'}, 'new'),
    ('lamol_kd', {'gen', 'kd_qa', 'kd_gen'}, 'qa'),
  ],
)
def test_a_term_without_targets_is_zero_and_does_not_move_anything(name, empty, rest):
  teacher = teacher_of(name)
  rows = [dataclasses.replace(r, replay=False, generative=False) for r in tiny.rows()]
  loss, values, gradient = evaluate(name, laid_out(rows), teacher=teacher)
  assert {term for term, value in values.items() if float(value) == 0} == empty
  assert np.isfinite(gradient).all()
  assert loss == float(values[rest])
  same((loss, {'ce': loss}, gradient), evaluate('seq', laid_out(rows)))


@pytest.mark.parametrize('name', [*NAMES, 'ewc'])
def test_a_batch_without_targets_has_no_gradient_but_that_of_penalties(name):
  teacher = teacher_of(name)
  params = tiny.params(BACKBONE)
  if name == 'ewc':
    teacher = {**tiny.past(params), 'constant': jnp.float32(0)}
  loss, _, gradient = evaluate(
    name, laid_out(tiny.rows()).only(np.zeros(64, bool)), params, teacher
  )
  assert loss == 0
  assert (gradient == 0).all()


def test_penalty_counts_once_and_by_its_weight():
  params, anchor = tiny.params(BACKBONE), tiny.params(BACKBONE, 1)
  past = tiny.past(anchor)
  empty = laid_out(tiny.rows()).only(np.zeros(64, bool))
  loss, values, gradient = evaluate('ewc', empty, params, past, {'ewc': 0.25})
  f, p, a = (cells.flat(tree).astype(np.float64) for tree in (past['fisher'], params, anchor))
  wanted = np.sum(f * (p - a) ** 2) + 0.75
  rounding.assert_close((values['ewc'], loss), (wanted, 0.25 * wanted), terms=len(f))
  rounding.assert_close(gradient, 0.5 * f * (p - a), terms=1)


def test_a_weight_for_an_unknown_term_is_refused():
  with pytest.raises(UserError, match='has a weight for wrong, but the terms are ce'):
    evaluate('seq', laid_out(tiny.rows()), weights={'wrong': 1.0})


@pytest.mark.parametrize(
  ('name', 'deep'),
  [
    *((name, False) for name in ('lamol', 'ewc', 'l2', 'mas', 'inner_step', 'taught', 'derpp',
                                 'distill', 'lamol_kd')),
    ('lamol', True),
  ],
)  # fmt: skip
def test_gradient_of_the_whole_objective_is_that_of_finite_differences(name, deep):
  """Central differences of fourth order, in float64, along random directions.

  Attention takes its softmax in float32, whose rounding the difference divides by its step.
  """
  h = 1e-2 if deep else 1e-3
  tolerance = rounding.tolerance(4, margin=2) / h if deep else 1e-7
  with jax.enable_x64(True):
    vocabulary = tiny.CONFIG.vocabulary
    shape = dataclasses.replace(tiny.CONFIG, dtype='float64')
    backbone = decoder(shape) if deep else tiny.recurrent(vocabulary)
    params, other = tiny.params(backbone), tiny.params(backbone, 1)
    assert all(x.dtype == np.float64 for x in jax.tree.leaves(params))
    past = tiny.past(other)
    teacher = past if name in ('ewc', 'l2', 'mas') else other if teacher_of(name) else {}
    weights = {'lamol': {'gen': 0.5}, **{n: {n: 0.1} for n in ('ewc', 'l2', 'mas')}}.get(name, {})
    method = made(name, backbone)
    loss_fn = method.loss_fn or losses.plain(backbone)
    gradient = train_step.make_gradient(method, loss_fn, sharding.make_mesh(1))
    batch = laid_out(tiny.rows(6), 6, 20, 32)
    trained, frozen, _ = trainable.split(params, ALL)
    fn = jax.jit(lambda params: gradient(params, frozen, teacher, weights, batch))
    _, grads = fn(trained)
    params = jax.device_get(params)
    random = np.random.default_rng(0)
    for _ in range(4):
      direction = jax.tree.map(lambda x: random.standard_normal(x.shape), params)
      norm = np.linalg.norm(cells.flat(direction))
      along = cells.flat(grads) @ cells.flat(direction) / norm
      at = lambda s, d=direction, n=norm: float(
        fn(jax.tree.map(lambda x, y: x + s / n * y, params, d))[0][0]
      )
      difference = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
      assert abs(along - difference) <= tolerance * np.linalg.norm(cells.flat(grads))
      assert abs(along) > 20 * tolerance * np.linalg.norm(cells.flat(grads))


def test_microbatches_are_refused_where_a_method_wraps_the_objective():
  """Before anything is compiled: its inner gradient would be the microbatch's own."""
  method, mesh = tiny.inner_step(BACKBONE), sharding.make_mesh(1)
  optimizer = make_optimizer(TrainConfig())
  with pytest.raises(UserError, match=r'train\.microbatches is 2; it must be 1'):
    train_step.make_step(method, losses.plain(BACKBONE), optimizer, mesh, microbatches=2)


# Steps: what may change, by how much.


def step_once(rules=ALL, params=None, added=(), rate=0.1, method=None, **settings):
  """-> state before (on the host) and after one step of plain fine-tuning."""
  settings = dict(weight_decay=0.0, clip_norm=0.0) | settings
  params = tiny.params(BACKBONE) if params is None else params
  trained, frozen, masks = trainable.split(params, rules)
  optimizer = make_optimizer(TrainConfig(**settings), added, ('embed',))
  mesh = sharding.make_mesh(1)
  state = {
    'params': jax.tree.map(jnp.array, trained), 'optimizer': optimizer.init(trained),
    'step': np.int32(0),
  }  # fmt: skip
  step = train_step.make_step(method or Method(), losses.plain(BACKBONE), optimizer, mesh)
  batch = laid_out(tiny.rows())
  return trained, step(state, (frozen, masks, {}), {}, np.float32(rate), batch)


@functools.cache
def plain_step():
  """A step of all leaves, without decay and clipping."""
  return step_once()


def test_frozen_leaves_have_no_gradient_no_optimizer_state_and_stay():
  trained, (state, metrics) = step_once((('embed', False), ('mix', True)))
  assert {k for k, v in trained.items() if jax.tree.leaves(v)} == {'mix'}
  assert jax.tree.leaves(state['params']['embed']) == []
  assert jax.tree.leaves(state['params']['bias']) == []  # unmatched is frozen
  shapes = [x.shape for x in jax.tree.leaves(state['optimizer']) if x.ndim]
  assert shapes == [(16, 16)] * 2
  _, (_, everything) = plain_step()
  assert 0 < float(metrics['gradient_norm']) < float(everything['gradient_norm'])
  assert (np.asarray(state['params']['mix']['kernel']) != trained['mix']['kernel']).all()


def test_first_rule_wins_and_an_exclamation_mark_freezes():
  params = tiny.params(BACKBONE)
  trained, frozen, _ = trainable.split(params, trainable_rules(('!embed', '.*')))
  assert {k for k, v in trained.items() if jax.tree.leaves(v)} == {'mix', 'bias'}
  assert {k for k, v in frozen.items() if jax.tree.leaves(v)} == {'embed'}
  joined = trainable.join(trained, frozen)
  assert jax.tree.map(np.array_equal, joined, params) == jax.tree.map(lambda _: True, params)


def test_a_mask_over_leading_axes_lets_only_some_rows_train():
  """Decay would move the others, were it not masked too."""
  some = np.arange(16) % 2 == 0
  trained, (state, _) = step_once((('mix', some), ('.*', True)), weight_decay=0.5)
  before, after = (np.asarray(t['mix']['kernel']) for t in (trained, state['params']))
  assert (after[~some] == before[~some]).all()
  assert (after[some] != before[some]).all()


def test_added_token_rate_scales_the_updates_of_those_rows_alone():
  added = [5, 31]
  moved = {}
  for rate in (1.0, 3.0):
    trained, (state, _) = step_once(added=added, added_token_rate=rate, rate=1e-2)
    after = jax.tree.map(np.asarray, state['params'])
    move = lambda name: after[name]['kernel'] - np.asarray(trained[name]['kernel'])
    moved[rate] = {name: move(name) for name in trained}
  others = np.setdiff1d(np.arange(32), added)
  thrice, once = (moved[rate]['embed'][added] for rate in (3.0, 1.0))
  largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(trained))
  rounding.assert_close(thrice, 3 * once, terms=1, scale=largest)  # differences of parameters
  assert np.abs(moved[1.0]['embed'][5]).max() > 1e-3
  chex.assert_trees_all_equal(moved[3.0]['embed'][others], moved[1.0]['embed'][others])
  chex.assert_trees_all_equal(moved[3.0]['mix'], moved[1.0]['mix'])


def test_optimizer_is_adamw_without_decay_on_norms_and_biases():
  random = np.random.default_rng(0)
  tree = {
    'embed': {'embedding': random.standard_normal((4, 3))},
    'layer': {'kernel': random.standard_normal((3, 3)), 'bias': random.standard_normal(3)},
    'norm': {'scale': random.standard_normal(3)},
  }  # fmt: skip
  tree = jax.tree.map(jnp.float32, tree)
  mask = {
    'embed': {'embedding': True},
    'layer': {'kernel': True, 'bias': False},
    'norm': {'scale': False},
  }
  ours = make_optimizer(TrainConfig(clip_norm=1.0, weight_decay=0.1, beta2=0.95))
  theirs = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(0.01, b2=0.95, weight_decay=0.1, mask=mask)
  )
  mine, other = tree, tree
  states = [ours.init(tree), theirs.init(tree)]
  one, two = jax.jit(ours.update), jax.jit(theirs.update)
  for i in range(4):
    grads = jax.tree.map(lambda x: np.float32((i - 1.5) * np.sin(np.asarray(x) + i)), tree)
    updates, states[0] = one(grads, states[0], mine)
    mine = jax.tree.map(lambda p, u: np.asarray(p) - np.float32(0.01) * u, mine, updates)
    updates, states[1] = two(grads, states[1], other)
    other = optax.apply_updates(other, updates)
  rounding.assert_close(mine, other, terms=16, depth=4)  # four steps, each with a norm


def test_clipping_takes_the_whole_gradient():
  """At a tenth of the norm Adam's first moment is a tenth of the gradient's."""
  _, (free, metrics) = plain_step()
  norm = float(metrics['gradient_norm'])
  _, (clipped, again) = step_once(clip_norm=0.1 * norm)
  CLOSE(again['gradient_norm'], norm)  # before clipping
  moments = [
    np.concatenate([np.ravel(x) for x in jax.tree.leaves(optax.tree.get(s['optimizer'], 'mu'))])
    for s in (free, clipped)
  ]
  rounding.assert_close(moments[1], 0.1 * moments[0], terms=len(moments[0]))  # of the norm


@pytest.mark.parametrize(
  ('schedule', 'warmup', 'wanted'),
  [
    ('constant', 0.0, [1, 1, 1, 1, 1]),
    ('linear', 0.0, [1, 0.8, 0.6, 0.4, 0.2]),
    ('cosine', 0.0, [1, 0.904508497, 0.654508497, 0.345491503, 0.095491503]),
    ('constant', 0.4, [0.5, 1, 1, 1, 1]),
    ('linear', 0.4, [0.5, 1, 1, 2 / 3, 1 / 3]),
    ('cosine', 0.4, [0.5, 1, 1, 0.75, 0.25]),
    ('constant', 1.0, [0.2, 0.4, 0.6, 0.8, 1]),
  ],
)
def test_learning_rates_of_five_steps_by_hand(schedule, warmup, wanted):
  config = TrainConfig(learning_rate=2.0, schedule=schedule, warmup_fraction=warmup)
  rates = [learning_rate(config, step, 5) / 2 for step in range(5)]
  DOUBLE(rates, wanted)


def test_rates_of_warm_up_stable_and_decay_by_hand():
  """Ten steps: two up, four level, four down to 0 at the end."""
  config = TrainConfig(learning_rate=2.0, schedule='wsd', warmup_fraction=0.2, decay_fraction=0.4)
  rates = [learning_rate(config, step, 10) / 2 for step in range(10)]
  DOUBLE(rates, [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize(
  ('schedule', 'wanted'),
  [
    ('constant', [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    ('linear', [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
    ('wsd', [0.5, 1, 1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3]),
  ],
)
def test_a_schedule_that_continues_warms_up_once_and_goes_down_once(schedule, wanted):
  """Two tasks of five steps; of the run's ten a fifth is warm-up and three tenths are decay."""
  config = TrainConfig(
    learning_rate=2.0, schedule=schedule, warmup_fraction=0.2, decay_fraction=0.3,
    schedule_between_tasks='continue',
  )  # fmt: skip
  rates = [learning_rate(config, step, 5, task, 2) / 2 for task in range(2) for step in range(5)]
  DOUBLE(rates, wanted)
  again = dataclasses.replace(config, schedule_between_tasks='rewarm')
  one, two = ([learning_rate(again, step, 5, task, 2) for step in range(5)] for task in (0, 1))
  assert one == two


def test_tasks_of_unequal_length_are_equal_parts_of_a_schedule_that_continues():
  """Four steps, then eight: the course is half way down after each task's half."""
  config = TrainConfig(learning_rate=1.0, schedule='linear', schedule_between_tasks='continue')
  rates = [learning_rate(config, s, n, t, 2) for t, n in enumerate((4, 8)) for s in range(n)]
  wanted = [1 - s / 8 for s in range(4)] + [0.5 - s / 16 for s in range(8)]
  DOUBLE(rates, wanted)


@pytest.mark.parametrize(('warmup', 'decay'), [(0.0, 0.0), (0.5, 0.6), (0.0, 1.5)])
def test_a_decay_that_has_no_room_is_refused(warmup, decay):
  made = TrainConfig(schedule='wsd', warmup_fraction=warmup, decay_fraction=decay)
  with pytest.raises(UserError, match=rf'train\.decay_fraction is {decay}'):
    check(made)
  check(dataclasses.replace(made, schedule='linear'))


def test_a_row_outside_its_block_is_refused_on_the_host():
  row = Row(np.arange(8, dtype=np.int32), np.array([30]), np.array([1]), 0, 0)
  with pytest.raises(AssertionError, match='outside its block'):
    layout([row], 1, Shape(1, 8, 2))


def scans(jaxpr):
  """Every scan of a jaxpr, those inside other primitives too."""
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'scan':
      yield eqn
    for inner in jax.tree.leaves(
      list(eqn.params.values()), is_leaf=lambda x: hasattr(x, 'eqns') or hasattr(x, 'jaxpr')
    ):
      if hasattr(inner, 'eqns') or hasattr(inner, 'jaxpr'):
        yield from scans(getattr(inner, 'jaxpr', inner))


@pytest.mark.parametrize('microbatches', [1, 2])
@pytest.mark.parametrize('rules', [ALL, (('lora', True),)], ids=['whole', 'adapter'])
def test_no_scan_keeps_the_weights_of_the_layers_a_second_time(microbatches, rules):
  """The backward pass reads the weights themselves; of all scans one at most gives their shape."""
  deep = decoder(tiny.CONFIG)
  params = cells.adapters(deep)
  trained, frozen, _ = trainable.split(params, rules)
  fn = train_step.make_gradient(
    Method(), losses.plain(deep), sharding.make_mesh(1), microbatches=microbatches
  )
  batch = layout(tiny.rows(4), 2, Shape(4, 20, 16))
  found = jax.make_jaxpr(fn)(trained, frozen, {}, {}, batch)
  for name in ('gate', 'down', 'q'):
    shape = params['layers'][name]['kernel'].shape
    giving = [e for e in scans(found.jaxpr) if any(v.aval.shape == shape for v in e.outvars)]
    # With microbatches the scan over these sums the gradients of the scan over the layers.
    assert len(giving) == (0 if rules is not ALL else microbatches), name


@pytest.mark.parametrize('microbatches', [1, 2])
def test_one_device_has_no_collective(microbatches):
  """XLA copies what it sums over devices, over one too: all gradients, in each step."""
  trained, frozen, _ = trainable.split(tiny.params(BACKBONE), ALL)
  how = {'microbatches': microbatches}
  fn = train_step.make_gradient(Method(), losses.plain(BACKBONE), sharding.make_mesh(1), **how)
  batch = layout(tiny.rows(4), 2, Shape(4, 20, 16))
  program = jax.jit(fn).lower(trained, frozen, {}, {}, batch).as_text()
  assert 'dot_general' in program
  assert 'all_reduce' not in program


def test_a_sum_over_examples_has_no_collective_on_one_device():
  nats = fisher.answer_nats(BACKBONE)
  batch = layout(tiny.rows(4), 4, Shape(4, 20, 16))
  sums = device_maps.sum_examples(nats, sharding.make_mesh(1))
  program = sums.lower(tiny.params(BACKBONE), batch, np.ones(4, np.float32)).as_text()
  assert 'dot_general' in program
  assert 'all_reduce' not in program
