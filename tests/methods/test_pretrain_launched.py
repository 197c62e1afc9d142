"""Continual pretraining from a shell, and on real corpora."""

import json
import math
import pathlib

import pytest
from support import runs
from support.launchers import call
from support.raw_text import config

LAUNCHED = (
  '--config=configs/quickstart.py:pretrain', '--config.stream.max_tasks=3',
  '--config.stream.max_train_per_task=40', '--config.stream.max_test_per_task=16',
  '--config.train.epochs=2', '--config.train.batch_size=8', '--config.backbone.width=16',
)  # fmt: skip


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
