"""The scorecard's tables fit the code: oracles, reasons, mutants. Its cells: `launch/check.py`."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest
from oracles.objectives import ORACLES
from scorecard import cases, does_not_apply, names, run, wrong
from scorecard.columns import CHECKS, EVERYWHERE, SHARED
from scorecard.does_not_apply import DOES_NOT_APPLY
from scorecard.mutants import MUTANTS
from support import TESTS, plugins

from jcl import methods
from jcl.errors import UserError
from jcl.methods import BUILT_IN


def test_every_method_has_an_oracle_and_no_other():
  assert list(ORACLES) == list(BUILT_IN)


@pytest.mark.parametrize('path', sorted((TESTS / 'oracles').glob('*.py')), ids=lambda p: p.stem)
def test_an_oracle_imports_nothing_but_numpy_and_oracles(path):
  allowed = {'collections', 'functools', 'math', 'numpy', 'oracles', 'typing'}
  for node in ast.walk(ast.parse(path.read_text())):
    names = [node.module] if isinstance(node, ast.ImportFrom) else []
    names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    assert {name.split('.')[0] for name in names} <= allowed


def test_what_does_not_apply_is_known_and_never_what_applies_to_all():
  """A method that refuses accumulation has no batch to split."""
  for check, method in DOES_NOT_APPLY:
    assert (check in SHARED) if method == '*' else (check in CHECKS and method in BUILT_IN)
    assert check == 'split' or check not in EVERYWHERE
  assert {check for check, method in DOES_NOT_APPLY if method == '*'} == set(SHARED)
  assert set(EVERYWHERE) <= set(CHECKS)


@pytest.mark.parametrize('mutant', MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_code_and_its_cells_run(mutant):
  assert (TESTS.parent / 'jcl' / mutant.file).read_text().count(mutant.old) == 1
  assert mutant.new != mutant.old
  assert mutant.cells
  for check, method in mutant.cells:
    known = SHARED if method == '(shared)' else CHECKS
    assert check in known
    assert method in (*BUILT_IN, '(shared)')
    assert (check, method) not in DOES_NOT_APPLY


def test_there_are_many_mutants_and_every_column_has_one():
  assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 25
  assert {check for m in MUTANTS for check, _ in m.cells} == {*CHECKS, *SHARED}


def test_a_wrong_figure_is_red_and_a_right_one_is_not():
  wrong.near('x', [1.0, 2.0], [1.0, 2.000001], 1e-6)
  wrong.near('x', [0.0], [0.0], 0)
  wrong.nothing('x', [0.0, -0.0])
  wrong.equal('x', 2, 2)
  for fails in (
    lambda: wrong.near('x', [1.0, 2.0], [1.0, 2.1], 1e-2),
    lambda: wrong.near('x', [1.0, float('nan')], [1.0, 2.0], 1e-2),
    lambda: wrong.near('x', 1.0, float('nan'), 1e-2),
    lambda: wrong.near('x', [1.0], [1.0, 2.0], 1e-2),
    lambda: wrong.near('x', [1e-9], [0.0], 1e-2),
    lambda: wrong.nothing('x', [0.0, 1e-12]),
    lambda: wrong.nothing('x', [0.0, float('nan')]),
    lambda: wrong.above('x', 1.0, 1.0),
    lambda: wrong.above('x', float('nan'), 0.0),
    lambda: wrong.equal('x', 2, 3),
  ):
    with pytest.raises(wrong.Wrong, match=re.compile(r'x: .*\d|x: nan')):
      fails()


def line(check, method, outcome, **more):
  return {'check': check, 'method': method, 'outcome': outcome, 'seconds': 0.0, **more}


def test_the_table_says_what_is_red_and_why_cells_do_not_apply():
  lines = [
    line('value', 'seq', 'pass'),
    line('kd', 'seq', 'does not apply', says='it does not distil'),
    line('value', 'ewc', 'fail', says='objective: 2, not 1'),
    line('kd', 'ewc', 'error', says='KeyError: x'),
    line('merges', '(shared)', 'pass'),
  ]
  cells = [(x['check'], x['method']) for x in lines]
  card = run.Card(cells, dict(zip(cells, lines, strict=True)))
  rows = [row.split() for row in run.table(card).splitlines()]
  assert rows[:4] == [
    ['method', 'value', 'kd', 'merges'], ['seq', 'ok', '–', '–'], ['ewc', 'FAIL', 'ERROR', '–'],
    ['(shared)', '–', '–', 'ok'],
  ]  # fmt: skip
  assert '–  kd, seq: it does not distil' in run.table(card)
  assert 'FAIL  value, ewc: objective: 2, not 1' in run.table(card)
  assert [x['method'] for x in card.red] == ['ewc', 'ewc']


class Ended:
  """A process that has said all it had to say."""

  def poll(self):
    return 1


def test_the_first_thing_a_cell_says_counts_unless_it_turns_red(tmp_path):
  said = [
    {'jcl': '/x', 'cells': [['value', 'seq'], ['value', 'ewc'], ['value', 'mas']]},
    line('value', 'seq', 'fail', says='loss: 2, not 1'),
    line('value', 'ewc', 'pass'),
    line('value', 'ewc', 'error', says='its teardown failed'),
    line('value', 'seq', 'pass'),
  ]
  (tmp_path / 'said').write_text(''.join(json.dumps(x) + '\n' for x in said))
  done = []
  header, lines = run._listen(Ended(), tmp_path / 'said', lambda *x: done.append(x[:2]))
  assert header == said[0]
  assert {cell: x['outcome'] for cell, x in lines.items()} == {
    ('value', 'seq'): 'fail', ('value', 'ewc'): 'error',
  }  # fmt: skip
  assert done == [(1, 3), (2, 3), (2, 3), (2, 3)]


def test_an_unknown_method_is_one_line():
  command = [sys.executable, str(TESTS.parent / 'launch' / 'check.py'), '--methods=ewc,nonsense']
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr.startswith("error: method: nothing is called 'nonsense'; there are seq, ")
  assert done.stderr.count('\n') == 1


OUTSIDE = 'jcl_outside.anchor:Anchor'


def test_a_method_from_outside_brings_its_oracle(monkeypatch):
  plugins.on_path(monkeypatch)
  found = names.oracle(OUTSIDE)
  assert (found.__module__, found.__name__) == ('jcl_outside.oracle', 'anchor')
  monkeypatch.setattr(methods.settings_class(OUTSIDE), 'oracle', 'jcl_outside.oracle:none')
  with pytest.raises(UserError, match=r"oracle of jcl_outside\.anchor:Anchor: .* has no 'none'"):
    names.oracle(OUTSIDE)
  monkeypatch.setattr(methods.settings_class(OUTSIDE), 'oracle', '')
  with pytest.raises(UserError, match=f"{OUTSIDE} names no oracle; give its settings oracle = '"):
    run.run([f'*/{OUTSIDE}'])


def test_cells_that_are_asked_for_name_the_methods_from_outside(monkeypatch):
  monkeypatch.setenv(names.CELLS, f'*/ewc,value/{OUTSIDE},kd/{OUTSIDE},merges/(shared)')
  assert names.outside() == [OUTSIDE]
  assert names.asked()[1] == ('value', OUTSIDE)
  monkeypatch.delenv(names.CELLS)
  assert names.outside() == names.asked() == []


def test_a_method_that_needs_a_head_has_one_in_every_column(monkeypatch):
  monkeypatch.setattr(methods.settings_class('distill'), 'needs', ('head',))
  bare = cases.case.__wrapped__  # past the cache
  assert bare('distill').classes_of == cases.APART
  assert bare('distill').backbone.classes
  assert not bare('ewc').backbone.classes


@pytest.mark.slow
def test_a_method_from_outside_is_put_through_the_checks(monkeypatch):
  monkeypatch.setenv('PYTHONPATH', str(plugins.OUTSIDE), prepend=os.pathsep)
  plugins.on_path(monkeypatch)
  wanted = {'value': 'pass', 'gradient': 'pass', 'tasks': 'pass', 'kd': 'does not apply'}
  card = run.run([f'{check}/{OUTSIDE}' for check in wanted])
  assert {check: line['outcome'] for (check, _), line in card.lines.items()} == wanted
  assert card.lines['kd', OUTSIDE]['says'] == does_not_apply.OUTSIDE
  other = run.run(['value/jcl_outside.doubled:Doubled'])
  assert [line['outcome'] for line in other.red] == ['fail']


def test_a_mutant_that_nothing_or_only_an_exception_meets_is_missed():
  verdict = lambda caught, others, trouble='': run.Verdict(MUTANTS[0], caught, others, 1.0, trouble)
  assert run.missed([verdict({'value/seq': 'loss: 1, not 2'}, {})]) == []
  for bad in (
    verdict({}, {'value/seq': 'pass'}),
    verdict({}, {'value/seq': 'error KeyError: x'}),
    verdict({'value/seq': '1'}, {}, 'there is no cell a/b'),
  ):
    assert MUTANTS[0].name in run.missed([bad])[0]


def test_a_mutant_that_no_longer_fits_is_refused(tmp_path):
  gone = MUTANTS[0]._replace(old='this stands nowhere')
  with pytest.raises(RuntimeError, match='no longer fits: its text occurs 0 times'):
    run.mutated(gone, tmp_path)
  run.mutated(MUTANTS[0], tmp_path)
  broken = (tmp_path / 'jcl' / MUTANTS[0].file).read_text()
  assert MUTANTS[0].new in broken
  assert MUTANTS[0].old not in broken
