"""Whole runs: what they leave, that they go on after a kill, and that devices do not matter."""

import dataclasses
import itertools
import json
import time

import chex
import jax
import numpy as np
import pytest
from support import rounding, runs, slow
from support.launchers import forks

from jcl import methods
from jcl.errors import UserError
from jcl.storage.checkpoint import Snapshots
from jcl.training import experiment
from jcl.training.batch_loader import BatchLoader

TERMS = {
  'agem': {'new', 'old'}, 'cls_er': {'ce', 'mse'},
  'lamol': {'qa', 'gen'}, 'lamol_kd': {'qa', 'gen', 'kd_qa', 'kd_gen'},
  'l2kd': {'qa', 'gen', 'old_qa', 'old_gen', 'kd_qa', 'kd_gen'},
  'derpp': {'new', 'old', 'mse'}, 'distill': {'ce', 'kd'}, 'sdft': {'ce', 'kl'},
  'olora': {'ce', 'overlap'},
  'ewc': {'ce', 'ewc'}, 'l2': {'ce', 'l2'}, 'mas': {'ce', 'mas'},
}  # fmt: skip
SCHEMA = {
  'jcl': str, 'method': str, 'stream': str, 'scenario': str, 'seed': int, 'tasks': list,
  'score': str, 'matrix': list, 'metrics': dict, 'seconds': dict, 'tokens': dict, 'pseudo': list,
  'resumes': list, 'params_sha256': str, 'finished': bool,
}  # fmt: skip


# Those of which each file of tests/methods has whole runs too are slow.
KEPT = ('seq', 'lamol_kd', 'lora')


@pytest.fixture(scope='session', params=slow.but(KEPT, methods.BUILT_IN))
def finished(request, tmp_path_factory):
  """One trained run a method, shared by all tests that look at it."""
  folder = tmp_path_factory.mktemp(request.param)
  return request.param, folder, runs.run(runs.config(request.param), folder)


def test_results_have_the_schema_and_are_what_was_returned(finished):
  method, folder, results = finished
  written = json.loads((folder / 'results.json').read_text())
  assert written == json.loads(json.dumps(results))
  for key, kind in SCHEMA.items():
    assert isinstance(written[key], kind), key
  assert written['matrix_train'] is None
  assert written['method'] == method
  assert written['finished'] is True
  assert len(written['matrix']) == 4
  assert all(len(row) == 3 for row in written['matrix'])
  assert set(written['seconds']) == {'train', 'generate', 'evaluate', 'memory', 'compile'}


def test_the_seen_tasks_and_the_next_one_are_evaluated(finished):
  method, _, results = finished
  evaluated = [[v is not None for v in row] for row in results['matrix']]
  nothing, everything = [False] * 3, [True] * 3
  if method == 'joint':
    assert evaluated == [everything, nothing, nothing, everything]
    assert results['metrics']['forgetting'] is None
  else:
    assert evaluated == [everything, [True, True, False], everything, everything]
    assert results['metrics']['forgetting'] is not None


def test_every_step_is_logged_once_with_every_term(finished):
  method, folder, results = finished
  lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
  steps = [(line['task'], line['step']) for line in lines]
  assert steps == sorted(set(steps))
  if not methods.settings(method).takes_steps:
    assert lines == []
    return
  terms = TERMS.get(method, {'ce'})
  assert all(
    set(line) == {'task', 'step', 'rate', 'loss', 'gradient_norm'} | terms for line in lines
  )
  assert all(np.isfinite(line['loss']) for line in lines)
  assert results['tokens']['train'] > 0


def test_a_run_leaves_pictures_a_page_and_two_snapshots(finished):
  _, folder, _ = finished
  assert (folder / 'figures' / 'accuracy.png').stat().st_size > 5000
  assert '<html' in (folder / 'report.html').read_text()
  assert len(list((folder / 'checkpoints').glob('[0-9]*'))) == 2
  assert not list(folder.rglob('.*.part'))


def test_nothing_compiles_after_the_first_batch_of_a_shape(tmp_path):
  made = runs.config('seq', train={'epochs': 3})
  tmp_path.mkdir(exist_ok=True)
  loop = runs.Loop(experiment.assemble(made), tmp_path, quiet=True)
  loop.run()
  shapes = set()
  for task in loop.parts.stream.tasks:
    feed = BatchLoader(methods.Method().plan({}, task), task.index, loop.tools, made.train)
    shapes |= {(b.batch.tokens.shape, b.batch.target_token.shape) for b in feed.batches()}
  assert loop.trainer.train_step._cache_size() == len(shapes)
  assert len({tokens for tokens, _ in shapes}) * 3 >= len(shapes)  # at most three rungs a bucket


