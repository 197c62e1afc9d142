"""Everything that a run says and writes while it works."""

import dataclasses
import operator
import pathlib
from collections.abc import Mapping, Sequence
from typing import cast

from jcl import methods
from jcl.config import CheckpointConfig, Config, TrainConfig, Unread, refused
from jcl.reports.formatting import format_number
from jcl.reports.results import Results
from jcl.storage import console
from jcl.storage.checkpoint import Snapshots
from jcl.storage.in_memory import MemoryLog, NoSnapshots
from jcl.storage.metrics_log import MetricsLog
from jcl.streams.escaping import escaped
from jcl.streams.stream import Task
from jcl.training.callbacks import Callbacks
from jcl.training.evaluate import LogPerplexity, Score
from jcl.training.experiment import Experiment
from jcl.training.hook_tools import HookTools
from jcl.training.recorder import Clock, Recorder
from jcl.training.run_state import ProgressCounter, Run
from jcl.types import Json

LINES = ('log_every', 'speed_every', 'gradient_norms_every')  # settings of lines of metrics.jsonl


def check_read(
  config: Config, workdir: pathlib.Path | None, callbacks: Sequence[object], old: bool
) -> None:
  """Refuses settings of files and lines where a run writes none.

  Args:
    config: of the run.
    workdir: folder of the run; None: all stays in memory.
    callbacks: of the run.
    old: as in `experiment.check`.

  Raises:
    UserError: names the setting.
  """
  plain, given = CheckpointConfig(), config.checkpoint
  why = {
    f'checkpoint.{name}': 'the run has no workdir'
    for name, value in dataclasses.asdict(given).items()
    if workdir is None and value != getattr(plain, name)
  }
  listens = any(hasattr(callback, 'on_step') for callback in callbacks)
  for name in LINES if workdir is None and not listens else ():
    value, default = getattr(config.train, name), getattr(TrainConfig, name)
    if value != default and (value or name == 'log_every'):
      why[f'train.{name}'] = 'the run has no workdir and no callback with on_step'
  if not old:
    get = operator.attrgetter
    refused(Unread(name, get(name)(config), reason) for name, reason in why.items())


def seconds_in_words(results: Results, now: float) -> str:
  """Returns `81 s: train 38.9, compile 38.2, evaluate 3.9; 89 s on the clock`.

  Args:
    results: of the run; their kinds of work are those of tables and pages, summed over all
      sessions. Of a run that was resumed the line says that the clock is that of one session.
    now: seconds on the clock since this process took the run up, loading and saving included.
  """
  seconds = {k: v for k, v in (results.get('seconds') or {}).items() if v and v >= 0.05}
  kinds = ', '.join(f'{k} {format_number(v, "seconds")}' for k, v in seconds.items())
  whole = f'{sum(seconds.values()):.0f} s: {kinds}; ' if seconds else ''
  of = ' in this session' if results.get('resumes') else ''
  return f'{whole}{now:.0f} s on the clock{of}'


@dataclasses.dataclass
class RunOutput:
  """Destinations of a run's words and numbers.

  Attributes:
    recorder: what `results.json` is made of.
    clock: seconds by kind of work.
    counter: steps and chunks of the whole run, and its events.
    log: takes the lines of `metrics.jsonl`.
    snapshots: of the run.
    callbacks: objects with any of `callbacks.EVENTS`.
    quiet: nothing is printed.
    steps_before: steps of the run before the task under way.
  """

  recorder: Recorder
  clock: Clock
  counter: ProgressCounter
  log: MetricsLog | MemoryLog
  snapshots: Snapshots | NoSnapshots
  callbacks: Sequence[object] = ()
  quiet: bool = False
  steps_before: int = 0

  def __post_init__(self) -> None:
    self._callbacks = Callbacks(self.callbacks, self.say)

  def say(self, line: str) -> None:
    """Prints a line for the person who waits."""
    if not self.quiet:
      console.show(escaped(line))

  def spent(self, *kinds: str) -> float:
    """Returns the seconds that the whole run has spent on some kinds of work."""
    return sum(self.recorder.seconds[kind] + self.clock.seconds[kind] for kind in kinds)

  def take(self, tools: HookTools) -> None:
    """Moves what the hooks reported into the record; their notes and warnings are printed."""
    for note in tools.reports.get('notes', ()):
      self.say(note)
    for warning in tools.reports.get('warnings', ()):
      self.say(f'warning: {warning}')
    self.recorder.take(tools, self.clock)

  def step(self, line: Mapping[str, object]) -> None:
    """Writes the metrics of a step to the log, and tells the callbacks."""
    self.log.write(line)
    self._tell('on_step', {**line, 'run_step': self.steps_before + cast(int, line['step'])})

  def dev_scores(self, task: Task, step: int, scores: Mapping[str, float]) -> None:
    """Writes dev scores taken inside a task to the log, and tells the callbacks.

    Args:
      task: the task under way.
      step: steps taken in it.
      scores: {task name: accuracy, or for raw text −nats per token}.
    """
    self.log.write({'task': task.index, 'step': step, 'dev': dict(scores)})
    row = {'task': task.name, 'step': step, 'split': 'dev', 'scores': dict(scores)}
    place = {'run_step': self.steps_before + step, 'tasks_done': task.index}
    self._tell('on_evaluation', row | place)

  def evaluated(
    self, task: Task | None, tasks: Sequence[Task], scores: Sequence[Score | LogPerplexity]
  ) -> None:
    """Prints the newest row of the matrix, and tells the callbacks.

    Args:
      task: after which the row was taken; None: before any training.
      tasks: that were scored, on their test splits.
      scores: of each.
    """
    self.say(self.recorder.line(task))
    values = {t.name: score.value for t, score in zip(tasks, scores, strict=True)}
    after = None if task is None else task.name
    row = {'task': after, 'step': None, 'split': 'test', 'scores': values}
    done = 0 if task is None else task.index + 1
    self._tell('on_evaluation', row | {'run_step': self.counter.steps, 'tasks_done': done})

  def begin(self, parts: Experiment, workdir: pathlib.Path | None, now: Run, resumed: bool) -> None:
    """Tells the callbacks that a run begins, or goes on.

    Args:
      parts: of the run.
      workdir: of the run; None: there is none.
      now: the run as it begins.
      resumed: whether it goes on from a snapshot.
    """
    config = parts.config
    facts = {
      'method': methods.name_of(config.method), 'stream': parts.stream.name,
      'scenario': config.scenario, 'seed': config.train.seed,
      'tasks': [task.name for task in parts.stream.tasks], 'score': parts.score,
    }  # fmt: skip
    self._tell('on_start', {
      **facts, 'config': dataclasses.asdict(config), 'resumed': resumed,
      'workdir': None if workdir is None else str(workdir),
      'run_step': self.counter.steps, 'tasks_done': max(len(now.record['matrix']) - 1, 0),
    })  # fmt: skip

  def end(self, finished: bool) -> None:
    """Tells the callbacks that the process ends its work on the run."""
    self._callbacks.tell('on_end', finished)

  def finished(self, results: Results) -> None:
    """Tells the callbacks that a task is done."""
    self._tell('on_task', {**results})

  def last_good_snapshot(self) -> str:
    """Says in words where the newest snapshot is."""
    if self.snapshots.folder is None:
      return 'the run has no workdir, so there is no snapshot to go back to'
    return f'snapshot {self.snapshots.number} in {self.snapshots.folder} is the last good one'

  def _tell(self, event: str, value: Json) -> None:
    self._callbacks.tell(event, value)
