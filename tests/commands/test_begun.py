"""A run that was stopped before its first task was done: a page, a table and the doctor."""

import pytest
from support import runs
from support.launchers import call

from jcl import workdir as workdirs
from jcl.commands import begun, doctor
from jcl.training import experiment
from jcl.training.loop import Loop


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
  """The workdir of a run that died in its first task, after five steps."""
  folder = tmp_path_factory.mktemp('stopped') / 'run'
  made = runs.config('replay', stream={'max_tasks': 2}, train={'steps': 9})
  parts = experiment.assemble(made)
  workdirs.open_workdir(str(folder), made, read=parts.inputs)
  runs.die_after_step(Loop(parts, folder, quiet=True), 0, 4)
  assert not (folder / 'results.json').exists()
  return folder


def test_its_tasks_are_known_and_no_score_is(stopped):
  found = begun.results_of(stopped)
  assert found['tasks'] == ['kitchen', 'home']
  assert found['matrix'] == [[None, None]]
  assert found['method'] == 'replay'
  assert not found['finished']
  assert begun.results_of(stopped.parent) is None


def test_the_page_shows_its_steps_and_says_how_far_it_is(stopped, tmp_path):
  done = call('report', f'--runs={stopped}', f'--out={tmp_path}')
  assert done.returncode == 0, done.stderr
  page = (tmp_path / 'report.html').read_text()
  assert 'Not finished: 0 of 2 tasks are learned' in page
  assert 'Loss and its terms' in page


def test_the_doctor_looks_at_its_steps(stopped, capsys):
  doctor.show(stopped)
  assert capsys.readouterr().out.startswith('no task is done yet')