class Late:
  """An array whose value is computed for some time yet."""

  def block_until_ready(self):
    time.sleep(0.1)


def test_the_seconds_of_a_hook_hold_the_work_that_it_began(tmp_path):
  """Devices compute while Python goes on, into the first step or the evaluation."""
  loop = runs.Loop(experiment.assemble(runs.config('seq')), tmp_path, quiet=True)
  task, now = loop.parts.stream.tasks[0], loop._start()
  taught = {'teacher': {'x': Late()}}
  loop._hook(now, task, lambda memory, params, task, tools: (taught, params))
  assert loop.output.clock.seconds['memory'] >= 0.1


# Kills of every method at events of every kind: tests/test_kills.py.
@pytest.mark.parametrize(
  ('finished', 'phase'),
  [
    ('lamol_kd', 'before_task'),
    ('olora', 'after_task'),
    ('single', 'train'),
  ],
  indirect=['finished'],
)
@pytest.mark.slow
def test_a_run_killed_after_a_task_ends_in_the_same_bits(finished, phase, tmp_path):
  method, folder, whole = finished
  made = runs.config(method)
  with pytest.raises(runs.Killed):
    runs.run(made, tmp_path, kill=(phase, 1))
  left = json.loads((tmp_path / 'results.json').read_text())
  assert left['finished'] is False
  assert left['matrix'][1] == whole['matrix'][1]
  resumed = runs.run(made, tmp_path)
  for key in ('params_sha256', 'matrix', 'metrics', 'pseudo', 'negative_flips', 'tokens'):
    assert resumed[key] == whole[key], key
  log = lambda f: [json.loads(line) for line in (f / 'metrics.jsonl').read_text().splitlines()]
  assert log(tmp_path) == log(folder)
  (resume,) = resumed['resumes']
  trained = max(line['step'] for line in log(folder) if line['task'] == 1)
  assert resume['steps_repeated'] == (trained if phase == 'after_task' else 0)


def test_a_finished_run_answers_at_once_and_unchanged(finished):
  method, folder, results = finished
  steps = (folder / 'metrics.jsonl').stat().st_size
  again = runs.run(runs.config(method), folder)
  assert again['params_sha256'] == results['params_sha256']
  assert again['seconds']['train'] == results['seconds']['train']
  assert (folder / 'metrics.jsonl').stat().st_size == steps


@pytest.mark.parametrize(
  ('method', 'sharded'),
  [
    pytest.param('ewc', True, marks=pytest.mark.slow),
    pytest.param('replay', False, marks=pytest.mark.slow),
    pytest.param('pretrain', True, marks=pytest.mark.slow),
  ],
)
def test_eight_devices_learn_what_one_does(method, sharded, tmp_path):
  """Over few steps: rounding grows afterwards (and a sampled token may flip)."""
  size = 4 if method == 'pretrain' else 16  # blocks are few: no step may have them all
  script = (
    'import sys, pathlib, numpy as np; from support import rounding, runs\n'
    'from jcl.storage.checkpoint import Snapshots\n'
    f'made = runs.config("{method}", stream={{"max_tasks": 2}}, '
    f'train={{"steps": 3, "batch_size": {size}, "fsdp": {sharded}}})\n'
    'folder = pathlib.Path(sys.argv[1]); runs.run(made, folder)\n'
    'import jax; print(jax.device_count())\n'
  )
  params, results = {}, {}
  for devices in (1, 8):
    folder = tmp_path / str(devices)
    done = forks().code(script, str(folder), devices=devices)
    assert done.status == 0, done.err[-3000:]
    assert done.out.split()[-1] == str(devices)
    params[devices] = Snapshots(folder).latest()['params']
    results[devices] = json.loads((folder / 'results.json').read_text())
  assert results[8]['mix'] == results[1]['mix']
  steps = 6  # of two tasks
  rounded = rounding.tolerance(64, steps * rounding.layers(1, gradient=True))
  for line, wanted in zip(results[8]['drift'], results[1]['drift'], strict=True):
    assert line == {
      **wanted,
      **{k: pytest.approx(wanted[k], rel=rounded) for k in ('kl', 'perplexity')},
    }
  if method == 'pretrain':
    assert len(results[1]['drift']) == 2
    for row, wanted in zip(*(results[d]['matrix'] for d in (8, 1)), strict=True):
      assert row == pytest.approx(wanted, rel=rounded)
  drift = rounding.trained(steps, 1e-2, terms=64, depth=rounding.layers(1, gradient=True))
  chex.assert_trees_all_close(params[8], params[1], rtol=0, atol=drift)


