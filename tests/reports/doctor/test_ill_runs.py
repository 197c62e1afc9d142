"""The doctor on real runs: each is made ill by one setting, and the healthy one has no finding."""

import functools
from typing import Any

import pytest
from support import runs

from jcl.config import BackboneConfig, Config
from jcl.reports import doctor
from jcl.training import experiment
from jcl.training.loop import Loop


def config(method: str, **sections: dict[str, Any]) -> Config:
  """Three tasks that a small decoder learns in 60 steps each."""
  base: dict[str, dict[str, Any]] = {
    'stream': {'max_train_per_task': 160, 'max_test_per_task': 40},
    'train': {'epochs': 6, 'log_every': 2, 'learning_rate': 3e-3, 'gradient_norms_every': 10},
  }
  made = runs.config(method, **{k: base.get(k, {}) | v for k, v in (base | sections).items()})
  made.backbone = BackboneConfig(width=32, layers=1, heads=2, feed_forward=64)
  return made


def found(
  method: str, settings: dict[str, Any] | None = None, scenario: str = 'cil', **sections: Any
):
  """Returns the findings on a run, by name."""
  made = config(method, **sections)
  made.scenario = scenario
  for name, value in (settings or {}).items():
    setattr(made.method, name, value)
  loop = Loop(experiment.assemble(made), None, quiet=True)
  results = loop.run()
  return {one.name: one for one in doctor.findings(results, loop.output.log.lines)}


@functools.cache
def healthy(method: str):
  return found(method)


def test_a_healthy_run_has_no_finding():
  assert healthy('replay') == {}


@pytest.mark.slow
def test_a_lower_bound_forgets_as_expected():
  (info,) = healthy('seq').values()
  assert (info.name, info.kind) == ('forgets as expected', 'information')


@pytest.mark.slow
def test_a_rate_that_is_too_low_is_found():
  ill = found('replay', train={'learning_rate': 1e-6})
  assert ill.keys() == {'loss does not fall'}
  assert 'raise train.learning_rate' in ill['loss does not fall'].advice


@pytest.mark.slow
def test_a_rate_that_is_too_high_is_found():
  (ill,) = found('replay', train={'learning_rate': 3.0}).values()
  assert ill.name in ('diverged', 'loss rises')
  assert ill.advice == 'lower train.learning_rate, now 3 (default 0.001), to 0.001'


@pytest.mark.slow
def test_a_rate_at_which_the_form_alone_is_learned_is_found():
  """All tasks end near one in four, and the loss far below where it began."""
  (ill,) = found('seq', train={'learning_rate': 0.1}).values()
  assert ill.name in ('loss stays up', 'loss rises')
  assert ill.advice == 'lower train.learning_rate, now 0.1 (default 0.001), to 0.001'


@pytest.mark.slow
def test_short_tasks_log_enough_to_be_judged():
  """Ten steps a task, of which a line every ten shows the first alone."""
  short = {'epochs': 1, 'log_every': 10}
  assert found('replay', train={**short, 'learning_rate': 10.0}).keys() == {'diverged'}
  assert 'clipped' not in found('replay', train=short)


@pytest.mark.slow
def test_a_penalty_that_is_not_felt_gets_a_weight_that_is_and_one_that_drowns_a_lower_one():
  weak = found('ewc', {'lambda_ewc': 1e-2})
  assert {'a penalty alone'} == weak.keys()
  weak = found('ewc', {'lambda_ewc': 1e-2}, scenario='til')
  assert {'penalty not felt'} == weak.keys()
  assert 'to about 1e+0' in weak['penalty not felt'].advice
  suggested = float(weak['penalty not felt'].command.split(',')[1])
  assert suggested > 1
  better = found('ewc', {'lambda_ewc': suggested}, scenario='til')
  assert not {'penalty not felt', 'penalty drowns the loss'} & better.keys()
  strong = found('ewc', {'lambda_ewc': 1e10})
  assert {'penalty drowns the loss'} == strong.keys()
  assert float(strong['penalty drowns the loss'].command.split(',')[1]) < 1e10
  assert {'penalty drowns the loss'} == found('mas').keys()  # held by its default


@pytest.mark.slow
def test_little_replay_and_a_buffer_without_the_first_task_are_found():
  assert 'little replay' in found('replay', {'replay_ratio': 0.01})
  fifo = found('replay', {'buffer_size': 40, 'policy': 'fifo'})
  assert 'tasks not in the buffer' in fifo


@pytest.mark.slow
def test_pseudo_samples_of_a_model_that_cannot_write_are_found():
  ill = found('lamol', {'lambda_gen': 0.0})
  assert {'pseudo samples rejected', 'less replay than asked'} & ill.keys()


@pytest.mark.slow
def test_a_generator_that_forgets_though_it_replays_is_found():
  """All samples are well formed, and the first tasks are lost all the same."""
  (ill,) = found('lamol', {'gamma': 0.2}).values()
  assert ill.name in ('forgets all the same', 'tasks not written')
  assert ill.advice.startswith('set task_tokens=true')
