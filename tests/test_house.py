"""The house of docs/architecture.md: sizes of modules and functions, directions of imports."""

import ast
import functools
import itertools
import pathlib

import pytest
from support import ROOT, TESTS

import jcl
from jcl import commands, methods

# A module or folder of the root imports what stands in a later line, and in its own line nothing
# but itself, except for the modules of the first line and of the last.
ORDER = (
  ('__main__', 'commands', 'cli', 'learning', 'model', 'trained_run', 'workdir'),
  ('benchmarks',), ('preflight',), ('training',), ('sinks',), ('reports',), ('methods',),
  ('memory',), ('step',), ('backbones',), ('batching',), ('streams',), ('storage',),
  ('config', 'plugins', 'distributed', 'failures', 'notation', 'seeds', 'types',
   'errors'),
)  # fmt: skip
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
LINES, FUNCTION_LINES, ROOT_MODULES = 400, 60, 14
MODULES = sorted(
  str(path.relative_to(ROOT)) for path in (ROOT / 'jcl').rglob('*.py') if path.stat().st_size
)
INNER = [m for m in MODULES if m.startswith('jcl/methods/') or m == 'jcl/step/losses.py']


@functools.cache
def tree_of(path: str) -> ast.Module:
  return ast.parse((ROOT / path).read_text())


@functools.cache
def imports(path: str) -> frozenset[str]:
  """Dotted names that a file imports anywhere: `from a import b` gives a and a.b."""
  found = set()
  for node in ast.walk(tree_of(path)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path} line {node.lineno}: imports are absolute'
      found |= {str(node.module)} | {f'{node.module}.{alias.name}' for alias in node.names}
  return frozenset(found)


def room(path: str) -> str:
  """Folder or module of the root that a file belongs to: `jcl/step/losses.py` -> `step`."""
  parts = pathlib.PurePath(path).with_suffix('').parts
  return parts[1]


def rooms_used(path: str) -> set[str]:
  """Rooms that a file of jcl/ imports, its own left out."""
  names = [name.split('.') for name in imports(path) if name.startswith('jcl.')]
  return {parts[1] for parts in names} & set(RANK) - {room(path)}


def test_the_root_has_few_modules():
  found = [m for m in MODULES if m.count('/') == 1]
  assert len(found) <= ROOT_MODULES, found


def test_the_page_names_every_room():
  page = (ROOT / 'docs/architecture.md').read_text()
  house = page.split('\n## The house\n')[1].split('\n## ')[0]
  shown = lambda name: any(form in house for form in (f'{name}/', f'{name}.py', f'`{name}`'))
  assert not [name for name in RANK if not shown(name)]


def test_every_room_has_its_place_in_the_order():
  assert {room(m) for m in MODULES} - {'__init__'} <= set(RANK)


@pytest.mark.parametrize('path', MODULES)
def test_no_file_is_long(path):
  lines = len((ROOT / path).read_text().splitlines())
  assert lines <= LINES, f'{path} has {lines} lines'


@pytest.mark.parametrize('path', MODULES)
def test_no_function_is_long(path):
  for node in ast.walk(tree_of(path)):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      lines = node.end_lineno - node.lineno + 1
      assert lines <= FUNCTION_LINES, f'{path}: {node.name} has {lines} lines'


@pytest.mark.parametrize(
  'path', [m for m in MODULES if m != 'jcl/__init__.py']
)  # fmt: skip
def test_imports_go_downwards(path):
  mine = RANK[room(path)]
  free = mine in (0, len(ORDER) - 1)
  upwards = {name for name in rooms_used(path) if RANK[name] < mine + (not free)}
  assert not upwards, f'{path} imports {sorted(upwards)}, which stand above it'


@functools.cache
def reached() -> dict[str, set[str]]:
  """Room -> the rooms that it imports, directly or through others."""
  found: dict[str, set[str]] = {name: set() for name in RANK}
  for path in MODULES:
    if path != 'jcl/__init__.py':
      found[room(path)] |= rooms_used(path)
  for middle, one in itertools.product(RANK, RANK):
    if middle in found[one]:
      found[one] |= found[middle]
  return found


@pytest.mark.parametrize('name', list(RANK))
def test_no_room_imports_itself_through_others(name):
  others = {other for other in reached()[name] if name in reached()[other]}
  assert not others, f'a circle through {sorted(others)}'


@pytest.mark.parametrize('path', INNER)
def test_methods_and_losses_know_no_module_system_and_no_axis(path):
  foreign = {name.split('.')[0] for name in imports(path)} & {'flax', 'orbax'}
  assert not foreign, f'{path} imports {sorted(foreign)}'
  named = [
    node.lineno for node in ast.walk(tree_of(path))
    if (isinstance(node, ast.Constant) and node.value == 'data')
    or (isinstance(node, ast.Attribute) and node.attr in ('AXIS', 'axis_index', 'psum', 'pmean'))
    or (isinstance(node, ast.keyword) and node.arg == 'axis_name')
  ]  # fmt: skip
  assert not named, f'{path} names an axis in lines {named}'


@pytest.mark.parametrize('folder', sorted({m.rpartition('/')[0] for m in MODULES} - {'jcl'}))
def test_every_folder_has_its_mirror_in_the_tests(folder):
  mirror = TESTS.joinpath(*pathlib.PurePath(folder).parts[1:])
  assert list(mirror.glob('test_*.py')), f'no tests in {mirror.relative_to(ROOT)}'


def used(path: str) -> set[str]:
  """Dotted names that a file imports, and attributes that it takes from what it imports."""
  local = {}
  for node in ast.walk(tree_of(path)):
    if isinstance(node, ast.ImportFrom):
      local |= {alias.asname or alias.name: f'{node.module}.{alias.name}' for alias in node.names}
  attributes = {
    f'{local[node.value.id]}.{node.attr}'
    for node in ast.walk(tree_of(path))
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    if node.value.id in local
  }
  return attributes | imports(path)


@functools.cache
def used_in_tests() -> frozenset[str]:
  """Names that tests and their helpers use; files of methods and commands go by their names."""
  files = [f for f in TESTS.rglob('*.py') if f != pathlib.Path(__file__)]
  by_name = [target.partition(':')[0] for target in methods.BUILT_IN.values()]
  by_name += [f'jcl.commands.{name}' for name in commands.SUMMARIES]  # test_bad_input.py
  return frozenset(itertools.chain(by_name, *(used(str(f.relative_to(ROOT))) for f in files)))


@pytest.mark.parametrize(
  'path', [m for m in MODULES if not m.endswith('__init__.py')]
)  # fmt: skip
def test_every_module_has_its_place_in_the_tests(path):
  """Some test uses the module, or a name that it defines by way of its package."""
  dotted = path.removesuffix('.py').replace('/', '.')
  package = dotted.rpartition('.')[0]
  kinds = ast.FunctionDef | ast.ClassDef
  defined = {f'{package}.{n.name}' for n in tree_of(path).body if isinstance(n, kinds)}
  if not defined:
    return  # names of types or numbers, which do nothing
  defined |= {f'jcl.{name}' for name, place in jcl._PLACES.items() if place == dotted}
  assert used_in_tests() & {dotted, *defined}, f'no test uses {dotted}'
