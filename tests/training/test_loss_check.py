"""Losses that no model has are warned of at once, and nothing else is."""

import dataclasses
import json
import math

import pytest
from support import runs, slow

from jcl import learning, methods
from jcl.step import losses
from jcl.training import experiment, loss_check
from jcl.training.loss_check import AT_ONCE, STEPS, TIMES

GUESS = math.log(50)


def warned(values, term='ce', last=None):
  """Steps (from 1) at which the values of a task are warned of."""
  counts, found = {}, []
  for step, value in enumerate(values, 1):
    names, counts = loss_check.doubtful({term: value}, GUESS, counts, step, step == last)
    found += [step] * len(names)
  return found


HIGH, FAR = 2 * TIMES * GUESS, 2 * AT_ONCE * GUESS


@pytest.mark.parametrize(
  ('values', 'last', 'wanted'),
  [
    ([FAR] * 3, None, [1]),  # once a task
    ([GUESS, GUESS, FAR], None, [3]),
    ([1e9 / 4096, GUESS], None, [1]),  # one target of 4096 that is not allowed
    ([HIGH] * 30, None, [STEPS]),
    ([HIGH] * 3, 3, [3]),  # all steps of a short task
    ([-0.5], None, [1]),
    # No false alarms: a badly initialised model, one that is sure of other classes, a hard row.
    ([HIGH] * (STEPS - 1) + [GUESS] * 5, None, []),
    ([GUESS, HIGH, HIGH], 3, []),
    ([HIGH, GUESS] * 20, 40, []),
    ([TIMES * GUESS] * 20, 20, []),
    ([-1e-6, 0.0], 2, []),
    ([math.nan] * 20, 20, []),  # refused elsewhere
  ],
)
def test_when_a_cross_entropy_is_warned_of(values, last, wanted):
  assert warned(values, last=last) == wanted


@pytest.mark.parametrize('term', ['kd', 'mse', 'ewc', 'l2_norm', 'overlap', 'loss', 'adversarial'])
def test_other_terms_may_have_any_size(term):
  assert warned([1e12] * 20, term) == []


def test_a_uniform_guess():
  assert loss_check.uniform_nats(50, 1) == GUESS
  assert loss_check.uniform_nats(4, 3) == 3 * math.log(4)  # heads in til: a mean for each task
  assert loss_check.uniform_nats(1, 1) > 0


def scaled(factor):
  """Plain fine-tuning whose cross-entropy is multiplied; `factor` 1e9 stands for a lost class."""

  class Scaled(methods.Settings):
    def build(self, backbone, teacher=None):
      plain = losses.plain(backbone)

      def loss_fn(params, teacher_params, batch):
        value_M, where = plain(params, teacher_params, batch)['ce']
        return {'ce': (factor * value_M, where)}

      return methods.Method(loss_fn=loss_fn)

  return Scaled()


@pytest.mark.parametrize('factor', slow.but([1e9], [1e9, 100.0]))
def test_a_run_warns_in_its_words_log_callbacks_and_results(factor, tmp_path, capsys):
  made = runs.config(
    'seq', stream={'max_tasks': 2}, train={'steps': 2, 'clip_norm': 1.0, 'log_every': 10}
  )
  parts = experiment.assemble(made)
  record = scaled(factor).build(parts.backbone)
  parts = dataclasses.replace(parts, method=record)
  seen = []

  class Listener:
    def on_step(self, metrics):
      seen.append(metrics)

  done = learning.run(made, tmp_path / 'run', parts=parts, callbacks=[Listener()])
  step = 1 if factor == 1e9 else 2
  tasks = [task.name for task in parts.stream.tasks]
  lines = [line for line in done.results['warnings'] if 'uniform guess' in line]
  assert [line.split(': ')[0] for line in lines] == [f'task {t}, step {step}' for t in tasks]
  printed = capsys.readouterr().out
  assert all(f'warning: {line}' in printed for line in lines)
  logged = [json.loads(x) for x in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  told = [{k: v for k, v in x.items() if k != 'run_step'} for x in seen if 'doubtful' in x]
  assert [x for x in logged if 'doubtful' in x] == told
  assert [(x['task'], x['step']) for x in seen if 'doubtful' in x] == [(0, step), (1, step)]
  uniform = math.log(parts.backbone.outputs)
  assert all(x['uniform'] == uniform for x in seen if 'doubtful' in x)


@pytest.mark.parametrize(
  ('method', 'changes'),
  slow.but(
    [('seq', {})],
    [('ewc', {'lambda_ewc': 1e4}), ('distill', {}), ('derpp', {}), ('seq', {})],
  ),
)
def test_runs_that_learn_are_not_warned_of(method, changes, tmp_path):
  made = runs.config(method, stream={'max_tasks': 2}, train={'epochs': 4, 'log_every': 10})
  for name, value in changes.items():
    assert hasattr(made.method, name), name
    setattr(made.method, name, value)
  done = learning.run(made, None, quiet=True)
  assert not [line for line in done.results['warnings'] if 'uniform guess' in line]


@pytest.mark.slow
def test_a_badly_initialised_model_that_learns_is_not_warned_of():
  made = runs.config('seq', stream={'max_tasks': 1}, train={'epochs': 8, 'learning_rate': 0.1})
  parts = experiment.assemble(made)
  start = parts.backbone.init

  def far(key):
    params = start(key)
    table = 'unembed' if 'unembed' in params else 'embed'
    return {**params, table: {'embedding': 60.0 * params[table]['embedding']}}

  parts = dataclasses.replace(parts, backbone=dataclasses.replace(parts.backbone, init=far))
  first = []

  class Listener:
    def on_step(self, metrics):
      first.append(metrics['ce'])

  done = learning.run(made, None, parts=parts, quiet=True, callbacks=[Listener()])
  assert first[0] > TIMES * loss_check.uniform_nats(parts.backbone.outputs, 1)
  assert not [line for line in done.results['warnings'] if 'uniform guess' in line]
