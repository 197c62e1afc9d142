"""Checks the numerics of every method: a table and `scorecard.json`, methods against checks.

    jcl check [--methods=ewc,lamol] [--out=DIR or FILE]
    jcl check --mutants

Exit status 1 if any cell fails. With --mutants the checks themselves are checked: the code is
broken in some 140 ways, one after another in a copy of `jcl/`; each must turn a cell red by a
wrong number, and every check must catch one. It runs the tests of a clone of the repository on
eight fake CPU devices and needs the extra `test`.
"""

import pathlib
import time
from collections.abc import Sequence

from absl import flags

from jcl.commands import command_line, repository
from jcl.errors import UserError, count_of


def define_flags(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Defines the flags of the command."""
  command_line.define_list(given, 'methods', '', 'names of methods, with commas; empty: all')
  flags.DEFINE_bool('mutants', False, 'check the checks', given)
  command_line.define_path(given, 'out', '.', 'folder, or file whose name ends with .json')


def run(given: flags.FlagValues) -> int:
  """Runs the cells or the mutants, prints and writes them, and returns the exit status."""
  repository.use_tests('check')
  from jcl import methods

  names = list(dict.fromkeys(given.methods))
  for name in names:
    methods.settings(name)
  if names and given.mutants:
    raise UserError('--methods: mutants choose their own; leave it out with --mutants')
  out = pathlib.Path(given.out)
  if out.suffix != '.json':
    out = out / ('mutants.json' if given.mutants else 'scorecard.json')
  if not out.parent.is_dir():
    raise UserError(f'--out: there is no folder {out.parent}')
  return _check_mutants(out) if given.mutants else _check_methods(out, names)


def _check_methods(out: pathlib.Path, names: list[str]) -> int:
  """Writes the scorecard of the methods, or of all, and returns the exit status."""
  from scorecard import run as cells

  import jcl
  from jcl import methods
  from jcl.storage.atomic import write_json
  from jcl.storage.progress import Bar

  start = time.monotonic()
  bars: list[Bar] = []

  def on_cell(done: int, of: int, line: dict) -> None:
    if not bars:
      bars.append(Bar('cells', of))
    bars[0].advance(done, note=f'{line["method"]}: {line["check"]}')

  card = cells.run([f'*/{name}' for name in names], on_cell=on_cell)
  for bar in bars:
    bar.close()
  missing = set(names or methods.BUILT_IN) - {method for _, method in card.expected}
  seconds = time.monotonic() - start
  rows: dict[str, dict] = {}
  for (check, method), line in card.lines.items():
    rows.setdefault(method, {})[check] = {
      key: value for key, value in line.items() if key not in ('check', 'method')
    }
  green = not card.red and not missing
  write_json(
    out, {'jcl': jcl.__version__, 'green': green, 'seconds': round(seconds), 'methods': rows}
  )
  print(cells.table(card))
  for name in sorted(missing):
    print(f'FAIL  {name} has no row')
  ran = sum(line['outcome'] != 'does not apply' for line in card.lines.values())
  print(f'{count_of(ran, "cell")} ran, {len(card.red)} red, {seconds:.0f} s; {out}')
  return 0 if green else 1


def _check_mutants(out: pathlib.Path) -> int:
  """Writes which mutants the checks catch, and returns the exit status."""
  from scorecard import run as cells
  from scorecard.mutants import MUTANTS

  from jcl.storage.atomic import write_json

  start = time.monotonic()

  def on_mutant(number: int, verdict: cells.Verdict) -> None:
    caught = ', '.join(verdict.caught) or 'NOT CAUGHT'
    name = verdict.mutant.name
    print(f'[{number}/{len(MUTANTS)}] {name}: {caught} ({verdict.seconds:.0f} s)', flush=True)

  verdicts, blind = cells.judged(on_mutant)
  wrong = cells.missed(verdicts) + [f'the column {check} caught no mutant' for check in blind]
  for line in wrong:
    print(line)
  seconds = time.monotonic() - start
  mutants = {
    v.mutant.name: {
      'file': v.mutant.file, 'caught': v.caught, 'others': v.others, 'seconds': round(v.seconds)
    }
    for v in verdicts
  }  # fmt: skip
  write_json(out, {'green': not wrong, 'seconds': round(seconds), 'mutants': mutants})
  count = sum(bool(v.caught) for v in verdicts)
  print(f'{count} of {count_of(len(verdicts), "mutant")} caught, {seconds:.0f} s; {out}')
  return 1 if wrong else 0
