"""The methods that train adapters: what trains, what answers, what stays as it was."""

import chex
import jax
import numpy as np
import pytest
from oracles import adapters as oracle
from support import rounding, runs, tiny

from jcl import methods
from jcl.backbones import lora, lora_merging
from jcl.backbones.files import hf
from jcl.batching.batch import Shape, layout
from jcl.errors import UserError
from jcl.step import sharding, train_step, trainable
from jcl.training import experiment
from jcl.training.loop import Loop

flat = hf.tensors.flatten


def through(name, tasks=3, **settings):
  """A method over the tasks of the tiny stream; training adds noise to what the plan lets train."""
  chosen = methods.settings_class(name)(**{'r': 2, **settings})
  tools = tiny.tools('plain', make=tiny.small_decoder)
  method, params = methods.make(tools.backbone, chosen), jax.device_get(tiny.params(tools.backbone))
  memory, seen = method.init(params, tools.stream, tools), []
  for task in tools.stream.tasks[:tasks]:
    memory, params = method.before_task(memory, params, task, tools)
    trained, frozen, masks = trainable.split(params, method.plan(memory, task).trainable)
    random = np.random.default_rng(task.index)
    step = lambda p, m, random=random: p + np.float32(0.1 * random.standard_normal(p.shape)) * m
    params = trainable.join(jax.tree.map(step, trained, masks), frozen)
    memory, params = method.after_task(memory, params, task, tools)
    seen.append(params)
  return tools, method, memory, seen


def test_the_base_stays_and_the_adapter_trains():
  tools, _, memory, seen = through('lora')
  base = tiny.params(tools.backbone)
  for params in seen:
    chex.assert_trees_all_equal({k: params[k] for k in base}, base)
    for part in params['lora']['layers'].values():
      assert part['a'].shape[1] == 2
      assert np.abs(part['b']).max() > 0
      np.testing.assert_array_equal(part['scale'], 16)  # lora_alpha / r
  assert list(memory['adapters']) == ['t0', 't1', 't2']
  first, second = (seen[i]['lora']['layers']['q']['a'] for i in (0, 1))
  assert not np.allclose(first, second, atol=0.3)  # a fresh one


def test_a_told_task_gets_its_adapter_and_an_untold_one_the_last():
  tools, method, memory, seen = through('lora')
  for task, params in zip(tools.stream.tasks, seen, strict=True):
    task_id_given = method.params_for(memory, seen[-1], task)['lora']
    chex.assert_trees_all_equal(task_id_given, params['lora'])
  assert method.params_for(memory, seen[-1], None) is seen[-1]
  new = method.params_for(memory | {'adapters': {}}, seen[-1], tools.stream.tasks[0])
  assert new is seen[-1]  # of a task not learned yet


@pytest.mark.parametrize('how', ['linear', 'svd', 'ties', 'magmax', 'dare'])
def test_a_merge_answers_where_no_task_is_told(how):
  _, method, memory, seen = through('lora', merge=how)
  found = method.params_for(memory, seen[-1], None)['lora']
  wanted = lora_merging.merge(memory['adapters'], lora_merging.Recipe(how))
  chex.assert_trees_all_equal(found, wanted)
  if how == 'linear':
    each = [dict(lora.weight_deltas(params['lora'])) for params in seen]
    for name, delta in lora.weight_deltas(found):
      # The merge takes a singular value decomposition: three products of at most 24 terms.
      rounding.assert_close(delta, sum(d[name] for d in each) / 3, terms=24, depth=4)


@pytest.mark.parametrize('scale', [0.0, 0.5])
def test_a_scaled_merge_is_part_of_the_way_from_the_base(scale):
  _, method, memory, seen = through('lora', merge='magmax', merge_scale=scale)
  found = dict(lora.weight_deltas(method.params_for(memory, seen[-1], None)['lora']))
  whole = lora_merging.merge(memory['adapters'], lora_merging.Recipe('magmax'))
  for name, delta in lora.weight_deltas(whole):
    rounding.assert_close(
      found[name], scale * np.asarray(delta), scale=np.abs(delta).max(), terms=4
    )


