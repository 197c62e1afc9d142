"""Moments that go on from task to task; learning rates of parts where the model has none."""

import functools
import math
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import rounding, runs

from jcl.config import TrainConfig
from jcl.step.carried import CarriedAdamState, surviving
from jcl.step.optimizer import make_optimizer, merged
from jcl.storage.encoding import leaves_by_path
from jcl.training import experiment
from jcl.training.loop import Loop

CARRIED = TrainConfig(
  optimizer_between_tasks='carried', weight_decay=0.0, clip_norm=0.0, learning_rate=1e-2,
  head_learning_rate=1e-2, adapter_learning_rate=1e-2,
)  # fmt: skip
B1, B2, EPSILON = 0.9, 0.999, 1e-8


def most(steps):
  """The largest update that an Adam of so many steps can give, whatever the gradients.

  By Cauchy and Schwarz |Σ w g| / √(Σ u g²) ≤ √(Σ w²/u), w and u the weights of m̂ and v̂.
  """
  ages = np.arange(steps)
  w = (1 - B1) * B1**ages / (1 - B1**steps)
  u = (1 - B2) * B2**ages / (1 - B2**steps)
  return math.sqrt((w**2 / u).sum())


def adam(gradients):
  """The last update of an Adam in float64 that sees these gradients alone."""
  m = v = 0.0
  for g in gradients:
    m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
  count = len(gradients)
  return (m / (1 - B1**count)) / (np.sqrt(v / (1 - B2**count)) + EPSILON)


def masks(tree, **own):
  """1 for every leaf but those given."""
  return {name: np.float32(own.get(name, 1.0)) for name in tree}


def train(optimizer, state, gradients):
  """-> the state after so many steps, and the update of each."""
  updates, step = [], jax.jit(optimizer.update)
  for gradient in gradients:
    update, state = step(gradient, state, gradient)
    updates.append(jax.tree.map(np.asarray, update))
  return state, updates


def test_each_entry_is_an_adam_that_counts_its_own_steps():
  """A leaf that stays, one that is new, one that grows; columns and classes that begin later."""
  random = np.random.default_rng(0)
  draw = lambda *shape: jnp.float32(random.standard_normal(shape))
  first = [{'stays': draw(3), 'grows': draw(2, 3), 'columns': draw(4)} for _ in range(7)]
  for g in first:
    g['columns'] = g['columns'].at[2:].set(0)  # of the next task
  second = [
    {'stays': draw(3), 'grows': draw(4, 3), 'columns': draw(4), 'new': draw(2)} for _ in range(5)
  ]
  optimizer = make_optimizer(CARRIED)
  before, _ = train(optimizer, optimizer.init(first[0]), first)
  start = merged(optimizer.init(second[0]), leaves_by_path(before), masks(second[0]), 0)
  _, updates = train(optimizer, start, second)
  column = lambda g: g['columns'][2:]
  past = {'stays': [np.float64(g['stays']) for g in first], 'grows': [], 'new': []}
  for i, update in enumerate(updates):
    for name, earlier in past.items():
      wanted = adam([*earlier, *(np.float64(g[name]) for g in second[: i + 1])])
      rounding.assert_close(update[name], wanted, terms=12, depth=4)
    wanted = adam([np.float64(column(g)) for g in second[: i + 1]])
    rounding.assert_close(update['columns'][2:], wanted, terms=12, depth=4)
    assert np.abs(update['columns'][2:]).max() <= most(i + 1) * (1 + 1e-5)
    kept = [np.float64(g['columns'][:2]) for g in (*first, *second[: i + 1])]
    rounding.assert_close(update['columns'][:2], adam(kept), terms=12, depth=4)


def test_a_run_without_new_entries_is_one_adam_to_the_bit():
  random = np.random.default_rng(1)
  gradients = [{'a': jnp.float32(random.standard_normal((5, 4)))} for _ in range(12)]
  plain = optax.scale_by_adam()
  _, wanted = train(plain, plain.init(gradients[0]), gradients)
  optimizer = make_optimizer(CARRIED)
  state, found = train(optimizer, optimizer.init(gradients[0]), gradients[:6])
  state = merged(optimizer.init(gradients[0]), leaves_by_path(state), masks(gradients[0]), 0)
  found += train(optimizer, state, gradients[6:])[1]
  chex.assert_trees_all_equal(found, wanted)


def test_what_does_not_train_in_a_task_keeps_no_moments():
  """Neither decayed nor old: an entry that trains again starts afresh, as a frozen leaf does."""
  ones, frozen = {'a': jnp.ones(4)}, {'a': jnp.float32([0, 0, 1, 1])}
  optimizer = make_optimizer(CARRIED)
  state, _ = train(optimizer, optimizer.init(ones), [ones] * 3)
  state = merged(optimizer.init(ones), leaves_by_path(state), masks(ones, a=[0, 0, 1, 1]), 0)
  state, _ = train(optimizer, state, [frozen] * 4)
  state = merged(optimizer.init(ones), leaves_by_path(state), masks(ones), 0)
  (adams,) = (s for s in state if isinstance(s, CarriedAdamState))
  assert adams.since['a'].tolist() == [7, 7, 0, 0]
  _, (update,) = train(optimizer, state, [{'a': 1e3 * jnp.ones(4)}])
  rounded = np.finfo(np.float32).eps / (1 - B2)  # of 1 − beta2
  np.testing.assert_allclose(update['a'][:2], 1, rtol=rounded)


