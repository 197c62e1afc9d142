"""The documentation's tables of settings say what the code has."""

import ast
import dataclasses
import re

import pytest
from support import ROOT

from jcl import methods
from jcl.config import Config

ROW = re.compile(r'^\| `(\w+)` \| `(.+?)` \| (.+) \|$', re.MULTILINE)
ALL = ('cil', 'til', 'iil', 'dil', 'cpt')
BROUGHT = {
  'loss': 'a loss', 'rows': 'old rows', 'objective': 'an objective (a wrapper of the loss)',
  'combine': 'combined gradients', 'slow': 'slow parameters', 'tree': 'adapters or blocks',
  'trainable': 'rules of what trains',
}  # fmt: skip
INHERITS = re.compile(r'^All settings of \[`(\w+)`\]\(#\w+\)', re.MULTILINE)


def sections(page: str) -> dict[str, str]:
  """{heading: text} of the second level of a page."""
  parts = re.split(r'^## (.+)$', (ROOT / 'docs' / page).read_text(), flags=re.MULTILINE)
  return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(text: str) -> dict[str, tuple[object, str]]:
  """{setting: (default, meaning)} of the tables in a section."""
  rows = ROW.findall(text)
  assert len({name for name, *_ in rows}) == len(rows), 'a setting stands twice'
  return {name: (ast.literal_eval(default), meaning) for name, default, meaning in rows}


def check_table(found: dict[str, tuple[object, str]], settings: object) -> None:
  """Every field of a settings dataclass stands in a table, with its default and its choices."""
  fields = {field.name: field for field in dataclasses.fields(settings)}
  assert found.keys() == fields.keys()
  for name, field in fields.items():
    default, meaning = found[name]
    assert default == getattr(settings, name), name
    assert type(default) is type(getattr(settings, name)), name
    for choice in field.metadata.get('choices', ()):
      assert f'`{choice}`' in meaning or not choice, f'{name}: {choice}'


@pytest.mark.parametrize('name', methods.BUILT_IN)
def test_every_setting_of_a_method_is_documented_with_its_default(name):
  found = sections('methods.md')
  text = found[name]
  inherited = {}
  if parent := INHERITS.search(text):
    assert issubclass(methods.settings_class(name), methods.settings_class(parent[1]))
    inherited = table(found[parent[1]])
  settings = methods.settings(name)
  check_table({**inherited, **table(text)}, settings)


@pytest.mark.parametrize(
  'group', sorted({f.name for f in dataclasses.fields(Config)} - {'method', 'scenario'})
)
def test_every_shared_setting_is_documented_with_its_default(group):
  check_table(table(sections('settings.md')[group]), getattr(Config(), group))


def test_the_scenarios_are_documented():
  found = sections('methods.md')['Scenarios']
  (scenario,) = (f for f in dataclasses.fields(Config) if f.name == 'scenario')
  for name in scenario.metadata['choices']:
    assert re.search(rf'^\| `{name}` ', found, re.MULTILINE), name


def test_the_scenarios_of_every_method_are_documented():
  found = sections('methods.md')['Scenarios']
  cells = re.findall(r'^\| (`\w+`.*|all others) \| ([\w, ]+) \| ([\w, ]+) \|$', found, re.MULTILINE)
  words = {name: (a, b) for names, a, b in cells for name in re.findall(r'\w+', names)}
  for name in methods.BUILT_IN:
    kind = methods.settings_class(name)
    whole = set(kind.scenarios)
    heads = whole & set(kind.head_scenarios) if kind().text_format == 'plain' else set()
    expected = [{'none': set(), 'all': set(ALL)}.get(w, set(w.split(', '))) for w in
                words.get(name, words['others'])]  # fmt: skip
    assert expected == [whole, heads], name


def test_what_composes_is_documented():
  """Who brings what, who keeps a copy of the parameters and who starts afresh."""
  found = sections('methods.md')['Composition']
  classes = {name: methods.settings_class(name) for name in methods.BUILT_IN}
  names = lambda text: set(re.findall(r'`(\w+)`', text))
  for what, words in BROUGHT.items():
    (cell,) = re.findall(rf'^\| {re.escape(words)} \| (.+) \|$', found, re.MULTILINE)
    assert names(cell) == {n for n, c in classes.items() if what in c.brings}, what
  (afresh,) = re.findall(r'^(.+) train fresh models', found, re.MULTILINE)
  assert names(afresh) == {n for n, c in classes.items() if c.starts_afresh}
  (holding,) = re.findall(r'keeps a copy of the parameters \((.+?)\)', found, re.DOTALL)
  assert names(holding) == {n for n, c in classes.items() if c.holds_tree}