@pytest.mark.parametrize('name', ['lora', 'olora'])
def test_stacked_adapters_train_on_top_of_frozen_ones(name):
  _, method, memory, seen = through(name, **({'stack': True} if name == 'lora' else {}))
  layers = [params['lora']['layers']['v'] for params in seen]
  for leaf in ('a', 'b'):
    assert layers[0][leaf].shape[1] == 6  # of all tasks, from the first on
    for i in (1, 2):
      before, after = layers[i - 1][leaf], layers[i][leaf]
      changed = np.abs(after - before).max((0, 2)) > 0
      np.testing.assert_array_equal(changed, np.arange(6) // 2 == i)
  assert not np.abs(layers[0]['b'][:, 2:]).any()  # later tasks' columns add nothing yet
  np.testing.assert_array_equal(layers[0]['scale'], 16)
  assert method.params_for(memory, seen[-1], None) is seen[-1]


def test_slao_starts_from_the_last_adapter_and_answers_with_the_merge():
  tools, method, memory, seen = through('slao')
  ends = [params['lora']['layers']['v'] for params in seen]
  _, start = method.before_task(memory, seen[-1], tools.stream.tasks[2], tools)
  begun = start['lora']['layers']['v']
  np.testing.assert_array_equal(begun['b'], ends[2]['b'])
  for a_RI, last_RI in zip(np.asarray(begun['a'], np.float64), ends[2]['a'], strict=True):
    rounding.assert_close(a_RI @ a_RI.T, np.eye(2), terms=16, depth=4)
    within_RI = last_RI @ a_RI.T @ a_RI  # the rows span what the last ones did
    rounding.assert_close(within_RI, np.asarray(last_RI, np.float64), terms=16, depth=6)
  found = method.params_for(memory, seen[-1], None)['lora']['layers']['v']
  np.testing.assert_array_equal(found['a'], ends[2]['a'])
  two = ends[0]['b'] + (ends[1]['b'] - ends[0]['b']) / np.sqrt(2)
  rounding.assert_close(found['b'], two + (ends[2]['b'] - two) / np.sqrt(3), terms=8)
  assert method.params_for(memory, seen[-1], tools.stream.tasks[0])['lora']['layers']['v'] is found


def test_an_adapter_of_more_rows_than_inputs_is_refused_where_rows_must_be_orthogonal():
  with pytest.raises(UserError, match=r'method\.r is 17; it must be at most 16, the inputs of'):
    through('slao', r=17)


def test_overlap_is_that_of_the_own_columns_with_the_earlier_ones():
  tools, _, _, seen = through('olora')
  chosen = methods.settings_class('olora')(r=2)
  method = methods.make(tools.backbone, chosen)
  memory, params = method.init(seen[-1], tools.stream, tools), seen[-1]
  wanted = [oracle.overlap(params['lora'], task, rank=2) for task in range(3)]
  for task in tools.stream.tasks:
    memory, _ = method.before_task(memory, params, task, tools)
    value = method.penalty_fn(params, memory['teacher'])['overlap']
    assert float(value) == pytest.approx(
      wanted[task.index], rel=rounding.tolerance(24 * 4, depth=3)
    )
    assert method.plan(memory, task).weights == {'overlap': 0.5}
  assert wanted[0] == 0
  assert 0 < wanted[1] != wanted[2]


def test_the_penalty_pulls_the_own_columns_and_nothing_is_nan_at_empty_ones():
  _, method, memory, seen = through('olora', tasks=2)
  own = lambda p: method.penalty_fn(p, memory['teacher'])['overlap']
  gradient = jax.grad(own)(seen[-1])['lora']['layers']['q']
  assert np.abs(gradient['a'][:, 2:4]).max() > 0
  empty = {**seen[-1], 'lora': jax.tree.map(np.zeros_like, seen[-1]['lora'])}
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.grad(own)(empty)))
  for way in ('q', 'v'):  # columns of tasks to come are nobody's
    assert not np.abs(jax.grad(own)(seen[-1])['lora']['layers'][way]['a'][:, 4:]).any()


