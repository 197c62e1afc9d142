"""Differences from the config of a run that is there: allowed, named, or refused."""

import copy
import dataclasses
import json
import sys
from typing import Any

import jax
import pytest
from support import runs
from support.launchers import QUICKSTART, SMALL, call

from jcl import learning, methods
from jcl import workdir as workdirs
from jcl.config import Config
from jcl.errors import UserError
from jcl.step import rates
from jcl.storage import sealed_folder
from jcl.storage.checkpoint import Snapshots
from jcl.storage.encoding import leaves_by_path
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
  known = workdirs.field_names(workdirs.config_to_json(Config(method=methods.settings('ewc'))))
  assert set(workdirs.CHANGEABLE) <= known
  assert len(known) > 60
  free = set(workdirs.CHANGEABLE)
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
  return {k: v.shape for tree in (params, state) for k, v in leaves_by_path(tree).items()}


def test_what_can_change_leaves_parameters_and_state_as_they_are(made):
  """A leaf of another path would start afresh, silently."""
  wanted = trees(made)
  others = {
    'train__fsdp': True, 'train__microbatches': 2, 'evaluate__batch_size': 3,
    'backbone__remat': True, 'train__learning_rate': 0.0,
    'train__weight_decay': 0.0, 'train__packing': 'on',
  }  # fmt: skip
  apart = {'backbone.attention', 'train.tensor'}  # a kernel, and devices, that are not here
  assert {f.replace('__', '.') for f in others} >= set(workdirs.ROUNDING) - apart
  for field, value in others.items():
    assert trees(other(made, **{field: value})) == wanted, field
  assert trees(other(made, train__clip_norm=0.0)) != wanted  # hence it is none of them


def test_without_the_flag_a_difference_is_refused_and_the_flag_is_named(made, workdir):
  new = other(made, train__log_every=5, checkpoint__every_steps=7)
  with pytest.raises(UserError) as error:
    workdirs.open_workdir(str(workdir), new)
  assert str(error.value) == (
    f'{workdir} holds a run of another config (train.log_every was 1, is 5; '
    'checkpoint.every_steps was 0, is 7); give another workdir, or go on: in Python '
    "allow_config_change='train.log_every,checkpoint.every_steps', on a shell "
    '--allow_config_change=train.log_every,checkpoint.every_steps'
  )
  with pytest.raises(UserError, match=r'config \(checkpoint.every_steps was 0, is 7\); give'):
    workdirs.open_workdir(str(workdir), new, ['train.log_every'])  # one of the two
  assert listing(workdir) == ['config.json']


def test_a_run_of_before_there_was_packing_goes_on_unpacked(made, workdir):
  file = workdir / 'config.json'
  stored = json.loads(file.read_text())
  assert stored['train'].pop('packing') == 'auto'
  file.write_text(json.dumps(stored))
  assert workdirs.load_workdir(str(workdir)).train.packing == 'off'
  assert rates.with_stored(workdir, made).train.packing == 'off'
  workdirs.open_workdir(str(workdir), made)  # by the same command
  on = other(made, train__packing='on')
  assert rates.with_stored(workdir, on).train.packing == 'on'
  with pytest.raises(UserError, match=r"train.packing was 'off', is 'on'.*allow_config_change"):
    workdirs.open_workdir(str(workdir), on)
  workdirs.open_workdir(str(workdir), on, ['train.packing'])
  assert workdirs.load_workdir(str(workdir)).train.packing == 'on'


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


def test_a_snapshot_of_another_format_is_refused_before_anything_is_written(made, workdir):
  snapshots = Snapshots(workdir)
  snapshots.save({'step': 0})
  snapshots.close()
  folder, before = workdir / 'checkpoints' / '0', (workdir / 'config.json').read_bytes()
  content = sealed_folder.read_seal(folder) | {'format': 2, 'jcl': '0.0.9'}
  (folder / 'snapshot.json').unlink()
  sealed_folder.seal(folder, content)
  new = other(made, train__log_every=5)
  with pytest.raises(UserError, match=r'has format 2, of jcl 0\.0\.9; this is jcl'):
    workdirs.open_workdir(str(workdir), new, ['train.log_every'])
  assert (workdir / 'config.json').read_bytes() == before
  assert not (workdir / 'config_changes.jsonl').exists()


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
    f'{workdir} holds a run of another config ({words}); give another workdir'
  )
  assert listing(workdir) == ['config.json']


