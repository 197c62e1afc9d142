"""Everything a user can get wrong, at the launchers: one line that says what, status 2, no traces.

The cases are in `bad_flags.py` (flags, configs, workdirs) and `bad_files.py` (streams, models).
"""

import hashlib
import pathlib
import shutil

import pytest
from support import ROOT, adapter_folder, bad_files, bad_flags, model_folder
from support.bad_flags import QUICKSTART, SMALL, Case
from support.launchers import forks

from jcl.storage import lock

CASES: dict[str, Case] = bad_flags.CASES | bad_files.CASES
LIMIT = 20  # seconds; none takes three


@pytest.fixture(scope='module')
def launchers():
  return forks()


@pytest.fixture(scope='module')
def things(launchers, tmp_path_factory) -> pathlib.Path:
  """One good thing of each kind, which cases get a copy of: a run, a stream, a model, adapters."""
  folder = tmp_path_factory.mktemp('good')
  done = launchers('train', QUICKSTART, *SMALL, f'--workdir={folder / "run"}', '--quiet', limit=120)
  assert done.status == 0, done.err
  for name, content in bad_files.STREAM.items():
    bad_files.put(folder / 'data' / name, content)
  model_folder.write(folder / 'model', model_folder.golden('llama'))
  for name in ('adapter', 'other'):
    adapter_folder.write(folder / name, adapter_folder.golden('llama'), 'model')
  bad_files.put(folder / 'model.gguf', bad_files.tiny_gguf())
  return folder


def traces(folder: pathlib.Path) -> dict[str, str]:
  """All that stands in a folder."""
  return {
    str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() if f.is_file() else ''
    for f in sorted(folder.rglob('*'))
    if f.name != lock.LOCK  # it says who came last
  }


def prepared(case: Case, things: pathlib.Path, here: pathlib.Path) -> list[str]:
  """Puts what a case needs into `here` -> its arguments."""
  for name in case.needs:
    copy = shutil.copytree if (things / name).is_dir() else shutil.copyfile
    copy(things / name, here / name)
  for name, content in case.files.items():
    bad_files.put(here / name, content)
  return [argument.replace('{here}', str(here)) for argument in case.arguments]


@pytest.mark.parametrize('name', CASES)
def test_bad_input_is_one_line_that_says_what_would_be_right(name, launchers, things, tmp_path):
  case = CASES[name]
  arguments = prepared(case, things, tmp_path)
  before = traces(tmp_path)
  done = launchers(case.program, *arguments, limit=LIMIT)
  assert done.status == 2, f'{done.status}\n{done.out}\n{done.err}'
  said = [line for line in done.err.splitlines() if not line.startswith('note: --config.')]
  assert len(said) == 1, done.err  # a note says that a field is given twice
  assert said[0].startswith('error: ')
  for words in case.says:
    assert words.replace('{here}', str(tmp_path)) in done.err
  assert traces(tmp_path) == before


def test_there_are_cases_of_every_launcher():
  programs = {f.stem for f in (ROOT / 'launch').glob('*.py')}
  assert {case.program for case in CASES.values()} == programs
  assert len(CASES) >= 90
  assert all(len(case.says) >= 2 for case in CASES.values())  # the culprit, and what is right


@pytest.mark.parametrize('content', [b'\xff\0 no log', b'{"step": 1', b'', None], ids=repr)
def test_a_damaged_log_does_not_keep_a_run_from_going_on(content, launchers, things, tmp_path):
  shutil.copytree(things / 'run', tmp_path / 'run')
  bad_files.put(tmp_path / 'run/metrics.jsonl', content)
  done = launchers('train', QUICKSTART, *SMALL, f'--workdir={tmp_path / "run"}')
  assert done.status == 0, done.err
  assert done.err == ''
  assert 'going on from snapshot' in done.out


@pytest.mark.parametrize('name', ['a b', 'שלום 😀', 'line\nend', "it's", '-x', '%s{}*?', '.'])
def test_any_name_of_a_folder_will_do(name, launchers, things, tmp_path):
  folder = tmp_path / 'in' / name
  shutil.copytree(things / 'run', folder)
  done = launchers('evaluate', f'--workdir={folder}', '--wrong=0')
  assert done.status == 0, done.err
  assert done.err == ''
  assert done.out.count('% right') == 2


def test_help_is_the_page_of_the_launcher(launchers):
  done = launchers('evaluate', '--help')
  assert (done.status, done.err) == (0, '')
  assert 'jcl evaluate --workdir=' in done.out
  assert '--split' in done.out
