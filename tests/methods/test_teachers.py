"""Methods that look at the model of the past: their objectives, their teacher, its cache."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import pytest
from oracles import distillation
from support import rounding, runs, slow, tiny
from support.lives import HEAD, VOCABULARY, Life, chosen

from jcl import methods
from jcl.batching.batch import Heads, Row, Shape, layout, look_up
from jcl.memory import teacher
from jcl.step import losses, sharding, train_step, trainable
from jcl.training import experiment

BACKBONE = tiny.recurrent(VOCABULARY)
SHAPE = Shape(16, 20, 64)
NAMES = ('derpp', 'distill', 'lamol_kd')
SETTINGS = {
  'derpp': [{}, {'alpha': 0.9, 'beta': 0.2}],
  'distill': [{}, {'alpha': 0.9, 'distill_temperature': 1.0}, {'alpha': 1.0}],
  'lamol_kd': [
    {},
    {'lambda_gen': 0.7, 'distill_weight': 0.3, 'distill_temperature': 4.0},
    {'published_kd_mask': True},
  ],
}
CASES = [(name, given) for name in NAMES for given in SETTINGS[name]]


def weights_of(name, given, task=1):
  """The plan's of one task."""
  settings = chosen(name, **given)
  tools = tiny.tools(settings.text_format)
  method = methods.make(tools.backbone, settings)
  memory = method.init(tiny.params(tools.backbone), tools.stream, tools)
  return method.plan(memory, tools.stream.tasks[task]).weights


def evaluate(name, given, rows, params=None, past=None, task=1, backbone=BACKBONE, heads=None):
  """-> objective and the values of its terms, on one device."""
  params = tiny.params(backbone) if params is None else params
  past = tiny.params(backbone, 1) if past is None else past
  trained, frozen, _ = trainable.split(params, (('.*', True),))
  batch = layout(rows, 1, SHAPE, heads=heads)
  weights = weights_of(name, given, task)
  loss, values = compiled(name, tuple(given.items()), backbone)(
    trained, frozen, past, weights, batch
  )
  return float(loss), {term: float(value) for term, value in values.items()}


@functools.cache
def compiled(name, given, backbone):
  """The compiled objective of a method and its settings."""
  method = methods.make(backbone, chosen(name, **dict(given)))
  gradient = train_step.make_gradient(method, method.loss_fn, sharding.make_mesh(1))
  return jax.jit(lambda *args: gradient(*args)[0])


@functools.cache
def lived(name, **given):
  """A method that was taken through three tasks; nobody changes it."""
  return Life(name, **given)


def worked(name, given, rows, params=None, past=None):
  """The oracle's objective."""
  params = tiny.params(BACKBONE) if params is None else params
  past = tiny.params(BACKBONE, 1) if past is None else past
  settings = chosen(name, **given)
  names = {
    'derpp': ('alpha', 'beta'), 'distill': ('alpha', 'distill_temperature'),
    'lamol_kd': ('lambda_gen', 'distill_weight', 'distill_temperature', 'published_kd_mask'),
  }  # fmt: skip
  numbers = [getattr(settings, field) for field in names[name]]
  return getattr(distillation, name)(params, past, rows, VOCABULARY, *numbers)


@pytest.mark.parametrize(('name', 'given'), CASES)
def test_the_objective_is_the_oracles(name, given):
  """On a mixed batch of new and old, answering and generating rows, of uneven lengths."""
  rows = tiny.rows()
  assert {(r.replay, r.generative) for r in rows} == {(a, b) for a in (0, 1) for b in (0, 1)}
  assert evaluate(name, given, rows)[0] == tiny.nearly(worked(name, given, rows))


@pytest.mark.parametrize('replay', [False, True])
@pytest.mark.parametrize('name', NAMES)
def test_a_batch_without_new_or_without_old_rows_is_the_oracles_too(name, replay):
  rows = [r for r in tiny.rows() if r.replay is replay]
  assert 3 <= len(rows) <= 10
  loss, values = evaluate(name, {}, rows)
  assert loss == tiny.nearly(worked(name, {}, rows))
  old = {'old', 'mse', 'kd_qa', 'kd_gen'}
  for term, value in values.items():
    without = name != 'distill' and (term in old) is not replay
    assert (value == 0) is without, term


