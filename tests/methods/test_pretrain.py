"""Continual pretraining: what it minimises, what it is scored by, and whole runs on raw text."""

import json
import math
import pathlib

import jax
import numpy as np
import pytest
from oracles import pretraining
from support import rounding, runs, tiny
from support.config_folder import SMALL
from support.config_folder import folder as model_folder
from support.launchers import call
from support.packed import packed

from jcl import methods
from jcl.backbones.tokenizers import vocabulary_size
from jcl.batching.batch import Shape, layout
from jcl.errors import UserError
from jcl.preflight import cost
from jcl.preflight import page as sections
from jcl.step import losses, sharding, train_step, trainable
from jcl.storage.checkpoint import Snapshots
from jcl.storage.encoding import decode, encode
from jcl.training import evaluate, experiment
from jcl.training.batch_loader import BatchLoader
from jcl.training.folds import Journal
from jcl.training.hook_tools import make_tools

CPT = ('seq', 'joint', 'single', 'replay', 'ewc', 'distill', 'lora')
LAUNCHED = (
  '--config=configs/quickstart.py:pretrain', '--config.stream.max_tasks=3',
  '--config.stream.max_train_per_task=40', '--config.stream.max_test_per_task=16',
  '--config.train.epochs=2', '--config.train.batch_size=8', '--config.backbone.width=16',
)  # fmt: skip


def text_tools(folder, devices=1, batch_size=4, **how):
  """Tools of a run on the tiny stream's texts in blocks, with a model of their words."""
  stream, text, _ = packed(folder, **how)
  backbone = tiny.recurrent(vocabulary_size(text.tokenizer))
  return make_tools(backbone, text, stream, sharding.make_mesh(devices), 0, batch_size)


def config(method='pretrain', scenario='cpt', **sections):
  made = runs.config(method, **sections)
  made.scenario = scenario
  return made


def plain(params):
  return {name: {'kernel': np.asarray(leaf['kernel'], np.float64)} for name, leaf in params.items()}


def rows_of(tools, *splits):
  return [row for blocks in splits for e in blocks for row in tools.text.rows(e)]


# Objective and scores.


def test_the_objective_is_the_mean_over_all_tokens_new_and_old(tmp_path):
  tools = text_tools(tmp_path)
  backbone, params = tools.backbone, tiny.params(tools.backbone)
  method = methods.make(backbone, methods.settings('pretrain'))
  memory = method.init(params, tools.stream, tools)
  first, second = tools.stream.tasks[:2]
  memory, _ = method.after_task(memory, params, first, tools)
  found = method.plan(memory, second)
  rows = rows_of(tools, second.train)
  rows += [tools.text.rows(tools.example(e), True)[0] for e in list(found.old)[:3]]
  assert sum(r.replay for r in rows) == 3
  targets = sum(len(r.targets) for r in rows)
  batch = layout(rows, 1, Shape(len(rows), 8, targets + 5), tiny.keys(len(rows)))
  trained, frozen, _ = trainable.split(params, (('.*', True),))
  loss_fn = method.loss_fn or losses.plain(backbone)
  gradient = train_step.make_gradient(method, loss_fn, tools.mesh)
  (loss, values), _ = jax.jit(gradient)(trained, frozen, memory['teacher'], found.weights, batch)
  wanted = pretraining.pretrain(plain(params), rows, backbone.outputs)
  assert float(loss) == tiny.nearly(wanted)
  assert set(values) == {'ce'}


@pytest.mark.parametrize('bos', [False, True])
@pytest.mark.parametrize('batch_size', [1, 3, 64])
def test_log_perplexity_is_the_mean_over_tokens_whatever_the_chunk(batch_size, bos, tmp_path):
  tools = text_tools(tmp_path, batch_size=batch_size, bos=bos)
  params = tiny.params(tools.backbone)
  for task in tools.stream.tasks[:2]:
    found = evaluate.score(params, task, task.test, tools, 'generate', 0)
    rows = rows_of(tools, task.test)
    wanted = pretraining.pretrain(plain(params), rows, tools.backbone.outputs)
    assert found.value == tiny.nearly(wanted)
    assert found.targets == sum(len(r.targets) for r in rows) == task.test.targets
    assert found.merit == -found.value


