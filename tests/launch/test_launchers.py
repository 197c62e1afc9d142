"""The launchers as a user calls them: one line and exit status 2 for every mistake."""

import json
import pathlib

import pytest
from support.launchers import QUICKSTART, SMALL, call, start

from jcl import methods
from jcl import workdir as workdirs
from jcl.config import Config

MISTAKES = {
  'no config': ([], '--config'),
  'no workdir': ([QUICKSTART], '--workdir'),
  'no such config file': (['--config=configs/nofile.py'], 'configs/nofile.py'),
  'not a config file': (['--config=pyproject.toml'], 'pyproject.toml'),
  'no such method': ([f'{QUICKSTART}:lamool'], 'lamool'),
  'no such flag': ([QUICKSTART, '--epochs=3'], 'epochs'),
  'no such field': ([QUICKSTART, '--config.train.epoch=3'], 'epoch'),
  'no such field of the method': ([f'{QUICKSTART}:seq', '--config.method.gamma=1'], 'gamma'),
  'a word for a number': ([QUICKSTART, '--config.train.epochs=many'], 'train.epochs'),
  'an unknown word': ([QUICKSTART, '--config.train.schedule=wavy'], 'train.schedule'),
  'an unknown scenario': ([QUICKSTART, '--config.scenario=xil'], 'scenario'),
  'an unknown stream': ([QUICKSTART, '--config.stream.name=nostream'], 'nostream'),
  'a negative number': ([QUICKSTART, '--config.train.batch_size=-1'], 'train.batch_size'),
  'a method setting out of range': ([QUICKSTART, '--config.method.gamma=-1'], 'method.gamma'),
  'a missing model': ([QUICKSTART, '--config.backbone.path=no/such/model.gguf'], 'model.gguf'),
  'a stray word': ([QUICKSTART, 'lamol'], 'lamol'),
}  # fmt: skip


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, tmp_path):
  arguments, culprit = MISTAKES[mistake]
  if mistake not in ('no workdir',):
    arguments = [*arguments, f'--workdir={tmp_path / "run"}']
  done = call('train', *arguments)
  lines = done.stderr.splitlines()
  assert done.returncode == 2, done.stderr
  assert len(lines) == 1, done.stderr
  assert lines[0].startswith('error: ')
  assert culprit in lines[0]
  assert not (tmp_path / 'run').exists()


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> pathlib.Path:
  """A small lamol run by the launcher, started as a user starts it."""
  folder = tmp_path_factory.mktemp('launched') / 'run'
  done = start('train', QUICKSTART, *SMALL, f'--workdir={folder}')
  assert done.returncode == 0, done.stderr
  assert 'A_T' in done.stdout
  assert 'before training' in done.stdout
  return folder


def test_the_same_command_again_goes_on_and_another_config_is_refused(trained):
  before = (trained / 'results.json').read_text()
  again = call('train', QUICKSTART, *SMALL, f'--workdir={trained}')
  assert again.returncode == 0, again.stderr
  assert 'going on' in again.stdout
  digest = lambda text: json.loads(text)['params_sha256']
  assert digest((trained / 'results.json').read_text()) == digest(before)
  other = call('train', QUICKSTART, *SMALL, '--config.train.seed=7', f'--workdir={trained}')
  assert other.returncode == 2
  assert 'train.seed was 0, is 7' in other.stderr


def test_a_workdir_with_other_things_is_refused(tmp_path):
  (tmp_path / 'thesis.tex').write_text('precious')
  done = call('train', QUICKSTART, *SMALL, f'--workdir={tmp_path}')
  assert done.returncode == 2
  assert 'not empty' in done.stderr
  assert [f.name for f in tmp_path.iterdir()] == ['thesis.tex']


def test_a_run_is_evaluated_again_with_the_same_figures(trained):
  done = call('evaluate', f'--workdir={trained}', '--wrong=1')
  assert done.returncode == 0, done.stderr
  results = json.loads((trained / 'results.json').read_text())
  for name, value in zip(results['tasks'], results['matrix'][-1], strict=True):
    assert f'{name}: {100 * value:.1f} % right' in done.stdout


def test_pseudo_samples_are_shown(trained):
  done = call('generate', f'--workdir={trained}', '--count=3', '--task=home')
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('home: ')
  assert len(done.stdout.splitlines()) == 4
  wrong = call('generate', f'--workdir={trained}', '--task=nowhere')
  assert wrong.returncode == 2
  assert 'nowhere' in wrong.stderr


def test_a_folder_without_a_run_is_refused(tmp_path):
  done = call('evaluate', f'--workdir={tmp_path}')
  assert done.returncode == 2
  assert 'config.json' in done.stderr


@pytest.mark.slow
def test_a_comparison_trains_every_method_and_seed(tmp_path):
  done = call(
    'compare', QUICKSTART, '--methods=seq,joint', '--seeds=0,1', *SMALL, f'--workdir={tmp_path}'
  )
  assert done.returncode == 0, done.stderr
  assert sorted(f.name for f in tmp_path.iterdir()) == [
    'comparison.png', 'joint-0', 'joint-1', 'report.html', 'seq-0', 'seq-1'
  ]  # fmt: skip
  assert 'A_T' in done.stdout
  seeds = [json.loads((tmp_path / f'seq-{s}' / 'results.json').read_text())['seed'] for s in (0, 1)]
  assert seeds == [0, 1]


def test_a_setting_of_one_method_alone_is_refused_where_none_has_it(tmp_path):
  done = call(
    'compare', QUICKSTART, '--methods=seq,joint', '--config.method.gamma=0.3', *SMALL,
    f'--workdir={tmp_path / "run"}',
  )  # fmt: skip
  assert done.returncode == 2
  assert 'method.gamma' in done.stderr
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('name', list(methods.BUILT_IN))
def test_a_config_survives_its_file(name, tmp_path):
  made = Config(method=methods.settings(name))
  made.train.trainable = ('!embed', '.*')
  workdir = workdirs.open_workdir(str(tmp_path / name), made)
  assert workdirs.load_workdir(str(workdir)) == made


@pytest.mark.slow
def test_runs_trained_apart_come_into_one_table_and_page(trained, tmp_path):
  """A composition, its parts set by flags, beside the run of `trained`."""
  more = tmp_path / 'runs' / 'two'
  flags = ('--config.method.ewc.lambda_ewc=3', '--config.method.replay.buffer_size=9')
  done = call('train', f'{QUICKSTART}:replay+ewc', *flags, *SMALL, f'--workdir={more}')
  assert done.returncode == 0, done.stderr
  kept = workdirs.load_workdir(str(more)).method
  assert (kept.ewc.lambda_ewc, kept.replay.buffer_size) == (3.0, 9)
  out = tmp_path / 'out'
  done = call('report', f'--runs={trained},{more.parent}', f'--out={out}')
  assert done.returncode == 0, done.stderr
  words = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
  assert [word for word in words if word in ('lamol', 'replay+ewc')] == ['lamol', 'replay+ewc']
  assert sorted(f.name for f in out.iterdir()) == ['comparison.png', 'report.html']
  done = call('report', f'--runs={tmp_path / "nothing"}')
  assert done.returncode == 2
  assert 'nothing holds no results.json' in done.stderr
