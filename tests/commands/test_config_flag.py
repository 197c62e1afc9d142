"""`--config` and the flags of its fields, for one method and for several."""

import pytest
from absl import flags

from jcl.commands import command_line, config_files, config_flag
from jcl.errors import UserError


def parsed(*arguments: str, several: bool = False) -> flags.FlagValues:
  given = flags.FlagValues()
  config_flag.define(given, arguments, several)
  config_flag.define_run_flags(given)
  command_line.parse(given, arguments)
  return given


def test_fields_of_every_type_are_set():
  config = config_flag.read(parsed(
    '--config=quickstart:lora+replay', '--config.train.epochs=3', '--config.train.l1', '0.5',
    '--config.train.fsdp', '--noconfig.checkpoint.keep_tasks', '--config.scenario=til',
    "--config.train.trainable=('!embed','.*')", '--config.method.lora.targets=q',
    '--config.method.lora.targets=k', '--config.method.replay.buffer_size=7',
  ))  # fmt: skip
  assert (config.train.epochs, config.train.l1, config.train.fsdp) == (3, 0.5, True)
  assert (config.checkpoint.keep_tasks, config.scenario) == (False, 'til')
  assert config.train.trainable == ('!embed', '.*')
  assert config.method.lora.targets == ('q', 'k')
  assert config.method.replay.buffer_size == 7


@pytest.mark.parametrize('given', ['q,k', "('q','k')", '["q","k"]', '(q,k)', ' q, k', "'q','k'"])
def test_a_list_may_be_written_in_every_usual_way(given):
  one = config_flag.read(parsed('--config=quickstart:lora', f'--config.method.targets={given}'))
  two = config_flag.read(parsed('--config=quickstart:lora', '--config.method.targets', given))
  three, other = config_flag.read_each(
    parsed('--config=quickstart', f'--config.method.targets={given}', several=True),
    ['lora', 'lora+replay'],
  )
  assert one.method.targets == two.method.targets == three.method.targets == ('q', 'k')
  assert other.method.lora.targets == ('q', 'k')


def test_a_list_of_one_section_holds_for_all_methods():
  given = parsed('--config=quickstart', '--config.train.trainable=!embed,.*', several=True)
  assert [c.train.trainable for c in config_flag.read_each(given, ['seq', 'lora'])] == [
    ('!embed', '.*')
  ] * 2
  assert config_flag.overrides(given, 'train.trainable')
  assert not config_flag.overrides(parsed('--config=quickstart', several=True), 'train.trainable')


def test_a_text_that_is_no_list_is_refused():
  given = parsed('--config=quickstart:lora', '--config.method.targets=q,,v')
  with pytest.raises(UserError, match=r'--config\.method\.targets=q,,v: it has an empty entry'):
    config_flag.read(given)


@pytest.mark.parametrize(
  ('arguments', 'rate'),
  [
    (['--config=own_tasks:seq'], 1e-4),
    (['--config=own_tasks:seq', '--config.backbone.path='], None),
    (['--config=own_tasks:seq', '--config.backbone.path=other'], 1e-4),
    (['--config=own_tasks:seq', '--config.backbone.path=', '--config.train.learning_rate=0'], 0),
    (['--config=quickstart:seq', '--config.backbone.path='], 1e-3),
  ],
)
def test_the_rate_of_a_shipped_config_is_meant_for_its_model(arguments, rate):
  """Where a flag takes the pretrained model away, the rate is that of what trains."""
  assert config_flag.read(parsed(*arguments)).train.learning_rate == rate
  one, *rest = arguments
  given = parsed(one.removesuffix(':seq'), *rest, several=True)
  assert [c.train.learning_rate for c in config_flag.read_each(given, ['seq', 'ewc'])] == [rate] * 2


