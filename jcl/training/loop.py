"""The loop: init, evaluate; then for every task before_task, train, after_task, evaluate.

Every phase is a function from run to run; a snapshot is the run between two of them, or inside one.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jcl import distributed, failures
from jcl.errors import count_of
from jcl.methods.compose import same_arrays
from jcl.reports.results import Results
from jcl.step import sharding
from jcl.step.carried import surviving
from jcl.step.numerics import computing
from jcl.storage import lock
from jcl.storage.checkpoint import Snapshots
from jcl.storage.in_memory import MemoryLog, NoSnapshots
from jcl.storage.metrics_log import MetricsLog
from jcl.storage.stored import Stored
from jcl.streams.stream import Example, Task
from jcl.training import evaluate as evaluation
from jcl.training import peers
from jcl.training.answer_format import describe
from jcl.training.experiment import Experiment
from jcl.training.fold_bars import FoldBars
from jcl.training.folds import Journal
from jcl.training.forecast import Forecast
from jcl.training.hook_tools import HookTools
from jcl.training.probe import measure
from jcl.training.recorder import Clock, Recorder
from jcl.training.run_output import RunOutput
from jcl.training.run_state import Announce, ProgressCounter, Run, nobody
from jcl.training.signals import Requests, stopped
from jcl.training.snapshot_policy import SnapshotPolicy
from jcl.training.task_trainer import TaskTrainer
from jcl.types import Json, Memory, Params

PHASES = 4  # a task has
Phase = Callable[[Run, Any], Run]


class Loop:
  """One run: its phases, from the beginning or from the newest snapshot.

  Args:
    parts: of the run.
    workdir: folder that exists, in which the run leaves its files; None: everything stays in
      memory, and a run that is killed is lost.
    quiet: nothing is printed.
    announce: called with every event; see `run_state.Event`.
    callbacks: see `RunOutput`.

  Attributes:
    last: the run after its newest phase.
  """

  def __init__(
    self, parts: Experiment, workdir: pathlib.Path | None, quiet: bool = False,
    announce: Announce = nobody, callbacks: Sequence[object] = (),
  ):  # fmt: skip
    self.parts, self.workdir = parts, workdir
    self.config, self.method, self.tools = parts.config, parts.method, parts.tools
    self.output = RunOutput(
      Recorder(parts), Clock(), ProgressCounter(workdir, announce), MemoryLog(), NoSnapshots(),
      callbacks, quiet or not distributed.is_first(),
    )  # fmt: skip
    self.tools.folds.timed = self.output.clock.of
    with_others = peers.start()
    self.requests = Requests(with_others.wish if with_others else None)
    self.policy = SnapshotPolicy(self.config.checkpoint, self.requests, with_others)
    self.trainer = TaskTrainer(
      parts, self.output, self.policy, scores=lambda *given: self.scores(*given),
      save=self._save_and_stop_if_asked, folds=self._folds,
    )  # fmt: skip
    self.last: Run | None = None

  @computing
  def run(self) -> Results:
    """Learns the tasks one after another; the same call goes on where a killed run was.

    Returns:
      The contents of `results.json`.
    """
    if self.workdir is None:
      return self._phases(self._start())
    first = distributed.is_first()
    with lock.held(self.workdir) if first else contextlib.nullcontext():
      if first:
        describe(self.workdir, self.parts)
        self.output.counter.open()
      self.output.snapshots = Snapshots(self.workdir, announce=self.output.counter.says)
      try:
        return self._phases(self._start())
      finally:
        self.output.snapshots.close()
        self.output.counter.close()

  def _phases(self, now: Run) -> Results:
    """Runs the phases that are left and returns the results."""
    phases: list[tuple[Task | None, Phase]] = [(None, self.init), (None, self.evaluate)]
    for task in self.parts.stream.tasks:
      phases += [(task, f) for f in (self.before_task, self.train, self.after_task, self.evaluate)]
    if self.workdir is not None:
      self.output.log = MetricsLog(self.workdir / 'metrics.jsonl', now.log_length)
    if lost := self.output.log.lost:
      lines = f'lines of {count_of(lost, "byte")}'
      self.output.say(f'warning: metrics.jsonl was shortened: {lines} are lost')
    results, left = None, phases[now.done :]
    try:
      if left:
        resumed = self.output.snapshots.loaded >= 0
        self.output.begin(self.parts, self.workdir, now, resumed)
      with self.requests:
        for of, phase in left:
          now, results = self._phase(now, of, phase, last=now.done + 1 == len(phases))
      self.last = now
      if results is None:  # all was done before
        results = self._write(now, finished=True)
    finally:
      self.output.log.close()
      self.trainer.speed.close()
      if left:
        self.output.end(finished=bool(results and results['finished']))
    if (
      self.requests.asked == 'SIGINT'
    ):  # too late for a step of this run, but not for a loop over runs
      raise stopped('SIGINT', 'the run is complete', kept=False)
    return results

  def _phase(
    self, now: Run, task: Task | None, phase: Phase, last: bool
  ) -> tuple[Run, Results | None]:
    """Runs a phase and saves the run where that is due -> the run, and results after a task."""
    self.output.counter.done = now.done
    title = lambda: self._title(task, phase.__name__)
    with failures.explain_oom(title, 'the size of the model, or shard it with train.fsdp'):
      now = phase(now, task)
    now = self.trainer.recorded(now.replace(done=now.done + 1), self.tools)
    self.tools.folds.forget()
    results = None
    if phase == self.evaluate:
      self._save(now)
      if task is not None and self.config.checkpoint.keep_tasks:
        self.output.snapshots.keep(f'{task.index + 1}-{task.name}')
      results = self._write(now, finished=last)
      self.output.counter.says('task done')
      if task is not None:
        self.last = now
        self.output.finished(results)
    elif self.policy.overdue():
      self._save(now)
    if not last:
      self._stop_if_asked()
    return now, results

  def _write(self, now: Run, finished: bool) -> Results:
    """Writes the results, if there is a workdir, and returns them."""
    self.output.recorder.kept(now.memory)
    if self.workdir is None:
      return self.output.recorder.results(now.params, finished)
    return self.output.recorder.write(self.workdir, now.params, finished, self.output.log.lines)

  def _start(self) -> Run:
    """Returns the run of the newest snapshot, or one at its beginning."""
    snapshots, counter = self.output.snapshots, self.output.counter
    found = snapshots.latest(self._as_it_was)
    for line in snapshots.messages:
      self.output.say(line)
    if found is None:
      if any(counter.restore(0, [0, 0])):
        self.output.say('no snapshot is left of an earlier run here: it begins again')
      self.output.recorder.take(self.tools, self.output.clock)
      params = self._placed(self.parts.initial_params())
      return Run(params, record=self.output.recorder.state())
    return self._resume(found)

  def _resume(self, found: Json) -> Run:
    """Returns the run of a snapshot's content, and says what it goes on with."""
    snapshots, counter = self.output.snapshots, self.output.counter
    self.tools.reports.clear()  # the snapshot has what was reported before the first phase
    self.tools.folds.journal = Journal([list(e) for e in found.pop('journal')])
    self.tools.folds.generated = found.pop('generated', 0)
    machine, counts = found.pop('machine'), found.pop('counts')
    now = Run(**found)
    self.output.recorder.restore(now.record)
    task, inside = divmod(now.done - 2, PHASES)
    if self.config.checkpoint.keep_tasks and task > 0 and not inside:  # a kill may have come first
      snapshots.keep(f'{task}-{self.parts.stream.tasks[task - 1].name}')
    now = now.replace(params=self._placed(now.params))
    repeated, line = counter.restore(now.done, counts), None
    phases = 2 + PHASES * len(self.parts.stream)
    if now.done < phases:
      line = self.output.recorder.resume(now.done, now.step, snapshots.loaded, repeated)
    self.output.recorder.resumes = counter.resumed(line)
    self.output.say(
      f'going on from snapshot {snapshots.loaded}, {now.done} of {phases} phases done'
    )
    if (here := distributed.machine(self.tools.mesh)) != machine:
      self.output.say(
        f'it was made on {machine}, this is {here}: it goes on within rounding, not bit for bit'
      )
    return now

  def _as_it_was(self, path: str, array: Stored) -> np.ndarray | jax.Array:
    """Restores an array of memory or journal to the devices, and with fsdp every array.

    Hooks compute with it there: NumPy and XLA round a division differently. The host may have no
    room for the whole of what is sharded.
    """
    if not (self.config.train.fsdp or path.startswith(('/memory/', '/journal/'))):
      return np.asarray(array)
    return sharding.place_leaf(path, array, self.tools.mesh, self.config.train.fsdp)

  def _placed(self, params: Params) -> Params:
    """Returns parameters where every compiled function expects them; those in place stay."""
    mesh = self.tools.mesh
    return sharding.place(params, mesh, sharding.specs(params, mesh, self.config.train.fsdp))

  def _save(self, now: Run) -> None:
    """Begins to write a snapshot, and waits for it where a kill may cost no more than one step."""
    content = {f.name: getattr(now, f.name) for f in dataclasses.fields(now)}
    folds = self.tools.folds
    content['journal'] = folds.journal.copied()
    content['generated'] = folds.generated  # by folds of the phase under way
    content['counts'] = self.output.counter.state()
    machine = distributed.machine(self.tools.mesh)
    self.output.snapshots.save({**content, 'machine': machine})
    self.policy.saved()
    if self.policy.waits:
      self.output.snapshots.wait()

  def _stop_if_asked(self) -> None:
    """Ends the run if it is asked to stop.

    Raises:
      Stopped: it is; the message says where its snapshot is.
    """
    if self.requests.asked:
      snapshots = self.output.snapshots
      snapshots.wait()
      if self.workdir is None:
        nothing = 'the run has no workdir, so nothing of it is kept'
        raise stopped(self.requests.asked, nothing, kept=False)
      where = f'snapshot {snapshots.number} is in {snapshots.folder}'
      raise stopped(self.requests.asked, where)

  def _save_and_stop_if_asked(self, now: Run) -> None:
    self._save(now)
    self._stop_if_asked()

  def _after_chunk(self, now: Run) -> None:
    """Saves between two chunks of a fold: the run as its phase was entered, and the journal."""
    self.output.counter.took(chunks=1)
    self.output.snapshots.check()
    if self.policy.after_chunk():
      self._save_and_stop_if_asked(now)

  def _folds(self, now: Run, task: Task | None) -> FoldBars:
    """Returns the context in which the folds of a phase are shown and saved."""
    return FoldBars(
      self.tools.folds, lambda what: self._title(task, what),
      later=Forecast(self.parts, self.output, now).after_fold(task),
      before=lambda: self.output.counter.says('chunk'), after=lambda: self._after_chunk(now),
    )  # fmt: skip

  def _title(self, task: Task | None, what: str) -> str:
    """Returns the name of a piece of work, for a progress bar or an error."""
    if task is None:
      return f'before training: {what}'
    return f'task {task.index + 1}/{len(self.parts.stream)} {task.name}: {what}'

  def _tools(self, task: Task | None) -> HookTools:
    """Returns the tools while a task is under way."""
    return self.tools.at(0 if task is None else task.index)

  def _hook(self, now: Run, task: Task, hook: Callable) -> tuple[Memory, Params]:
    """Calls a hook -> memory, params. Its folds stand on a progress bar, its time on the clock."""
    with self._folds(now, task), self.output.clock.of('memory'):
      memory, params = hook(now.memory, now.params, task, self._tools(task))
      jax.block_until_ready((memory['teacher'], params))  # work of the hook, not of the first step
    if not same_backbone(now.params, params):
      self.tools.forget_states()
    return memory, params

  def init(self, now: Run, task: Task | None) -> Run:
    """Makes the method's memory."""
    with self._folds(now, task), self.output.clock.of('memory'):
      memory = self.method.init(now.params, self.parts.stream, self._tools(task))
    return now.replace(memory=memory)

  def before_task(self, now: Run, task: Task) -> Run:
    """Calls the hook before a task: teacher, pseudo samples, adapters."""
    memory, params = self._hook(now, task, self.method.before_task)
    carried = self.config.train.optimizer_between_tasks == 'carried'
    return now.replace(
      memory=memory,
      params=self._placed(params),
      optimizer=surviving(now.optimizer, now.params, params) if carried else None,
      step=0,
      epochs=0,
      best=None,
      best_optimizer=None,
      best_score=-math.inf,
    )

  def train(self, now: Run, task: Task) -> Run:
    """Takes the steps of a task."""
    return self.trainer.train(now, task, self._tools(task))

  def after_task(self, now: Run, task: Task) -> Run:
    """Calls the hook after a task: Fisher, buffer, adapters put away."""
    memory, params = self._hook(now, task, self.method.after_task)
    return now.replace(memory=memory, params=self._placed(params), best=None, best_optimizer=None)

  def evaluate(self, now: Run, task: Task | None) -> Run:
    """Adds a row to the accuracy matrix: every seen task and the next; before training, all."""
    stream, recorder = self.parts.stream, self.output.recorder
    if task is not None and not self.method.plan(now.memory, task).new:
      recorder.skip_row()
      return now
    tasks = stream.tasks[: len(stream) if task is None else task.index + 2]
    tools = self._tools(task)
    with self._folds(now, task), self.output.clock.of('evaluate'):
      scores = self.scores(now, [(t, t.test) for t in tasks], tools)
      trained = None
      if self.config.scenario == 'iil':
        trained = self.scores(now, [(t, t.train) for t in tasks], tools)
      if self.parts.probe:
        self.tools.report(probe=self._probed(now, task, tools))
    recorder.add_row(task, scores, trained)
    self.output.evaluated(task, tasks, scores)
    return now

  @functools.cached_property
  def _first_model(self) -> Params:
    """The parameters that the run started from."""
    return self.parts.initial_params()

  def _probed(self, now: Run, task: Task | None, tools: HookTools) -> Json:
    """Compares the model with the one that the run started from, on text and prompts."""
    tasks, place = self.parts.stream.tasks, 0 if task is None else task.index + 1
    coming = tasks[place] if place < len(tasks) else None
    given = task if self.parts.task_id_given else None
    params = self._placed(self.method.params_for(now.memory, now.params, given))
    return measure(params, self._first_model, self.parts.probe, task, coming, tools)

  def scores(
    self, now: Run, asked: Sequence[tuple[Task, Sequence[Example]]], tools: HookTools
  ) -> list[evaluation.Score | evaluation.LogPerplexity]:
    """Scores the parameters that answer for each of some tasks on examples of it."""
    answering = lambda task: self._placed(self.method.params_for(now.memory, now.params, task))
    if self.parts.task_id_given:
      return [self.score(answering(t), t, examples, tools) for t, examples in asked]
    params = answering(None)  # once: it may be a merge
    return [self.score(params, t, examples, tools) for t, examples in asked]

  def score(
    self, params: Params, task: Task, examples: Sequence[Example], tools: HookTools
  ) -> evaluation.Score | evaluation.LogPerplexity:
    """Scores parameters on examples of one task."""
    how, longest = self.config.evaluate.answer, self.parts.longest_answer
    return evaluation.score(params, task, examples, tools, how, longest)


def same_backbone(some: Params, others: Params) -> bool:
  """Whether two trees of parameters are the very same arrays, kernel and bias of a head apart."""
  head = {'kernel': None, 'bias': None}
  plain = lambda params: {**params, 'head': {**params.get('head', {}), **head}}
  return same_arrays(plain(some), plain(others))
