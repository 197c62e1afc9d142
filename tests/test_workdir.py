"""What may differ from the config of a run that is there, and what is said of it."""

import copy
import json

import jax
import pytest
from support import runs
from support.launchers import QUICKSTART, SMALL, call

from jcl import changes, methods
from jcl import workdir as workdirs
from jcl.config import Config
from jcl.errors import UserError
from jcl.storage.checkpoint import Snapshots, by_path
from jcl.training import experiment


@pytest.fixture
def made():
  return runs.config('ewc')


@pytest.fixture
def workdir(made, tmp_path):
  return workdirs.open_workdir(str(tmp_path / 'run'), made)


def other(made, **values):
  """The config with other values, named like `train__seed`."""
  new = copy.deepcopy(made)
  for name, value in values.items():
    section, field = name.split('__')
    assert hasattr(getattr(new, section), field)
    setattr(getattr(new, section), field, value)
  return new


def listing(workdir):
  return sorted(p.name for p in workdir.iterdir() if p.name != '.lock')


def test_what_can_change_is_a_field():
  """And what makes rows, shapes, seeds, memory or scores is none of it."""
  known = changes.fields(workdirs.plain(Config(method=methods.settings('ewc'))))
  assert set(changes.CHANGEABLE) <= known
  assert len(known) > 60
  free = set(changes.CHANGEABLE)
  assert not {f for f in free if f.startswith(('method.', 'scenario'))}
  assert {f for f in free if f.startswith('stream.')} == {'stream.cache'}
  assert {f for f in free if f.startswith('backbone.')} == {'backbone.remat', 'backbone.attention'}
  assert not free & {'train.seed', 'train.batch_size', 'train.epochs', 'train.trainable'}
  assert not free & {'train.clip_norm', 'train.optimizer_between_tasks', 'train.keep_best'}
  assert not {f for f in free if f.startswith('evaluate.')} - {'evaluate.batch_size'}


def trees(made):
  """Paths and shapes of the parameters and of the optimiser's state."""
  parts = experiment.assemble(made)
  params = parts.initial_params()
  state = jax.eval_shape(parts.optimizer().init, params)
  return {k: v.shape for tree in (params, state) for k, v in by_path(tree).items()}


def test_what_can_change_leaves_parameters_and_state_as_they_are(made):
  """A leaf of another path would start afresh, silently."""
  wanted = trees(made)
  others = {
    'train__fsdp': True, 'train__microbatches': 2, 'evaluate__batch_size': 3,
    'backbone__remat': True, 'train__learning_rate': 0.0, 'train__head_learning_rate': 0.5,
    'train__adapter_learning_rate': 0.5, 'train__weight_decay': 0.0,
  }  # fmt: skip
  assert {f.replace('__', '.') for f in others} >= set(changes.ROUNDING) - {'backbone.attention'}
  for field, value in others.items():
    assert trees(other(made, **{field: value})) == wanted, field
  assert trees(other(made, train__clip_norm=0.0)) != wanted  # hence it is none of them


def test_without_the_flag_a_difference_is_refused_and_the_flag_is_named(made, workdir):
  new = other(made, train__log_every=5, checkpoint__every_steps=7)
  with pytest.raises(UserError) as error:
    workdirs.open_workdir(str(workdir), new)
  assert str(error.value) == (
    f'{workdir} holds a run of another config (train.log_every was 1, is 5; '
    'checkpoint.every_steps was 0, is 7); give another --workdir, or go on with '
    '--allow_config_change=train.log_every,checkpoint.every_steps'
  )
  with pytest.raises(UserError, match=r'config \(checkpoint.every_steps was 0, is 7\); give'):
    workdirs.open_workdir(str(workdir), new, ['train.log_every'])  # one of the two
  assert listing(workdir) == ['config.json']


def test_an_allowed_change_is_written_and_the_old_value_kept(made, workdir):
  said, path = [], str(workdir)
  for step in range(2):
    new, allowed = (
      other(made, train__log_every=5, train__fsdp=True),
      ['train.log_every', 'train.fsdp'],
    )
    workdirs.check_workdir(path, new, allowed)
    workdirs.open_workdir(path, new, allowed, said.append)
    assert workdirs.load_workdir(path) == new  # and a second time nothing changes
    snapshots = Snapshots(workdir)
    snapshots.save({'step': step})
    snapshots.close()
  assert said == [
    'changed: train.log_every was 1, is 5, from snapshot -1 on',
    'changed: train.fsdp was False, is True, from snapshot -1 on: within rounding, not bit for bit',
  ]
  workdirs.open_workdir(path, other(new, train__log_every=9), ['train.log_every'], said.append)
  assert said[2:] == ['changed: train.log_every was 5, is 9, from snapshot 1 on']
  first, second = map(json.loads, (workdir / 'config_changes.jsonl').read_text().splitlines())
  assert first['changes'] == {'train.log_every': [1, 5], 'train.fsdp': [False, True]}
  assert (first['snapshot'], second['snapshot']) == (-1, 1)
  assert second['changes'] == {'train.log_every': [5, 9]}
  assert first['time'] <= second['time']


