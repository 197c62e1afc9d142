"""Rows, settings and columns of the tables that `launch/results/tables.py` makes.

A table has flags that all its rows share, those of the slice that a CPU allows, those of the whole
data, and for each row a method with flags of its own. A table of methods that take no steps has no
slice: a CPU does the whole. `{data}` in a flag is the folder of the data sets, `{texts}` the folder
of the two texts that `write_texts` makes, `{seed}` the seed of the run.
"""

import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jcl.errors import UserError
from jcl.reports.comparison import quantities
from jcl.reports.formatting import MISSING, format_number
from jcl.reports.metrics import mean_and_interval
from jcl.reports.results import Results, metrics_of, score_matrix

Cell = Callable[[Results], str]
DECODER, ENCODER = 'models/smollm2-135m.gguf', 'models/minilm-l6'


class Row(NamedTuple):
  """A row of a table.

  Attributes:
    method: its name.
    flags: of the row, beside those of the table.
    title: how the page names it; empty: by its method.
    trains: whether it takes steps; one that takes none has no settings of training.
    seeds: of the runs that the page shows.
  """

  method: str
  flags: tuple[str, ...] = ()
  title: str = ''
  trains: bool = True
  seeds: tuple[int, ...] = (0,)


class Table(NamedTuple):
  """A table.

  Attributes:
    config: a file of configs/, without its ending.
    flags, slice, whole: of all rows; of the slice alone, None where the page shows the whole data;
      of the whole data alone.
    rows: by name, which is that of the workdir.
    columns: heading -> its cell, beside A_T.
    model: path of the model that the rows start from, unless --model gives one.
  """

  config: str
  flags: tuple[str, ...]
  slice: tuple[str, ...] | None
  whole: tuple[str, ...]
  rows: Mapping[str, Row]
  columns: Mapping[str, Cell]
  model: str = DECODER

  @property
  def shown(self) -> str:
    """Returns the part of the data that the page shows: `slice` or `whole`."""
    return 'whole' if self.slice is None else 'slice'

  def row_flags(self, row: Row, part: str, seed: int) -> list[str]:
    """Returns the flags of a row on a part of the data, `slice` or `whole`, for a seed."""
    of_part = self.slice if part == 'slice' else self.whole
    shared = (*self.flags, *(of_part or ()))
    read = [flag for flag in shared if row.trains or not flag.startswith('--config.train.')]
    return [flag.replace('{seed}', str(seed)) for flag in (*read, *row.flags)]


def score(name: str) -> Cell:
  """Returns the cell of a metric of the matrix, in %."""
  return lambda run: format_number(metrics_of(run).get(name), 'accuracy')


def quantity(name: str) -> Cell:
  """Returns the cell of a quantity of the comparison, in %."""
  return lambda run: format_number(quantities(run)[name], 'share')


def verbatim(run: Results) -> str:
  """Returns the share of the kept pseudo samples that are training inputs word for word, in %."""
  lines = run.get('pseudo') or []
  kept, same = (sum(line.get(key) or 0 for line in lines) for key in ('kept', 'verbatim'))
  return format_number(same / kept, 'share') if kept else MISSING


def tokens(run: Results) -> str:
  """Returns the tokens that were trained on, in thousands."""
  return f'{((run.get("tokens") or {}).get("train") or 0) / 1e3:.0f}'


def kilobytes(run: Results) -> str:
  """Returns the bytes that a method carries from task to task, in kB."""
  return f'{((run.get("cost") or {}).get("memory_bytes") or 0) / 1e3:,.0f}'


def megabytes(run: Results) -> str:
  """Returns the bytes that a method carries from task to task, in MB."""
  return f'{((run.get("cost") or {}).get("memory_bytes") or 0) / 1e6:,.1f}'


def cpu_seconds(run: Results) -> str:
  """Returns the CPU seconds of a kept run."""
  return f'{dict(run).get("cpu_seconds") or 0:.0f}'


