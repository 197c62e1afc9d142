"""A method of another package does all that a built-in one does, seen in one small run."""

import json

import jax
import numpy as np
import pytest
from support import runs
from support.plugins import installed, on_path

from jcl import learning, load_model, methods
from jcl import workdir as workdirs
from jcl.preflight.footprint import footprint
from jcl.reports import results
from jcl.reports.tables import comparison_table
from jcl.trained_run import TrainedRun
from jcl.training import experiment

NAME = 'jcl_outside.anchor:Anchor'
SMALL = {'max_tasks': 2, 'max_train_per_task': 24, 'max_test_per_task': 8}


def config(name):
  made = runs.config(name, stream=SMALL, train={'epochs': 1}, checkpoint={'every_chunks': 4})
  for part in methods.parts(made.method).values():
    if hasattr(part, 'strength'):
      part.strength = 0.5
  return made


@pytest.fixture(autouse=True, scope='module')
def path():
  """The package on the path; imported once, so that its class stays the same."""
  with pytest.MonkeyPatch.context() as patch:
    on_path(patch)
    yield


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """-> the finished run, and its workdir."""
  folder = tmp_path_factory.mktemp('outside') / 'run'
  return learning.run(config(NAME), folder, quiet=True), folder


def test_its_memory_its_reports_and_its_penalty_are_there(trained):
  done, _ = trained
  first, second = (task.name for task in done.parts.stream.tasks)
  assert [line['task'] for line in done.results['words']] == [first, second]
  assert done.results['words'][0]['words'] > 24
  assert [name for name, _ in done.last.memory['ends']] == [first, second]
  lines = [json.loads(x) for x in (trained[1] / 'metrics.jsonl').read_text().splitlines()]
  values = {task: [x['anchor'] for x in lines if x.get('task') == task and 'anchor' in x]
            for task in (0, 1)}  # fmt: skip
  assert not any(values[0])
  assert any(values[1])


@pytest.mark.parametrize('phase', ['train', 'after_task'])
@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bits(trained, phase, tmp_path):
  with pytest.raises(runs.Killed):
    runs.run(config(NAME), tmp_path / 'killed', kill=(phase, 1))
  again = runs.run(config(NAME), tmp_path / 'killed')
  assert again['params_sha256'] == trained[0].results['params_sha256']
  assert again['words'] == trained[0].results['words']


def test_its_workdir_is_found_again_and_evaluates_to_its_matrix(trained):
  done, folder = trained
  stored = workdirs.load_workdir(str(folder))
  assert methods.name_of(stored.method) == NAME
  assert stored.method.strength == 0.5
  scores = [score.value for _, score in TrainedRun(stored, folder).scores('test')]
  assert scores == pytest.approx(done.results['matrix'][-1])


def test_it_is_exported_and_answers_alike(trained, tmp_path):
  done, folder = trained
  asked = [e.text for task in done.parts.stream.tasks for e in task.test]
  load_model(folder).save(tmp_path / 'exported')
  assert load_model(tmp_path / 'exported').answer(asked) == load_model(folder).answer(asked)


@pytest.mark.slow
def test_it_is_compared_with_a_built_in_method(trained, tmp_path):
  learning.run(config('seq'), tmp_path / 'seq', quiet=True)
  found = [results.read(folder / 'results.json') for folder in (trained[1], tmp_path / 'seq')]
  rows = comparison_table(found).splitlines()
  assert any('anchor' in row.lower() for row in rows)
  assert any(row.startswith('seq') for row in rows)


@pytest.mark.slow
def test_an_entry_point_is_another_name_for_the_same_method(trained, tmp_path, monkeypatch):
  installed(monkeypatch, tmp_path, 'jcl_outside', anchor=NAME)
  made = config('anchor')
  assert made == config(NAME)
  assert methods.name_of(made.method) == 'anchor'
  assert (
    learning.run(made, tmp_path / 'run', quiet=True).results['params_sha256']
    == (trained[0].results['params_sha256'])
  )


@pytest.mark.slow
def test_it_composes_with_a_built_in_method(tmp_path):
  done = learning.run(config(f'{NAME}+l2'), tmp_path / 'run', quiet=True)
  assert set(done.last.memory) == {'teacher', 'anchor', 'l2'}
  assert set(done.last.memory['teacher']) == {'anchor', 'l2'}
  stored = workdirs.load_workdir(str(tmp_path / 'run'))
  assert methods.name_of(stored.method) == f'{NAME}+l2'
  assert stored == config(f'{NAME}+l2')


def test_preflight_knows_what_its_memory_will_take(trained):
  found = footprint(experiment.assemble(config(NAME)))
  assert found.whole  # its fold has shapes, too
  mean = trained[0].last.memory['teacher']['mean']
  assert found.snapshot['memory'] >= sum(np.asarray(x).nbytes for x in jax.tree.leaves(mean))
