"""What `jcl compare` makes of its flags before anything is trained."""

import pytest
from absl import flags

from jcl import workdir as workdirs
from jcl.commands import command_line, compare


def configs(*arguments):
  given = flags.FlagValues()
  compare.define_flags(given, arguments)
  command_line.parse(given, arguments)
  return compare._read_configs(given)


def orders(*arguments):
  made = configs(*arguments, '--methods=seq', '--seeds=0,1,2')
  return [config.stream.order_seed for config in made.values()]


def test_own_files_keep_their_order_unless_a_seed_is_asked_for():
  assert orders('--config=own_tasks') == [-1, -1, -1]
  assert orders('--config=own_tasks', '--config.stream.order_seed=7') == [7, 7, 7]
  assert orders('--config=quickstart', '--config.stream.name=files') == [0, 0, 0]  # as it says
  assert orders('--config=quickstart', '--config.stream.name=a.b:read') == [0, 0, 0]


def test_the_order_of_benchmarks_is_drawn_with_each_seed():
  assert orders('--config=quickstart') == [0, 1, 2]
  assert orders('--config=clinc150') == [0, 1, 2]
  assert orders('--config=quickstart', '--config.stream.order_seed=-1') == [-1, -1, -1]


@pytest.mark.parametrize(('stored', 'kept'), [(1, 1), (2, -1), (-1, -1), (None, -1)])
def test_a_run_on_own_files_that_began_in_the_order_of_its_seed_goes_on_in_it(
  stored, kept, tmp_path
):
  made = configs('--config=own_tasks', '--methods=seq', '--seeds=1')
  config = made['seq', 1]
  if stored is not None:
    config.stream.order_seed = stored
    workdirs.open_workdir(str(tmp_path / 'run'), config)
  config.stream.order_seed = -1
  compare._keep_stored_order(tmp_path / 'run', config, seed=1)
  assert config.stream.order_seed == kept