def probe(key: str, last: bool = True) -> Cell:
  """Returns the cell of a figure of the probe, in nats; `last`: after the last task, not before."""

  def cell(run: Results) -> str:
    lines = run.get('probe') or []
    value = dict(lines[-1 if last else 0]).get(key) if lines else None
    return f'{value:.3f}' if isinstance(value, float) else MISSING

  return cell


def half_width(run: Results) -> float | None:
  """Returns half of the 95 % interval of A_T over test rows: those drawn, the model as it is."""
  last, sizes = score_matrix(run)[-1], run.get('sizes') or ()
  if not sizes or any(p is None for p in last):
    return None
  variance = math.fsum(p * (1 - p) / n for p, n in zip(last, sizes, strict=True) if p is not None)
  return 1.96 * math.sqrt(variance) / len(last)


CLINC = Table(
  'clinc150',
  (
    '--config.stream.path={data}/clinc150', '--config.train.schedule=linear',
    '--config.train.warmup_fraction=0.1', '--config.train.learning_rate=3e-4',
  ),
  (
    '--config.stream.max_train_per_task=200', '--config.stream.max_test_per_task=20',
    '--config.train.epochs=1', '--config.train.batch_size=12',
    '--config.evaluate.batch_size=60',
  ),
  ('--config.train.epochs=3', '--config.train.batch_size=32'),
  {
    'lamol_kd': Row(
      'lamol_kd', (
        '--config.method.gamma=1', '--config.method.task_tokens=true',
        '--config.method.require_known_label=true', '--config.method.lambda_gen=1',
      ),
    ),
  },
  {
    'Ā %': score('average_incremental_accuracy'), 'forgetting': score('forgetting'),
    'just learned, worst': quantity('worst'), 'samples kept %': quantity('kept'),
    'word for word %': verbatim, 'tokens, thousands': tokens, 'CPU seconds': cpu_seconds,
    'kept between tasks, kB': kilobytes,
  },
)  # fmt: skip

FULL = ('--config.train.learning_rate=1e-4',)  # of methods that train the whole model
ADAPTERS = ('--config.train.adapter_learning_rate=1e-3',)
REPLAY = (*FULL, '--config.method.replay_ratio=0.3')
OWN = ('--config.method.answers=own', '--config.method.rejected=drop')


def buffer(size: int) -> str:
  """Returns the flag of the size of a buffer."""
  return f'--config.method.buffer_size={size}'


LONG = Table(
  'long_sequence',
  ('--config.stream.path={data}/long_sequence', '--config.stream.task_order=1'),
  (
    '--config.stream.max_train_per_task=20', '--config.stream.max_test_per_task=10',
    '--config.stream.max_length=128', '--config.train.epochs=1', '--config.train.batch_size=4',
    '--config.evaluate.batch_size=10',
  ),
  (
    '--config.stream.max_test_per_task=500', '--config.train.epochs=3',
    '--config.train.batch_size=32',
  ),
  {
    'seq': Row('seq', FULL),
    'lora': Row('lora', ADAPTERS),
    'olora': Row('olora', ADAPTERS),
    'slao': Row('slao', ADAPTERS),
    'replay-1': Row('replay', (*REPLAY, buffer(3)), '`replay`, 1 % of the rows'),
    'replay-10': Row('replay', (*REPLAY, buffer(30)), '`replay`, 10 %'),
    'own-1': Row('replay', (*REPLAY, buffer(3), *OWN), '`replay`, own answers, 1 %'),
    'own-10': Row('replay', (*REPLAY, buffer(30), *OWN), '`replay`, own answers, 10 %'),
    'closed_form': Row(
      'closed_form', ('--config.backbone.head=linear', '--config.backbone.pooling=mean'),
      trains=False,
    ),
  },
  {
    'Ā %': score('average_incremental_accuracy'), 'forgetting': score('forgetting'),
    'just learned, worst': quantity('worst'), 'tokens, thousands': tokens,
    'CPU seconds': cpu_seconds, 'kept between tasks, kB': kilobytes,
  },
)  # fmt: skip