@pytest.mark.parametrize(
  ('field', 'value', 'words'),
  [
    ('train__seed', 7, 'train.seed was 0, is 7, which cannot change in a run'),
    ('stream__max_tasks', 2, 'stream.max_tasks was 3, is 2, which cannot change in a run'),
    (
      'method__lambda_ewc',
      1.0,
      'method.lambda_ewc was 1000.0, is 1.0, which cannot change in a run',
    ),
  ],
)
def test_what_a_run_depends_on_cannot_change_though_it_is_asked_for(
  made, workdir, field, value, words
):
  new = other(made, **{field: value, 'train__log_every': 5})
  with pytest.raises(UserError) as error:
    workdirs.open_workdir(str(workdir), new, [field.replace('__', '.'), 'train.log_every'])
  assert str(error.value) == (
    f'{workdir} holds a run of another config ({words}); give another --workdir'
  )
  assert listing(workdir) == ['config.json']


def test_a_name_that_is_no_field_is_refused(made, workdir):
  with pytest.raises(UserError, match=r'--allow_config_change=train.sed is no field; what can '):
    workdirs.open_workdir(str(workdir), made, ['train.sed'])


def test_another_method_is_one_difference(workdir):
  with pytest.raises(UserError, match=r'\(method.name was .ewc., is .seq., which cannot change'):
    workdirs.open_workdir(str(workdir), runs.config('seq'))


def forget(workdir, *fields):
  """The config of a run of before there were some fields."""
  kept = json.loads((workdir / 'config.json').read_text())
  for field in fields:
    section, _, name = field.partition('.')
    kept[section].pop(name) if name else kept.pop(section)
  (workdir / 'config.json').write_text(json.dumps(kept))


def test_a_field_that_is_new_is_told_as_such_and_may_have_its_default(made, workdir):
  forget(workdir, 'train.beta2', 'adversarial')
  new = ['train.beta2', 'adversarial.epsilon', 'adversarial.weight']
  with pytest.raises(UserError) as error:
    workdirs.open_workdir(str(workdir), made)
  assert 'train.beta2 is new and 0.999; adversarial.epsilon is new and 0.0' in str(error.value)
  assert f'--allow_config_change={",".join(new)}' in str(error.value)
  with pytest.raises(
    UserError, match=r'train\.beta2 is new and 0\.9, which cannot change in a run'
  ):
    workdirs.open_workdir(str(workdir), other(made, train__beta2=0.9), new)
  workdirs.open_workdir(str(workdir), made, new)
  assert workdirs.load_workdir(str(workdir)) == made
  (line,) = (workdir / 'config_changes.jsonl').read_text().splitlines()
  assert json.loads(line)['changes']['train.beta2'] == [None, 0.999]


def test_a_field_that_is_gone_is_refused(made, workdir):
  kept = json.loads((workdir / 'config.json').read_text())
  kept['train']['momentum'] = 0.9
  (workdir / 'config.json').write_text(json.dumps(kept))
  wanted = 'train.momentum was 0.9 and is no setting any more, which cannot change'
  with pytest.raises(UserError, match=wanted):
    workdirs.open_workdir(str(workdir), made)


def test_a_launcher_goes_on_with_what_it_is_allowed_to_change(tmp_path):
  command = QUICKSTART + ':seq', *SMALL, f'--workdir={tmp_path / "run"}'
  assert call('train', *command).returncode == 0
  more = '--config.train.log_every=3', '--config.checkpoint.every_minutes=1'
  refused = call('train', *command, *more)
  assert refused.returncode == 2
  flag = '--allow_config_change=train.log_every,checkpoint.every_minutes'
  assert refused.stderr.strip().endswith(flag)
  done = call('train', *command, *more, flag)
  assert done.returncode == 0, done.stderr
  assert 'changed: train.log_every was 10, is 3, from snapshot 2 on' in done.stdout
