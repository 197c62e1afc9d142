"""EWC, L2 and MAS: what is important, the penalty over three tasks, and that it holds."""

import copy
import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import penalties
from support import eight_devices as cells
from support import rounding, tiny
from support.scripted import good, scripted

from jcl import config, methods
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.batching.batch import Shape, layout
from jcl.errors import UserError
from jcl.memory import fisher
from jcl.seeds import generator
from jcl.step import device_maps, losses, sharding, train_step, trainable
from jcl.step.optimizer import make_optimizer

FISHER = cells.IMPORTANCE['empirical']


def leaves(params):
  """Parameters of `tiny.recurrent` as the oracle takes them."""
  return {name: np.asarray(leaf['kernel'], np.float64) for name, leaf in params.items()}


def plain_rows(tools, example):
  """The rows of an example as the oracle takes them."""
  return [(r.tokens, r.targets, r.wanted) for r in tools.text.rows(example)]


def wanted_of(oracle, tools, params, examples, *more):
  """An oracle's importance of examples."""
  rows = [plain_rows(tools, e) for e in examples]
  return oracle(leaves(params), rows, tools.backbone.vocabulary, *more)


def close(found, wanted, scale=None):
  """Up to the rounding of a squared gradient, and not 0."""
  assert np.abs(wanted).max() > 0
  found = cells.flat(found)
  rounding.assert_close(found, np.reshape(wanted, found.shape), scale=scale, **tiny.GRADIENT)


@functools.cache
def plain():
  """Tools of plain text: a row an example."""
  return tiny.tools('plain', examples=7)


@functools.cache
def made(backbone, name, **settings):
  """A method; what is compiled for one is compiled for all of its settings."""
  return methods.make(backbone, methods.settings_class(name)(**settings))


def through(name, tools=None, tasks=3, **settings):
  """-> method, memory after each of the tasks, the parameters at which each ended."""
  tools = tools or plain()
  method = made(tools.backbone, name, **settings)
  ends = [tiny.params(tools.backbone, seed) for seed in range(tasks)]
  memory, memories = method.init(ends[0], tools.stream, tools), []
  for task, params in zip(tools.stream.tasks, ends, strict=False):
    tools = tools.at(task.index)
    given = copy.deepcopy(memory)
    after, same = method.after_task(memory, params, task, tools)
    assert same is params
    chex.assert_trees_all_equal(memory, given)  # nothing is changed in place
    memory = after
    memories.append(memory)
  return method, memories, ends


# What is important.


@pytest.mark.parametrize('size', [1, 4, 64])
@pytest.mark.parametrize('text_format', ['plain', 'lamol'])
def test_fisher_is_the_mean_of_single_examples_squared_gradients_for_any_chunk(text_format, size):
  """Not the square of a mean; an example of two rows is one example; an empty block is none."""
  tools = tiny.tools(text_format, batch_size=size, examples=7)
  params, examples = tiny.params(tools.backbone), tools.stream.tasks[0].train
  fn = fisher.squared_gradient(fisher.answer_nats(tools.backbone))
  wanted = wanted_of(penalties.fisher, tools, params, examples)
  close(tools.mean_examples(fn, params, examples), wanted)


def test_fisher_of_sums_is_larger_where_answers_are_longer():
  tools, params = plain(), tiny.params(plain().backbone)
  examples = tools.stream.tasks[0].train
  fn = fisher.squared_gradient(fisher.answer_nats(tools.backbone, reduction='sum'))
  found = tools.mean_examples(fn, params, examples)
  close(found, wanted_of(penalties.fisher, tools, params, examples, 'sum'))
  mean = wanted_of(penalties.fisher, tools, params, examples)
  assert cells.flat(found).max() > 3 * mean.max()


@pytest.mark.parametrize('text_format', ['plain', 'lamol'])
def test_importance_to_outputs_is_the_absolute_gradient_of_their_size(text_format):
  tools = tiny.tools(text_format, examples=7)
  params, examples = tiny.params(tools.backbone), tools.stream.tasks[0].train
  fn = fisher.absolute_gradient(fisher.output_size(tools.backbone))
  wanted = wanted_of(penalties.importance, tools, params, examples)
  close(tools.mean_examples(fn, params, examples), wanted)