CORPUS = ('--config.method.unit=tokens', '--config.method.corpus={texts}/corpus.txt')
GENERAL = Table(
  'trace',
  (
    '--config.stream.path={data}/trace', '--config.stream.task_order=FOMC,NumGLUE-cm,NumGLUE-ds',
    '--config.evaluate.probe={texts}/probe.txt',
  ),
  (
    '--config.stream.max_train_per_task=32', '--config.stream.max_test_per_task=10',
    '--config.stream.max_length=160', '--config.train.epochs=1', '--config.train.batch_size=4',
    '--config.evaluate.batch_size=10',
  ),
  ('--config.stream.max_length=512', '--config.train.epochs=3', '--config.train.batch_size=16'),
  {
    'seq': Row('seq', FULL),
    'replay': Row('replay', REPLAY),
    'replay-text': Row('replay', (*REPLAY, *CORPUS), '`replay`, half of it general text'),
    'distill': Row(
      'distill', (*FULL, '--config.method.anchor=base'), '`distill`, `anchor=base`'
    ),
    'lora': Row('lora', ADAPTERS),
    'osft': Row('osft', FULL),
    'sdft': Row('sdft', FULL),
  },
  {
    'text, nats, before': probe('nats', last=False), 'after': probe('nats'),
    'text, KL': probe('kl'), 'prompts, KL': probe('kl_prompts'), 'tokens, thousands': tokens,
    'CPU seconds': cpu_seconds, 'kept between tasks, kB': kilobytes,
  },
)  # fmt: skip


def intents(config: str, data: str) -> Table:
  """Returns the table of the heads that are solved, on all rows of a data set of intents.

  Settings of the solvers are written out, so that a kept run with others is found.

  Args:
    config: a file of configs/, without its ending.
    data: name of the data set.
  """
  solver = lambda name, *flags, seeds=(0,): Row(
    'closed_form',
    (f'--config.method.solver={name}', *(f'--config.method.{flag}' for flag in flags)),
    f'`solver={name}`', trains=False, seeds=seeds,
  )  # fmt: skip
  return Table(
    config,
    (f'--config.stream.path={{data}}/{data}', '--config.stream.order_seed={seed}'),
    None,
    (),
    {
      'ranpac': solver('ranpac', 'projection=4000', 'ridge=0', seeds=(0, 1, 2)),
      'klda': solver('klda', 'projection=4000', 'bandwidth=2', 'shrinkage=0'),
      'lda': solver('lda', 'shrinkage=0'),
      'ncm': solver('ncm'),
    },
    {
      'Ā %': score('average_incremental_accuracy'), 'forgetting': score('forgetting'),
      'CPU seconds': cpu_seconds, 'kept between tasks, MB': megabytes,
    },
    ENCODER,
  )  # fmt: skip


TABLES = {
  'intents_clinc150': intents('closed_form', 'clinc150'),
  'intents_hwu64': intents('hwu64_closed_form', 'hwu64'),
  'clinc150': CLINC,
  'long_sequence': LONG,
  'general': GENERAL,
}


def markdown(table: Table, runs: Mapping[str, Results]) -> str:
  """Returns a table of a page, and a line that names the rows of which runs are not kept yet.

  Args:
    table: the table.
    runs: kept runs by `ROW-SEED`.
  """
  lines = [['method', 'A_T %', *table.columns], ['---'] * (2 + len(table.columns))]
  missing = []
  for name, row in table.rows.items():
    mine = {int(key.rpartition('-')[2]): run for key, run in runs.items()
            if key.rpartition('-')[0] == name}  # fmt: skip
    if mine:
      own = [mine[seed] for seed in sorted(mine)]
      lines.append([row.title or f'`{row.method}`', accuracy(own), *_cells(table, own)])
    if absent := [str(seed) for seed in row.seeds if seed not in mine]:
      missing.append(f'`{name}`' + (f' with seed {" and ".join(absent)}' if mine else ''))
  text = ''.join(f'| {" | ".join(cells)} |\n' for cells in lines) if len(lines) > 2 else ''
  if missing:
    text += f'{chr(10) if text else ""}Not run to the end yet: {", ".join(missing)}.\n'
  return text