@pytest.mark.slow
def test_another_seed_is_another_run(tmp_path):
  one, two = (
    runs.run(
      runs.config('seq', train={'seed': seed}, stream={'max_tasks': 1}), tmp_path / str(seed)
    )
    for seed in (0, 1)
  )
  assert one['params_sha256'] != two['params_sha256']


def test_keep_best_hands_on_the_best_dev_score(tmp_path, monkeypatch):
  """Dev scores 1, 0.5, 0.5, … : the parameters after the first epoch go on."""
  made = runs.config('seq', train={'keep_best': True, 'epochs': 4}, stream={'max_tasks': 1})
  (tmp_path / 'best').mkdir()
  loop = runs.Loop(experiment.assemble(made), tmp_path / 'best', quiet=True)
  assert all(t.dev for t in loop.parts.stream.tasks)
  scores, after_epoch = iter([1.0, 0.5, 0.5, 0.5]), []
  real = loop.score

  def scored(params, task, examples, tools):
    found = real(params, task, examples, tools)
    if examples is task.dev:
      after_epoch.append(jax.tree.map(np.asarray, params))
      count = len(found.right)
      right = int(next(scores) * count)
      return dataclasses.replace(found, right=[True] * right + [False] * (count - right))
    return found

  monkeypatch.setattr(loop, 'score', scored)
  loop.run()
  kept = Snapshots(tmp_path / 'best').latest()['params']
  assert len(after_epoch) == 4
  chex.assert_trees_all_equal(kept, after_epoch[0])
  with pytest.raises(AssertionError):
    chex.assert_trees_all_equal(kept, after_epoch[-1])


def test_dev_curves_of_all_seen_tasks_are_logged_inside_a_task(tmp_path):
  made = runs.config('seq', evaluate={'every_epochs': 1}, stream={'max_tasks': 2})
  runs.run(made, tmp_path)
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  curves = [(line['task'], len(line['dev'])) for line in lines if 'dev' in line]
  assert curves == [(0, 1), (0, 1), (1, 2), (1, 2)]


def test_evaluating_inside_a_task_changes_nothing(finished, tmp_path):
  method, _, results = finished
  if method != 'seq':
    pytest.skip('one method shows it')
  made = runs.config('seq', evaluate={'every_steps': 2})
  again = runs.run(made, tmp_path)
  # The stream is cut alike whether or not a dev split is needed: it has one of its own.
  assert again['params_sha256'] == results['params_sha256']


@pytest.mark.slow
def test_a_carried_optimiser_differs_from_a_fresh_one(tmp_path):
  """Task 1 is the same, task 2 starts with moments."""
  made = [
    runs.config('seq', stream={'max_tasks': 2}, train={'optimizer_between_tasks': kind})
    for kind in ('fresh', 'carried')
  ]
  fresh, carried = (runs.run(m, tmp_path / str(i)) for i, m in enumerate(made))
  losses = [
    [
      json.loads(line)['loss']
      for line in (tmp_path / str(i) / 'metrics.jsonl').read_text().splitlines()
    ]
    for i in range(2)
  ]
  half = len(losses[0]) // 2
  assert losses[0][: half + 1] == losses[1][: half + 1]
  assert losses[0][half + 1 :] != losses[1][half + 1 :]
  assert fresh['params_sha256'] != carried['params_sha256']


def test_trainable_patterns_freeze_the_rest(tmp_path):
  made = runs.config('seq', stream={'max_tasks': 1}, train={'trainable': ('!embed', 'layers')})
  parts = experiment.assemble(made)
  before = jax.tree.map(np.asarray, parts.initial_params())
  runs.run(made, tmp_path)
  after = Snapshots(tmp_path).latest()['params']
  np.testing.assert_array_equal(after['embed']['embedding'], before['embed']['embedding'])
  np.testing.assert_array_equal(after['final_norm']['scale'], before['final_norm']['scale'])
  assert not np.array_equal(after['layers']['q']['kernel'], before['layers']['q']['kernel'])