def test_a_name_that_is_no_field_is_refused(made, workdir):
  with pytest.raises(
    UserError, match=r"allow_config_change has 'train.sed', which is no field; what can "
  ):
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


@pytest.mark.parametrize('content', ['{"model_type": "llama"}', '[]', '{}'])
def test_the_config_of_a_model_is_none_of_a_run(made, workdir, content):
  (workdir / 'config.json').write_text(content)
  with pytest.raises(UserError, match=r'config\.json is not the config of a run; give another'):
    workdirs.open_workdir(str(workdir), made)


def test_a_file_is_no_workdir(made, tmp_path):
  (tmp_path / 'mails.csv').write_text('a')
  with pytest.raises(UserError, match=r'mails\.csv is a file; give another workdir'):
    workdirs.open_workdir(str(tmp_path / 'mails.csv'), made)


@pytest.mark.slow
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


OUTSIDE = """
import dataclasses
from typing import ClassVar

from jcl.methods import Method, Settings


@dataclasses.dataclass
class Schedule:
  warmup: int = 3
  marks: tuple = ((1, 2), (3, 4))


@dataclasses.dataclass
class Damped(Settings):
  brings: ClassVar[tuple] = ('rows',)

  strength: float = 0.5
  names: tuple[str, ...] = ('a',)
  table: dict = dataclasses.field(default_factory=lambda: {'x': [1, 2]})
  schedule: Schedule = dataclasses.field(default_factory=Schedule)

  def build(self, backbone, teacher=None):
    return Method()
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
  """The name of a settings class in a module of another package."""
  (tmp_path / 'elsewhere').mkdir()
  (tmp_path / 'elsewhere' / 'damping.py').write_text(OUTSIDE)
  monkeypatch.syspath_prepend(str(tmp_path))
  yield 'elsewhere.damping:Damped'
  for name in ('elsewhere', 'elsewhere.damping'):
    sys.modules.pop(name, None)


def changed_outside(name):
  """A config whose method, or the part of it from outside, has no default left."""
  made = runs.config(name)
  part = methods.parts(made.method)['damped']
  part.strength, part.names, part.table = 0.25, ('b', 'c:d'), {'y': [3], 'z': []}
  part.schedule.marks = ((5, 6),)
  return made


@pytest.mark.parametrize('form', ['{}', 'ewc+{}', '{}+l2'])
def test_a_method_of_another_package_is_found_again(outside, tmp_path, form):
  made = changed_outside(form.format(outside))
  workdir = workdirs.open_workdir(str(tmp_path / 'run'), made)
  assert json.loads((workdir / 'config.json').read_text())['method']['name'] == form.format(outside)
  again = workdirs.load_workdir(str(workdir))
  assert again == made
  assert type(again.method) is type(made.method)
  assert methods.name_of(again.method) == form.format(outside)
  assert workdirs.check_workdir(str(workdir), made) == workdir
  path = 'method.strength' if form == '{}' else 'method.damped.strength'
  methods.parts(made.method)['damped'].strength = 1.0
  with pytest.raises(UserError, match=rf'\({path} was 0.25, is 1.0, which cannot change'):
    workdirs.check_workdir(str(workdir), made)


def test_a_method_that_is_not_installed_any_more_is_named(outside, tmp_path):
  workdir = workdirs.open_workdir(str(tmp_path / 'run'), runs.config(outside))
  sys.modules.pop('elsewhere.damping')
  sys.modules.pop('elsewhere')
  (tmp_path / 'elsewhere').rename(tmp_path / 'gone')
  with pytest.raises(UserError) as error:
    workdirs.load_workdir(str(workdir))
  assert str(error.value) == (
    f"{workdir}/config.json: method: {outside}: there is no module 'elsewhere'; install its "
    'package, or put its folder on PYTHONPATH'
  )


def test_a_setting_that_the_class_has_no_more_is_named(outside, tmp_path):
  workdir = workdirs.open_workdir(str(tmp_path / 'run'), runs.config(outside))
  kept = json.loads((workdir / 'config.json').read_text())
  kept['method']['schedule']['cooldown'] = 1
  (workdir / 'config.json').write_text(json.dumps(kept))
  with pytest.raises(UserError, match=r'config\.json: there is no setting method\.schedule\.cool'):
    workdirs.load_workdir(str(workdir))


@dataclasses.dataclass
class Odd(methods.Settings):
  value: Any = 0

  def build(self, backbone, teacher=None):
    return methods.Method()


@dataclasses.dataclass
class Named(Odd):
  name: str = 'x'


@pytest.mark.parametrize(
  ('value', 'words'),
  [
    (b'x', r'method\.value is a bytes, which config\.json cannot hold'),
    ((1, {2}), r'method\.value\[1\] is a set, which'),
    ({'a': {1: 2}}, r'method\.value\.a is a dict with a key that is no str, which'),
  ],
)
def test_a_setting_that_json_cannot_hold_is_refused_before_anything_is_written(
  tmp_path, value, words
):
  with pytest.raises(UserError, match=words):
    workdirs.open_workdir(str(tmp_path / 'run'), Config(method=Odd(value)))
  assert not (tmp_path / 'run').exists()


def test_a_class_that_no_other_process_finds_is_refused(tmp_path):
  @dataclasses.dataclass
  class Local(Odd):
    pass

  with pytest.raises(UserError, match='Local is defined in a config file or in a function, where'):
    workdirs.open_workdir(str(tmp_path / 'run'), Config(method=Local()))
  with pytest.raises(UserError, match='has a setting called name'):
    workdirs.open_workdir(str(tmp_path / 'run'), Config(method=Named()))
  assert not (tmp_path / 'run').exists()


def test_a_method_of_a_notebook_is_told_to_move(tmp_path):
  workdir = workdirs.open_workdir(str(tmp_path / 'run'), Config(method=Odd()))
  kept = json.loads((workdir / 'config.json').read_text())
  assert kept['method']['name'] == f'{__name__}:Odd'
  kept['method']['name'] = '__main__:Odd'
  (workdir / 'config.json').write_text(json.dumps(kept))
  with pytest.raises(
    UserError, match=r"__main__ has no 'Odd'; a method that was defined in a note"
  ):
    workdirs.load_workdir(str(workdir))


@pytest.mark.parametrize('stored', [1e-5, 3e-4, 1e-3])
def test_a_rate_that_is_left_open_is_that_of_the_run_in_the_workdir(stored, tmp_path):
  """So a run that an earlier jcl began at another default goes on at it."""
  config = runs.config('seq', train={'learning_rate': stored})
  workdirs.open_workdir(str(tmp_path / 'run'), config)
  again = runs.config('seq', train={'learning_rate': None})
  assert workdirs.check_workdir(str(tmp_path / 'run'), again)
  assert rates.with_stored(tmp_path / 'run', again).train.learning_rate == stored
  assert rates.with_stored(tmp_path / 'new', again).train.learning_rate is None
  asked = runs.config('seq', train={'learning_rate': 2 * stored})
  assert rates.with_stored(tmp_path / 'run', asked).train.learning_rate == 2 * stored
  with pytest.raises(UserError, match=r'train\.learning_rate was'):
    workdirs.check_workdir(str(tmp_path / 'run'), asked)


def test_the_config_of_a_run_has_the_rate_that_it_trains_with(tmp_path):
  small = {'max_tasks': 1, 'max_train_per_task': 4, 'max_test_per_task': 3}
  config = runs.config('seq', train={'learning_rate': None, 'epochs': 1}, stream=small)
  learning.run(config, tmp_path / 'run', quiet=True)
  assert workdirs.load_workdir(str(tmp_path / 'run')).train.learning_rate == rates.SCRATCH
  learning.run(config, tmp_path / 'run', quiet=True)  # the same goes on