def accuracy(runs: list[Results]) -> str:
  """Returns A_T with its 95 % interval: over seeds, or over the test rows of a single seed."""
  mean, half = mean_and_interval([metrics_of(run).get('average_accuracy') for run in runs])
  half = half_width(runs[0]) if len(runs) == 1 else half
  words = format_number(mean, 'accuracy')
  return words if half is None else f'{words} ± {format_number(half, "accuracy")}'


def _cells(table: Table, runs: list[Results]) -> list[str]:
  """Returns the cells of the columns; of several seeds those of each, in order."""
  return [', '.join(cell(run) for run in runs) for cell in table.columns.values()]


def other_settings(name: str, run: Results) -> list[str]:
  """Returns in words the settings of a kept run that the table's flags do not give.

  Args:
    name: `TABLE-slice/ROW-SEED/results.json` or `TABLE-whole/…`; a table without a slice has no
      folder of the first kind.
    run: its results.
  """
  folder, row_seed, _ = name.split('/')
  table_name, _, part = folder.rpartition('-')
  row_name, _, seed = row_seed.rpartition('-')
  table = TABLES.get(table_name)
  if not table or row_name not in table.rows or part not in (table.shown, 'whole'):
    return [f'{name} is of no row of a table']
  row = table.rows[row_name]
  flags = [*table.row_flags(row, part, int(seed)), f'--config.train.seed={seed}']
  found = [] if run['method'] == row.method else [f'{name} is a run of {run["method"]}']
  for flag in flags:
    place, _, wanted = flag.removeprefix('--config.').partition('=')
    group, _, field = place.partition('.')
    has = ((run.get('config') or {}).get(group) or {}).get(field)
    if '{' not in wanted and not _same(has, wanted):
      found.append(f'{name} has {place} {has!r}, and the table {wanted}')
  return found


def _same(value: object, text: str) -> bool:
  """Whether a setting is what a flag gives."""
  if isinstance(value, bool) or value is None or isinstance(value, str):
    return str(value).lower() == text.lower()
  return isinstance(value, int | float) and math.isclose(value, float(text), rel_tol=1e-12)


SOURCES = ('dbpedia', 'agnews', 'imdb')  # of Long Sequence: Wikipedia, news, reviews
EACH = {'corpus': ('train', 100), 'probe': ('test', 3)}  # text -> its split, and rows of a source


def write_texts(data: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes corpus.txt and probe.txt, general text from inputs of Long Sequence without questions.

  Args:
    data: folder that holds long_sequence.
    folder: where the texts go.

  Raises:
    UserError: a file of Long Sequence is missing.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for name, (split, rows) in EACH.items():
    texts = []
    for source in SOURCES:
      file = data / 'long_sequence' / split / f'{source}_T5.json'
      if not file.is_file():
        raise UserError(f'--data: {file} is missing; general text is made from it')
      texts += [_plain(row['input']) for row in json.loads(file.read_text('utf-8'))[:rows]]
    (folder / f'{name}.txt').write_text('\n'.join([*texts, '']), 'utf-8')


def _plain(prompt: str) -> str:
  """Returns the text that a prompt asks about, in one line."""
  text = prompt.partition('\n')[2].rpartition('Answer:')[0]
  for mark in ('Title:', 'Text:', '<br />'):
    text = text.replace(mark, ' ')
  return ' '.join(text.split())