def test_chunks_of_any_width_give_the_same(monkeypatch):
  """Memory for one example at a time, for some, for all."""
  found = []
  for held in (1, 2000, 2**26):
    monkeypatch.setattr(device_maps, 'HELD', held)
    tools = tiny.tools('plain', examples=7, batch_size=8)
    params = tiny.params(tools.backbone)
    examples = tools.stream.tasks[0].train
    fn = fisher.squared_gradient(fisher.answer_nats(tools.backbone))  # compiled anew
    found.append(cells.flat(tools.mean_examples(fn, params, examples)))
  for other in found[1:]:
    rounding.assert_close(other, found[0], **tiny.GRADIENT)


def test_memory_does_not_grow_with_the_examples_of_a_chunk(monkeypatch):
  """Gradients of no more examples than `HELD` allows stand at once."""
  monkeypatch.setattr(device_maps, 'HELD', 1)
  backbone = tiny.recurrent(9, width=128)
  params, mesh = tiny.params(backbone), sharding.make_mesh(1)
  fn = fisher.squared_gradient(fisher.answer_nats(backbone))
  sizes = []
  for count in (2, 32):
    batch = layout([], count, Shape(count, 8, 4))
    call = device_maps.sum_examples(fn, mesh).lower(params, batch, np.ones(count, np.float32))
    sizes.append(call.compile().memory_analysis().temp_size_in_bytes)
  assert sizes[1] < 1.2 * sizes[0]


def test_classes_that_may_not_be_answered_have_no_importance():
  """Task 1 of a head over six classes: those of task 0 and 1 may be answered."""
  heads = cells.HEADS._replace(current=1, task_id_given=False)
  batch = layout(tiny.class_rows(1), 1, Shape(1, 20, 1), tiny.keys(1), heads=heads)
  assert np.asarray(batch.allowed).tolist() == [[True] * 4 + [False] * 2]
  params = tiny.params(cells.HEAD)
  for labels in ('empirical', 'sampled'):
    squared = jax.jit(fisher.squared_gradient(fisher.answer_nats(cells.HEAD, labels)))
    head = np.asarray(squared(params, batch)['head']['kernel'])
    assert (head[:, 4:] == 0).all()
    assert (head[:, :4] > 0).any(0).all()
  outputs = jax.jit(fisher.absolute_gradient(fisher.output_size(cells.HEAD)))
  found = outputs(params, batch)
  assert (np.asarray(found['head']['kernel'])[:, 4:] == 0).all()
  without = leaves(params)
  without['head'][:, 4:] = 0  # a class of logit 0 adds nothing to the size of the others
  row = tiny.class_rows(1)[0]
  wanted = penalties.importance(without, [[(row.tokens, row.targets, row.wanted)]], 30)
  sizes = [without[name].size for name in sorted(without)]
  parts = dict(zip(sorted(without), np.split(wanted, np.cumsum(sizes)[:-1]), strict=True))
  for name in ('bias', 'embed', 'mix'):
    close(found[name], parts[name])


@pytest.mark.slow
def test_dropout_has_no_part_in_what_is_important():
  """At rate 0.5 the programs of the Fisher, sampled labels and importance are those of rate 0."""
  shape = dict(width=16, layers=2, heads=4, feed_forward=24)
  batch = layout(tiny.rows(3), 1, Shape(3, 24, 24), tiny.keys(3))
  found = []
  for rate in (0.0, 0.5):
    make = lambda vocabulary, rate=rate: decoder(DecoderConfig(vocabulary, dropout=rate, **shape))
    tools = scripted(tiny.tools('plain', make=make, examples=3), good)
    # The functions are what counts: nothing is computed.
    maps = dataclasses.replace(
      tools.maps, examples=lambda fn: lambda params, *_: jax.device_get(params)
    )
    tools = dataclasses.replace(tools, maps=maps)
    training = lambda params, batch, backbone=tools.backbone: backbone.hidden(params, batch, True)
    for name, settings in (('ewc', {}), ('ewc', {'labels': 'sampled'}), ('mas', {})):
      through(name, tools, 1, **settings)
    params = tiny.params(tools.backbone)
    programs = [jax.make_jaxpr(fn)(params, batch) for fn in (*tools.measured, training)]
    found.append([re.sub(r'0x[0-9a-f]+', '', str(program)) for program in programs])
  (*still, one), (*dropping, other) = found
  assert len(still) == 3
  assert still == dropping
  assert one != other  # in training it does drop


