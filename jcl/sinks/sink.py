"""A sink: what it must do, and what of a resumed run it is not told again."""

import importlib
import json
import os
import pathlib
import types
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar, cast

from jcl import distributed
from jcl.errors import UserError
from jcl.reports.heat_map import heat_map_png
from jcl.reports.results import Results, tasks_learned
from jcl.sinks import metrics
from jcl.types import Json

LAST = 2**62  # in place of a step: after all steps of a task
RANKS = {
  'train': 0,
  'speed': 1,
  'gradient': 2,
  'dev': 3,
  'test': 4,
  'task': 5,
}  # order of events of one step
Settings = Mapping[str, bool | int | float | str]


class Sink:
  """Writes the metrics of a run where people look at them.

  A sink of your own inherits this class and defines `open` and `write`, and as it needs them
  `picture`, `flush` and `close`. Whatever they raise leaves the sink out, with a warning.

  What a sink has been told stands in `sinks/NAME.json` of the workdir. A run that was killed goes
  back to its last snapshot; what it says again is not told to the sink.

  Attributes:
    name: of the sink, in messages and files.
    may_fail: the run goes on without this callback once it raises.
  """

  name: ClassVar[str] = 'sink'
  may_fail: ClassVar[bool] = True

  def open(self, run: Json, settings: Settings, note: Json) -> None:
    """Begins to write.

    Args:
      run: facts of the run: `id` (the same when it goes on), `name`, `method`, `stream`,
        `scenario`, `seed`, `tasks`, `score`, `workdir` (None: there is none) and `resumed`.
      settings: every setting by its dotted name.
      note: what `flush` returned last; empty for a new run.
    """
    raise NotImplementedError

  def write(self, values: Mapping[str, float], axis: str, at: int) -> None:
    """Writes some metrics.

    Args:
      values: {metric: value}; `unit` says in what.
      axis: `run_step`, steps taken since the beginning of the run, or `tasks`, tasks learned.
      at: where on that axis.
    """
    raise NotImplementedError

  def picture(self, name: str, png: bytes, at: int) -> None:
    """Shows a picture.

    Args:
      name: of the picture.
      png: content of the file.
      at: tasks learned.
    """

  def flush(self) -> Json:
    """Makes sure that what was written stays, whatever happens; returns what `open` needs to know.

    Returns:
      Plain data.
    """
    return {}

  def close(self, finished: bool) -> None:
    """Ends writing; `finished` says whether all tasks are done."""

  def unit(self, metric: str) -> str:
    """Returns the unit of a metric; empty: none is known."""
    return metrics.unit(metric, self._score)

  def __init__(self) -> None:
    self._file: pathlib.Path | None = None
    self._told: tuple[int, int, int] | None = None  # the last event that was written
    self._id, self._score, self._opened = '', 'accuracy', False

  def on_start(self, run: Json) -> None:
    """Opens the sink in the first process of a run, with the note of what it has been told."""
    if not distributed.is_first():
      return
    workdir, note = run['workdir'], {}
    self._score, self._told = run['score'], None
    self._file = None if workdir is None else pathlib.Path(workdir) / 'sinks' / f'{self.name}.json'
    if run['resumed'] and self._file is not None and self._file.is_file():
      note = json.loads(self._file.read_text('utf-8'))
      task, step, rank = note['told'] or (0, 0, -1)
      self._told = task, step, rank
    self._id = note.get('id') or uuid.uuid4().hex[:12]
    facts = {k: v for k, v in run.items() if k not in ('config', 'run_step', 'tasks_done')}
    name = pathlib.Path(workdir).name if workdir else f'{run["method"]}-{run["stream"]}'
    settings = metrics.of_settings(run['config'])
    if self._file is not None:
      self._file.parent.mkdir(exist_ok=True)
    self.open({**facts, 'id': self._id, 'name': name}, settings, note.get('own', {}))
    self._opened = True
    self._note()

  def on_step(self, line: Json) -> None:
    """Writes a line of metrics.jsonl."""
    values = metrics.of_step(line)
    kinds = {next(iter(values)).partition('/')[0]} if values else set()
    if kinds and self._is_new(line['task'] + 1, line['step'], RANKS[kinds.pop()]):
      self.write(values, 'run_step', line['run_step'])
      self._note()

  def on_evaluation(self, row: Json) -> None:
    """Writes the scores of an evaluation."""
    inside = row['step'] is not None
    task = row['tasks_done'] + inside
    if self._is_new(task, row['step'] if inside else LAST, RANKS[row['split']]):
      at = ('run_step', row['run_step']) if inside else ('tasks', row['tasks_done'])
      self.write(metrics.of_scores(row), *at)
      self._note()

  def on_task(self, results: Json) -> None:
    """Writes the metrics after a task, and shows the matrix."""
    done = tasks_learned(results['matrix'])
    if self._is_new(done, LAST, RANKS['task']):
      self.write(metrics.of_results(results), 'tasks', done)
      self.picture('matrix', heat_map_png(cast(Results, results)), done)
      self._note()

  def on_end(self, finished: bool) -> None:
    """Closes the sink."""
    if self._opened:
      self._opened = False
      self._note()
      self.close(finished)

  def _is_new(self, task: int, step: int, rank: int) -> bool:
    """Whether an event was not told before; it counts as told from now on."""
    event = task, step, rank
    if not self._opened or (self._told is not None and event <= self._told):
      return False
    self._told = event
    return True

  def _note(self) -> None:
    """Writes down what the sink was told; for a kill of the process, not of the machine."""
    own = self.flush()
    if self._file is not None:
      part = self._file.with_suffix('.part')
      part.write_text(json.dumps({'id': self._id, 'told': self._told, 'own': own}), 'utf-8')
      os.replace(part, self._file)


class Tracker(Sink):
  """A sink whose package has projects and runs.

  Args:
    project: that the run belongs to.
    **init: more arguments of the package's `init`.
  """

  def __init__(self, project: str = 'jcl', **init: Any):
    super().__init__()
    self._project, self._init = project, init
    self._run: Any = None

  def _config(self, run: Json, settings: Settings) -> Json:
    """Returns the settings, what the run is, and the unit of each metric."""
    units = {name: metrics.unit(name, run['score']) for name in metrics.UNITS}
    return {**settings, 'stream': run['stream'], 'method': run['method'], 'units': units}


def package(name: str, extra: str) -> types.ModuleType:
  """Returns an imported package that jcl does not depend on.

  Raises:
    UserError: it is not installed; names the extra that brings it.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f"the package {name} cannot be imported ({error}); pip install 'jcl[{extra}]'"
    ) from None