def test_a_rate_that_explodes_stops_with_a_line(tmp_path):
  made = runs.config('seq', train={'learning_rate': 1e30, 'clip_norm': 0.0})
  with pytest.raises(UserError, match=r'task kitchen, step \d+: .*not finite.*learning_rate'):
    runs.run(made, tmp_path)


@pytest.mark.parametrize(
  ('scenario', 'method'),
  slow.but([('dil', 'derpp')], itertools.product(('til', 'dil'), ('seq', 'derpp', 'lamol'))),
)
def test_scenarios_run(scenario, method, tmp_path):
  made = runs.config(method, stream={'max_tasks': 2}, train={'epochs': 1})
  made.scenario = scenario
  assert runs.run(made, tmp_path)['scenario'] == scenario


def test_instance_incremental_reports_memorisation_and_generalisation(tmp_path):
  """Free answers: questions for training, paraphrases for testing, two tasks."""
  for task in (0, 1):
    for split, form in (('train', 'what does {} need'), ('test', 'name the need of {}')):
      lines = [
        json.dumps({'text': form.format(f'thing{task}{i}'), 'answer': f'part{task}{i}'})
        for i in range(6)
      ]
      (tmp_path / f'{split}{task}.jsonl').write_text('\n'.join(lines) + '\n')
  tasks = [{'name': f't{i}', 'train': f'train{i}.jsonl', 'test': f'test{i}.jsonl'} for i in (0, 1)]
  manifest = {'text': 'text', 'answer': 'answer', 'tasks': tasks}
  (tmp_path / 'manifest.json').write_text(json.dumps(manifest))
  stream = {'name': 'files', 'path': str(tmp_path), 'order_seed': -1}
  made = runs.config('seq', stream=stream, train={'epochs': 60, 'batch_size': 6})
  made.scenario = 'iil'
  results = runs.run(made, tmp_path / 'run')
  assert results['matrix_train'][1][0] >= 5 / 6
  assert results['metrics_train']['average_accuracy'] is not None
  assert results['invalid'][1] == [None, None]


def test_a_likelier_label_is_the_answer(tmp_path):
  """Scored answers are labels of seen classes, so none is invalid; told the task, of its own."""
  made = runs.config('seq', evaluate={'answer': 'score'}, train={'epochs': 6})
  results = runs.run(made, tmp_path)
  assert all(v in (0, None) for row in results['invalid'] for v in row)
  assert results['matrix'][3][2] > results['matrix'][0][2] + 0.2


@pytest.mark.slow
def test_published_models_learn_published_tasks(shared, tmp_path):
  """A real pretrained Llama on three tasks of CLINC150, with lamol: it learns and replays."""
  made = runs.config(
    'lamol',
    stream={
      'name': 'clinc150', 'path': str(shared / 'data' / 'clinc150'), 'classes_per_task': 2,
      'max_train_per_task': 60, 'max_test_per_task': 16, 'order_seed': -1, 'max_length': 64,
    },
    backbone={'path': str(shared / 'models' / 'stories260k-hf')},
    train={'learning_rate': 3e-3, 'epochs': 12},
    evaluate={'batch_size': 32},
  )  # fmt: skip
  results = runs.run(made, tmp_path)
  for i in range(3):
    assert results['matrix'][i + 1][i] >= 0.7
  assert sum(line['kept'] for line in results['pseudo']) >= 6
  assert results['overlap'] is not None


def test_a_scenario_without_meaning_is_refused():
  made = runs.config('lamol')
  made.scenario = 'cpt'
  with pytest.raises(UserError, match="scenario is 'cpt', in which lamol has no meaning"):
    experiment.assemble(made)


@pytest.mark.parametrize('method', ['single', 'joint'])
def test_moments_are_not_carried_into_a_fresh_model(method):
  made = runs.config(method, train={'optimizer_between_tasks': 'carried'})
  with pytest.raises(UserError, match=f"is 'carried', but {method} starts from a fresh model"):
    experiment.assemble(made)
  made = runs.config(method, train={'schedule_between_tasks': 'continue', 'schedule': 'cosine'})
  with pytest.raises(UserError, match=f"is 'continue', but {method} starts from a fresh model"):
    experiment.assemble(made)
