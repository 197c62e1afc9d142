"""Makes the tables of docs/results.md from whole runs.

    python launch/results/tables.py run --table=long_sequence --rows=seq,lora --workdir=runs/tables
    python launch/results/tables.py keep --table=long_sequence --workdir=runs/tables
    python launch/results/tables.py write
    python launch/results/tables.py verify

`run` trains the rows of a table, one after another. Rows that were interrupted go on, and finished
ones are not run again. `--whole` leaves the slice away and trains on all rows, which takes a GPU;
the tables `intents_…`, whose heads are solved, have no slice and are made of all rows anyway.
`keep` copies results.json of the finished runs into docs/results, without texts of the data, and
writes their digests into docs/results/SHA256SUMS. `write` makes the tables and the pictures from
the kept files; `verify` says whether digests, settings, pictures and page agree, and ends with
status 1 where they do not.

--data is the folder that holds the data sets by name (clinc150, hwu64, long_sequence, trace).
--model is a folder, a GGUF file or a hub name: of the sentence encoder all-MiniLM-L6-v2 for the
tables `intents_…` (default: models/minilm-l6), of the decoder SmolLM2-135M for the others (default:
models/smollm2-135m.gguf).
"""

import argparse
import hashlib
import json
import pathlib
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pictures
import table_specs
from table_specs import TABLES, Row, Table

from jcl.errors import UserError
from jcl.reports.results import Results, read
from jcl.storage import atomic

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE, KEPT = ROOT / 'docs' / 'results.md', ROOT / 'docs' / 'results'
DRAWN = 'drawn.json'  # in docs/results: picture -> digest of the runs that it was drawn from
COST = 'cost.json'  # beside results.json: CPU seconds of the row's processes so far


def main(arguments: Sequence[str]) -> int:
  """Runs a command and returns its exit status."""
  given = parsed(arguments)
  try:
    return {'run': _run, 'keep': _keep, 'write': _write, 'verify': _verify}[given.command](given)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2


def command(row: Row, table: Table, seed: int, given: argparse.Namespace) -> list[str]:
  """Returns the flags of `jcl train` for a row of a table, without its workdir.

  Args:
    row: of the table.
    table: the table.
    seed: of the run, and of the order of classes.
    given: `data`, `model` and `workdir` as paths, and `whole`; an empty model is the table's.
  """
  paths = {'data': given.data, 'texts': pathlib.Path(given.workdir) / 'texts'}
  return [
    f'--config={table.config}:{row.method}',
    *(flag.format(**paths) for flag in table.row_flags(row, part_of(table, given), seed)),
    f'--config.backbone.path={given.model or table.model}',
    f'--config.train.seed={seed}',
  ]


