"""Which examples a buffer keeps under each policy, and that it is never changed in place."""

import collections
import copy
import dataclasses
import functools
import itertools
import json
import math

import numpy as np
import pytest
from support import rounding, runs, tiny
from support.buffers import offered

from jcl import methods
from jcl.batching.batch import Heads, Row
from jcl.errors import UserError
from jcl.memory import buffer
from jcl.streams.stream import Example
from jcl.training import experiment


def references(first, last):
  return [(n // 10, n) for n in range(first, last)]


def numbers(kept):
  return [n for _, n in kept['examples']]


def keys(examples, policy):
  """Any keys of a model, a function of the example."""
  if policy not in buffer.BY_MODEL:
    return ()
  return [float(np.random.default_rng(e.number).integers(12)) for e in examples]


def added(before, examples, size, policy, seed=0):
  return buffer.add(before, examples, size, policy, seed, keys(examples, policy))


def chi_square(count, shares, draws):
  """Of how often each was kept, where the number kept is fixed."""
  spread = draws * shares * (1 - shares) * len(count) / (len(count) - 1)
  return ((count - draws * shares) ** 2 / spread).sum()


# What holds for all of them.


@pytest.mark.parametrize('policy', buffer.POLICIES)
def test_adding_leaves_the_buffer_before_as_it_was(policy):
  """A hook that is called again after a kill must find its first argument."""
  before = added(buffer.empty(), offered(0, 9), 6, policy)
  kept = copy.deepcopy(before)
  after = added(before, offered(9, 40), 6, policy)
  assert before == kept
  assert after != before
  assert after == added(before, offered(9, 40), 6, policy)
  assert buffer.empty() == {'examples': [], 'seen': 0, 'labels': [], 'keys': []}


@pytest.mark.parametrize('policy', buffer.POLICIES)
def test_a_buffer_filled_in_parts_and_restored_is_the_one_filled_at_once(policy):
  """Classes come one after another, so that quotas shrink on the way."""
  examples = offered(0, 60, classes=60)
  examples = [Example(e.number, 'x', 'y', e.task, e.number // 15) for e in examples]
  whole = added(buffer.empty(), examples, 9, policy, 3)
  kept = buffer.empty()
  for first, last in itertools.pairwise((0, 23, 24, 41, 60)):
    kept = added(kept, examples[first:last], 9, policy, 3)
    restored = json.loads(json.dumps(kept))
    kept = {**restored, 'examples': [tuple(e) for e in restored['examples']]}
  assert kept == whole
  assert whole['seen'] == 60
  assert len(whole['examples']) == (8 if policy in buffer.BY_CLASS else 9)


@pytest.mark.parametrize('policy', buffer.POLICIES)
def test_a_buffer_with_room_keeps_everything_in_order(policy):
  kept = added(buffer.empty(), offered(0, 12), 40, policy)
  assert kept['examples'] == references(0, 12)


# One by one.


def test_fifo_drops_the_oldest():
  kept = buffer.add(buffer.empty(), offered(0, 4), 5, 'fifo', 0)
  assert kept['examples'] == references(0, 4)
  kept = buffer.add(kept, offered(4, 7), 5, 'fifo', 0)
  assert kept['examples'] == references(2, 7)
  assert kept['seen'] == 7
  assert buffer.add(kept, offered(7, 30), 5, 'fifo', 0)['examples'] == references(25, 30)


def test_reservoir_is_a_uniform_sample_even_when_it_goes_on():
  """Chi-square of how often each of 20 is kept, 19 degrees of freedom: above 43.8 once in 1000."""
  size, total, seeds = 5, 20, 1500
  for parts in ([20], [12, 8], [3, 1, 9, 7]):
    count = np.zeros(total)
    for seed in range(seeds):
      kept, first = buffer.empty(), 0
      for part in parts:
        kept = buffer.add(kept, offered(first, first + part), size, 'reservoir', seed)
        first += part
      assert len(set(numbers(kept))) == size
      count[numbers(kept)] += 1
    assert chi_square(count, np.full(total, size / total), seeds) < 43.8, parts


def test_the_counter_and_the_seed_of_a_reservoir_matter():
  kept = buffer.add(buffer.empty(), offered(0, 23), 7, 'reservoir', 3)
  whole = buffer.add(kept, offered(23, 60), 7, 'reservoir', 3)
  forgot = buffer.add({**kept, 'seen': 7}, offered(23, 60), 7, 'reservoir', 3)
  assert forgot['examples'] != whole['examples']
  assert buffer.add(buffer.empty(), offered(0, 60), 7, 'reservoir', 4) != whole


@pytest.mark.parametrize('policy', buffer.BY_CLASS)
def test_every_class_gets_its_quota(policy):
  """Size // classes seen: 4 of three classes, then 2 of five; a small one leaves its rest."""
  kept = added(buffer.empty(), offered(0, 30), 12, policy)
  assert collections.Counter(n % 3 for n in numbers(kept)) == {0: 4, 1: 4, 2: 4}
  more = [Example(n, 'x', 'y', 3, 3 + (n > 30)) for n in range(30, 40)]
  after = added(kept, more, 12, policy)
  assert collections.Counter(after['labels']) == {0: 2, 1: 2, 2: 2, 3: 1, 4: 2}
  assert set(numbers(after)) <= set(numbers(kept)) | set(range(30, 40))


def test_class_balanced_is_a_uniform_sample_of_each_class():
  """Of 8 and then 12 more of one class, which shares 8 places with another: 4 of 20 stay."""
  count, seeds = np.zeros(20), 1500
  for seed in range(seeds):
    one = [Example(n, 'x', 'y', 0, 0) for n in range(20)]
    kept = buffer.add(buffer.empty(), one[:8], 8, 'class_balanced', seed)
    kept = buffer.add(kept, [*one[8:], Example(20, 'x', 'y', 1, 1)], 8, 'class_balanced', seed)
    mine = [n for n in numbers(kept) if n < 20]
    assert len(mine) == 4
    count[mine] += 1
  assert chi_square(count, np.full(20, 0.2), seeds) < 43.8


def test_herding_takes_what_brings_the_mean_nearest():
  """Against every choice of the next one, by the distance itself."""
  random = np.random.default_rng(0)
  features_ND = random.standard_normal((23, 5)) + 1.5 * random.standard_normal(5)
  features_ND *= random.uniform(0.1, 9, (23, 1))  # of any length
  labels = [0] * 12 + [7] * 11
  found = np.array(buffer.herding_keys(features_ND, labels, 46))
  for label in (0, 7):
    members = [i for i in range(23) if labels[i] == label]
    unit = {i: features_ND[i] / np.linalg.norm(features_ND[i]) for i in members}
    mean, order = sum(unit.values()) / len(unit), []
    while len(order) < len(members):
      far = lambda i, order=order, unit=unit, mean=mean: np.linalg.norm(
        mean - sum(unit[j] for j in [*order, i]) / (len(order) + 1)
      )
      order.append(min((i for i in members if i not in order), key=far))
    assert [-found[i] for i in order] == list(range(len(members)))


def test_herding_looks_at_the_state_before_the_last_answer():
  row = Row(np.arange(9), np.array([1, 2, 5, 6]), np.array([2, 3, 6, 7]), 0, 0)
  first = buffer.asked(row)
  assert (first.targets.tolist(), first.wanted.tolist()) == ([5], [6])
  first = buffer.asked(dataclasses.replace(row, targets=row.targets[:2], wanted=row.wanted[:2]))
  assert (first.targets.tolist(), first.wanted.tolist()) == ([1], [2])


def test_herding_of_equal_features_takes_the_first_and_smaller_quotas_cut():
  found = buffer.herding_keys(np.ones((4, 3)), [0, 0, 0, 0], 9)
  assert found == [0, -1, -2, -3]
  one = [Example(n, 'x', 'y', 0, 0) for n in range(6)]
  order = [-3.0, 0.0, -1.0, -5.0, -2.0, -4.0]
  kept = buffer.add(buffer.empty(), one, 4, 'herding', 0, order)
  assert numbers(kept) == [0, 1, 2, 4]
  after = buffer.add(kept, [Example(9, 'x', 'y', 1, 1)], 4, 'herding', 0, [0.0])
  assert numbers(after) == [1, 2, 9]


@pytest.mark.parametrize('keep_hard', [False, True])
def test_importance_draws_without_replacement_by_weight(keep_hard):
  """How often each pair of five is kept, against chances worked out; 9 degrees of freedom: 27.9."""
  nats, seeds = np.array([0.1, 0.5, 1.0, 1.5, 3.0]), 3000
  weight = np.exp(nats if keep_hard else -nats)
  chance = collections.Counter()
  for a, b in itertools.permutations(range(5), 2):
    share = weight[a] / weight.sum() * weight[b] / (weight.sum() - weight[a])
    chance[frozenset((a, b))] += share
  assert sum(chance.values()) == pytest.approx(1)
  found = collections.Counter()
  examples = offered(0, 5)
  for seed in range(seeds):
    given = buffer.importance_keys(nats, range(5), seed, keep_hard)
    found[
      frozenset(numbers(buffer.add(buffer.empty(), examples, 2, 'importance', seed, given)))
    ] += 1
  assert sum((found[p] - seeds * c) ** 2 / (seeds * c) for p, c in chance.items()) < 27.9


def test_tasks_share_an_importance_buffer_as_they_share_what_was_offered():
  """The second task was learned far better, ten times the examples: about ten times the places."""
  places = 0
  for seed in range(20):
    kept = buffer.empty()
    for first, last, nats in ((0, 30, 3.0), (30, 330, 0.01)):
      loss = np.random.default_rng(first).uniform(0, nats, last - first)
      given = buffer.importance_keys(loss, range(first, last), seed)
      kept = buffer.add(kept, offered(first, last), 44, 'importance', seed, given)
    places += sum(n >= 30 for n in numbers(kept))
  assert places / 20 == pytest.approx(40, abs=2)


def test_importance_keys_are_of_the_example_not_of_its_place():
  nats = np.array([0.3, 2.0, 1.0])
  one = buffer.importance_keys(nats, [4, 9, 7], 1)
  other = buffer.importance_keys(nats[::-1], [7, 9, 4], 1)
  double = functools.partial(rounding.assert_close, terms=3, dtype=np.float64)
  double(one, other[::-1])
  assert buffer.importance_keys(nats, [4, 9, 7], 2) != pytest.approx(one)
  noise = np.array(one) - np.array(buffer.importance_keys(np.zeros(3), [4, 9, 7], 1))
  double(noise, -nats - math.log(np.exp(-nats).mean()), scale=max(map(abs, one)))


# The model that ranks.


def test_features_are_states_at_the_first_target_and_losses_means_over_targets():
  tools = tiny.tools('plain', examples=16)
  backbone, examples = tools.backbone, list(tools.stream.tasks[1].train)
  params = tiny.params(backbone)
  rows = [row for item in tools.rows(examples) for row in item]
  assert min(len(r.targets) for r in rows) >= 2
  states = tools.map_targets(backbone.hidden, params, rows)
  first_ND, last_ND = (np.stack([x_mD[i] for x_mD in states]) for i in (0, -1))
  wanted = buffer.herding_keys(first_ND, [e.label for e in examples], 99)
  assert buffer.keys_of('herding', backbone, params, examples, tools, 99) == wanted
  assert buffer.herding_keys(last_ND, [e.label for e in examples], 99) != wanted
  log = lambda z: z - np.log(np.exp(z).sum(-1, keepdims=True))
  logits = tools.map_targets(backbone.logits, params, rows)
  nats = [
    -np.mean([log(z)[m, token] for m, token in enumerate(r.wanted)])
    for r, z in zip(rows, logits, strict=True)
  ]
  for hard in (False, True):
    found = buffer.keys_of('importance', backbone, params, examples, tools, 99, hard)
    wanted = buffer.importance_keys(np.array(nats), [e.number for e in examples], 0, hard)
    # Float32 nats, means over six targets of sums over the vocabulary; the keys add noise to them.
    rounding.assert_close(found, wanted, terms=backbone.outputs, depth=4)
  assert buffer.keys_of('reservoir', backbone, params, examples, tools, 99) == []


# Refusals, before anything is compiled.


@pytest.mark.parametrize('policy', buffer.BY_CLASS)
def test_a_buffer_with_fewer_places_than_classes_is_refused(policy):
  made = runs.config('replay')
  made.method.policy, made.method.buffer_size = policy, 11
  with pytest.raises(
    UserError, match=r'method\.buffer_size is 11; it must be at least 12, a place'
  ):
    experiment.assemble(made)
  made.method.buffer_size = 12
  experiment.assemble(made)


@pytest.mark.parametrize('policy', buffer.BY_CLASS)
def test_quotas_are_refused_where_answers_are_free(policy):
  made = runs.config('replay')
  made.scenario, made.method.policy = 'iil', policy
  with pytest.raises(UserError, match=rf"method\.policy is '{policy}'; it must be reservoir, fifo"):
    experiment.assemble(made)
  made.method.policy = 'importance'
  experiment.assemble(made)
  settings = methods.settings_class('replay')(policy=policy)
  tools = tiny.tools('plain')
  settings.check_run('cil', tools)
  tools = dataclasses.replace(tools, stream=type(tools.stream)('free', tools.stream.tasks))
  with pytest.raises(UserError, match=r'method\.policy'):
    settings.check_run('dil', tools)


# Whole runs.


@pytest.mark.slow
@pytest.mark.parametrize(('policy', 'head'), [('herding', ''), ('importance', 'linear')])
def test_runs_with_a_policy_that_asks_the_model(policy, head, tmp_path):
  """Killed where the buffer is filled, they end in the same bits."""
  made = runs.config(
    'replay', backbone={'head': head}, train={'epochs': 1},
    stream={'max_train_per_task': 24, 'max_tasks': 2},
  )  # fmt: skip
  made.method.policy, made.method.buffer_size = policy, 24
  whole = runs.run(made, tmp_path / 'whole')
  lines = whole['buffer']
  assert [line['after'] for line in lines] == whole['tasks']
  assert [line['seen'] for line in lines] == [24, 48]
  assert all(sum(line['tasks'].values()) == line['examples'] == 24 for line in lines)
  assert all(sum(line['classes'].values()) == 24 for line in lines)
  if policy == 'herding':
    shares = [sorted(line['classes'].values()) for line in lines]
    assert shares == [[6] * 4, [3] * 8]
  with pytest.raises(runs.Killed):
    runs.run(made, tmp_path / 'killed', kill=('after_task', 1))
  again = runs.run(made, tmp_path / 'killed')
  assert again['params_sha256'] == whole['params_sha256']
  assert again['buffer'] == lines


def test_losses_of_a_head_are_over_the_classes_that_may_be_answered():
  """A model that knows nothing has log 2 nats among two classes, log 6 among six."""
  tools = tiny.tools('class', make=lambda size: tiny.recurrent(size, classes=6))
  params = tools.backbone.init(tools.key('init'))
  params['head']['kernel'] = 0 * params['head']['kernel']
  examples = list(tools.stream.tasks[0].train)
  rows = [row for item in tools.rows(examples) for row in item]
  tools = dataclasses.replace(tools, membership=tiny.OWN)
  for current in (0, 2):
    tools = tools.at(current)
    assert tools.heads == Heads(tools.membership, current, False)
    (nats,) = {float(x[0]) for x in tools.map_targets(buffer._nats(tools.backbone), params, rows)}
    rounding.assert_close(nats, math.log(2 * (current + 1)), terms=6)
