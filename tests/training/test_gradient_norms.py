"""Norms of the terms' gradients in a run: when they are taken, and that they change nothing."""

import contextlib
import json
import types

import numpy as np
import pytest
from support import runs

from jcl.training import experiment
from jcl.training.batch_loader import LoadedBatch
from jcl.training.gradient_norms import GradientNorms
from jcl.training.loop import Loop
from jcl.training.recorder import Recorder

TERMS = {'ce', 'ewc'}


def ran(folder, every, method='ewc', **sections):
  """Runs -> results, the lines of steps, those of norms."""
  train = {'gradient_norms_every': every, 'steps': 5} | sections.pop('train', {})
  made = runs.config(method, stream={'max_tasks': 2}, train=train, **sections)
  if method == 'ewc':
    made.method.lambda_ewc = 50.0
  results = runs.run(made, folder)
  return results, *lines_of(folder)


def lines_of(folder):
  """The lines of steps, and those of norms."""
  lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
  return [x for x in lines if 'loss' in x], [x for x in lines if 'gradient_norms' in x]


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
  return ran(tmp_path_factory.mktemp('measured'), 2)


def test_norms_are_taken_now_and_then_and_at_the_end_where_two_terms_have_a_gradient(measured):
  _, steps, norms = measured
  # Fisher and so the penalty are 0 in the first task, where one term is the whole gradient.
  assert [(x['task'], x['step']) for x in norms] == [(1, 2), (1, 4), (1, 5)]
  assert all(x.keys() == {'task', 'step', 'gradient_norms'} for x in norms)
  assert all(x['gradient_norms'].keys() == TERMS for x in norms)
  assert all(v > 0 for x in norms for v in x['gradient_norms'].values())
  assert len(steps) == 10


def test_a_run_without_norms_is_the_same(measured, tmp_path):
  results, steps, _ = measured
  plain, others, norms = ran(tmp_path, 0)
  assert plain['params_sha256'] == results['params_sha256']
  assert others == steps
  assert not norms


def test_norms_are_those_of_the_parameters_after_the_step(measured):
  """The next step reports the gradient of the whole objective there, of another batch."""
  _, steps, norms = measured
  (after,) = [x for x in steps if (x['task'], x['step']) == (1, 5)]
  before = norms[1]['gradient_norms']  # after step 4, where step 5 begins
  penalty = before['ewc']
  assert abs(after['gradient_norm'] - penalty) < 2 * before['ce']


def test_a_killed_run_takes_each_norm_once(measured, tmp_path):
  _, _, norms = measured
  made = runs.config(
    'ewc', stream={'max_tasks': 2}, train={'gradient_norms_every': 2, 'steps': 5},
    checkpoint={'every_steps': 2},
  )  # fmt: skip
  made.method.lambda_ewc = 50.0
  runs.die_after_step(Loop(experiment.assemble(made), tmp_path, quiet=True), 1, 4)
  runs.run(made, tmp_path)
  assert lines_of(tmp_path)[1] == norms


def test_one_term_is_not_measured(tmp_path):
  assert not ran(tmp_path, 1, 'seq')[2]


@pytest.mark.parametrize(('every', 'steps'), [
  (100, {10, 110, 210, 230}), (10, {*range(10, 231, 10)}), (7, {*range(3, 231, 7), 230}),
  (0, set()),
])  # fmt: skip
def test_the_tenth_step_and_the_last_are_among_those_that_are_measured(every, steps):
  norms = GradientNorms.__new__(GradientNorms)
  norms._every, norms._norms = every, (lambda *_: {}) if every else None
  loaded = lambda step: LoadedBatch(step - 1, None, 0, 0, 0, 0, (), 0, False, step == 230)
  assert {step for step in range(1, 231) if norms.due(loaded(step))} == steps


def due_ones(batches, steps, resumed=False):
  """(task, width of the batch) of those that are measured, of due ones in their order.

  Between any two the run dies and goes on, if it is `resumed`.
  """
  said, made = [], GradientNorms.__new__(GradientNorms)
  made._norms = lambda params, fixed, teacher, weights, batch: dict.fromkeys(weights, 1.0)
  clock = types.SimpleNamespace(of=lambda kind: contextlib.nullcontext())
  made._output = types.SimpleNamespace(recorder=Recorder(None), clock=clock, step=said.append)
  inputs = types.SimpleNamespace(weights={}, state={'params': None}, fixed=None, teacher=None)
  for number, (task, width) in enumerate(batches):
    if resumed:
      state = json.loads(json.dumps(made._output.recorder.state()))
      made._output.recorder = Recorder(None)
      made._output.recorder.restore(state)
    loaded = LoadedBatch(number, np.zeros(width), 0, 0, 0, 0, (), 0, False, False)
    made.measure(types.SimpleNamespace(index=task), inputs, loaded, {'a': 1.0, 'b': 1.0}, steps)
  return [batches[line['step'] - 1] for line in said]


@pytest.mark.parametrize('resumed', [False, True])
def test_a_short_task_has_one_new_shape_at_most_and_a_long_one_all(resumed):
  batches = [(0, 2), (0, 3), (0, 2), (1, 2), (1, 3), (2, 3), (2, 2), (2, 4), (3, 3), (3, 4), (3, 2)]
  short = [(0, 2), (0, 2), (1, 2), (2, 3), (2, 2), (3, 3), (3, 2)]
  assert due_ones(batches, 999, resumed) == short
  assert due_ones(batches, 1000, resumed) == batches
