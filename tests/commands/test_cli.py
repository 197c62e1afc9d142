"""The console script: what it says without a command, its pages of help, how fast it is."""

import pathlib
import subprocess
import sys

import pytest
from absl import flags
from support import ROOT, TESTS

import jcl
from jcl import cli, commands
from jcl.commands import check, command_line, jax_settings, repository, soak
from jcl.errors import UserError

LIMIT = 0.5  # seconds of CPU for whatever does not need jax


def called(capsys, *arguments: str) -> tuple[int, str, str]:
  """Calls `jcl ARGUMENTS` in this process -> exit status, standard output, standard error."""
  with pytest.raises(SystemExit) as end:
    cli.main(arguments)
  out, err = capsys.readouterr()
  return int(end.value.code or 0), out, err


def test_without_a_command_it_says_what_there_is_and_how_to_go_on(capsys):
  status, out, err = called(capsys)
  assert status == 2
  for name, what in commands.SUMMARIES.items():
    assert f'  {name} ' in out
    assert what in out
  assert 'jcl train --config=quickstart:lamol --workdir=' in out
  assert 'own_tasks' in out
  assert err.startswith('error: no command is given; give one, such as jcl train --config=')
  assert err.count('\n') == 1


@pytest.mark.parametrize(
  ('given', 'says'),
  [
    ('trian', "no command 'trian'; did you mean train?"),
    ('xyz', "no command 'xyz'; there are train, compare"),
    ('', "no command ''; there are train, compare"),
    ('launch/train.py', "no command 'launch/train.py'"),
    ('--config=a', "'--config=a' stands before the command; a command comes first"),
    ('a\nb', "no command 'a\\nb'"),
  ],
)  # fmt: skip
def test_an_unknown_command_is_one_line(given, says, capsys):
  status, out, err = called(capsys, given)
  assert (status, out) == (2, '')
  assert err.startswith('error: ')
  assert says in err
  assert err.count('\n') == 1


def test_a_missing_device_is_one_line(capsys, monkeypatch):
  def fails(message):
    def call(arguments):
      raise RuntimeError(message)

    monkeypatch.setattr(cli, '_call', call)

  fails("Unable to initialize backend 'cuda': (set JAX_PLATFORMS='' to choose)")
  status, _, err = called(capsys, 'train')
  assert (status, err.count('\n')) == (2, 1)
  assert err.startswith('error: JAX_PLATFORMS is ')
  fails('another fault')
  with pytest.raises(RuntimeError):
    cli.main(['train'])


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('JAX_ENABLE_X64', "invalid truth value 'maybe' for environment 'JAX_ENABLE_X64'"),
    ('JAX_NUM_CPU_DEVICES', 'Invalid value "maybe" for JAX flag jax_num_cpu_devices'),
  ],
)
def test_a_setting_of_jax_in_the_environment_is_one_line(name, message, capsys, monkeypatch):
  def call(arguments):
    raise ValueError(message)

  monkeypatch.setattr(cli, '_call', call)
  monkeypatch.setenv(name, 'maybe')
  status, _, err = called(capsys, 'train')
  assert status == 2
  assert err == f"error: {name} is 'maybe', which jax does not take; correct or unset it\n"
  message = 'another fault'
  with pytest.raises(ValueError, match='another fault'):
    cli.main(['train'])


def test_a_message_that_quotes_a_very_long_value_is_cut_in_its_middle(capsys, monkeypatch):
  monkeypatch.setattr(jax_settings, 'use_fake_devices', lambda count: None)  # jax is running
  status, _, err = called(
    capsys, 'plan', '--config=quickstart:seq', f'--config.stream.name={"x" * 10**5}'
  )
  assert (status, err.count('\n')) == (2, 1)
  assert err.startswith('error: stream.name: nothing is called')
  assert err.endswith('for one of your own\n')
  assert len(err) < 4000


def test_too_little_memory_is_one_line(capsys, monkeypatch):
  def call(arguments):
    raise MemoryError

  monkeypatch.setattr(cli, '_call', call)
  status, _, err = called(capsys, 'train')
  assert (status, err.count('\n')) == (2, 1)
  assert err.startswith('error: this machine has too little memory')


def test_the_version_is_that_of_the_package(capsys):
  assert called(capsys, '--version') == (0, f'jcl {jcl.__version__}\n', '')


@pytest.mark.parametrize('name', commands.SUMMARIES)
def test_the_page_of_a_command_has_its_call_and_all_its_flags(name, capsys):
  status, out, err = called(capsys, name, '--help')
  assert (status, err) == (0, '')
  assert f'jcl {name} ' in out
  given = flags.FlagValues()
  command = commands.load(name)
  command.define_flags(given, [])
  command_line.define_output_flags(given)
  assert all(f'\n  --{flag}' in out for flag in given)
  assert max(map(len, out.splitlines())) <= command_line.WIDTH
  assert out.startswith((command.__doc__ or 'none').strip()[:40])


def test_commands_do_not_clash_in_one_process(capsys):
  """Each call defines its flags afresh: the same command twice, and others with the same flags."""
  for _ in range(2):
    for name, flag in (('train', 'config'), ('evaluate', 'workdir'), ('report', 'runs')):
      assert called(capsys, name)[2].startswith(f'error: --{flag} is missing')


@pytest.mark.parametrize('arguments', [[], ['--help'], ['--version'], ['train', '--help'], ['x']])
def test_what_needs_no_jax_imports_none_and_is_fast(arguments):
  code = (
    'import sys, time\n'
    'from jcl import cli\n'
    'try: cli.main(sys.argv[1:])\n'
    'except SystemExit: pass\n'
    'print("jax" in sys.modules, time.process_time())\n'
  )
  fresh_process(code, arguments)


def test_importing_the_package_starts_no_backend_and_is_fast():
  fresh_process('import jcl, sys, time\nprint("jax" in sys.modules, time.process_time())\n', [])


def fresh_process(code: str, arguments: list[str]) -> None:
  """Runs code whose last line says whether jax was imported, and the seconds of CPU it took."""
  done = subprocess.run(
    [sys.executable, '-c', code, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
  )
  jax_too, seconds = done.stdout.splitlines()[-1].split()
  assert jax_too == 'False'
  assert float(seconds) < LIMIT


def test_the_files_in_launch_call_the_commands():
  files = {file.stem: file.read_text() for file in (ROOT / 'launch').glob('*.py')}
  assert set(files) == set(commands.SUMMARIES) - {'predict'}
  for name, text in files.items():
    assert f"cli.main(['{name}', *sys.argv[1:]])" in text
    assert len(text.splitlines()) < 10


def test_the_tests_of_a_clone_are_on_the_path_of_imports(monkeypatch):
  monkeypatch.setattr(sys, 'path', [p for p in sys.path if p != str(TESTS)])
  for _ in range(2):
    repository.use_tests('check')
    assert sys.path.count(str(TESTS)) == 1


@pytest.mark.parametrize('command', [check, soak])
def test_what_needs_the_tests_says_so_where_there_are_none(command, tmp_path, monkeypatch):
  monkeypatch.setattr(jcl, '__file__', str(tmp_path / 'jcl' / '__init__.py'))
  given = flags.FlagValues()
  command.define_flags(given, [])
  command_line.parse(given, [])
  with pytest.raises(UserError, match=r'clone the repository, pip install -e .* and call jcl '):
    command.run(given)
  assert pathlib.Path(jcl.__file__).parent.parent == tmp_path