def test_the_first_step_moves_b_alone_and_by_the_adapters_rate():
  """B is zero, so A has no gradient yet; the plan freezes everything else."""
  made = runs.config(
    'lora', train={'steps': 1, 'epochs': 5, 'adapter_learning_rate': 3e-3, 'weight_decay': 0.0},
    stream={'max_tasks': 1},
  )  # fmt: skip
  made.method.r = 2
  parts = experiment.assemble(made)
  loop, (task,) = Loop(parts, None, quiet=True), parts.stream.tasks
  now = loop.before_task(loop.init(loop._start(), None), task)
  params = jax.device_get(loop.train(now, task).params)
  assert parts.decoder_config.lora_dropout == 0.05
  start = parts.initial_params()
  for path, x in flat(start).items():
    np.testing.assert_array_equal(x, flat(params)[path], err_msg=path)
  for part in params['lora']['layers'].values():
    assert np.abs(part['b']).max() == pytest.approx(3e-3, rel=1e-2)  # Adam's first step


def test_frozen_stacks_cost_no_gradient_of_theirs():
  tools, method, memory, seen = through('olora', tasks=2)
  task = tools.stream.tasks[1]
  rows = [row for e in task.train for row in tools.text.rows(e)]
  batch = layout(rows, 1, Shape(8, 32, 32), tiny.keys(len(rows)))
  trained, frozen, masks = trainable.split(seen[-1], method.plan(memory, task).trainable)
  assert {p.split('/')[0] for p in flat(jax.tree.map(lambda x: x, trained))} == {'lora'}
  assert not any('scale' in path for path in flat(trained))
  fn = train_step.make_gradient(
    method, experiment.losses.plain(tools.backbone), sharding.make_mesh(1)
  )
  (_, values), gradient = jax.jit(fn)(trained, frozen, memory['teacher'], {'overlap': 0.5}, batch)
  gradient = jax.device_get(gradient)
  assert set(values) == {'ce', 'overlap'}
  masked = jax.tree.map(lambda g, m: g * m, gradient, masks)
  for path, x in flat(masked).items():
    moved = np.abs(x).max((0, 2)) > 0
    np.testing.assert_array_equal(moved, np.arange(6) // 2 == 1, err_msg=path)


@pytest.mark.parametrize(
  ('name', 'field', 'value', 'says'),
  [
    ('lora', 'r', 0, 'method.r is 0; it must be at least 1'),
    ('lora', 'lora_alpha', 0.0, 'method.lora_alpha is 0.0'),
    ('lora', 'lora_dropout', 1.0, 'method.lora_dropout is 1.0'),
    ('lora', 'density', 0.0, 'method.density is 0.0'),
    ('lora', 'merge', 'average', "method.merge is 'average'; it must be one of"),
    ('olora', 'merge', 'ties', "method.merge is 'ties'; it must be ''"),
    ('olora', 'stack', False, 'method.stack is False'),
    ('olora', 'lambda_olora', -1.0, 'method.lambda_olora is -1.0'),
  ],
)
def test_bad_settings_are_refused_by_field(name, field, value, says):
  made = runs.config(name)
  setattr(made.method, field, value)
  with pytest.raises(UserError, match=says):
    experiment.check(made)


def test_unknown_projections_are_refused_before_anything_is_compiled(tmp_path):
  made = runs.config('lora')
  made.method.targets = ('q', 'c_attn')
  with pytest.raises(UserError, match=r"no projection 'c_attn'; it has down, gate, k, o, q, up, v"):
    runs.run(made, tmp_path / 'run')