def part_of(table: Table, given: argparse.Namespace) -> str:
  """Returns the part of the data that is asked for: `slice` or `whole`."""
  return 'whole' if given.whole else table.shown


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
  """Returns the arguments as read; a mistake ends the program with status 2."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parts = parser.add_subparsers(dest='command', required=True)
  models = {table.model for table in TABLES.values()}
  for name, words in (('run', 'train the rows'), ('keep', 'copy results of finished runs')):
    part = parts.add_parser(name, help=words)
    part.add_argument('--table', required=True, choices=TABLES)
    part.add_argument('--rows', default='', help='names of rows, with commas; empty: all')
    part.add_argument('--seeds', default='', help="numbers, with commas; empty: the rows' own")
    part.add_argument('--workdir', default='runs/tables')
    part.add_argument('--data', default='data')
    part.add_argument(
      '--model', default='', help=f"empty: the table's, {' or '.join(sorted(models))}"
    )
    part.add_argument('--whole', action='store_true', help='all rows of the data, for a GPU')
    part.add_argument(
      '--allow_config_change', default='', help='as of jcl train, for runs of an earlier jcl'
    )
    part.add_argument('--print', action='store_true', help='print the commands and run nothing')
  parts.add_parser('write', help='make the tables of the page from the kept files')
  parts.add_parser('verify', help='compare the page and the digests with the kept files')
  return parser.parse_args(arguments)


def _asked(given: argparse.Namespace) -> Iterator[tuple[Row, Table, int, pathlib.Path]]:
  """Yields each row that is asked for, with its table, its seed and its workdir.

  Raises:
    UserError: a row is not one of the table.
  """
  table = TABLES[given.table]
  names = given.rows.split(',') if given.rows else list(table.rows)
  for name in names:
    if name not in table.rows:
      raise UserError(f'--rows: {given.table} has no row {name!r}; it has {", ".join(table.rows)}')
    row = table.rows[name]
    for seed in map(int, given.seeds.split(',')) if given.seeds else row.seeds:
      folder = pathlib.Path(given.workdir) / f'{given.table}-{part_of(table, given)}'
      yield row, table, seed, folder / f'{name}-{seed}'


def _run(given: argparse.Namespace) -> int:
  """Trains what is asked for; stops at the first run that fails or is stopped."""
  if given.table == 'general' and not given.print:
    table_specs.write_texts(pathlib.Path(given.data), pathlib.Path(given.workdir) / 'texts')
  for row, table, seed, folder in _asked(given):
    line = ['-m', 'jcl', 'train', *command(row, table, seed, given), f'--workdir={folder}']
    if given.allow_config_change:
      line.append(f'--allow_config_change={given.allow_config_change}')
    print(' '.join(['python', *line]), flush=True)
    if given.print:
      continue
    before = _cpu_seconds()
    status = subprocess.run([sys.executable, *line], check=False).returncode
    if folder.is_dir():
      spent = _spent(folder) + _cpu_seconds() - before
      atomic.write_json(folder / COST, {'cpu_seconds': round(spent, 1)})
    if status:
      return status
  return 0


def _cpu_seconds() -> float:
  """Returns the CPU seconds of all processes that were started here and have ended."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def _spent(folder: pathlib.Path) -> float:
  """Returns the CPU seconds that are written down for a run; 0 for none."""
  file = folder / COST
  return float(json.loads(file.read_text())['cpu_seconds']) if file.is_file() else 0.0


def without_texts(run: Results) -> dict[str, object]:
  """Returns the results of a run without texts of its data, which have licences of their own."""
  kept: dict[str, object] = dict(run)
  if flips := run.get('negative_flips'):
    kept['negative_flips'] = {'count': flips['count'], 'of': flips['of']}
  kept['by_class'] = None
  kept['pseudo'] = [
    {k: v for k, v in line.items() if k not in ('samples', 'rejected')}
    for line in run.get('pseudo') or []
  ]
  return kept


def _keep(given: argparse.Namespace) -> int:
  """Copies the results of finished runs and writes the digests of all kept files."""
  for _, _, _, folder in _asked(given):
    file = folder / 'results.json'
    run = read(file) if file.is_file() else None
    if run is None or not run.get('finished'):
      print(f'{folder} is not finished; it is not kept')
      continue
    target = KEPT / folder.parent.name / folder.name
    target.mkdir(parents=True, exist_ok=True)
    kept = without_texts(run) | {'cpu_seconds': _spent(folder)}
    atomic.write_text(target / 'results.json', [json.dumps(kept, indent=1), '\n'])
    print(f'kept {target.relative_to(ROOT)}')
  lines = [f'{_digest(file)}  {file.relative_to(KEPT)}' for file in _kept_files()]
  atomic.write_text(KEPT / 'SHA256SUMS', [f'{line}\n' for line in lines])
  return 0


def _kept_files() -> list[pathlib.Path]:
  """Returns the kept results, in order."""
  return sorted(KEPT.glob('*/*/results.json'))


def _digest(file: pathlib.Path) -> str:
  """Returns the SHA-256 of a file in hexadecimal."""
  return hashlib.sha256(file.read_bytes()).hexdigest()


