"""Several methods as one: what it minimises, what it remembers, what cannot be one."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rounding, runs, slow, tiny
from support.scripted import good, scripted

from jcl import methods, workdir
from jcl.batching.batch import Shape, layout
from jcl.errors import UserError
from jcl.methods import Method
from jcl.step import losses, sharding, train_step, trainable
from jcl.trained_run import TrainedRun
from jcl.training import experiment

BACKBONE = tiny.recurrent(tiny.CONFIG.vocabulary)


def through(name, tasks=2):
  """-> tools, method, memory and parameters before the third task."""
  chosen = methods.settings(name)
  tools = scripted(tiny.tools(chosen.text_format), lambda old, draw: '<eos>')
  method, params = methods.make(tools.backbone, chosen), tiny.params(tools.backbone)
  memory = method.init(params, tools.stream, tools)
  for task in tools.stream.tasks[:tasks]:
    memory, params = method.before_task(memory, params, task, tools)
    params = jax.tree.map(lambda p: jnp.asarray(np.asarray(p) * np.float32(0.9)), params)
    memory, params = method.after_task(memory, params, task, tools)
  memory, params = method.before_task(memory, params, tools.stream.tasks[tasks], tools)
  return tools, method, memory, params


@functools.cache
def compiled(method, backbone):
  loss_fn = method.loss_fn or losses.plain(backbone)
  return jax.jit(train_step.make_gradient(method, loss_fn, sharding.make_mesh(1)))


def objective(tools, method, memory, params, rows):
  """-> loss, values, gradient."""
  plan = method.plan(memory, tools.stream.tasks[2])
  batch = layout(rows, 1, Shape(16, 32, 64), tiny.keys(len(rows)), plan.tables)
  trained, frozen, _ = trainable.split(params, (('.*', True),))
  fn = compiled(method, tools.backbone)
  (loss, values), grads = fn(trained, frozen, memory['teacher'], plan.weights, batch)
  return float(loss), values, jax.device_get(grads)


@pytest.mark.parametrize(
  'name',
  slow.but(('maml+l2',), ('replay+ewc', 'ewc+derpp', 'distill+mas+l2', 'maml+l2', 'seq+ewc')),
)
def test_it_minimises_the_loss_of_one_and_the_penalties_of_the_others(name):
  tools, method, memory, params = through(name)
  old = [e.reference for e in tools.stream.tasks[0].train]
  rows = [r for e in tools.stream.tasks[2].train for r in tools.text.rows(e)]
  rows += [r for item in tools.rows(old, replay=True) for r in item]
  loss, values, gradient = objective(tools, method, memory, params, rows)
  total, terms, sums = 0.0, {}, None
  for part in name.split('+'):
    alone = through(part)
    found = objective(*alone[:3], params, rows)
    brings = methods.settings(part).brings
    mine = {k: v for k, v in found[1].items() if brings or k != 'ce' or part == 'seq'}
    terms |= mine
    plain = (
      objective(tools, Method(), memory, params, rows) if not brings and part != 'seq' else None
    )
    total += found[0] - (plain[0] if plain else 0)
    part_gradient = found[2]
    if plain:
      part_gradient = jax.tree.map(np.subtract, found[2], plain[2])
    sums = part_gradient if sums is None else jax.tree.map(np.add, sums, part_gradient)
  assert loss == tiny.nearly(total)
  assert set(values) == set(terms)
  for term, value in terms.items():
    assert float(values[term]) == tiny.nearly(float(value)), term
  largest = max(np.abs(x).max() for x in jax.tree.leaves(sums))
  rounding.assert_close(gradient, sums, scale=largest, **tiny.GRADIENT)


def test_each_part_remembers_what_it_would_alone():
  _, _, memory, _ = through('replay+ewc')
  for part in ('replay', 'ewc'):
    _, _, alone, _ = through(part)
    mine = {**memory[part], 'teacher': memory['teacher'][part]}
    chex.assert_trees_all_equal(mine, alone)


def test_slow_parameters_of_a_part_are_what_is_evaluated():
  _, method, memory, params = through('reptile+l2')
  assert method.params_for(memory, params, None) is memory['teacher']['reptile']
  fast = jax.tree.map(lambda p: p + 1, params)
  teacher, _ = method.after_step(memory['teacher'], fast, np.int32(4))
  assert set(teacher) == {'reptile', 'l2'}
  slow = jax.tree.leaves(teacher['reptile'])[0]
  rounding.assert_close(slow, jax.tree.leaves(params)[0] + 0.5, terms=3)
  assert teacher['l2'] is memory['teacher']['l2']


@pytest.mark.parametrize(
  ('name', 'line'),
  [
    ('replay+derpp', 'replay and derpp both bring old rows; only one can'),
    ('lamol+distill', 'lamol and distill both bring a loss; only one can'),
    ('lora+olora', 'lora and olora both bring adapters or blocks; only one can'),
    ('ewc+ewc', 'names a method twice'),
    ('joint+ewc', 'joint trains fresh models and cannot be composed'),
    ('closed_form+ewc', 'closed_form takes no training step and cannot be composed'),
    ('lora+ewc', 'lora changes the tree of parameters, of which ewc keeps a copy'),
    ('replay+nothing', "nothing is called 'nothing'"),
    ('replay+', "nothing is called ''"),
  ],
)
def test_what_cannot_be_one_is_refused(name, line):
  with pytest.raises(UserError, match=line):
    methods.settings(name)


@pytest.mark.parametrize('name', list(methods.BUILT_IN))
def test_what_a_method_says_that_it_brings_is_what_it_brings(name):
  chosen = methods.settings(name)
  if hasattr(chosen, 'projection'):
    chosen.projection = 8
  tools = scripted(tiny.tools_for(chosen), good)
  method, plain = methods.make(tools.backbone, chosen), Method()
  params = tiny.params(tools.backbone)
  memory = method.init(params, tools.stream, tools)
  shape = jax.tree.structure(params)
  for task in tools.stream.tasks[:2]:
    memory, params = method.before_task(memory, params, task, tools)
    old, rules = (getattr(method.plan(memory, task), field) for field in ('old', 'trainable'))
    grew = jax.tree.structure(params) != shape or any(
      a.shape != b.shape
      for a, b in zip(*map(jax.tree.leaves, (params, tiny.params(tools.backbone))), strict=False)
    )
    memory, params = method.after_task(memory, params, task, tools)
  found = {
    'loss': method.loss_fn is not None, 'rows': len(old) > 0, 'tree': grew,
    'objective': method.objective is not plain.objective, 'combine': method.combine is not None,
    'slow': method.after_step is not None, 'trainable': bool(rules),
  }  # fmt: skip
  assert {what for what, yes in found.items() if yes} == set(chosen.brings)


def test_settings_are_checked_by_method_and_field():
  chosen = methods.settings('replay+ewc')
  assert methods.name_of(chosen) == 'replay+ewc'
  chosen.ewc.lambda_ewc = -1.0
  with pytest.raises(UserError, match=r'method\.ewc\.lambda_ewc is -1\.0'):
    chosen.check()
  assert methods.settings('replay+ewc').ewc.lambda_ewc == 1000  # nothing is shared


def test_scenarios_and_formats_are_those_that_all_can_do():
  assert methods.settings('derpp+ewc').scenarios == ('cil', 'til', 'dil')
  assert methods.settings('lamol+ewc').text_format == 'lamol'
  assert methods.settings('distill+l2').head_scenarios == ('cil', 'dil')
  made = runs.config('derpp+ewc')
  made.scenario = 'iil'
  with pytest.raises(UserError, match=r'iil.*in which derpp\+ewc has no meaning'):
    experiment.check(made)


@pytest.mark.slow
def test_a_run_of_two_is_killed_resumed_and_opened_again(tmp_path):
  made = runs.config('lamol+ewc')
  made.method.ewc.lambda_ewc = 10.0
  whole = runs.run(made, _made(tmp_path / 'whole'))
  with pytest.raises(runs.Killed):
    runs.run(made, _made(tmp_path / 'killed'), kill=('train', 1))
  resumed = runs.run(made, tmp_path / 'killed')
  assert whole['method'] == 'lamol+ewc'
  assert resumed['params_sha256'] == whole['params_sha256']
  lines = [json.loads(x) for x in (tmp_path / 'whole' / 'metrics.jsonl').read_text().splitlines()]
  assert {'qa', 'gen', 'ewc'} <= set(lines[-1])
  assert lines[-1]['ewc'] > 0
  (tmp_path / 'whole' / 'config.json').write_text(json.dumps(workdir.config_to_json(made)))
  again = workdir.load_workdir(str(tmp_path / 'whole'))
  assert again == made
  (_, ids_RN), *_ = TrainedRun(again, tmp_path / 'whole').samples('', 2, 0.0, 0)
  assert len(ids_RN) == 2


def _made(folder):
  folder.mkdir()
  return folder