def test_state_of_an_earlier_version_goes_on_within_a_task():
  """The state has no counts of entries: entries with moments are as old as the run."""
  plain, gradient = optax.chain(optax.scale_by_adam()), {'a': jnp.float32([1, 0])}
  state, _ = train(plain, plain.init(gradient), [gradient] * 3)
  carried = leaves_by_path(state)
  optimizer = make_optimizer(CARRIED)
  fresh = optimizer.init(gradient)
  assert set(carried) < set(leaves_by_path(fresh))
  (adams, *_) = merged(fresh, carried, masks(gradient), 3)
  assert adams.since['a'].tolist() == [0, 3]
  chex.assert_trees_all_equal(adams.mu, state[0].mu)
  assert int(adams.count) == 3


def test_moments_of_a_leaf_that_is_made_anew_are_dropped():
  before = {'a': {'b': jnp.ones(2), 'c': jnp.ones(3)}, 'c': jnp.ones(3)}
  same = {'a': {'b': jnp.ones(2), 'c': jnp.zeros(3)}, 'c': before['c'], 'new': jnp.ones(1)}
  paths = ('[1].count', "[1].mu['a']['b']", "[1].mu['a']['c']", "[1].nu['a']['c']", "[1].mu['c']")
  kept = surviving(dict.fromkeys(paths, 0), before, same)
  assert list(kept) == ['[1].count', "[1].mu['a']['b']", "[1].mu['c']"]
  assert surviving(None, before, same) is None


# Whole runs.


RATE = 1e-2


def config(method, head='', **train):
  """Two tasks of five steps, all parts at one rate, so that a move is an update times the rate."""
  made = runs.config(
    method, backbone={'head': head}, stream={'max_tasks': 2, 'max_test_per_task': 4},
    train={
      'optimizer_between_tasks': 'carried', 'weight_decay': 0.0, 'clip_norm': 0.0, **train,
    },
  )  # fmt: skip
  if 'epochs' not in train:
    made.train.epochs, made.train.steps = TrainConfig.epochs, 5
  if head:
    made.train.head_learning_rate = train.get('head_learning_rate', RATE)
  if made.method.adapters:
    made.train.adapter_learning_rate = RATE
  if method in ('lora', 'olora'):
    made.method.r, made.method.lora_dropout = 2, 0.0
  return made


def largest_updates(made):
  """Of each step of the second task, the largest update of an entry that is new in it."""
  loop = Loop(experiment.assemble(made), None, quiet=True)
  host = lambda tree: jax.tree.map(np.asarray, jax.device_get(tree))
  one, two = loop.parts.stream.tasks
  real, seen = loop.trainer.train_step, []

  def watched(state, *rest):
    before = host(state['params'])
    state, metrics = real(state, *rest)
    seen.append((before, host(state['params'])))
    return state, metrics

  loop.trainer.train_step = watched
  now = loop.before_task(loop.init(loop._start(), None), one)
  start = host(now.params)
  now = loop.after_task(loop.train(now, one), one)
  end = host(now.params)
  long = {k: np.int32(10_000) if k.endswith('.count') else x for k, x in now.optimizer.items()}
  now = now.replace(optimizer=long)  # as after a long task
  seen.clear()
  now = loop.before_task(now, two)
  made_anew, old = leaves_by_path(host(now.params)), leaves_by_path(end)
  moved = {k: np.abs(old[k] - x) > 0 for k, x in leaves_by_path(start).items()}
  loop.train(now, two)
  found = []
  for before, after in seen:
    after, largest = leaves_by_path(after), 0.0
    for path, x in leaves_by_path(before).items():
      same = path in old and np.array_equal(made_anew[path], old[path])
      new = ~moved[path] if same else np.ones(x.shape, bool)
      largest = max(largest, np.abs(after[path] - x)[new].max(initial=0))
    found.append(largest / RATE)
  return found


@pytest.mark.parametrize(
  ('method', 'head', 'stack'),
  [
    pytest.param('lora', '', False, marks=pytest.mark.slow),  # as the leaf of an Adam above
    ('olora', '', True),
    pytest.param('seq', 'linear', False, marks=pytest.mark.slow),
    pytest.param('lora', '', True, marks=pytest.mark.slow),
    pytest.param('lora', 'cosine', False, marks=pytest.mark.slow),
    pytest.param('expand', '', False, marks=pytest.mark.slow),
    pytest.param('expand', 'linear', False, marks=pytest.mark.slow),
    pytest.param('lora+replay', '', False, marks=pytest.mark.slow),
  ],
)
def test_no_update_of_what_is_new_exceeds_that_of_a_fresh_adam(method, head, stack):
  made = config(method, head)
  if stack:
    made.method.stack = True
  found = largest_updates(made)
  assert len(found) == 5
  for step, update in enumerate(found, 1):
    # A move is a difference of parameters of at most 4, whose rounding the rate divides.
    assert 0 < update <= most(step) + 4 * np.finfo(np.float32).eps / RATE


