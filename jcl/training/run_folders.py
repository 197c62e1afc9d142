"""Results and logs of runs, read from the folders that the runs left or are writing."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, cast

from jcl.errors import UserError
from jcl.reports import results
from jcl.storage import metrics_log
from jcl.types import Json

if TYPE_CHECKING:
  from jcl.reports.results import Results

Runs = Mapping[pathlib.Path, 'Results']
"""{results.json: its content}."""


class Log(NamedTuple):
  """The lines of a run's `metrics.jsonl`, and how many of the file are damaged and left out."""

  lines: list[Json]
  damaged: int


def read(workdir: pathlib.Path) -> 'Results | None':
  """Returns results.json of a folder, else results without a score; None: the folder has neither.

  Args:
    workdir: folder of a run.

  Raises:
    UserError: results.json is damaged.
  """
  file = workdir / 'results.json'
  return results.read(file) if file.is_file() else results_of(workdir)


def results_of(workdir: pathlib.Path) -> 'Results | None':
  """Returns results without a score; None: the folder holds no run, or not yet what it reads.

  Args:
    workdir: folder of a run that has written no results.json.
  """
  from jcl import methods  # imports jax, and few runs need it
  from jcl.training import inputs

  read = inputs.read(workdir)
  tasks = list(dict.fromkeys(row.task for row in read.rows if row.split == 'test')) if read else []
  try:
    config = json.loads((workdir / 'config.json').read_text('utf-8'))
    scenario = config['scenario']
    found = {
      'method': methods.name_of(methods.settings(config['method']['name'])),
      'stream': config['stream']['name'], 'scenario': scenario, 'seed': config['train']['seed'],
      'tasks': tasks, 'score': 'log_perplexity' if scenario == 'cpt' else 'accuracy',
      'matrix': [[None] * len(tasks)], 'finished': False, 'config': config,
    }  # fmt: skip
  except (OSError, ValueError, KeyError, TypeError, RecursionError):  # a UserError is a ValueError
    return None
  return cast('Results', found) if tasks else None


def read_all(folder: pathlib.Path, argument: str) -> Runs:
  """Returns {results.json: results} of the run in a folder, or of the runs in the folders in it.

  Args:
    folder: workdir of a run, its results.json, or a folder of workdirs.
    argument: what names the folder, for error messages.

  Raises:
    UserError: there is none, or a file is damaged.
  """
  folder = folder.parent if folder.name == 'results.json' and folder.is_file() else folder
  folders = [folder, *sorted(child for child in folder.glob('*') if child.is_dir())]
  every = {folder / 'results.json': read(folder) for folder in folders}
  found = {file: run for file, run in every.items() if run is not None}
  if not found:
    raise UserError(f'{argument}: {folder} holds no results.json, and no folder in it does')
  return dict(sorted(found.items(), key=lambda item: not item[0].is_file()))  # with a score first


def log_of(file: pathlib.Path) -> Log:
  """Returns the log of a run; `file` is its results.json."""
  return Log(*metrics_log.read(file.parent / 'metrics.jsonl'))


def differing(runs: Runs) -> Iterator[str]:
  """Yields a line for each split that runs of one stream and seed read with different rows."""
  from jcl.training import inputs

  first: dict[tuple[object, ...], tuple[pathlib.Path, bytes]] = {}
  for file, run in runs.items():
    read = inputs.read(file.parent)
    for rows in () if read is None else read.rows:
      if rows.split == 'dev':  # carved where a run needs it
        continue
      key = run.get('stream'), run.get('seed'), rows.task, rows.split
      other, digests = first.setdefault(key, (file, rows.digests))
      if change := inputs.difference(digests, rows.digests):
        yield (
          f'task {rows.task!r}, {rows.split}: {file.parent} read other rows than {other.parent} '
          f'({change}): their scores are not of the same data'
        )
