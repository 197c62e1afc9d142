"""Every finding ends in a command that runs: its flags parse, and its settings exist."""

import copy
import itertools
import json
import shlex

import pytest
from absl.flags import FlagValues
from reports.doctor import test_findings
from support import runs

from jcl import commands
from jcl import workdir as workdirs
from jcl.commands import command_line, config_flag, sweep
from jcl.config import Config
from jcl.reports import doctor
from jcl.training import experiment

METHODS = ('replay+ewc', 'replay', 'lamol', 'derpp', 'mas', 'seq', 'lora')
GENERATE = ('lamol', 'lamol_kd', 'l2kd')
OF_SOME = {'a penalty alone': ('ewc', 'mas', 'l2'), 'forgets as expected': ('seq',)}
OF_SOME |= {  # methods that alone can have the finding
  f'pseudo samples {what}': GENERATE for what in ('rejected', 'alike', 'copied', 'without a label')
}
OF_SOME |= {'tasks not written': GENERATE}
OF_ONE = {test_findings.joint_guesses: ('joint',)}  # what is ill in runs of a method alone


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """{method: folder of a run with its config.json}; one has a space in its name."""
  made = {}
  for method in {*METHODS, *itertools.chain(*OF_SOME.values(), *OF_ONE.values())}:
    made[method] = tmp_path_factory.mktemp('runs') / f'{method} run'
    made[method].mkdir()
    config = runs.config(method)
    if method == 'replay':
      config.method.mix_by_task = (0.01,)
    workdirs.open_workdir(str(made[method]), config)
  return made


def train(flags: list[str]) -> Config:
  """Returns the config that `jcl train` trains with these flags, once it is checked."""
  given = parsed('train', flags)
  config = config_flag.read(given)
  experiment.check(config)
  assert given.workdir
  return config


def parsed(name: str, flags: list[str]) -> FlagValues:
  """Returns the flags of a command."""
  command, given = commands.load(name), FlagValues()
  command_line.check_names(flags)
  command.define_flags(given, flags)
  command_line.define_output_flags(given)
  command_line.parse(given, flags)
  return given


def checked(command: str) -> None:
  """Raises what the command would refuse before it reads data."""
  program, name, *flags = shlex.split(command)
  assert program == 'jcl'
  if name == 'train':
    train(flags)
    return
  given = parsed(name, flags)
  base = workdirs.load_workdir(given.workdir)
  if name == 'sweep':
    assert given['values'].value
    for value in given['values'].value:
      experiment.check(sweep.with_value(base, given.setting, value))
  else:
    assert name == 'evaluate'


ILL = [fall_ill for fall_ill, found in test_findings.ILL.items() if found]


@pytest.mark.parametrize('fall_ill', ILL, ids=lambda fn: fn.__name__)
def test_the_command_of_a_finding_is_taken(fall_ill, folders):
  results, lines = copy.deepcopy(test_findings.healthy())
  fall_ill(results, lines)
  own = [m for name in test_findings.ILL[fall_ill] for m in OF_SOME.get(name, ())]
  own += OF_ONE.get(fall_ill, ())
  seen = 0
  for method in own or METHODS:
    folder = folders[method]
    config = json.loads((folder / 'config.json').read_text())
    results['config'], results['method'] = config, method
    for found in doctor.findings(results, lines, str(folder)):
      assert found.command, found
      checked(found.command)
      seen += 1
  assert seen


def test_a_setting_that_is_not_there_is_refused(folders):
  """The check of the commands is one."""
  where = shlex.quote(str(folders['seq']))
  for wrong in (
    f'jcl sweep --workdir={where} --setting=method.lambda_ewc --values=1',
    f'jcl train --config={where}:replay --workdir=x --config.method.lambda_ewc=1',
    f'jcl train --config={where}:none --workdir=x',
  ):
    with pytest.raises(Exception, match=r'lambda_ewc|none'):
      checked(wrong)


def test_a_folder_of_a_run_is_a_config(folders):
  where = str(folders['replay+ewc'])
  made = workdirs.load_workdir(where)
  assert train([f'--config={where}', '--workdir=x']) == made
  only = train([f'--config={where}:ewc', '--workdir=x', '--config.train.epochs=7'])
  assert (only.train.epochs, only.train.batch_size) == (7, made.train.batch_size)
  assert only.method == made.method.parts['ewc']
