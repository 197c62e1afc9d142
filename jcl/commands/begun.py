"""What a workdir says of a run that was stopped before its first task was done."""

import json
import pathlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
  from jcl.reports.results import Results


def read(workdir: pathlib.Path) -> 'Results | None':
  """Returns results.json of a folder, else results without a score; None: the folder has neither.

  Args:
    workdir: folder of a run.

  Raises:
    UserError: results.json is damaged.
  """
  from jcl.reports import results

  file = workdir / 'results.json'
  return results.read(file) if file.is_file() else results_of(workdir)


def results_of(workdir: pathlib.Path) -> 'Results | None':
  """Returns results without a score; None: the folder holds no run, or not yet what it reads.

  Args:
    workdir: folder of a run that has written no results.json.
  """
  from jcl import methods
  from jcl import workdir as workdirs
  from jcl.errors import UserError
  from jcl.training import inputs

  read = inputs.read(workdir)
  try:
    config = workdirs.load_workdir(str(workdir))
  except UserError:
    return None
  tasks = list(dict.fromkeys(row.task for row in read.rows if row.split == 'test')) if read else []
  if not tasks:
    return None
  raw_text = config.scenario == 'cpt'
  found = {
    'method': methods.name_of(config.method), 'stream': config.stream.name,
    'scenario': config.scenario, 'seed': config.train.seed, 'tasks': tasks,
    'score': 'log_perplexity' if raw_text else 'accuracy',
    'matrix': [[None] * len(tasks)], 'finished': False,
    'config': json.loads((workdir / 'config.json').read_text('utf-8')),
  }  # fmt: skip
  return cast('Results', found)