# Labels drawn from the model.


def test_sampled_labels_are_as_frequent_as_the_model_says():
  """Chi-square over 5 classes, 4 degrees of freedom: above 18.5 once in 1000; no mode taken."""
  logits_V = jnp.array([0.0, 1.0, -1.0, 0.5, 2.0])
  draws = 4000
  keys = np.stack([np.zeros(draws), np.arange(draws)], 1).astype(np.uint32)
  labels = np.asarray(jax.jit(fisher.sample)(jnp.tile(logits_V, (draws, 1)), keys))
  expected = draws * penalties.softmax(np.asarray(logits_V, np.float64))
  assert ((np.bincount(labels, minlength=5) - expected) ** 2 / expected).sum() < 18.5


def test_every_target_of_every_row_draws_its_own_label():
  batch = layout(tiny.rows(), 1, Shape(13, 20, 64), tiny.keys(13))
  keys = np.asarray(fisher.target_keys(batch))[np.asarray(batch.target_weight) > 0]
  assert len(np.unique(keys, axis=0)) == len(keys) > 30


def test_sampled_fisher_tends_to_the_expected_one():
  """Mean over 4000 keys, exact expectation by the oracle; the empirical one is another."""
  tools, params = plain(), tiny.params(plain().backbone)
  example = tools.stream.tasks[0].train[0]
  rows = tools.text.rows(example)
  batch = layout(rows, 1, Shape(1, 24, 8), tiny.keys(1))
  fn = fisher.squared_gradient(fisher.answer_nats(tools.backbone, 'sampled'))
  mean = jax.jit(
    lambda keys: jax.tree.map(
      lambda x: x.mean(0), jax.vmap(lambda key: fn(params, batch.replace(key=key)))(keys)
    )
  )
  found = cells.flat(mean(tiny.keys(4000)[:, None]))
  oracle = leaves(params), plain_rows(tools, example), tools.backbone.vocabulary
  wanted = penalties.expected_fisher(*oracle)
  empirical = penalties.nats_gradient(*oracle) ** 2
  away = lambda other: np.linalg.norm(found - other) / np.linalg.norm(other)
  assert away(wanted) < 0.05
  assert away(empirical) > 0.3


def test_sampled_labels_change_with_task_and_seed_alone():
  """Whatever the chunk: a row's key is its own."""
  fn = fisher.squared_gradient(fisher.answer_nats(plain().backbone, 'sampled'))
  found = {}
  for size, current, seed in ((8, 0, 0), (3, 0, 0), (8, 1, 0), (8, 0, 1)):
    tools = tiny.tools('plain', examples=7, batch_size=size)
    tools = dataclasses.replace(tools, task_index=current, seed=seed)
    params, examples = tiny.params(tools.backbone), tools.stream.tasks[0].train
    found[size, current, seed] = cells.flat(tools.mean_examples(fn, params, examples))
  first = found.pop((8, 0, 0))
  rounding.assert_close(found.pop((3, 0, 0)), first, **tiny.GRADIENT)
  for other in found.values():
    assert np.abs(other - first).max() > 0.01 * first.max()


# The published batch Fisher.


def test_batch_fisher_squares_the_gradient_of_a_batch():
  """7 examples in batches of 4 and 3: each batch counts by its examples."""
  tools, params = plain(), tiny.params(plain().backbone)
  examples = tools.stream.tasks[0].train
  found = tools.mean_examples(FISHER, params, examples, together=4)
  order = generator(tools.seed, 'together', 0).permutation(7)
  rows = [plain_rows(tools, examples[i]) for i in order]
  vocabulary = tools.backbone.vocabulary
  close(found, penalties.batch_fisher(leaves(params), [rows[:4], rows[4:]], vocabulary))
  each = penalties.fisher(leaves(params), rows, vocabulary)
  assert cells.flat(found).sum() < 0.9 * each.sum()  # it shrinks where gradients differ
  _, (memory,), _ = through('ewc', tasks=1, batch_fisher=4)
  np.testing.assert_array_equal(cells.flat(memory['teacher']['fisher']), cells.flat(found))