@pytest.mark.slow
@pytest.mark.parametrize('kill', [('olora', 1, 2), ('lora', 0, 4)])
def test_a_killed_run_carries_the_same_moments_on(kill, tmp_path):
  method, task, step = kill
  made = config(method)
  made.checkpoint.every_steps = 1
  whole = runs.run(made, tmp_path / 'whole')
  (tmp_path / 'killed').mkdir()
  loop = Loop(experiment.assemble(made), tmp_path / 'killed', quiet=True)
  runs.die_after_step(loop, task, step)
  assert runs.run(made, tmp_path / 'killed')['params_sha256'] == whole['params_sha256']


def test_the_best_parameters_go_on_with_their_own_moments():
  """Dev scores 0.2, 0.9, 0.5, 0.1: both are of the second epoch."""
  made = config('seq', epochs=4, keep_best=True)
  loop = Loop(experiment.assemble(made), None, quiet=True)
  seen, scores = [], iter([0.2, 0.9, 0.5, 0.1])

  def scored(now, asked, tools):
    seen.append(now)
    return [types.SimpleNamespace(merit=next(scores))]

  loop.scores = scored
  one, two = loop.parts.stream.tasks
  now = loop.train(loop.before_task(loop.init(loop._start(), None), one), one)
  chex.assert_trees_all_equal(now.params, seen[1].params)
  chex.assert_trees_all_equal(now.optimizer, seen[1].optimizer)
  assert not np.array_equal(now.optimizer['[0].count'], seen[3].optimizer['[0].count'])
  now = loop.before_task(loop.after_task(now, one), two)
  assert (now.best, now.best_optimizer) == (None, None)
  state = loop.trainer.inputs(now, loop.method.plan(now.memory, two)).state['optimizer']
  same = leaves_by_path(state)
  moments = [k for k in same if '.mu' in k or '.nu' in k]
  chex.assert_trees_all_equal(
    {k: same[k] for k in moments}, {k: seen[1].optimizer[k] for k in moments}
  )


@functools.cache
def ends(rate, head='', method='seq', **more):
  """The parameters before and after a task."""
  made = config(method, head, learning_rate=rate, optimizer_between_tasks='fresh', **more)
  made.stream.max_tasks = 1
  loop = Loop(experiment.assemble(made, old=True), None, quiet=True)  # a new run sets no such rate
  start, (task,) = jax.device_get(loop.parts.initial_params()), loop.parts.stream.tasks
  now = loop.train(loop.before_task(loop.init(loop._start(), None), task), task)
  logged = {line['rate'] for line in loop.output.log.lines if 'rate' in line}
  return start, jax.device_get(now.params), logged


@pytest.mark.parametrize(
  ('rate', 'schedule'),
  [
    (0.0, 'constant'),
    pytest.param(0.0, 'cosine', marks=pytest.mark.slow),
    pytest.param(1e-38, 'constant', marks=pytest.mark.slow),
  ],
)
def test_a_head_trains_at_its_own_rate_where_the_learning_rate_is_0(rate, schedule):
  """As it does where it alone is trainable; all else stays to the bit."""
  start, end, logged = ends(rate, 'cosine', schedule=schedule)
  for name in start.keys() - {'head'}:
    chex.assert_trees_all_equal(end[name], start[name])
  _, wanted, _ = ends(1e-2, 'cosine', schedule=schedule, trainable=('^head/',))
  assert np.abs(end['head']['kernel'] - start['head']['kernel']).max() > 1e-3
  moves = rounding.trained(5, 1e-2, terms=64, depth=10)
  chex.assert_trees_all_close(end['head'], wanted['head'], rtol=0, atol=moves)
  assert max(logged) == rate


@pytest.mark.slow
def test_adapters_train_at_their_own_rate_where_the_learning_rate_is_0():
  start, end, logged = ends(0.0, method='lora')
  chex.assert_trees_all_equal({k: end[k] for k in start}, start)
  _, wanted, _ = ends(1e-2, method='lora')
  assert np.abs(end['lora']['layers']['q']['b']).max() > 1e-3
  moves = rounding.trained(5, 1e-2, terms=64, depth=10)
  chex.assert_trees_all_close(end['lora'], wanted['lora'], rtol=0, atol=moves)
  assert logged == {0.0}


@pytest.mark.slow
def test_nothing_trains_where_all_rates_are_0():
  start, end, _ = ends(0.0, 'linear', head_learning_rate=0.0, adapter_learning_rate=0.0)
  chex.assert_trees_all_equal(end, start)
