"""A finding on a run, and the run as the checks read it."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jcl.reports.formatting import one_line
from jcl.reports.results import Results, metrics_of, score_matrix, score_of
from jcl.types import Json

LEARNED = 0.05  # least gain of a task by its own training, in accuracy or nats per token
WORKDIR = 'WORKDIR'  # stands for the folder of the run in a command


class Finding(NamedTuple):
  """One thing that is wrong with a run.

  Attributes:
    name: of the check.
    figure: the observation, with its number.
    meaning: what the figure says about the run.
    advice: one thing to do.
    command: that does it; empty where no command does.
  """

  name: str
  figure: str
  meaning: str
  advice: str
  command: str = ''

  def __str__(self) -> str:
    return one_line(f'{self.figure}: {self.meaning}; {self.advice}')


class Run(NamedTuple):
  """The files of a run that checks read.

  Attributes:
    results: contents of `results.json`.
    steps: {index of a task: its logged steps, in order}.
    norms: {index of a task: its measured norms of weight · gradient, {term: norm}, in order}.
    settings: every setting by its dotted name, such as `train.clip_norm`.
    workdir: folder of the run, as commands name it.
  """

  results: Results
  steps: Mapping[int, Sequence[Json]]
  norms: Mapping[int, Sequence[Mapping[str, float]]]
  settings: Mapping[str, object]
  workdir: str = WORKDIR

  def path(self, name: str) -> str | None:
    """Returns the dotted name of a numeric setting by its last part; None where there is none."""
    for path, value in self.settings.items():
      if path.rpartition('.')[2] == name and isinstance(value, int | float):
        return path
    return None

  def setting(self, name: str) -> float | None:
    """Returns a numeric setting by the last part of its dotted name; None where there is none."""
    path = self.path(name)
    return None if path is None else float(str(self.settings[path]))

  def task(self, index: int) -> str:
    """Returns the name of a task."""
    return self.results['tasks'][index]

  @property
  def forgetting(self) -> float:
    """Forgetting, in accuracy or nats per token; 0 where there is none yet."""
    return metrics_of(self.results).get('forgetting') or 0.0

  def sweep(self, name: str, values: Sequence[float]) -> str:
    """Returns the command that trains the run again with some values of a setting."""
    listed = ','.join(f'{value:g}' for value in values)
    where = self.workdir if self.workdir == WORKDIR else shlex.quote(self.workdir)
    return f'jcl sweep --workdir={where} --setting={self.path(name)} --values={listed}'


def named(names: Sequence[str]) -> str:
  """Returns up to three names, and how many more there are."""
  more = f' and {len(names) - 3} more' if len(names) > 3 else ''
  return ', '.join(names[:3]) + more


def percent(share: float) -> str:
  """Returns a share in per cent, with three significant digits."""
  return f'{100 * share:.3g} %'


def before_and_after(run: Run) -> Iterator[tuple[str, float, float]]:
  """Yields (task, score before its training, score right after); a larger score is better."""
  matrix, sign = score_matrix(run.results), 1 if score_of(run.results) == 'accuracy' else -1
  for index, name in enumerate(run.results['tasks']):
    before, after = matrix[index][index], matrix[index + 1][index]
    if before is not None and after is not None:
      yield name, sign * before, sign * after
