"""`jcl sweep`: the same run with other values of a setting, compared with the run as it was."""

import json

import pytest
from support import runs
from support.launchers import call

from jcl import workdir as workdirs
from jcl.commands import sweep
from jcl.errors import UserError


def test_a_value_is_of_the_kind_of_its_setting():
  made = runs.config('ewc')
  changed = sweep.with_value(made, 'method.lambda_ewc', 1e6)
  assert changed.method.lambda_ewc == 1e6
  assert made.method.lambda_ewc != 1e6
  epochs = sweep.with_value(made, 'train.epochs', 3.0).train.epochs
  assert (epochs, type(epochs)) == (3, int)


@pytest.mark.parametrize('setting', ['method.lambda', 'train', 'train.fsdp', 'stream.name', 'x.y'])
def test_what_is_no_number_is_refused(setting):
  with pytest.raises(UserError, match=f"'{setting}', which is no number of this run"):
    sweep.with_value(runs.config('ewc'), setting, 1.0)


def test_the_part_of_a_composition_is_named():
  made = sweep.with_value(runs.config('replay+ewc'), 'method.ewc.lambda_ewc', 5.0)
  assert made.method.ewc.lambda_ewc == 5.0


@pytest.mark.slow
def test_a_sweep_trains_each_value_once_and_compares_them_with_the_run(tmp_path):
  made = runs.config('ewc', stream={'max_tasks': 2}, train={'steps': 2})
  folder = tmp_path / 'run'
  folder.mkdir()
  runs.run(made, workdirs.open_workdir(str(folder), made))
  flags = [f'--workdir={folder}', '--setting=method.lambda_ewc', '--values=10,1000,100000']
  done = call('sweep', *flags)
  assert done.returncode == 0, done.stderr
  assert '[3/3] method.lambda_ewc=100000' in done.stdout
  out = tmp_path / 'run-sweep'
  values = {}
  for place in out.glob('*/results.json'):
    found = json.loads(place.read_text())
    values[place.parent.name] = found['config']['method']['lambda_ewc']
    assert found['config']['train']['steps'] == 2
  assert values == {'lambda_ewc-10': 10, 'lambda_ewc-1000': 1000, 'lambda_ewc-100000': 1e5}
  assert (out / 'report.html').stat().st_size > 10_000
  rows = [line for line in done.stdout.splitlines() if line.startswith('ewc')]
  assert len(rows) == 3  # the run itself has one of the values
  logs = lambda: {place: place.read_bytes() for place in out.glob('*/metrics.jsonl')}
  before = logs()
  assert len(before) == 3
  again = call('sweep', *flags[:2], '--values=10,1000', '--quiet')
  assert again.returncode == 0, again.stderr
  assert logs() == before
  assert not any(json.loads(p.read_text())['resumes'] for p in out.glob('*/results.json'))
