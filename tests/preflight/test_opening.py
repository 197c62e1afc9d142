"""What a run says at its start, once, and what its record keeps."""

import json

import pytest
from support import model_folder, runs

from jcl import learning
from jcl.preflight import checks, footprint
from jcl.streams.task_order import describe_order
from jcl.training import experiment


def test_a_run_says_little_and_its_record_has_all(tmp_path, monkeypatch):
  """Warnings stand once in results.json, whatever killed the run."""
  monkeypatch.setattr(checks, '_said', set())
  made = runs.config(
    'seq', train={'epochs': 1}, stream={'max_tasks': 2, 'max_test_per_task': 3, 'max_length': 24}
  )
  wanted = checks.warnings(checks.checkup(experiment.assemble(made)), tmp_path)
  assert len(wanted) == 1

  class Killer:
    def on_task(self, results):
      raise runs.Killed

  with pytest.raises(runs.Killed):
    learning.run(made, tmp_path / 'run', quiet=True, callbacks=[Killer()])
  results = learning.run(made, tmp_path / 'run', quiet=True).results
  assert results['resumes']
  assert results['warnings'] == wanted
  assert json.loads((tmp_path / 'run' / 'results.json').read_text())['warnings'] == wanted


def test_a_run_prints_its_opening_once_and_before_all_else(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(checks, '_said', set())
  short = {'max_tasks': 2, 'max_test_per_task': 3, 'max_length': 48}  # no row is cut
  config = runs.config('seq', stream=short)
  made = experiment.assemble(config)

  class Killer:
    def on_evaluation(self, row):
      raise runs.Killed

  with pytest.raises(runs.Killed):
    learning.run(config, tmp_path / 'run', parts=made, callbacks=[Killer()])
  said = capsys.readouterr().out
  monkeypatch.setattr(checks, '_said', set())
  *lines, warning = checks.opening(checks.checkup(made), tmp_path)
  assert warning.startswith('warning: 25.0 % (2 of 8) classes have no test row')
  printed = said.splitlines()
  assert printed[:2] == lines[:2]
  assert printed[3:5] == lines[3:]  # the third has the free space, which moves
  assert printed[5] == warning


def test_a_second_run_of_a_command_does_not_say_it_all_again(tmp_path, monkeypatch):
  monkeypatch.setattr(checks, '_said', set())
  monkeypatch.setattr(checks, 'SHOWN', 2)
  made = experiment.assemble(runs.config('seq', stream={'max_test_per_task': 3, 'max_tasks': 2}))
  found = ['one', 'two', 'three']
  monkeypatch.setattr(checks, 'warnings', lambda parts, workdir: found)
  lines = checks.opening(checks.checkup(made), tmp_path)
  said = [line for line in lines if line.startswith('warning')]
  assert said == ['warning: one', 'warning: two', 'warning: 1 more are in results.json']
  assert made.tools.reports['warnings'] == found
  found = ['one', 'two', 'three', 'four']
  said = [
    line for line in checks.opening(checks.checkup(made), tmp_path) if line.startswith('warning')
  ]
  assert said == ['warning: four', 'warning: 3 more, as an earlier run of this command said']


def test_the_opening_has_the_figures_of_the_stream(tmp_path, monkeypatch):
  monkeypatch.setattr(checks, '_said', set())
  made = experiment.assemble(runs.config('seq', stream={'max_length': 48}))
  first, second, third, order, rate = checks.opening(checks.checkup(made), tmp_path)
  tokens = sum(len(made.text.rows(e)[0].tokens) for e in made.stream.examples)
  assert first.startswith(
    'synthetic: 3 tasks, 12 classes, 120 training, 48 dev, 48 test rows; 0.01'
  )
  assert second.startswith(f'{tokens:,} tokens, ')
  assert 'of 216 rows: 0 cut, 0 with a repeated text, 0 in train too, 0 in conflict' in second
  size = checks.checkup(made).footprint
  assert (
    f'{footprint.short(size.disk, "B")} ({footprint.short(size.snapshot["total"], "B")}' in third
  )
  names = ', '.join(task.name for task in made.stream.tasks)
  assert order == f'order of tasks: {names} (tasks shuffled by stream.order_seed=0)'
  assert rate.startswith('learning rate: ')


@pytest.mark.parametrize(
  ('method', 'backbone', 'train', 'wanted'),
  [
    ('seq', {}, {'learning_rate': None}, '0.001 (the default from scratch)'),
    ('seq', {}, {'learning_rate': 1e-3}, '0.001 (as set)'),
    ('seq', {}, {'learning_rate': 1e-4}, '0.0001 (as set; the default from scratch is 0.001)'),
    ('seq', {'head': 'linear'}, {'learning_rate': None},
     '0.001 (the default from scratch), 0.001 of the head'),
    ('lora', {}, {'learning_rate': None}, '0.0002 of adapters'),
    ('seq', {'path': True}, {'learning_rate': None}, '1e-05 (the default of a pretrained model)'),
    ('seq', {'path': True}, {'learning_rate': 0.0},
     '0 (as set; the default of a pretrained model is 1e-05)'),
  ],
)  # fmt: skip
def test_the_opening_says_the_rates_of_what_trains(method, backbone, train, wanted, tmp_path):
  if 'path' in backbone:
    path = model_folder.write(tmp_path / 'm', model_folder.golden('llama'))
    backbone = {'path': str(path)}
  train = {'adapter_learning_rate': 2e-4, 'head_learning_rate': 1e-3, **train}
  made = experiment.assemble(runs.config(method, backbone=backbone, train=train))
  assert checks.choices(made)[1] == f'learning rate: {wanted}'


def test_orders_in_words():
  names = ['q1', 'q2']
  assert describe_order(names, 'files', -1) == 'q1, q2 (as given, not shuffled)'
  assert describe_order(names, 'rows', 3) == 'q1, q2 (tasks shuffled by stream.order_seed=3)'
  assert describe_order(names, 'clinc150', 3) == 'q1, q2 (classes shuffled by stream.order_seed=3)'
  assert 'as a.b:read orders them for stream.order_seed=3' in describe_order(names, 'a.b:read', 3)
  assert describe_order(names, 'trace', -1) == 'q1, q2 (the first published order)'
  assert describe_order(names, 'superni', -1, '2') == 'q1, q2 (stream.task_order=2)'
  assert 'tasks shuffled by' in describe_order(names, 'long_sequence', 3, '2')
  assert describe_order(['x'] * 20, 'files', -1).startswith('x, ' * 12 + '… (20 in all)')
