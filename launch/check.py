"""The numerics scorecard: every method against every check, as a table and `scorecard.json`.

    python launch/check.py [--methods=ewc,lamol] [--out=DIR or FILE]
    python launch/check.py --mutants

Exit status 1 if any cell fails. With `--mutants` the checks themselves are checked: the code is
broken in some forty ways, one after another in a copy of `jcl/`, and each must turn a cell red by a
wrong figure; every check must catch one. Needs the extra `test`; runs on eight fake CPU devices.
"""

import importlib.util
import pathlib
import sys
import time

from absl import flags

from jcl import cli
from jcl.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tests'))

flags.DEFINE_string('methods', '', 'names, with commas; empty: all')
flags.DEFINE_bool('mutants', False, 'check the checks')
flags.DEFINE_string('out', '.', 'folder, or a name that ends with .json')


def run() -> int:
  """Runs the cells, or the mutants; prints, writes, and says whether all is well."""
  from jcl import methods

  names = list(dict.fromkeys(flags.FLAGS.methods.split(','))) if flags.FLAGS.methods else []
  for name in names:
    methods.settings(name)
  if names and flags.FLAGS.mutants:
    raise UserError('--methods: mutants choose their own; leave it out with --mutants')
  if importlib.util.find_spec('pytest') is None:
    raise UserError("pytest is missing; install the extra test: pip install -e '.[test]'")
  out = pathlib.Path(flags.FLAGS.out)
  if out.suffix != '.json':
    out = out / ('mutants.json' if flags.FLAGS.mutants else 'scorecard.json')
  if not out.parent.is_dir():
    raise UserError(f'--out: there is no folder {out.parent}')
  return check_mutants(out) if flags.FLAGS.mutants else check_methods(out, names)


def check_methods(out: pathlib.Path, names: list[str]) -> int:
  """The scorecard -> exit status."""
  from scorecard import run as cells

  import jcl
  from jcl import methods
  from jcl.storage.checkpoint import write_json
  from jcl.training import progress_bar

  start, bars = time.monotonic(), []

  def on_cell(done: int, of: int, line: dict) -> None:
    if not bars:
      bars.append(progress_bar.Bar('cells', of))
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
  print(f'{ran} cells ran, {len(card.red)} red, {seconds:.0f} s; {out}')
  return 0 if green else 1


def check_mutants(out: pathlib.Path) -> int:
  """The checks of the checks -> exit status."""
  from scorecard import run as cells
  from scorecard.mutants import MUTANTS

  from jcl.storage.checkpoint import write_json

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
  print(f'{count} of {len(verdicts)} mutants caught, {seconds:.0f} s; {out}')
  return 1 if wrong else 0


if __name__ == '__main__':
  cli.main(run)
