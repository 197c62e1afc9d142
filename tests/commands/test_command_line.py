"""Flags are parsed into their own set, and whatever does not fit is one line."""

import logging

import absl.logging
import pytest
from absl import flags

from jcl.commands import command_line
from jcl.errors import UserError, nearest


def defined() -> flags.FlagValues:
  given = flags.FlagValues()
  flags.DEFINE_string('name', None, 'a name', given)
  flags.DEFINE_integer('count', 3, 'a count', 1, None, given)
  flags.DEFINE_bool('quiet', False, 'a switch', given)
  return given


def test_values_are_parsed_and_the_global_flags_are_left_alone():
  given = defined()
  command_line.parse(given, ['--name=x', '--count', '5', '--quiet'])
  assert (given.name, given.count, given.quiet) == ('x', 5, True)
  assert 'count' not in flags.FLAGS


@pytest.mark.parametrize(
  ('argument', 'says'),
  [
    ('--cuont=3', '--cuont is no flag; did you mean --count[?] there are --'),
    ('--count=x', '--count=x: give a whole number'),
    ('--count=0', '--count=0: .*positive'),
    ('--quiet=perhaps', '--quiet=perhaps: give true or false'),
    ('--name', '--name.*flags are written --name=value'),
    ('name', "'name' is no flag"),
  ],
)
def test_what_does_not_fit_is_refused(argument, says):
  with pytest.raises(UserError, match=says):
    command_line.parse(defined(), [argument])


@pytest.mark.parametrize(
  ('argument', 'says'),
  [
    ('--share=x', '--share=x: give a number$'),
    ('--share=0.5', '--share=0.5: give a number of at least 1$'),
    ('--kind=float17', '--kind=float17: give one of float32, bfloat16$'),
  ],
)
def test_what_would_be_right_is_said_in_words(argument, says):
  given = flags.FlagValues()
  flags.DEFINE_float('share', 1.0, 'a share', 1, None, given)
  flags.DEFINE_enum('kind', 'float32', ['float32', 'bfloat16'], 'a type', given)
  with pytest.raises(UserError, match=says):
    command_line.parse(given, [argument])


def test_a_flag_twice_is_refused_unless_it_says_the_same_or_sets_a_field():
  command_line.check_names(['--a=1', '--a=1', '--config.x=1', '--config.x=2', 'b=1', 'b=2'])
  with pytest.raises(UserError, match="--a is given twice, as '1' and '2'; give it once"):
    command_line.check_names(['--a=1', '--a=2'])
  with pytest.raises(UserError, match='is no flag'):
    command_line.check_names(['--' + 'a' * 1000])


def test_flags_are_read_from_files(tmp_path):
  (tmp_path / 'inner').write_text('--b=2\n')
  (tmp_path / 'outer').write_text(f'# a comment\n--a=1\n--flagfile={tmp_path / "inner"}\n')
  found = command_line.expand_flag_files([f'--flagfile={tmp_path / "outer"}', '--c=3'])
  assert found == ['--a=1', '--b=2', '--c=3']
  with pytest.raises(UserError, match=r'--flagfile: .*nothing.*; give a file of flags'):
    command_line.expand_flag_files([f'--flagfile={tmp_path / "nothing"}'])


def test_flags_that_are_lists():
  given = flags.FlagValues()
  command_line.define_list(given, 'seeds', '0', 'numbers', int, once='seed')
  command_line.define_list(given, 'weights', '', 'numbers', float)
  command_line.define_list(given, 'runs', '', 'folders', of_paths=True)
  assert (given['seeds'].value, given['weights'].value) == ((0,), ())
  command_line.parse(given, ['--seeds=[0, 2,1]', '--weights=0.5,1', "--runs=('a','b,c')"])
  assert (given.seeds, given.weights, given.runs) == ((0, 2, 1), (0.5, 1.0), ('a', 'b,c'))
  assert '(default: 0)' in command_line.help_page('', given)
  for text, says in (
    ('1.5', "'1.5' is no whole number; give whole numbers such as 0,1,2"),
    ('1,1', 'it names the seed 1 twice'), ('1,,2', 'it has an empty entry'),
  ):  # fmt: skip
    with pytest.raises(UserError, match=f'--seeds={text}: {says}'):
      command_line.parse(given, [f'--seeds={text}'])
  with pytest.raises(UserError, match="--runs is 'gs://b', a URL"):
    command_line.parse(given, ['--runs=a,gs://b'])


def test_a_page_shows_defaults_that_say_something():
  page = command_line.help_page('What it does.\n', defined())
  assert page.splitlines() == [
    'What it does.', '', 'flags:',
    '  --name=…   a name', '  --count=…  a count (default: 3)', '  --quiet    a switch',
  ]  # fmt: skip


def test_a_flag_that_must_be_given():
  given = defined()
  command_line.parse(given, [])
  with pytest.raises(UserError, match='--name is missing; give --name=…'):
    command_line.required(given, 'name')
  command_line.parse(given, ['--name=x'])
  assert command_line.required(given, 'name') == 'x'


def test_every_command_says_how_much_it_says():
  given = flags.FlagValues()
  command_line.define_output_flags(given)
  command_line.parse(given, [])
  assert (given.quiet, given.verbosity) == (False, None)
  command_line.parse(given, ['--quiet', '--verbosity=1'])
  assert (given.quiet, given.verbosity) == (True, 1)
  with pytest.raises(UserError, match='--verbosity=-4'):
    command_line.parse(given, ['--verbosity=-4'])


def test_libraries_log_as_much_as_is_asked_for():
  root, before = logging.root, (logging.root.handlers[:], logging.root.level)
  try:
    command_line.set_verbosity(None)
    assert root.handlers == before[0]
    command_line.set_verbosity(1)
    assert absl.logging.get_absl_handler() in root.handlers
    assert root.isEnabledFor(logging.DEBUG)
    command_line.set_verbosity(-2)
    assert not root.isEnabledFor(logging.WARNING)
  finally:
    absl.logging.set_verbosity(absl.logging.WARNING)
    root.handlers[:] = before[0]
    root.setLevel(before[1])


@pytest.mark.parametrize(
  ('argument', 'says'),
  [
    ('--learning-rate=1', 'did you mean --config.train.learning_rate[?]'),
    ('--epochs=1', 'did you mean --config.train.epochs[?]'),
    ('--methd=seq', 'did you mean --method[?] there are --config, --method'),
  ],
)
def test_a_setting_without_its_group_is_told_the_whole_name(argument, says):
  given = flags.FlagValues()
  for name in ('config', 'method'):
    flags.DEFINE_string(name, None, 'of a run', given)
  with pytest.raises(UserError, match=says):
    command_line.parse(given, [argument])


@pytest.mark.parametrize(
  ('wrong', 'near'),
  [('lamoll', 'lamol'), ('Own-Tasks', 'own_tasks'), ('lambda_ewk', 'lambda_ewc'), ('zzz', '')],
)
def test_the_nearest_name_is_offered(wrong, near):
  known = ('lamol', 'lamol_kd', 'own_tasks', 'lambda_ewc')
  assert nearest(wrong, known) == (f'did you mean {near}? ' if near else '')