# The penalty over three tasks.


@functools.cache
def left_by_three_tasks(oracle):
  """-> what is important after each task and where it ended, by the oracle."""
  tools = plain()
  ends = [tiny.params(tools.backbone, seed) for seed in range(3)]
  kept = [
    wanted_of(oracle, tools, params, task.train)
    for task, params in zip(tools.stream.tasks, ends, strict=True)
  ]
  return kept, [penalties.flat(leaves(params)) for params in ends]


@pytest.mark.parametrize(
  ('name', 'settings', 'kept', 'oracle'),
  [
    ('ewc', {}, penalties.fisher, penalties.separate),
    ('ewc', {'over_tasks': 'online'}, penalties.fisher, penalties.online),
    (
      'ewc',
      {'over_tasks': 'online', 'fisher_decay': 0.5},
      penalties.fisher,
      functools.partial(penalties.online, decay=0.5),
    ),
    ('ewc', {'over_tasks': 'running_mean'}, penalties.fisher, penalties.running_mean),
    ('l2', {}, penalties.fisher, penalties.distance),
    ('mas', {}, penalties.importance, penalties.online),
  ],
)
def test_penalty_after_each_of_three_tasks_is_the_formula_in_value_and_gradient(
  name, settings, kept, oracle
):
  """No anchor and no importance is stale or missing; before the first task there is none."""
  method, memories, _ = through(name, **settings)
  params = tiny.params(plain().backbone, 9)
  theta = penalties.flat(leaves(params))
  both = penalty_and_slope(method, name)
  fishers, ends = left_by_three_tasks(kept)
  for tasks, memory in enumerate(memories, 1):
    value, gradient = both(params, memory['teacher'])
    wanted, slope = oracle(theta, fishers[:tasks], ends[:tasks])
    assert float(value) == pytest.approx(wanted, rel=rounding.tolerance(theta.size, depth=12))
    close(gradient, slope)
  start = method.init(params, plain().stream, plain())['teacher']
  value, gradient = both(tiny.params(plain().backbone, 8), start)
  assert float(value) == 0
  assert not cells.flat(gradient).any()
  shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), m['teacher']) for m in memories]
  assert all(s == jax.tree.map(lambda x: (x.shape, x.dtype), start) for s in shapes)


def test_where_nothing_was_ever_important_the_anchor_is_the_last_model():
  """Exactly: no rounding pulls a parameter that nobody holds."""
  tree = lambda *x: {'w': jnp.array(x, jnp.float32)}
  past = {'fisher': tree(0, 2, 0, 1e-30), 'anchor': tree(1, 1, 1, 1), 'constant': jnp.float32(3)}
  found = fisher.separate(past, tree(0, 0, 5, 1e-30), tree(0.1, 0.1, 0.1, 0.1))
  np.testing.assert_array_equal(found['anchor']['w'][:3], np.float32([0.1, 1, 0.1]))
  rounding.assert_close(found['anchor']['w'][3], 0.55, terms=2)
  assert float(found['constant']) == 3


@functools.cache
def whole_gradient(method):
  """The compiled gradient of a method's objective."""
  loss_fn = losses.plain(plain().backbone)
  return jax.jit(train_step.make_gradient(method, loss_fn, sharding.make_mesh(1)))


@functools.cache
def penalty_and_slope(method, name):
  """The compiled penalty of parameters and memory, and its gradient."""
  return jax.jit(jax.value_and_grad(lambda p, t: method.penalty_fn(p, t)[name]))


def objective(method, memory, batch, params, weights):
  """-> objective, values of its terms and its gradient under these weights."""
  trained, frozen, _ = trainable.split(params, (('.*', True),))
  (loss, values), gradient = whole_gradient(method)(
    trained, frozen, memory['teacher'], weights, batch
  )
  return float(loss), values, cells.flat(gradient)


