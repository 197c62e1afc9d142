"""Runs cells in a process of its own with eight fake devices, and puts what they say together."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from support import ROOT

from scorecard import names
from scorecard.does_not_apply import DOES_NOT_APPLY
from scorecard.mutant import Mutant
from scorecard.mutants import MUTANTS

MARKS = {'pass': 'ok', 'fail': 'FAIL', 'error': 'ERROR', 'does not apply': '–'}
RED = ('fail', 'error')
POLL = 0.2  # seconds between looks at what has been said
Line = dict[str, Any]
"""A cell: check, method, outcome (of MARKS), seconds and, but for a pass, what it says."""


@dataclasses.dataclass
class Card:
  """Lines of a run of cells.

  Attributes:
    expected: (check, method) of every cell, in their order.
    lines: what each said; one that said nothing, for the process died, is an error.
  """

  expected: list[tuple[str, str]]
  lines: dict[tuple[str, str], Line]

  @property
  def red(self) -> list[Line]:
    """The cells that failed."""
    return [line for line in self.lines.values() if line['outcome'] in RED]


def run(
  cells: Sequence[str] = (),
  house: pathlib.Path = ROOT,
  on_cell: Callable[[int, int, Line], None] = lambda done, of, line: None,
  only_collect: bool = False,
) -> Card:
  """Runs cells.

  Args:
    cells: `check/method`, with '*' for every check; empty: all.
    house: the folder that holds the `jcl` to check.
    on_cell: called with the number of cells done, of all, and the last one.
    only_collect: say which cells there are and run none.

  Raises:
    UserError: a method has no oracle.
    RuntimeError: nothing could be collected, or another `jcl` was imported.
  """
  for method in dict.fromkeys(cell.split('/')[1] for cell in cells):
    if method != names.SHARED_ROW:
      names.oracle(method)
  path = os.pathsep.join(filter(None, [str(house), os.environ.get('PYTHONPATH', '')]))
  with tempfile.TemporaryDirectory() as folder:
    said, output = pathlib.Path(folder) / 'cells.jsonl', pathlib.Path(folder) / 'output'
    said.touch()
    command = [
      sys.executable, '-m', 'pytest', '-q', '-m', 'scorecard', '-p', 'no:cacheprovider',
      '-c', str(ROOT / 'pyproject.toml'), '--rootdir', str(ROOT),
      *(['--collect-only'] if only_collect else []),
      str(ROOT / 'tests' / 'scorecard' / 'test_scorecard.py'),
    ]  # fmt: skip
    mine = {
      'JAX_NUM_CPU_DEVICES': '8', 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': path,
      'JCL_SCORECARD': str(said), names.CELLS: ','.join(cells),
    }  # fmt: skip
    with open(output, 'w') as file:
      process = subprocess.Popen(
        command, cwd=house, env={**os.environ, **mine}, stdout=file, stderr=subprocess.STDOUT
      )
    try:
      header, lines = _listen(process, said, on_cell)
    finally:
      process.kill()
      process.wait()
    tail = ' '.join(output.read_text().split()[-60:])
  if header is None:
    raise RuntimeError(f'nothing was collected: {tail}')
  if pathlib.Path(header['jcl']) != house / 'jcl':
    raise RuntimeError(f'{header["jcl"]} was imported, not {house / "jcl"}')
  expected = [tuple(cell) for cell in header['cells']]
  if not only_collect:
    for check, method in expected:
      died = {'check': check, 'method': method, 'outcome': 'error', 'seconds': 0.0}
      died['says'] = f'it said nothing, the process ended with {process.returncode}: {tail}'
      lines.setdefault((check, method), died)
  return Card(expected, {cell: lines[cell] for cell in expected if cell in lines})


def _listen(
  process: subprocess.Popen, said: pathlib.Path, on_cell: Callable
) -> tuple[Line | None, dict[tuple[str, str], Line]]:
  """Reads the lines of the process until it ends; the first names the cells."""
  header, lines = None, {}
  with open(said) as file:
    ended = False
    while not ended:
      ended = process.poll() is not None
      for line in map(json.loads, iter(file.readline, '')):
        if header is None:
          header = line
          continue
        cell = line['check'], line['method']
        if lines.get(cell, {}).get('outcome') not in RED:  # a failing teardown takes no fail back
          lines[cell] = line
        on_cell(len(lines), len(header['cells']), line)
      time.sleep(0 if ended else POLL)
  return header, lines


def table(card: Card) -> str:
  """Methods down, checks across, and below what is red and why cells do not apply."""
  checks = list(dict.fromkeys(check for check, _ in card.expected))
  rows = list(dict.fromkeys(method for _, method in card.expected))
  none = {'outcome': 'does not apply'}  # a method, in a column that belongs to none, or the reverse
  mark = lambda check, row: MARKS[card.lines.get((check, row), none)['outcome']]
  first = max(len(row) for row in ('method', *rows))
  line = lambda name, words: '  '.join([
    name.ljust(first), *(w.center(max(len(c), 5)) for c, w in zip(checks, words, strict=True))
  ]).rstrip()  # fmt: skip
  out = [line('method', checks), *(line(r, [mark(c, r) for c in checks]) for r in rows), '']
  reasons: dict[tuple[str, str], list[str]] = {}
  for cell in card.lines.values():
    if cell['outcome'] == 'does not apply':
      reasons.setdefault((cell['check'], cell['says']), []).append(cell['method'])
  out += [f'–  {check}, {", ".join(who)}: {why}' for (check, why), who in reasons.items()]
  out += [
    f'–  {c}: {why}' for (c, row), why in DOES_NOT_APPLY.items() if row == '*' and c in checks
  ]
  out += [f'{MARKS[c["outcome"]]}  {c["check"]}, {c["method"]}: {c["says"]}' for c in card.red]
  return '\n'.join(out)


def mutated(mutant: Mutant, house: pathlib.Path) -> None:
  """Copies `jcl` into `house` and breaks it.

  Raises:
    RuntimeError: the mutant no longer fits the code.
  """
  source = ROOT / 'jcl' / mutant.file
  text = source.read_text()
  if (count := text.count(mutant.old)) != 1:
    raise RuntimeError(f'{mutant.name} no longer fits: its text occurs {count} times in {source}')
  shutil.copytree(ROOT / 'jcl', house / 'jcl', ignore=shutil.ignore_patterns('__pycache__'))
  (house / 'jcl' / mutant.file).write_text(text.replace(mutant.old, mutant.new))


@dataclasses.dataclass
class Verdict:
  """Outcome of a mutant.

  Attributes:
    caught: the cells that a wrong figure turned red, with what they say.
    others: those that stayed green or met an exception, with their outcome.
    seconds: it took.
    trouble: why it could not be run; empty: it was.
  """

  mutant: Mutant
  caught: dict[str, str]
  others: dict[str, str]
  seconds: float
  trouble: str = ''


def judge(mutant: Mutant) -> Verdict:
  """Runs the cells that a mutant concerns on the broken code."""
  start = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    house = pathlib.Path(folder).resolve()
    try:
      mutated(mutant, house)
      card = run([f'{check}/{method}' for check, method in mutant.cells], house)
    except RuntimeError as error:
      return Verdict(mutant, {}, {}, time.monotonic() - start, str(error))
  name = lambda line: f'{line["check"]}/{line["method"]}'
  caught = {name(x): x['says'] for x in card.lines.values() if x['outcome'] == 'fail'}
  others = {
    name(x): f'{x["outcome"]} {x.get("says", "")}'.strip()
    for x in card.lines.values()
    if x['outcome'] != 'fail'
  }
  unknown = {f'{check}/{method}' for check, method in mutant.cells} - {*caught, *others}
  trouble = f'there is no cell {", ".join(sorted(unknown))}' if unknown else ''
  return Verdict(mutant, caught, others, time.monotonic() - start, trouble)


def judged(on_mutant: Callable[[int, Verdict], None]) -> tuple[list[Verdict], list[str]]:
  """-> every mutant's verdict, and the columns that caught none."""
  checks = dict.fromkeys(check for check, _ in run(only_collect=True).expected)
  verdicts = []
  for number, mutant in enumerate(MUTANTS, 1):
    verdicts.append(judge(mutant))
    on_mutant(number, verdicts[-1])
  catching = {cell.split('/')[0] for verdict in verdicts for cell in verdict.caught}
  return verdicts, [check for check in checks if check not in catching]


def missed(verdicts: Iterable[Verdict]) -> list[str]:
  """Returns a line for each mutant that no cell caught."""
  said = []
  for verdict in verdicts:
    if verdict.trouble or not verdict.caught:
      cells = ', '.join(f'{cell}: {outcome}' for cell, outcome in verdict.others.items())
      said.append(f'{verdict.mutant.name} was not caught: {verdict.trouble or cells}')
  return said
