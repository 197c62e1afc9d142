"""A run that was stopped before its first task was done: a page, a table and the doctor."""

import pytest
from support import runs
from support.launchers import call

from jcl import workdir as workdirs
from jcl.commands import doctor
from jcl.training import experiment, run_folders
from jcl.training.loop import Loop


def begin(folder):
  """A loop of two tasks that writes to a folder."""
  made = runs.config('replay', stream={'max_tasks': 2}, train={'steps': 9})
  parts = experiment.assemble(made)
  workdirs.open_workdir(str(folder), made, read=parts.inputs)
  return Loop(parts, folder, quiet=True)


@pytest.fixture(scope='module')
def unscored(tmp_path_factory):
  """The workdir of a run that died in the evaluation before training."""
  folder = tmp_path_factory.mktemp('unscored') / 'run'
  loop = begin(folder)

  def dying(now, task):
    raise runs.Killed

  loop.evaluate = dying
  with pytest.raises(runs.Killed):
    loop.run()
  assert not (folder / 'results.json').exists()
  return folder


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
  """The workdir of a run that died in its first task, after five steps."""
  folder = tmp_path_factory.mktemp('stopped') / 'run'
  runs.die_after_step(begin(folder), 0, 4)
  return folder


def test_without_a_score_its_tasks_are_known(unscored):
  found = run_folders.results_of(unscored)
  assert found['tasks'] == ['kitchen', 'home']
  assert found['matrix'] == [[None, None]]
  assert found['method'] == 'replay'
  assert not found['finished']
  assert run_folders.results_of(unscored.parent) is None


def test_without_a_score_the_page_says_how_far_it_is(unscored, tmp_path):
  done = call('report', f'--runs={unscored}', f'--out={tmp_path}')
  assert done.returncode == 0, done.stderr
  assert 'Not finished: 0 of 2 tasks are learned' in (tmp_path / 'report.html').read_text()


def test_the_page_shows_its_steps_and_says_how_far_it_is(stopped, tmp_path):
  done = call('report', f'--runs={stopped}', f'--out={tmp_path}')
  assert done.returncode == 0, done.stderr
  page = (tmp_path / 'report.html').read_text()
  assert 'Not finished: 0 of 2 tasks are learned' in page
  assert 'Loss and its terms' in page


@pytest.mark.parametrize('which', ['unscored', 'stopped'])
def test_the_doctor_says_that_no_task_is_done(which, request, capsys):
  doctor.show(request.getfixturevalue(which))
  assert capsys.readouterr().out.startswith('no task is done yet')