@pytest.mark.parametrize(
  ('name', 'settings', 'weight'),
  [
    ('ewc', {}, 1000.0),
    ('ewc', {'lambda_ewc': 30.0}, 30.0),
    ('ewc', {'lambda_ewc': 30.0, 'half': True}, 15.0),
    ('l2', {}, 0.01),
    ('mas', {}, 1.0),
  ],
)
def test_objective_after_a_task_is_cross_entropy_and_the_weighted_penalty(name, settings, weight):
  tools = plain()
  _, (memory,), _ = through(name, tasks=1, **settings)
  examples, params = tools.stream.tasks[1].train, tiny.params(tools.backbone, 9)
  batch = layout([r for e in examples for r in tools.text.rows(e)], 1, Shape(8, 24, 64))
  method, default = made(tools.backbone, name, **settings), made(tools.backbone, name)
  weights = method.plan(memory, tools.stream.tasks[1]).weights
  loss, values, gradient = objective(method, memory, batch, params, weights)
  assert set(values) == {'ce', name}
  assert loss == tiny.nearly(float(values['ce']) + weight * float(values[name]))
  neutral = made(tools.backbone, name, **methods.settings_class(name).neutral)
  free = neutral.plan(memory, tools.stream.tasks[1]).weights
  *_, alone = objective(default, memory, batch, params, free)
  _, slope = penalty_and_slope(default, name)(params, memory['teacher'])
  assert np.abs(cells.flat(slope)).max() > 0
  close(gradient - alone, weight * cells.flat(slope).astype(np.float64), np.abs(gradient).max())


def test_a_stronger_penalty_keeps_the_parameters_nearer():
  """Ten steps on the second task: the distance, weighed by F, falls with lambda_ewc."""
  tools = plain()
  _, (memory,), (end,) = through('ewc', tasks=1)
  examples = tools.stream.tasks[1].train
  batch = layout([r for e in examples for r in tools.text.rows(e)], 1, Shape(8, 24, 64))
  distance, moved = [], []
  optimizer = make_optimizer(config.TrainConfig(weight_decay=0.0))
  loss_fn, mesh = losses.plain(tools.backbone), sharding.make_mesh(1)
  step = train_step.make_step(made(tools.backbone, 'ewc'), loss_fn, optimizer, mesh)
  for weight in (0.0, 100.0, 10000.0):
    method = made(tools.backbone, 'ewc', lambda_ewc=weight)
    own, frozen, masks = trainable.split(jax.tree.map(jnp.array, end), (('.*', True),))
    state = {'params': own, 'optimizer': optimizer.init(own), 'step': np.int32(0)}
    weights = method.plan(memory, tools.stream.tasks[1]).weights
    for _ in range(10):
      state, metrics = step(
        state, (frozen, masks, memory['teacher']), weights, np.float32(1e-2), batch
      )
      jax.block_until_ready(metrics)
    distance.append(float(fisher.quadratic(state['params'], memory['teacher'])))
    moved.append(cells.flat(state['params']) - cells.flat(end))
  assert distance[0] > 2 * distance[1] > 4 * distance[2]
  assert all(np.abs(m).max() > 1e-3 for m in moved)


@pytest.mark.parametrize(
  ('name', 'settings', 'words'),
  [
    ('ewc', {'lambda_ewc': -1.0}, r'lambda_ewc is -1\.0; it must be at least 0'),
    ('ewc', {'lambda_ewc': float('inf')}, r'lambda_ewc is inf'),
    ('ewc', {'batch_fisher': -1}, r'batch_fisher is -1'),
    ('ewc', {'fisher_decay': 1.5}, r'fisher_decay is 1\.5; it must be at least 0 and at most 1'),
    ('ewc', {'fisher_decay': 0.5}, r'fisher_decay is 0\.5; it must be 1 unless'),
    ('ewc', {'labels': 'true'}, "labels is 'true'; it must be one of 'empirical', 'sampled'"),
    ('ewc', {'over_tasks': 'sum'}, "over_tasks is 'sum'; it must be one of 'separate', 'online'"),
    ('ewc', {'fisher_reduction': 'max'}, "fisher_reduction is 'max'"),
    ('l2', {'lambda_l2': -1e-3}, r'lambda_l2 is -0\.001'),
    ('mas', {'lambda_mas': float('nan')}, r'lambda_mas is nan'),
  ],
)
def test_settings_out_of_range_are_refused_by_field(name, settings, words):
  chosen = methods.settings_class(name)(**settings)
  with pytest.raises(UserError, match=rf'method\.{words}'):
    chosen.check()
  methods.settings(name).check()