def test_a_score_goes_on_from_the_chunk_it_was_killed_in(tmp_path):
  tools = text_tools(tmp_path, batch_size=1)
  params, task = tiny.params(tools.backbone), tools.stream.tasks[0]
  score = lambda: evaluate.score(params, task, task.train, tools, 'generate', 0)
  whole, done = score(), []

  def dying(name, number, chunks):
    done.append((number, chunks))
    if number == 2:
      raise runs.Killed

  tools.folds.journal, tools.folds.on_chunk = Journal(), dying
  with pytest.raises(runs.Killed):
    score()
  arrays = {}
  kept = json.loads(json.dumps(encode([list(e) for e in tools.folds.journal.entries], arrays)))
  tools.folds.journal = Journal(decode(kept, arrays))
  tools.folds.on_chunk = lambda name, number, chunks: done.append((number, chunks))
  assert score() == whole
  assert [number for number, _ in done] == list(range(1, len(task.train) + 1))


def test_drift_is_the_divergence_from_the_base_and_nothing_for_the_base_itself(tmp_path):
  tools = text_tools(tmp_path)
  params, other = (tiny.params(tools.backbone, seed) for seed in (0, 1))
  method = methods.make(tools.backbone, methods.settings('pretrain'))
  memory = method.init(params, tools.stream, tools)
  for now in (params, other):
    method.after_task(memory, now, tools.stream.tasks[0], tools)
    tools.folds.journal = Journal()
  still, moved = tools.reports['drift']
  rows = rows_of(tools, tools.stream.tasks[0].test)
  at = plain(params), plain(other)
  assert still['kl'] == pytest.approx(0, abs=rounding.tolerance(1))
  assert moved['kl'] == tiny.nearly(pretraining.drift(*at, rows, tools.backbone.outputs))
  assert abs(moved['kl'] - pretraining.drift(*at[::-1], rows, tools.backbone.outputs)) > 1e-2
  for line, own in zip((still, moved), at, strict=True):
    nats = pretraining.pretrain(own, rows, tools.backbone.outputs)
    assert line['perplexity'] == tiny.nearly(math.exp(nats))
  assert [line['task'] for line in (still, moved)] == ['t0', 't0']


def test_drift_holds_no_logits_of_all_tokens(tmp_path, monkeypatch):
  """In chunks of a few targets it says the same."""
  tools = text_tools(tmp_path)
  params, other = (tiny.params(tools.backbone, seed) for seed in (0, 1))
  for held in (losses.HELD, 5 * tools.backbone.outputs):
    monkeypatch.setattr(losses, 'HELD', held)
    method = methods.make(tools.backbone, methods.settings('pretrain'))
    memory = method.init(params, tools.stream, tools)
    method.after_task(memory, other, tools.stream.tasks[0], tools)
    tools.folds.journal = Journal()
  one, two = tools.reports['drift']
  assert one['kl'] == tiny.nearly(two['kl'])


def test_the_memory_of_old_corpora_is_a_few_numbers_and_is_not_changed_in_place(tmp_path):
  tools = text_tools(tmp_path)
  params = tiny.params(tools.backbone)
  settings = methods.settings_class('pretrain')(drift=False, replay_share=0.25)
  method = methods.make(tools.backbone, settings)
  memory = method.init(params, tools.stream, tools)
  assert set(memory) == {'teacher', 'past'}
  for task in tools.stream.tasks:
    found, before = method.plan(memory, task), [list(s) for s in memory['past']]
    earlier = tools.stream.tasks[: task.index]
    assert list(found.old) == [e.reference for t in earlier for e in t.train]
    assert (found.level, found.unit) == ('even', 'tokens')
    assert found.ratio == pytest.approx(1 / 3)
    after, same = method.after_task(memory, params, task, tools)
    assert memory['past'] == before
    assert same is params
    memory = after
  assert 'drift' not in tools.reports