def faults() -> list[str]:
  """Returns in words what is wrong with the kept files: digests, and settings of their rows."""
  listed = dict(line.split('  ')[::-1] for line in (KEPT / 'SHA256SUMS').read_text().splitlines())
  there = {str(file.relative_to(KEPT)): file for file in _kept_files()}
  found = [f'{name} is not in docs/results' for name in listed.keys() - there.keys()]
  found += [f'{name} is not in SHA256SUMS' for name in there.keys() - listed.keys()]
  for name in sorted(listed.keys() & there.keys()):
    if _digest(there[name]) != listed[name]:
      found.append(f'{name} has another digest than SHA256SUMS says')
    else:
      found += table_specs.other_settings(name, read(there[name]))
  return found


def page() -> str:
  """Returns docs/results.md with the tables that the kept files give.

  Raises:
    UserError: a table has no place on the page.
  """
  text = PAGE.read_text()
  for name, table in TABLES.items():
    start, end = f'<!-- table {name} -->\n', f'<!-- end of {name} -->'
    if start not in text or end not in text:
      raise UserError(f'{PAGE.name} has no place for the table {name}: {start.strip()}')
    head, rest = text.split(start)
    runs = _shown(name, table)
    image = f'\n![The rows of the table {name}, drawn](results/{name}.png)\n' if runs else ''
    text = head + start + table_specs.markdown(table, runs) + image + end + rest.split(end)[1]
  return text


def _files_of(name: str, table: Table) -> dict[str, pathlib.Path]:
  """Returns the kept results that the page shows of a table, by `ROW-SEED`."""
  folder = KEPT / f'{name}-{table.shown}'
  return {file.parent.name: file for file in _kept_files() if file.parent.parent == folder}


def _shown(name: str, table: Table) -> dict[str, Results]:
  """Returns the kept runs that the page shows of a table, by `ROW-SEED`."""
  return {key: read(file) for key, file in _files_of(name, table).items()}


def _sources() -> dict[str, str]:
  """Returns {picture: digest of the kept runs that it shows}."""
  found = {}
  for name, table in TABLES.items():
    if files := _files_of(name, table):
      whole = '\n'.join(f'{_digest(file)}  {key}' for key, file in files.items())
      found[f'{name}.png'] = hashlib.sha256(whole.encode()).hexdigest()
  return found


def _write(given: argparse.Namespace) -> int:
  """Writes the tables into the page, if the kept files are as they should be."""
  if status := _say(faults()):
    return status
  sources, drawn = _sources(), _drawn()
  for name, table in TABLES.items():
    file = f'{name}.png'
    if file in sources and sources[file] != drawn.get(file):
      atomic.write_atomically(KEPT / file, pictures.picture(table, _shown(name, table)))
      print(f'drawn {file}')
  atomic.write_json(KEPT / DRAWN, sources)
  atomic.write_text(PAGE, [page()])
  return 0


def _drawn() -> dict[str, str]:
  """Returns what `_sources` was when the pictures that are there were drawn."""
  file = KEPT / DRAWN
  known = json.loads(file.read_text()) if file.is_file() else {}
  return {name: digest for name, digest in known.items() if (KEPT / name).is_file()}


def _verify(given: argparse.Namespace) -> int:
  """Says whether kept files, their digests and the page agree."""
  wrong = faults()
  again = f'python {sys.argv[0]} write'
  if not wrong and page() != PAGE.read_text():
    wrong = [f'{PAGE.name} has other tables than the kept files give; {again}']
  if not wrong and _drawn() != _sources():
    wrong = [f'pictures are missing, or of other runs than the kept ones; {again}']
  if not wrong:
    print(f'{len(_kept_files())} kept runs: digests, settings, tables and pictures agree')
  return _say(wrong)


def _say(wrong: Sequence[str]) -> int:
  """Prints what is wrong and returns the exit status."""
  for line in wrong:
    print(f'error: {line}', file=sys.stderr)
  return 1 if wrong else 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
