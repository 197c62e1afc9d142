"""Whole runs on raw text: scores, tokens, drift, kills, and what a plan says of them."""

import json
import math

import pytest
from support import runs, tiny
from support.config_folder import SMALL
from support.config_folder import folder as model_folder
from support.raw_text import config, text_tools

from jcl import methods
from jcl.config import BackboneConfig
from jcl.preflight import cost
from jcl.preflight import page as sections
from jcl.step import sharding
from jcl.storage.checkpoint import Snapshots
from jcl.training import evaluate, experiment
from jcl.training.batch_loader import BatchLoader

CPT = ('seq', 'joint', 'single', 'replay', 'ewc', 'distill', 'lora')


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A loop that ran three tasks, two epochs each, with snapshots inside tasks; its results."""
  folder = tmp_path_factory.mktemp('pretrain')
  made = config(
    checkpoint={'every_steps': 3}, evaluate={'every_epochs': 1}, train={'batch_size': 2}
  )
  loop = runs.Loop(experiment.assemble(made), folder, quiet=True)
  return made, loop, loop.run()


@pytest.fixture(scope='module')
def trained(finished):
  """-> its folder, its config and its results."""
  made, loop, results = finished
  return loop.workdir, made, results


@pytest.fixture(scope='module')
def steps_compiled(finished):
  """The number of programs that its train step was compiled to."""
  return finished[1].trainer.train_step._cache_size()


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
  assert [(line['task'], line['new'], line['old']) for line in results['mix']] == [
    (t.name, n, o) for t, n, o in zip(parts.stream.tasks, new, old, strict=True)
  ]
  assert [line['new_rows'] for line in results['mix']] == [
    2 * len(t.train) for t in parts.stream.tasks
  ]
  assert [line['old_rows'] > 0 for line in results['mix']] == [o > 0 for o in old]
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize('method', CPT)
def test_methods_that_need_no_answers_learn_raw_text(method, tmp_path):
  made = config(method, stream={'max_tasks': 2}, train={'epochs': 1})
  results = runs.run(made, tmp_path / 'run')
  assert results['score'] == 'log_perplexity'
  R = results['matrix']
  assert R[2][1] < R[0][1] - (0 if 'lora' in method else 0.1)
  old = {line['task']: line['old'] for line in results['mix']}
  assert (sum(old.values()) > 0) == (method == 'replay')


def test_one_shape_serves_all_steps_of_all_tasks(steps_compiled):
  assert steps_compiled == 1


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


@pytest.mark.slow
def test_a_probe_of_ones_own_is_what_drift_is_measured_on(tmp_path):
  """The probe has the words of the second task, so it is known once that task is learned."""
  parts = experiment.assemble(config())
  words = parts.stream.tasks[1].train
  text = parts.text.tokenizer.decode(words.tokens[1:60].tolist())
  probe = tmp_path / 'probe.txt'
  probe.write_text(text)
  made = config(train={'epochs': 3}, stream={'max_tasks': 2})
  made.method.probe_path = str(probe)
  results = runs.run(made, tmp_path / 'run')
  parts = experiment.assemble(made)
  assert len(parts.stream.held_out) >= 1
  assert parts.stream.held_out[0].number == len(parts.stream.examples)
  nats = [math.log(line['perplexity']) for line in results['drift']]
  assert nats[1] < nats[0] - 0.2
  assert results['drift'][1]['perplexity'] != math.exp(results['matrix'][2][0])


@pytest.mark.slow
def test_a_plan_says_what_blocks_would_take_without_text_too(tmp_path):
  made = config(train={'batch_size': 16})
  values = cost.assumed(cost.outline(made, sharding.make_mesh(1))).values
  assert (values['rows'], values['tokens_per_row']) == (16, 48)
  assert values['targets'] == 16 * 48
  made.backbone = BackboneConfig(path=model_folder(tmp_path, SMALL))
  values = json.loads(sections.as_json(cost.page(made, 1, tokens=128)))
  assert values['assumed']['targets'] == 16 * 128