# Whole runs.


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run of three tasks, two epochs each, with snapshots inside tasks."""
  folder = tmp_path_factory.mktemp('pretrain') / 'run'
  made = config(
    checkpoint={'every_steps': 3}, evaluate={'every_epochs': 1}, train={'batch_size': 2}
  )
  return folder, made, runs.run(made, folder)


def test_results_are_nats_and_metrics_follow_from_them(trained):
  folder, made, results = trained
  parts = experiment.assemble(made)
  assert (results['score'], results['scenario']) == ('log_perplexity', 'cpt')
  assert results['sizes'] == [t.test.targets for t in parts.stream.tasks]
  R, found = results['matrix'], results['metrics']
  assert all(R[j + 1][j] < R[0][j] - 0.5 for j in range(3))
  assert found['average_accuracy'] == pytest.approx(sum(R[3]) / 3)
  best = [min(R[1][0], R[2][0]), R[2][1]]
  assert found['forgetting'] == pytest.approx(((R[3][0] - best[0]) + (R[3][1] - best[1])) / 2)
  backward = ((R[1][0] - R[3][0]) + (R[2][1] - R[3][1])) / 2
  assert found['backward_transfer'] == pytest.approx(backward)
  forward = ((R[0][1] - R[1][1]) + (R[0][2] - R[2][2])) / 2
  assert found['forward_transfer'] == pytest.approx(forward)
  assert found['forgetting_rate'] is None
  assert results['negative_flips'] is None
  assert results['invalid'] is None
  last = Snapshots(folder).latest()['params']
  scored = evaluate.score(last, None, parts.stream.tasks[1].test, parts.tools, 'generate', 0)
  assert scored.value == tiny.nearly(R[3][1])


def test_tokens_of_a_run_are_counted_new_and_old(trained):
  """Two epochs, and a quarter of that from the past, to the token."""
  _, made, results = trained
  parts = experiment.assemble(made)
  new = [2 * t.train.targets for t in parts.stream.tasks]
  old = [0, *(round(n / 4) for n in new[1:])]
  assert results['mix'] == [
    {'task': t.name, 'new': n, 'old': o}
    for t, n, o in zip(parts.stream.tasks, new, old, strict=True)
  ]
  assert results['tokens']['train'] == sum(new) + sum(old)


def test_drift_is_reported_after_every_task(trained):
  folder, _, results = trained
  assert [line['task'] for line in results['drift']] == results['tasks']
  assert all(line['kl'] > 0.05 for line in results['drift'])
  assert results['drift'][0]['perplexity'] == pytest.approx(math.exp(results['matrix'][1][0]))
  page = (folder / 'report.html').read_text()
  assert 'Drift from the base model' in page
  assert f'{results["drift"][2]["kl"]:.4f}' in page
  assert 'log-perplexity in nats' in page
  assert f'{results["mix"][1]["old"]:,}' in page
  assert 'no known label' not in page


def test_dev_scores_inside_a_task_are_larger_where_the_model_is_better(trained):
  folder, _, _ = trained
  lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
  curves = [line['dev'] for line in lines if 'dev' in line]
  assert [len(c) for c in curves] == [1, 1, 2, 2, 3, 3]
  name = next(iter(curves[0]))
  assert curves[0][name] < curves[1][name] < 0


@pytest.mark.parametrize('steps', [4])
def test_a_run_killed_inside_a_task_ends_in_the_same_bits(trained, steps, tmp_path):
  _, made, whole = trained
  tmp_path = tmp_path / 'run'
  tmp_path.mkdir()
  loop = runs.Loop(experiment.assemble(made), tmp_path, quiet=True)
  real = loop.trainer.settle

  def dying(task, bar, weights, loaded, *rest):
    real(task, bar, weights, loaded, *rest)
    if task.index == 1 and loaded.number == steps:
      raise runs.Killed

  loop.trainer.settle = dying
  with pytest.raises(runs.Killed):
    loop.run()
  loop.output.snapshots.close()
  assert steps - 2 <= Snapshots(tmp_path).latest()['step'] <= steps
  resumed = runs.run(made, tmp_path)
  for key in ('params_sha256', 'matrix', 'metrics', 'mix', 'drift', 'tokens'):
    assert resumed[key] == whole[key], key


def test_keep_best_takes_the_parameters_with_the_lowest_perplexity(tmp_path):
  """A rate that grows bad: the first epoch is the best, though all scores are far below 0."""
  train = {'keep_best': True, 'epochs': 3, 'learning_rate': 1.0, 'warmup_fraction': 1.0}
  made = config(train=train, stream={'max_tasks': 1}, evaluate={'every_epochs': 1})
  results = runs.run(made, tmp_path / 'run')
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  curve = [next(iter(json.loads(x)['dev'].values())) for x in lines if 'dev' in x]
  assert len(curve) == 3
  assert max(curve) > curve[-1] + 0.1
  parts = experiment.assemble(made)
  kept = Snapshots(tmp_path / 'run').latest()['params']
  (task,) = parts.stream.tasks
  found = evaluate.score(kept, task, task.dev, parts.tools, 'generate', 0)
  assert found.merit == tiny.nearly(max(curve))
  assert results['matrix'][1][0] is not None


@pytest.mark.parametrize(
  'method',
  [pytest.param(m, marks=() if m in ('replay', 'ewc') else pytest.mark.slow) for m in CPT],
)
def test_methods_that_need_no_answers_learn_raw_text(method, tmp_path):
  made = config(method, stream={'max_tasks': 2}, train={'epochs': 1})
  results = runs.run(made, tmp_path / 'run')
  assert results['score'] == 'log_perplexity'
  R = results['matrix']
  assert R[2][1] < R[0][1] - (0 if 'lora' in method else 0.1)
  old = {line['task']: line['old'] for line in results['mix']}
  assert (sum(old.values()) > 0) == (method == 'replay')


def test_one_shape_serves_all_steps_of_all_tasks(tmp_path):
  loop = runs.Loop(experiment.assemble(config()), tmp_path, quiet=True)
  loop.run()
  assert loop.trainer.train_step._cache_size() == 1


def test_the_steps_of_a_task_are_those_of_its_epochs(tmp_path):
  tools = text_tools(tmp_path)
  first, second = tools.stream.tasks[:2]
  past = [[0, first.train[0].number, len(first.train)]]
  method = methods.make(tools.backbone, methods.settings('pretrain'))
  found = method.plan({'past': past}, second)
  lengths = set()
  for epochs in (1, 2, 5):
    train = runs.config('seq', train={'epochs': epochs, 'batch_size': 1}).train
    feed = BatchLoader(found, 1, tools, train)
    loaded = list(feed.batches())
    assert [f.number for f in loaded] == list(range(feed.total))
    assert sum(f.ends_epoch for f in loaded) == epochs
    assert loaded[-1].ends_epoch
    lengths.add(feed.total / epochs)
    assert sum(f.tokens - f.old_tokens for f in loaded) == epochs * second.train.targets
    assert sum(f.old_tokens for f in loaded) == round(epochs * second.train.targets / 4)
  assert len(lengths) > 1  # epochs whose old text is cut at other places have more pieces or fewer


def test_a_probe_of_ones_own_is_what_drift_is_measured_on(tmp_path):
  """The probe has the words of the second task, so it is known once that task is learned."""
  parts = experiment.assemble(config())
  words = parts.stream.tasks[1].train
  text = parts.text.tokenizer.decode(words.tokens[1:60].tolist())
  probe = tmp_path / 'probe.txt'
  probe.write_text(text)
  made = config(train={'epochs': 3})
  made.method.probe_path = str(probe)
  results = runs.run(made, tmp_path / 'run')
  parts = experiment.assemble(made)
  assert len(parts.stream.held_out) >= 1
  assert parts.stream.held_out[0].number == len(parts.stream.examples)
  nats = [math.log(line['perplexity']) for line in results['drift']]
  assert nats[1] < nats[0] - 0.2
  assert results['drift'][1]['perplexity'] != math.exp(results['matrix'][2][0])


def test_a_plan_says_what_blocks_would_take_without_text_too(tmp_path):
  made = config(train={'batch_size': 16})
  values = json.loads(sections.as_json(cost.page(made, 1)))
  assert (values['assumed']['rows'], values['assumed']['tokens_per_row']) == (16, 48)
  assert values['assumed']['targets'] == 16 * 48
  made.backbone.path = model_folder(tmp_path, SMALL)
  values = json.loads(sections.as_json(cost.page(made, 1, tokens=128)))
  assert values['assumed']['targets'] == 16 * 128


# What is refused.

REFUSED = {
  'pretrain without raw text': (lambda: config(scenario='cil'), "'cil', in which pretrain has no"),
  'derpp': (lambda: config('derpp'), "scenario is 'cpt', in which derpp has no meaning"),
  'lamol': (lambda: config('lamol'), "scenario is 'cpt', in which lamol has no meaning"),
  'lamol_kd': (lambda: config('lamol_kd'), "scenario is 'cpt', in which lamol_kd has no meaning"),
  'a head': (lambda: config('seq', backbone={'head': 'linear'}), r"backbone\.head is 'linear'"),
  'a template': (lambda: config(stream={'template': '{x}{y}'}), r'stream\.template is'),
  'labels': (lambda: config(evaluate={'answer': 'score'}), r"evaluate\.answer is 'score'"),
}  # fmt: skip


@pytest.mark.parametrize('case', REFUSED)
def test_what_has_no_meaning_is_refused_before_anything_is_read(case, monkeypatch):
  made, message = REFUSED[case]
  monkeypatch.setattr(experiment.streams, 'load', None)
  with pytest.raises(UserError, match=message):
    experiment.assemble(made())


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('replay_share', -0.1), ('replay_share', 1.0), ('replay_share', math.nan),
    ('probe_path', 'no/such/file.txt'),
  ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_field(field, value):
  made = config()
  setattr(made.method, field, value)
  with pytest.raises(UserError, match=rf'method\.{field} is '):
    experiment.assemble(made)


def test_a_probe_that_nothing_would_read_is_refused():
  made = config()
  made.method.drift, made.method.probe_path = False, __file__
  with pytest.raises(UserError, match=r'method\.probe_path is .* without method\.drift'):
    experiment.assemble(made)


# The launchers.


@pytest.fixture(scope='module')
def launched(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('launched') / 'run'
  done = call('train', *LAUNCHED, f'--workdir={folder}')
  assert done.returncode == 0, done.stderr
  assert '3 tasks' in done.stdout
  assert 'tokens in' not in done.stderr
  assert 'nats per token' in done.stdout
  assert 'log-perplexity in nats per target' in done.stdout
  before = next(line for line in done.stdout.split('\n') if line.startswith('before training'))
  assert '%' not in before
  return folder


def test_a_launched_run_is_scored_again_with_the_same_figures(launched):
  results = json.loads((launched / 'results.json').read_text())
  assert len(results['drift']) == 3
  done = call('evaluate', f'--workdir={launched}')
  assert done.returncode == 0, done.stderr
  for name, value in zip(results['tasks'], results['matrix'][-1], strict=True):
    assert f'{name}: {value:.3f} nats per token, perplexity {math.exp(value):.2f}' in done.stdout


def test_a_launched_run_goes_on_from_a_prompt(launched):
  asked = ('--count=2', '--prompt=please', '--tokens=5')
  done = call('generate', f'--workdir={launched}', *asked)
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert len(lines) == 2
  assert all(line.startswith('please … ') for line in lines)
  assert all(len(line.split()) <= 2 + 5 for line in lines)
  assert call('generate', f'--workdir={launched}', *asked).stdout == done.stdout


def test_raw_text_and_answers_are_not_compared(tmp_path):
  done = call(
    'compare', '--config=configs/quickstart.py', '--methods=seq,pretrain',
    f'--workdir={tmp_path / "run"}',
  )  # fmt: skip
  assert done.returncode == 2
  assert 'give --config.scenario=cpt' in done.stderr
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_pretrained_model_learns_two_corpora_and_replay_keeps_the_first(shared, tmp_path):
  """A real Llama on two sets of published texts: pretrain forgets less of the first than seq."""
  found = {}
  for method in ('seq', 'pretrain'):
    made = config(
      method,
      stream={
        'name': 'clinc150', 'path': str(shared / 'data' / 'clinc150'), 'classes_per_task': 10,
        'max_tasks': 2, 'max_train_per_task': 300, 'max_test_per_task': 60, 'order_seed': -1,
        'max_length': 64,
      },
      backbone={'path': str(shared / 'models' / 'stories260k-hf')},
      train={'learning_rate': 1e-3, 'epochs': 4, 'warmup_fraction': 0.1},
      evaluate={'batch_size': 16},
    )  # fmt: skip
    found[method] = runs.run(made, tmp_path / method)
  for results in found.values():
    R = results['matrix']
    assert R[1][0] < R[0][0] - 0.5
    assert R[2][1] < R[1][1] - 0.2
  forgetting = {method: results['metrics']['forgetting'] for method, results in found.items()}
  assert forgetting['seq'] > 0.3
  assert forgetting['pretrain'] < 0.1
  kls = [line['kl'] for line in found['pretrain']['drift']]
  assert all(kl > 0.01 for kl in kls)