def test_the_rate_of_a_config_of_ones_own_always_holds(tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text(config_files.shipped()['own_tasks'].read_text())
  given = parsed(f'--config={file}:seq', '--config.backbone.path=')
  assert config_flag.read(given).train.learning_rate == 1e-4


def test_one_call_leaves_nothing_for_the_next():
  assert config_flag.read(parsed('--config=quickstart:seq', '--config.train.epochs=3'))
  assert config_flag.read(parsed('--config=quickstart:seq')).train.epochs == 12


def test_whether_a_field_is_set_by_a_flag():
  given = parsed('--config=quickstart:seq', '--config.stream.order_seed=0')
  assert config_flag.overrides(given, 'stream.order_seed')
  assert not config_flag.overrides(given, 'train.seed')


@pytest.mark.parametrize(
  ('arguments', 'says'),
  [
    ([], '--config is missing; give --config=quickstart:lamol'),
    (['--config.train.epochs=3'], r'--config\.train\.epochs needs --config'),
    (['--config.train.epochs=3', '--config=quickstart'], r'--config\.train\.epochs comes before'),
    (
      ['--config=quickstart', '--config.train.epoch=3'],
      "no field 'epoch'; did you mean epochs[?] it has ",
    ),
    (
      ['--config=quickstart', '--noconfig.train.epoch'],
      "no field 'epoch'; did you mean epochs[?] it has ",
    ),
    (
      ['--config=quickstart:lamol', '--config.method.buffer_size=9'],
      "Lamol has no field 'buffer_size'; it has .*gamma,.*; methods that have it: .*replay, ",
    ),
    (['--config=quickstart', '--config.train=3'], r'group of settings.*--config\.train\.learn'),
    (['--config=quickstart', '--config.train.epochs=x'], 'epochs=x: give a whole number'),
  ],
)
def test_what_is_no_config_or_no_field_is_refused(arguments, says):
  with pytest.raises(UserError, match=says):
    config_flag.read(parsed(*arguments))


def test_each_method_gets_the_fields_that_it_has():
  given = parsed(
    '--config=quickstart', '--config.train.epochs=3', '--config.method.gamma=0.25',
    '--config.method.targets=q', '--config.method.targets=k', '--config.method.buffer_size=9',
    several=True,
  )  # fmt: skip
  names = ['lamol', 'lora', 'replay+ewc', 'seq']
  lamol, lora, both, seq = config_flag.read_each(given, names)
  assert lamol.method.gamma == 0.25
  assert lamol.method.task_tokens  # as the config has it
  assert lora.method.targets == ('q', 'k')
  assert both.method.replay.buffer_size == 9
  assert [c.train.epochs for c in (lamol, lora, both, seq)] == [3] * 4


@pytest.mark.parametrize(
  ('arguments', 'says'),
  [
    (['--config.method.gama=1'], r'--config\.method\.gama: none of seq, lamol has this field'),
    (
      ['--config.method.buffer_size=1'],
      'none of seq, lamol has this .*; methods .* it: .*replay, ',
    ),
    (['--config.method.gamma=x'], r'--config\.method\.gamma=x: give a number'),
    (['--config.train.epoch=1'], "no field 'epoch'"),
  ],
)
def test_a_field_of_no_method_and_a_value_of_the_wrong_type_are_refused(arguments, says):
  with pytest.raises(UserError, match=says):
    config_flag.read_each(parsed('--config=quickstart', *arguments, several=True), ['seq', 'lamol'])


def test_a_config_with_a_method_is_refused_where_there_are_several():
  with pytest.raises(UserError, match='give --config=quickstart --methods=lamol,'):
    parsed('--config=quickstart:lamol', several=True)


def test_a_field_twice_is_noted_and_the_last_counts(capsys):
  arguments = [
    '--config=quickstart:lora', '--config.train.epochs=3', '--config.train.epochs=3',
    '--config.method.targets=q', '--config.method.targets=k',
  ]  # fmt: skip
  parsed(*arguments)
  assert capsys.readouterr().err == ''
  found = config_flag.read(parsed(*arguments, '--config.train.epochs=4'))
  assert found.train.epochs == 4
  said = "note: --config.train.epochs is '3' and then '4': the last counts\n"
  assert capsys.readouterr().err.startswith(said)
