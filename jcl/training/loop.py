"""The loop: init, evaluate; then for every task before_task, train, after_task, evaluate.

Every phase is a function from run to run; a snapshot is the run between two of them, or inside one.
"""

import collections
import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jcl import distributed, failures
from jcl.errors import UserError
from jcl.preflight import checks
from jcl.step import sharding, trainable
from jcl.step.optimizer import learning_rate, merged
from jcl.storage import lock
from jcl.storage.checkpoint import MetricsLog, Snapshots, by_path
from jcl.streams.stream import Task
from jcl.training import evaluate as evaluation
from jcl.training.batch_loader import BatchLoader, LoadedBatch
from jcl.training.experiment import Experiment
from jcl.training.hook_tools import Journal
from jcl.training.progress_bar import Bar, FoldBars
from jcl.training.recorder import Clock, Record
from jcl.training.run_state import Announce, ProgressCounter, Run, nobody
from jcl.training.signals import Requests, Stopped

PHASES = 4  # a task has
IN_FLIGHT = 2  # steps dispatched and not waited for: more deadlock fake CPU devices
LESS = 'train.batch_size or stream.max_length, or raise train.microbatches'


class Loop:
  """One run: the phases and what they share.

  Args:
    parts: of the run.
    workdir: where it leaves its files; it exists.
    quiet: no progress on the terminal.
    announce: called with every event; see `position.Event`.
  """

  def __init__(
    self, parts: Experiment, workdir: pathlib.Path, quiet: bool = False,
    announce: Announce = nobody,
  ):  # fmt: skip
    self.parts, self.workdir = parts, workdir
    self.quiet = quiet or not distributed.is_first()
    self.config, self.method, self.tools = parts.config, parts.method, parts.tools
    self.optimizer, self.train_step = parts.optimizer(), parts.train_step()
    self.clock = Clock()
    self.tools.timed = self.clock.of
    self.record = Record(parts)
    self.requests, self._alone = Requests(), jax.process_count() == 1
    self._saved, self._chunks, self._bad = time.monotonic(), 0, False
    self.position = ProgressCounter(workdir, announce)

  def say(self, line: str) -> None:
    """A line for the person who waits."""
    if not self.quiet:
      print(line, flush=True)

  def run(self) -> dict[str, Any]:
    """Learns the tasks one after another; the same call goes on where a killed one was.

    Returns:
      What `results.json` says.
    """
    with lock.held(self.workdir) if distributed.is_first() else contextlib.nullcontext():
      if distributed.is_first():
        self.position.open()
      self.snapshots = Snapshots(self.workdir, announce=self.position.says)
      try:
        return self._run(self._start())
      finally:
        self.snapshots.close()
        self.position.close()

  def _run(self, now: Run) -> dict[str, Any]:
    stream, results = self.parts.stream, None
    phases: list[tuple[Task | None, Callable]] = [(None, self.init), (None, self.evaluate)]
    for task in stream.tasks:
      phases += [(task, f) for f in (self.before_task, self.train, self.after_task, self.evaluate)]
    self.log = MetricsLog(self.workdir / 'metrics.jsonl', now.log_length)
    if self.log.lost:
      self.say(f'warning: metrics.jsonl was shortened: {self.log.lost} bytes of lines are lost')
    try:
      with self.requests if self._alone else contextlib.nullcontext():
        for task, phase in phases[now.done :]:
          self.tools.current = 0 if task is None else task.index
          self.position.done = now.done
          title = functools.partial(self._title, task, phase.__name__)
          with failures.explain_oom(title, 'the size of the model, or shard it with train.fsdp'):
            now = phase(now, task)
          now = self._with_record(now.replace(done=now.done + 1))
          self.tools.journal, last = Journal(), now.done == len(phases)
          if phase == self.evaluate:
            self._save(now)
            if task is not None and self.config.checkpoint.keep_tasks:
              self.snapshots.keep(f'{task.index + 1}-{task.name}')
            results = self.record.write(self.workdir, now.params, finished=last)
            self.position.says('task done')
          elif self._late():
            self._save(now)
          if not last:
            self._stop_if_asked()
      if results is None:  # all was done before
        results = self.record.write(self.workdir, now.params, finished=True)
    finally:
      self.log.close()
    return results

  def _start(self) -> Run:
    """The newest snapshot, or the beginning."""
    found = self.snapshots.latest(self._as_it_was)
    for line in self.snapshots.messages:
      self.say(line)
    if found is None:
      if any(self.position.restore(0, [0, 0])):
        self.say('no snapshot is left of an earlier run here: it begins again')
      for line in checks.opening(self.parts, self.workdir):
        self.say(line)
      self.record.take(self.tools, self.clock)
      return Run(self._placed(self.parts.initial_params()), record=self.record.state())
    self.tools.journal = Journal([list(e) for e in found.pop('journal')])
    self.tools.generated = found.pop('generated', 0)
    machine, counts = found.pop('machine'), found.pop('counts')
    now = Run(**found)
    self.record.restore(now.record)
    task, inside = divmod(now.done - 2, PHASES)
    if self.config.checkpoint.keep_tasks and task > 0 and not inside:  # a kill may have come first
      self.snapshots.keep(f'{task}-{self.parts.stream.tasks[task - 1].name}')
    now = now.replace(params=self._placed(now.params))
    repeated, line = self.position.restore(now.done, counts), None
    phases = 2 + PHASES * len(self.parts.stream)
    if now.done < phases:
      line = self.record.resume(now.done, now.step, self.snapshots.loaded, repeated)
    self.record.resumes = self.position.resumed(line)
    self.say(f'going on from snapshot {self.snapshots.loaded}, {now.done} of {phases} phases done')
    if (here := distributed.machine(self.tools.mesh)) != machine:
      self.say(
        f'it was made on {machine}, this is {here}: it goes on within rounding, not bit for bit'
      )
    return now

  def _as_it_was(self, path: str, array: np.ndarray) -> Any:
    """An array that was on the devices, where hooks see it: numpy divides by other rules."""
    if not path.startswith(('/memory/', '/journal/')):
      return array
    return sharding.place_leaf(path, array, self.tools.mesh, self.config.train.fsdp)

  def _placed(self, params: Any) -> Any:
    """Parameters where every compiled function expects them; those in place stay."""
    mesh = self.tools.mesh
    return sharding.place(params, mesh, sharding.specs(params, mesh, self.config.train.fsdp))

  def _with_record(self, now: Run) -> Run:
    """The run with what its record and clock say now."""
    for warning in self.tools.reports.get('warnings', ()):
      self.say(f'warning: {warning}')
    self.record.take(self.tools, self.clock)
    return now.replace(record=self.record.state(), log_length=self.log.length())

  def _save(self, now: Run) -> None:
    content = {f.name: getattr(now, f.name) for f in dataclasses.fields(now)}
    content['journal'] = [list(e) for e in self.tools.journal.entries]
    content['generated'] = self.tools.generated  # by folds of the phase under way
    content['counts'] = self.position.state()
    self.snapshots.save({**content, 'machine': distributed.machine(self.tools.mesh)})
    self._saved, self._chunks = time.monotonic(), 0
    every = self.config.checkpoint
    if 1 in (every.every_steps, every.every_chunks):
      self.snapshots.wait()  # what comes next may not be repeated beside what was saved

  def _late(self) -> bool:
    """Whether the last snapshot is so old that one is due, or the run is asked to stop."""
    if self.requests.asked or not self._alone:  # processes would not agree on the time
      return bool(self.requests.asked)
    minutes = self.config.checkpoint.every_minutes
    return bool(minutes) and time.monotonic() - self._saved >= 60 * minutes

  def _after_chunk(self, now: Run) -> None:
    """Saves between two chunks of a fold: the run as the phase was entered, and the journal."""
    self._chunks += 1
    self.position.took(chunks=1)
    every = self.config.checkpoint.every_chunks
    if self._late() or (every and self._chunks >= between(every)):
      self._save(now)
      self._stop_if_asked()

  def _stop_if_asked(self) -> None:
    if self.requests.asked:
      self.snapshots.wait()
      raise Stopped(
        f'snapshot {self.snapshots.number} is in {self.snapshots.folder}; the same command goes on'
      )

  def _folds(self, now: Run, task: Task | None) -> FoldBars:
    """What watches the folds of a phase."""
    title = functools.partial(self._title, task)
    before = functools.partial(self.position.says, 'chunk')
    return FoldBars(
      self.tools, title, self.quiet, before, functools.partial(self._after_chunk, now)
    )

  def _title(self, task: Task | None, what: str) -> str:
    if task is None:
      return what
    return f'task {task.index + 1}/{len(self.parts.stream)} {task.name}: {what}'

  def _hook(self, now: Run, task: Task | None, hook: Callable) -> tuple[Any, Any]:
    """Calls a hook, its folds on a progress bar, its time on the clock."""
    with self._folds(now, task), self.clock.of('memory'):
      return hook(now.memory, now.params, task, self.tools)

  def init(self, now: Run, task: Task | None) -> Run:
    """The method's memory."""
    with self._folds(now, task), self.clock.of('memory'):
      memory = self.method.init(now.params, self.parts.stream, self.tools)
    return now.replace(memory=memory)

  def before_task(self, now: Run, task: Task) -> Run:
    """Teacher, pseudo samples, adapters."""
    memory, params = self._hook(now, task, self.method.before_task)
    carried = self.config.train.optimizer_between_tasks == 'carried'
    state = now.optimizer if carried else None
    return now.replace(
      memory=memory,
      params=self._placed(params),
      optimizer=state,
      step=0,
      best=None,
      best_score=-math.inf,
    )

  def after_task(self, now: Run, task: Task) -> Run:
    """Fisher, buffer, adapters put away."""
    memory, params = self._hook(now, task, self.method.after_task)
    return now.replace(memory=memory, params=self._placed(params), best=None)

  def train(self, now: Run, task: Task) -> Run:
    """All steps of a task."""
    plan, mesh = self.method.plan(now.memory, task), self.tools.mesh
    if not plan.new:
      return now
    feed = BatchLoader(plan, task.index, self.tools, self.config.train)
    state, fixed = self._ready(now, plan)
    weights = self._weights = {k: np.float32(v) for k, v in plan.weights.items()}
    bar = Bar(self._title(task, 'train'), feed.total, self.quiet, now.step)
    pending: collections.deque = collections.deque()
    between_steps = bool(self.tools.journal.entries)  # a kill struck in an evaluation there
    steps = feed.batches(now.step - between_steps)
    shape = lambda: (
      f'task {task.name}, step {loaded.number + 1}: {failures.shape(loaded.batch, mesh)}'
    )
    try:
      with self.clock.of('train'), failures.explain_oom(shape, LESS):
        for loaded in steps:
          if loaded.number < now.step:
            self._due(loaded, feed)
            now = self._inside(now, task, loaded, feed)
            continue
          if len(pending) == IN_FLIGHT:
            self._settle(task, bar, *pending.popleft())
          part = task.index, len(self.parts.stream)
          rate = learning_rate(self.config.train, loaded.number, feed.total, *part)
          self.position.says('step')
          state, metrics = self.train_step(state, fixed, weights, np.float32(rate), loaded.batch)
          self.position.took(steps=1)
          pending.append((loaded, metrics, rate))
          if self._due(loaded, feed):
            while pending:
              self._settle(task, bar, *pending.popleft())
            kept = jax.tree.map(jnp.array, state)  # the next step donates `state`
            now = self._inside(self._taken(now, kept, fixed, loaded), task, loaded, feed)
        while pending:
          self._settle(task, bar, *pending.popleft())
    finally:
      steps.close()
      bar.close()
    now = self._taken(now, state, fixed, loaded)
    return now if now.best is None else now.replace(params=self._placed(now.best))

  def _due(self, loaded: LoadedBatch, feed: BatchLoader) -> bool:
    """Whether something is done between this step and the next."""
    evaluate, every = self.config.evaluate, self.config.checkpoint.every_steps
    count = loaded.number + 1
    by_step = bool(every) and count % between(every) == 0
    self._snapshot_due = (by_step or self._late()) and not loaded.last
    self._curve_due = bool(evaluate.every_steps) and count % evaluate.every_steps == 0
    if evaluate.every_epochs and loaded.ends_epoch:
      self._curve_due = self._curve_due or (loaded.epoch + 1) % evaluate.every_epochs == 0
    self._best_due = self.config.train.keep_best and (loaded.ends_epoch or loaded.last)
    return self._snapshot_due or self._curve_due or self._best_due

  def _inside(self, now: Run, task: Task, loaded: LoadedBatch, feed: BatchLoader) -> Run:
    """What is done between two steps: dev scores, the best parameters, a snapshot."""
    now = self._with_record(now)
    if self._curve_due or self._best_due:
      tasks = self.parts.stream.tasks
      learned = [tasks[i] for i in sorted({e.task for e in feed.plan.new})]
      asked = [t for t in tasks if t in learned or (self._curve_due and t.index <= task.index)]
      with self._folds(now, task), self.clock.of('evaluate'):
        scores = {t.name: self._score(now, t, t.dev).merit for t in asked}
      self.tools.journal = Journal()
      self.log.write({'task': task.index, 'step': loaded.number + 1, 'dev': scores})
      score = float(np.mean([scores[t.name] for t in learned]))
      if self._best_due and score > now.best_score:
        now = now.replace(best=jax.tree.map(distributed.fetch, now.params), best_score=score)
    if self._snapshot_due and (self.requests.asked or not self._bad):
      now = self._with_record(now)
      self._save(now)
      self._stop_if_asked()
    return now

  def _ready(self, now: Run, plan: Any) -> tuple[dict, tuple]:
    """-> (state, fixed): the run's arrays as the step takes them, copied and placed."""
    mesh, fsdp = self.tools.mesh, self.config.train.fsdp
    trained, frozen, masks = self.parts.split(now.params, plan)
    own = lambda tree: jax.tree.map(jnp.array, tree)  # the step donates; a hook may keep its own
    put = lambda tree: sharding.place(tree, mesh, sharding.specs(tree, mesh, fsdp))
    fresh = jax.jit(self.optimizer.init)(trained)
    state = {
      'params': put(own(trained)),
      'optimizer': put(own(merged(fresh, now.optimizer))),
      'step': sharding.place(np.int32(now.step), mesh),
    }
    teacher = put(own(now.memory['teacher']))
    if self.method.after_step is not None:
      state['teacher'], teacher = teacher, {}
    return state, (put(frozen), sharding.place(masks, mesh), teacher)

  def _taken(self, now: Run, state: dict, fixed: tuple, loaded: LoadedBatch) -> Run:
    """The run after a step."""
    memory = now.memory
    if 'teacher' in state:
      memory = {**memory, 'teacher': state['teacher']}
    return now.replace(
      params=trainable.join(state['params'], fixed[0]), optimizer=by_path(state['optimizer']),
      memory=memory, step=loaded.number + 1,
    )  # fmt: skip

  def _settle(self, task: Task, bar: Bar, loaded: LoadedBatch, metrics: dict, rate: float) -> None:
    """Waits for a step and reads its metrics."""
    values = {k: float(v) for k, v in jax.device_get(jax.block_until_ready(metrics)).items()}
    if wrong := failures.not_finite(values, self._weights):
      self._refused(task, loaded, wrong)
    self._bad = bool(wrong)
    self.record.trained(task, loaded.tokens, loaded.old_tokens)
    bar.advance(loaded.number + 1, loaded.tokens, f'loss {values["loss"]:.3f}')
    if loaded.number % self.config.train.log_every == 0 and not wrong:
      self.log.write({'task': task.index, 'step': loaded.number + 1, 'rate': rate, **values})

  def _refused(self, task: Task, loaded: LoadedBatch, wrong: list[str]) -> None:
    """Counts and tells a step that was not applied.

    Raises:
      UserError: it is one too many, or the last of its task.
    """
    rows = [self.parts.stream.called(reference) for reference in loaded.rows]
    line = failures.refusal(task.name, loaded.number + 1, wrong, rows)
    count, most = self.record.refused(task), self.config.train.max_bad_steps
    self.log.write({'task': task.index, 'step': loaded.number + 1, 'refused': wrong, 'rows': rows})
    if count > most or loaded.last:
      why = 'the last of its task' if loaded.last else f'train.max_bad_steps is {most}'
      raise UserError(
        f'{line}, {count} of this task so far and {why}: lower train.learning_rate or mend these '
        f'rows (snapshot {self.snapshots.number} in {self.snapshots.folder} is the last good one)'
      )
    self.say(f'warning: {line} ({count} of at most {most} in a task)')

  def _score(self, now: Run, task: Task, examples: Any) -> Any:
    params = self.method.params_for(
      now.memory, now.params, task if self.parts.task_id_given else None
    )
    params = self._placed(params)
    how, longest = self.config.evaluate.answer, self.parts.longest_answer
    return evaluation.score(params, task, examples, self.tools, how, longest)

  def evaluate(self, now: Run, task: Task | None) -> Run:
    """A row of the accuracy matrix: every seen task and the next one; all before the first."""
    stream = self.parts.stream
    if task is not None and not self.method.plan(now.memory, task).new:
      self.record.skip_row()
      return now
    seen = len(stream) if task is None else min(task.index + 2, len(stream))
    with self._folds(now, task), self.clock.of('evaluate'):
      scores = [self._score(now, t, t.test) for t in stream.tasks[:seen]]
      trained = None
      if self.config.scenario == 'iil':
        trained = [self._score(now, t, t.train) for t in stream.tasks[:seen]]
    self.record.add_row(task, scores, trained)
    self.say(self.record.line(task))
    return now


def between(most: int) -> int:
  """Steps or chunks between the beginnings of two snapshots, so that a kill costs `most`.

  One is written while the work goes on, so a kill may go back to the one before it.
  """
  return max(most // 2, 1)


def train(parts: Experiment, workdir: pathlib.Path, quiet: bool = False) -> dict[str, Any]:
  """Runs an experiment in `workdir` to its end and returns its results."""
  start = time.monotonic()
  results = Loop(parts, workdir, quiet).run()
  if not quiet:
    print(f'{time.monotonic() - start:.0f} s')
  return results
