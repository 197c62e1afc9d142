"""The documentation holds: its code runs, its commands, links, paths and names are real."""

import contextlib
import importlib
import io
import json
import re
import sys
import tomllib

import pytest
from absl import flags
from support import ROOT, pages

import jcl
from jcl import commands
from jcl.commands import command_line
from jcl.errors import UserError

TEXTS = {name: pages.text_of(name) for name in pages.PAGES}
BLOCKS = {name: pages.blocks(name, text) for name, text in TEXTS.items()}
RUN = [name for name, found in BLOCKS.items() if any(b.language == 'python' for b in found)]
GROUPS = {'families'}  # of entry points that no module has the name of
SLOW = ('README.md', 'docs/extending.md')  # pages whose code takes more than seconds


def refused(words: list[str]) -> str:
  """Returns the fault of a command, in words; empty: none."""
  if words[0] == 'python':
    if not (ROOT / words[1]).is_file():
      return f'there is no {words[1]}'
    name, rest = words[1].removeprefix('launch/').removesuffix('.py'), words[2:]
    if name == 'results/tables':
      return refused_by_tables(rest)
  else:
    name, rest = words[1], words[2:]
  if name not in commands.SUMMARIES:
    return f'there is no command {name}'
  command, given = commands.load(name), flags.FlagValues()
  try:
    command_line.check_names(rest)
    command.define_flags(given, rest)
    command_line.define_output_flags(given)
    command_line.parse(given, rest)
  except UserError as error:
    return str(error)
  return ''


def refused_by_tables(words: list[str]) -> str:
  """Returns the fault of a command of launch/results/tables.py, which is no command of jcl."""
  sys.path.insert(0, str(ROOT / 'launch' / 'results'))
  tables, said = importlib.import_module('tables'), io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      tables.parsed(words)
  except SystemExit:
    return said.getvalue().splitlines()[-1]
  return ''


def unknown_names(text: str) -> set[str]:
  """Names of the package that are used and do not exist."""

  def exists(name: str) -> bool:
    try:
      return hasattr(jcl, name) or bool(importlib.import_module(f'jcl.{name}'))
    except ImportError:
      return False

  return {name for name in pages.public_names(text) - GROUPS if not exists(name)}


def forget(packages: set[str]) -> None:
  """Forgets modules that a page's blocks have brought along."""
  for name in list(sys.modules):
    if name.split('.')[0] in packages:
      del sys.modules[name]


@pytest.mark.parametrize('name', TEXTS)
def test_code_compiles_and_data_parses(name):
  for block in BLOCKS[name]:
    assert block.language in ('python', 'sh', 'json', 'toml', 'text'), block.where
    if block.language == 'python':
      compile(block.source, block.where, 'exec')
    if block.language == 'json':
      json.loads(block.source)
    if block.language == 'toml':
      tomllib.loads(block.source)


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in RUN]
)
def test_code_runs(name, tmp_path, monkeypatch):
  """The Python blocks of a page, in order, in one namespace and one folder."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  namespace, packages = {'__name__': 'page'}, set()
  try:
    for block in BLOCKS[name]:
      if block.file:
        pages.write_file(tmp_path, block)
        packages.add(block.file.split('/')[0])
      elif block.language == 'python' and not block.reason:
        exec(compile(block.source, block.where, 'exec'), namespace)  # ours
  finally:
    forget(packages)


@pytest.mark.parametrize('name', TEXTS)
def test_commands_links_and_names_are_real(name):
  text = TEXTS[name]
  found = list(pages.commands(name, text))
  assert [f'{where}: {why}' for where, words in found if (why := refused(words))] == []
  assert pages.broken_links(name, text) == []
  assert unknown_names(text) == set()


def test_the_readme_leads_to_every_page():
  linked = set(pages.LINK.findall(TEXTS['README.md']))
  assert {name for name in pages.PAGES if name not in ('README.md', *linked)} == set()
  assert len(TEXTS['README.md'].splitlines()) <= 160


def test_ci_finds_the_test_command():
  (pattern,) = re.findall(r'grep -m1 -E "(.+)" README.md', pages.text_of('.ci/run'))
  assert len(re.findall(pattern, TEXTS['README.md'], re.MULTILINE)) == 1


def test_the_citation_is_whole():
  lines = (ROOT / 'CITATION.cff').read_text().splitlines()
  fields = dict(line.split(': ', 1) for line in lines if ': ' in line and line[0].isalpha())
  assert fields['cff-version'] == '1.2.0'
  assert fields['version'] == jcl.__version__
  assert {'message', 'type', 'title', 'license'} <= fields.keys()
  assert '  - name: jcl contributors' in lines


BROKEN = {
  'no such command': ('    jcl tain --config=quickstart', 'there is no command tain'),
  'no such flag': ('    jcl train --workdr=x', 'workdr'),
  'no such config': ('    jcl train --config=quickstrat:lamol', 'quickstrat'),
  'no such method': ('    jcl train --config=quickstart:lamool', 'lamool'),
  'no such field': ('    jcl train --config=quickstart --config.train.epoch=3', 'epoch'),
  'a word for a number': ('```sh\njcl train --config=quickstart --config.train.epochs=x\n```', 'x'),
  'no such launcher': ('    python launch/trian.py --workdir=x', 'there is no launch/trian.py'),
  'no such table': ('    python launch/results/tables.py run --table=nothing', 'nothing'),
}


@pytest.mark.parametrize('case', BROKEN)
def test_broken_commands_are_found(case):
  text, says = BROKEN[case]
  ((_, words),) = pages.commands('page', f'{text}\n')
  assert says in refused(words)


def test_broken_links_and_names_are_found():
  text = '## A heading\n[a](docs/nothing.md) [b](#no-heading) [c](#a-heading) `jcl/nothing.py`\n'
  assert pages.broken_links('README.md', text) == [
    'README.md: docs/nothing.md', 'README.md: #no-heading', 'README.md: `jcl/nothing.py`',
  ]  # fmt: skip
  assert unknown_names('`jcl.lern(stream)` and `jcl.UserError`') == {'lern'}