@pytest.mark.parametrize('name', NAMES)
def test_the_first_task_is_cross_entropy_of_weight_one(name):
  """LAMOL-KD's as LAMOL's; none of them has replay rows in it."""
  rows = [dataclasses.replace(r, replay=False) for r in tiny.rows()]
  found, values = evaluate(name, {}, rows, task=0)
  plain = {'derpp': 'new', 'distill': 'ce'}
  if name == 'lamol_kd':
    assert found == tiny.nearly(values['qa'] + 0.25 * values['gen'])
  else:
    assert found == values[plain[name]]


@pytest.mark.parametrize('name', NAMES)
def test_the_teacher_matters_and_is_not_trained(name):
  batch = layout(tiny.rows(), 1, SHAPE)
  method = methods.make(BACKBONE, chosen(name))

  def objective(params, past):
    sums = [losses.total(v, w, batch) for v, w in method.loss_fn(params, past, batch).values()]
    return sum(total / count for total, count in sums)

  params, past, another = (tiny.params(BACKBONE, seed) for seed in range(3))
  call = jax.jit(jax.value_and_grad(objective, (0, 1)))
  value, (into_params, into_past) = call(params, past)
  assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(into_past))
  assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(into_params))
  assert abs(float(value) - float(call(params, another)[0])) > 1e-2


@pytest.mark.parametrize('name', ['distill', 'lamol_kd'])
def test_distillation_goes_from_teacher_to_student(name):
  """Exchanged, the divergence is another number; of a model from itself it is nothing."""
  rows, (one, two) = tiny.rows(), (tiny.params(BACKBONE, seed) for seed in (0, 1))
  terms = ('kd',) if name == 'distill' else ('kd_qa', 'kd_gen')
  forth, back = (evaluate(name, {}, rows, *pair)[1] for pair in ((one, two), (two, one)))
  same = evaluate(name, {}, rows, one, one)[1]
  for term in terms:
    assert abs(forth[term] - back[term]) > 1e-2 * forth[term]
    assert same[term] == pytest.approx(0, abs=rounding.tolerance(**tiny.LOSS))


@pytest.mark.parametrize('name', ['distill', 'lamol_kd'])
def test_distillation_does_not_vanish_at_high_temperatures(name):
  """T²·KL of softened logits tends to a limit as T grows; without T² it would vanish."""
  values = {
    t: evaluate(name, {'distill_temperature': t}, tiny.rows())[1] for t in (50.0, 100.0, 200.0)
  }
  for term in ('kd',) if name == 'distill' else ('kd_qa', 'kd_gen'):
    assert values[50.0][term] == pytest.approx(values[100.0][term], rel=0.05)
    assert values[100.0][term] == pytest.approx(values[200.0][term], rel=0.05)


def test_the_published_mask_leaves_out_the_first_answer_token_and_goes_on_after_the_end():
  """One old row of five tokens, two of them an answer: places 3 and 4, not 2 and 3."""
  tokens, targets = np.arange(5, dtype=np.int32), np.array([2, 3])
  row = Row(tokens, targets, tokens[3:], 0, 0, replay=True)
  params, past = tiny.params(BACKBONE), tiny.params(BACKBONE, 1)
  values = {
    mask: evaluate('lamol_kd', {'published_kd_mask': mask}, [row])[1]['kd_qa'] for mask in (0, 1)
  }
  for mask, places in ((0, [2, 3]), (1, [3, 4])):
    at = dataclasses.replace(row, targets=np.array(places))
    apart = [
      distillation.divergence(z, other, 2.0)
      for _, z, other, _ in distillation.targets(params, past, [at], VOCABULARY)
    ]
    assert values[mask] == tiny.nearly(np.mean(apart))
  assert abs(values[0] - values[1]) > 1e-3


# With a head: over the classes that the teacher knows.


