"""The matrix of a run on a terminal: it fits with any number of tasks, and may have colours."""

import re

import pytest

from jcl.reports import tables


def run(tasks: list[str], matrix: list[list[float | None]], score: str = 'accuracy') -> dict:
  return {
    'jcl': '0.1.0', 'method': 'seq', 'stream': 'synthetic', 'scenario': 'cil', 'seed': 0,
    'tasks': tasks, 'score': score, 'matrix': matrix, 'finished': True,
  }  # fmt: skip


def of_tasks(count: int, name: str = 'a_long_name_') -> dict:
  """A run of `count` tasks, each evaluated after itself and after those that follow."""
  rows = [[0.9 if j < i else None for j in range(count)] for i in range(count + 1)]
  return run([f'{name}{i}' for i in range(count)], rows)


def test_numbers_stand_for_names_that_make_it_too_wide():
  lines = tables.matrix_table(of_tasks(7)).splitlines()
  assert lines[1].split() == [str(i) for i in range(1, 8)]
  assert lines[3].startswith('1 after a_long_name_0 ')
  assert '' not in lines  # one block


@pytest.mark.parametrize('count', [12, 30])
def test_a_matrix_too_wide_for_numbers_stands_in_blocks(count):
  lines = tables.matrix_table(of_tasks(count, '銀行_with_a_very_long_name_')).splitlines()
  assert max(map(tables._columns, lines)) <= tables.WIDTH
  headers = [line.split() for line in lines if line.replace(' ', '').isdigit()]
  assert [name for line in headers for name in line] == [str(i) for i in range(1, count + 1)]
  assert len(headers) > 1
  assert sum(line.count('90.0') for line in lines[1:-2]) == count * (count + 1) // 2
  assert all('…' in line for line in lines if line.startswith('11 after'))
  later = lines[lines.index('') + 1 :]
  assert not any(line.startswith('1 after') for line in later)  # its scores stand in the first


def test_of_very_many_tasks_each_has_a_line():
  many = of_tasks(tables.MOST + 1)
  many['matrix'][3][0] = 0.95
  many['matrix'][-1] = [None] * (tables.MOST + 1)  # it is under way
  lines = tables.matrix_table(many).splitlines()
  assert lines[1].split() == ['just', 'learned', 'best', 'after', str(tables.MOST)]
  assert lines[2].split() == ['1', 'a_long_name_0', '90.0', '95.0', '90.0']
  assert lines[1 + tables.MOST + 1].split()[2:] == ['·', '·', '·']
  assert max(map(len, lines)) <= tables.WIDTH


def test_colours_say_what_is_new_and_what_is_lost():
  one = run(['bank', 'travel'], [[0.0, 0.1], [0.9, 0.1], [0.6, 0.8]])
  found = tables.matrix_table(one, coloured=True)
  lines = found.splitlines()
  assert '\x1b[2m10.0\x1b[0m' in lines[2]  # before training
  assert '\x1b[1m90.0\x1b[0m' in lines[3]  # just learned
  assert '\x1b[31m60.0\x1b[0m' in lines[4]  # 30 points are lost
  assert re.sub('\x1b.*?m', '', found) == tables.matrix_table(one)
  nats = tables.matrix_table(run(['a', 'b'], [[3, 3], [1, 3], [2, 1]], 'log_perplexity'), True)
  assert '\x1b[31m' not in nats
  assert '\x1b[1m1.000' in nats


def test_colours_hold_in_blocks():
  many = of_tasks(30)
  many['matrix'][-1][-2] = 0.5
  found = tables.matrix_table(many, coloured=True)
  (line,) = (line for line in found.splitlines() if '\x1b[31m50.0\x1b[0m' in line)
  assert line.startswith('30 after')
  assert line.endswith('\x1b[1m90.0\x1b[0m')
