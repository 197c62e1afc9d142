"""A finding on a run, and the run as the checks read it."""

import pathlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jcl.config import TrainConfig
from jcl.reports.formatting import one_line
from jcl.reports.results import Results, metrics_of, score_matrix, score_of
from jcl.step.rates import PRETRAINED, SCRATCH
from jcl.storage import console
from jcl.types import Json

LEARNED = 0.05  # least gain of a task by its own training, in accuracy or nats per token
FEWEST = 8  # least number of logged steps of a task that a mean or median is taken of
HIGH = 10  # multiple of the default rate from which a rate is taken to be too high
KNOWN = 0.9  # accuracy from which a task counts as learned
WORKDIR = 'WORKDIR'  # stands for the folder of the run in a command


class Finding(NamedTuple):
  """One thing that is wrong with a run, or that a healthy run shows and a reader may wonder at.

  Attributes:
    name: of the check.
    figure: the observation, with its number.
    meaning: what the figure says about the run.
    advice: one thing to do.
    command: that does it; empty where the rows of the run came from a program, so that no command
      reads them again.
    kind: `warning`, or `information` where nothing is wrong.
  """

  name: str
  figure: str
  meaning: str
  advice: str
  command: str = ''
  kind: str = 'warning'

  def __str__(self) -> str:
    return one_line(f'{self.figure}: {self.meaning}; {self.advice}')


class Findings(list[Finding]):
  """A list of findings that prints as `jcl doctor` does."""

  def lines(self) -> Iterator[str]:
    """Yields the lines that say what looks wrong with a run, a command below its finding."""
    for finding in self:
      yield f'{finding.name}: {finding}'
      if finding.command:
        yield f'  {finding.command}'

  def __str__(self) -> str:
    return console.sayable('\n'.join(self.lines()) or 'nothing looks wrong')

  def __repr__(self) -> str:
    return str(self)


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

  def path(self, name: str, *kinds: type) -> str | None:
    """Returns the dotted name of a setting by its last part; None where there is none.

    Args:
      name: last part of the name.
      *kinds: types that its value may have beside a number.
    """
    for path, value in self.settings.items():
      if path.rpartition('.')[2] == name and isinstance(value, (int, float, *kinds)):
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

  @property
  def lost(self) -> str:
    """Forgetting of a task on average, in words: in points of accuracy or in nats per token."""
    if score_of(self.results) == 'accuracy':
      return f'{100 * self.forgetting:.3g} points'
    return f'{self.forgetting:.3g} nats per token'

  @property
  def rate(self) -> tuple[str, float, float]:
    """Name, value and default of the learning rate of what trains: the model, or adapters."""
    names = ('learning_rate', 'adapter_learning_rate')
    name = next((n for n in names if self.setting(n) is not None), names[0])
    default = PRETRAINED if self.settings.get('backbone.path') else SCRATCH
    default = default if name == names[0] else TrainConfig.adapter_learning_rate
    return name, self.setting(name) or default, default

  def sweep(self, name: str, values: Sequence[float]) -> str:
    """Returns the command that trains the run again with some values of a setting."""
    listed = ','.join(f'{value:g}' for value in values)
    path = self.path(name) or f'train.{name}'
    return self._command(f'jcl sweep --workdir={self._folder()} --setting={path} --values={listed}')

  def again(self, ending: str, method: str = '', **settings: object) -> str:
    """Returns the command that trains another run with the settings of this one.

    Args:
      ending: of the folder of the other run.
      method: its method; empty: that of this run.
      **settings: values of settings that differ, by the last part of their dotted name.
    """
    config = self._folder(f':{method}' if method else '')
    paths = {name: self.path(name, str, list) or f'train.{name}' for name in settings}
    flags = [f'--config.{paths[name]}={value}' for name, value in settings.items()]
    where = self._folder(f'-{ending}')
    return self._command(' '.join([f'jcl train --config={config} --workdir={where}', *flags]))

  def wrong_answers(self) -> str:
    """Returns the command that shows what the model answers wrongly."""
    return self._command(f'jcl evaluate --workdir={self._folder()} --wrong=5')

  def _folder(self, ending: str = '') -> str:
    """Returns the folder of the run with an ending, as a shell reads it."""
    if self.workdir == WORKDIR:
      return f'{WORKDIR}{ending}'
    path = pathlib.PurePath(self.workdir)  # a bare name could be that of a config
    return shlex.quote(f'{"./" if len(path.parts) == 1 else ""}{path}{ending}')

  def _command(self, line: str) -> str:
    """Returns a command, or an empty text where the run cannot be trained or read by one."""
    return '' if self.settings.get('stream.name') == 'rows' else line


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


def lower_rate(run: Run) -> tuple[str, str]:
  """Returns advice to lower the learning rate, and the command."""
  _, rate, default = run.rate
  values = [default] if rate >= HIGH * default else [rate / 10, rate / 3]
  return _of_rate('lower', run, values)


def raise_rate(run: Run) -> tuple[str, str]:
  """Returns advice to raise the learning rate, and the command."""
  _, rate, default = run.rate
  values = [default] if rate <= default / 10 else [3 * rate, 10 * rate]
  return _of_rate('raise', run, values)


def _of_rate(verb: str, run: Run, values: Sequence[float]) -> tuple[str, str]:
  """Returns advice to change the learning rate, and the command."""
  name, rate, default = run.rate
  goal = ' or '.join(f'{value:.2g}' for value in values)
  advice = f'{verb} train.{name}, now {rate:g} (default {default:g}), to {goal}'
  return advice, run.sweep(name, [float(f'{value:.2g}') for value in values])


def longer(run: Run) -> tuple[str, str]:
  """Returns advice to train longer, and the command."""
  name = 'steps' if run.setting('steps') else 'epochs'
  now = int(run.setting(name) or TrainConfig.epochs)
  settings: dict[str, object] = {name: 3 * now}
  return f'train longer: train.{name}={3 * now}, now {now}', run.again('longer', '', **settings)