@pytest.mark.parametrize(
  ('name', 'task_id_given'), [('derpp', False), ('derpp', True), ('distill', False)]
)
def test_a_head_is_compared_over_the_classes_the_teacher_knows(name, task_id_given):
  """Six classes in three tasks, the last one under way: the teacher knows four of them."""
  params, past, rows = tiny.params(HEAD), tiny.params(HEAD, 1), tiny.class_rows()
  rows = [dataclasses.replace(r, replay=r.task < 2) for r in rows]
  heads = Heads(tiny.OWN, 2, task_id_given)
  _, values = evaluate(name, {}, rows, params, past, backbone=HEAD, heads=heads)
  new, old, apart = [], [], []
  for row, z, other, wanted in distillation.targets(params, past, rows, 6):
    allowed = [c for c in range(6) if not task_id_given or c // 2 == row.task]
    known = [c for c in allowed if c < 4]
    kind = old if row.replay else new
    kind.append(distillation.surprise(z[allowed], allowed.index(wanted)))
    if known and name == 'distill':
      apart.append(distillation.divergence(z[known], other[known], 2.0))
    elif known and row.replay:
      apart.append(distillation.distance(z[known], other[known]))
  assert new
  assert old
  mean = distillation.mean
  wanted = {'new': mean(new), 'old': mean(old), 'mse': mean(apart)}
  if name == 'distill':
    wanted = {'ce': mean(new + old), 'kd': mean(apart)}
  assert values == {term: tiny.nearly(value) for term, value in wanted.items()}


def test_a_target_without_a_known_class_does_not_count():
  """New rows of a told task: the teacher knows no class of theirs."""
  rows = [r for r in tiny.class_rows() if r.task == 2]
  heads = Heads(tiny.OWN, 2, True)
  _, values = evaluate('distill', {}, rows, backbone=HEAD, heads=heads)
  assert values['kd'] == 0
  assert values['ce'] > 0


# The teacher from task to task.


@pytest.mark.parametrize('cache_mb', [0, 2048])
@pytest.mark.parametrize('name', NAMES)
def test_the_teacher_is_the_model_at_the_start_of_the_task(name, cache_mb):
  """In the third task too, and its states at the targets are those of that model."""
  life = lived(name, teacher_cache_mb=cache_mb)
  backbone = life.tools.backbone
  hidden = jax.jit(backbone.hidden)
  for task, (memory, start) in enumerate(zip(life.memories, life.starts, strict=True)):
    wanted = start if not cache_mb else backbone.unembedding(start)
    chex.assert_trees_all_equal(memory['teacher'], wanted)
    looked_at = [r for r in life.rows(task, 100) if name == 'distill' or r.replay]
    if not cache_mb:
      assert memory['tables'] == {}
    elif not task:
      assert len(memory['tables']['teacher_hidden']['rows']) == 0
    else:
      table = memory['tables']['teacher_hidden']
      assert sorted({r.number for r in looked_at}) == table['rows'].tolist()
      for row in looked_at[:3] + looked_at[-3:]:
        states_MD = np.asarray(hidden(start, layout([row], 1, Shape(1, 24, 24))))
        found_mD, count = look_up(table, row.number), len(row.targets)
        rounding.assert_close(found_mD, states_MD[:count], **tiny.LOSS)
  with pytest.raises(AssertionError):
    chex.assert_trees_all_equal(life.memories[1]['teacher'], life.memories[2]['teacher'])


@pytest.mark.parametrize('cache_mb', [0, 2048])
@pytest.mark.parametrize('name', NAMES)
def test_what_the_step_sees_has_one_structure_from_the_first_task_on(name, cache_mb):
  life = lived(name, teacher_cache_mb=cache_mb)
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  seen = [shapes((m['teacher'], life.batch(t))) for t, m in enumerate(life.memories)]
  assert seen[0] == seen[1] == seen[2]
  assert shapes(life.first['teacher']) == seen[0][0]
  assert {term for plan in life.plans for term in plan.weights} == set(life.plans[0].weights)


@pytest.mark.parametrize(
  ('name', 'given'),
  slow.but(
    [('derpp', {}), ('distill', {}), ('lamol_kd', {'published_kd_mask': True})],
    [*((n, {}) for n in NAMES), ('lamol_kd', {'published_kd_mask': True})],
  ),
)
def test_cached_states_are_as_good_as_the_teacher_in_the_step(name, given):
  """Objective and gradient, and the teacher holds no more than what projects."""
  found = []
  for cache_mb in (0, 2048):
    life = lived(name, teacher_cache_mb=cache_mb, **given)
    memory, plan = life.memories[2], life.plans[2]
    params = tiny.params(life.tools.backbone, 5)
    method = life.method
    gradient = train_step.make_gradient(method, method.loss_fn, sharding.make_mesh(1))
    trained, frozen, _ = trainable.split(params, (('.*', True),))
    fn = jax.jit(gradient)
    found.append(fn(trained, frozen, memory['teacher'], plan.weights, life.batch(2)))
    assert set(memory['teacher']) == ({'embed'} if cache_mb else set(params))
  ((one, terms), gradient), ((other, cached), found) = found
  assert float(one) == tiny.nearly(float(other))
  assert {k: float(v) for k, v in cached.items()} == {
    k: tiny.nearly(float(v)) for k, v in terms.items()
  }
  assert all(float(v) > 0 for v in terms.values())
  rounding.assert_close(found, gradient, **tiny.GRADIENT)


def test_the_cache_is_kept_up_to_its_size_and_no_further():
  """MiB are of float32 states: examples × rows × the longest answers × width × 4 bytes."""
  tools = tiny.tools('lamol', examples=7)
  params = tiny.params(tools.backbone)
  longest = max(len(r.targets) for t in tools.stream.tasks for e in t.train for r in
                tools.text.rows(e))  # fmt: skip
  examples = 2**20 // (2 * longest * 16 * 4)  # the most that fit into one MiB
  fits, more = (
    teacher.start(tools.backbone, params, tools, n, 1) for n in (examples, examples + 1)
  )
  assert set(fits['tables']) == {'teacher_hidden'}
  assert fits['tables']['teacher_hidden']['values'].shape == (0, 16)
  assert more == {'teacher': params, 'tables': {}}


# Whole runs.


@pytest.mark.parametrize(
  ('name', 'sizes_mb'),
  [
    ('derpp', (0, 2048)),
    ('distill', (0,)),
    ('lamol_kd', (2048,)),
  ],
)
@pytest.mark.slow
def test_no_task_compiles_anew_and_the_cache_changes_no_run(name, sizes_mb):
  """The step compiles once a shape of its batches; losses agree to rounding."""
  sizes = {'max_tasks': 2, 'max_train_per_task': 24, 'max_test_per_task': 4}
  made = runs.config(name, stream=sizes, train={'epochs': 1})
  logged = {}
  for megabytes in sizes_mb:
    made.method.teacher_cache_mb = megabytes
    loop, shapes = runs.Loop(experiment.assemble(made), None, quiet=True), set()
    step = loop.trainer.train_step

    def seen(state, fixed, weights, rate, batch, groups, step=step, shapes=shapes):
      shapes.add((batch.tokens.shape, batch.target_token.shape))
      return step(state, fixed, weights, rate, batch, groups)

    loop.trainer.train_step = seen
    now = loop.init(loop._start(), None)
    for task in loop.parts.stream.tasks:
      now = loop.after_task(loop.train(loop.before_task(now, task), task), task)
    assert step._cache_size() == len(shapes)
    logged[megabytes] = [line['loss'] for line in loop.output.log.lines if 'loss' in line]
  one, *others = logged.values()
  few = len(one) // 2 + 2  # rounding grows afterwards
  for other in others:
    assert len(other) == len(one)
    depth = few * rounding.layers(2, gradient=True)  # a step starts from the one before
    rounding.assert_close(np.array(other[:few]), np.array(one[:few]), terms=64, depth=depth)


@pytest.mark.slow
def test_a_run_with_the_teacher_in_the_step_goes_on_in_the_same_bits(tmp_path):
  made = runs.config('distill', train={'epochs': 1})
  made.method.teacher_cache_mb = 0
  whole = runs.run(made, tmp_path / 'whole')
  with pytest.raises(runs.Killed):
    runs.run(made, tmp_path / 'killed', kill=('train', 2))
  assert runs.run(made, tmp_path / 'killed')['params_sha256'] == whole['params_sha256']
