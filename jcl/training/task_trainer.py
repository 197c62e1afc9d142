"""Trains one task: its steps, and what is due between two of them."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jcl import failures
from jcl.config import Config
from jcl.distributed import fetch
from jcl.errors import UserError
from jcl.step import sharding, trainable
from jcl.step.optimizer import learning_rate, peak_rate
from jcl.storage.encoding import leaves_by_path
from jcl.storage.progress import Bar
from jcl.streams.stream import Task, TaskPlan
from jcl.training import loss_check
from jcl.training.batch_loader import BatchLoader, LoadedBatch, check_epochs
from jcl.training.evaluate import LogPerplexity, Score
from jcl.training.experiment import Experiment
from jcl.training.fold_bars import FoldBars
from jcl.training.forecast import Forecast
from jcl.training.gradient_norms import GradientNorms
from jcl.training.hook_tools import HookTools
from jcl.training.run_output import RunOutput
from jcl.training.run_state import Run
from jcl.training.snapshot_policy import SnapshotPolicy
from jcl.training.speed import Speed
from jcl.training.state_copy import StateCopy
from jcl.training.step_inputs import StepInputs, inputs_on_devices
from jcl.types import Params, Tree

IN_FLIGHT = 2  # steps dispatched and not waited for: more deadlock fake CPU devices
LOGGED = 16  # steps of a short task that are logged at least, where it has as many
LESS = 'train.batch_size or stream.max_length, or raise train.microbatches'


class Due(NamedTuple):
  """Work that is due between a step and the next one.

  Attributes:
    snapshot: a snapshot.
    curve: dev scores of all tasks seen, for the learning curve.
    best: dev scores of the tasks that train, for `train.keep_best`.
  """

  snapshot: bool
  curve: bool
  best: bool


class TaskTrainer:
  """Trains the tasks of a run.

  Args:
    parts: of the run.
    output: where words and numbers go.
    policy: when snapshots are due.
    scores: (run, [(task, its examples), …], tools) -> the score of each, in order.
    save: writes a snapshot of a run and stops if that was asked for.
    folds: (run, task) -> context in which folds are watched.
  """

  def __init__(
    self, parts: Experiment, output: RunOutput, policy: SnapshotPolicy,
    scores: Callable[..., Sequence[Score | LogPerplexity]],
    save: Callable[[Run], None], folds: Callable[[Run, Task], FoldBars],
  ):  # fmt: skip
    self.parts, self.output, self.policy = parts, output, policy
    self._scores, self._save, self._folds = scores, save, folds
    self.train_step = parts.train_step()
    self.speed = Speed(parts, output, self.train_step)
    self.gradient_norms = GradientNorms(parts, output)
    self._log_every = parts.config.train.log_every  # steps, in the task under way
    self._refused_last = False  # the newest step read was not applied
    self._values: Mapping[str, float] = {}  # {term: value} of the newest step read

  def train(self, now: Run, task: Task, tools: HookTools) -> Run:
    """Takes all steps of a task; a run that was killed inside it goes on from its step.

    Args:
      now: the run before the task, or inside it.
      task: the task.
      tools: of the task.

    Raises:
      UserError: too many steps were not finite, or a device has too little memory.
    """
    plan = self.parts.method.plan(now.memory, task)
    if not (plan.new and plan.takes_steps):
      return now
    if self.parts.method.before_epoch is not None:
      check_epochs(plan)
    loader = BatchLoader(plan, task.index, tools, self.parts.config.train)
    # A mean or median over a task needs some steps of it, however short the task is.
    self._log_every = min(self.parts.config.train.log_every, max(loader.total // LOGGED, 1))
    self.output.steps_before = self.output.counter.steps - now.step
    bar = self._bar(now, task, loader.total)
    try:
      if self.parts.method.before_epoch is None:
        now = self._steps(now, task, tools, loader, bar)
      else:
        now = self._epochs(now, task, tools, loader, bar)
    finally:
      bar.close()
    if now.best is None:
      return now
    return now.replace(params=self._placed(now.best), optimizer=now.best_optimizer)

  def _epochs(self, now: Run, task: Task, tools: HookTools, loader: BatchLoader, bar: Bar) -> Run:
    """Takes all steps of a task, each epoch on the rows that `before_epoch` draws for it."""
    # An evaluation at the end of an epoch goes on in that epoch.
    evaluating = _is_evaluating(now, tools)
    first = (now.step - evaluating) // loader.per_epoch
    for epoch in range(first, -(-loader.total // loader.per_epoch)):
      if epoch == now.epochs:
        now = self._drawn(now, task, tools, epoch)
      plan = self.parts.method.plan(now.memory, task)
      end = min((epoch + 1) * loader.per_epoch, loader.total)
      now = self._steps(now, task, tools, loader.of_epoch(plan), bar, end)
    return now

  def _drawn(self, now: Run, task: Task, tools: HookTools, epoch: int) -> Run:
    """Calls the hook before an epoch; the rows that it draws are part of the run's memory."""
    hook = self.parts.method.before_epoch
    assert hook is not None
    now = self.recorded(now.replace(drawing=True), tools)
    with self._folds(now, task), self.output.clock.of('memory'):
      memory = hook(now.memory, now.params, task, epoch, tools)
    tools.folds.forget()
    now = self.recorded(now.replace(memory=memory, epochs=epoch + 1, drawing=False), tools)
    if self.policy.overdue():
      self._save(now)
    return now

  def _steps(
    self, now: Run, task: Task, tools: HookTools, loader: BatchLoader, bar: Bar, end: int = 0
  ) -> Run:
    """Takes the steps of a task from the run's on, up to before number `end` (0: all)."""
    inputs, loaded = self.inputs(now, loader.plan), None
    # A snapshot that was taken in a dev evaluation goes on with that evaluation.
    evaluating = _is_evaluating(now, tools)
    batches = loader.batches(now.step - evaluating, end)
    flight: collections.deque = collections.deque()
    copies = StateCopy()

    def land(most: int) -> None:
      while len(flight) > most:
        self.settle(task, bar, inputs.weights, *flight.popleft())

    try:
      with (
        self.output.clock.of('train'),
        failures.explain_oom(lambda: self._at(task, loaded), LESS),
      ):
        for loaded in batches:
          if loaded.number >= now.step:
            land(IN_FLIGHT - 1)
            inputs, step = self._step(inputs, loaded, loader, task)
            flight.append(step)
            if self.gradient_norms.due(loaded):
              land(0)
              self._measure(task, inputs, loaded, loader.total)
            due = self._due(loaded)
            if not any(due):
              continue
            land(0)
            now = self._after(now, self._copied(inputs.state, due, copies), inputs, loaded)
          else:
            due = self._due(loaded)
          now = self._between(now, task, tools, loaded, loader, due)
        land(0)
    finally:
      batches.close()
    assert loaded is not None
    tools.forget_states()
    return self._after(now, inputs.state, inputs, loaded)

  def _at(self, task: Task, loaded: LoadedBatch | None) -> str:
    """Returns the task, the step and its batch in words."""
    mesh = self.parts.tools.mesh
    shape = failures.describe_batch(loaded.batch, mesh) if loaded else 'its first batch'
    return f'task {task.name}, step {loaded.number + 1 if loaded else 0}: {shape}'

  def _measure(self, task: Task, inputs: StepInputs, loaded: LoadedBatch, steps: int) -> None:
    """Measures the gradient of each term after a step, the newest one read, if it was applied."""
    if not self._refused_last:
      self.gradient_norms.measure(task, inputs, loaded, self._values, steps)

  def _bar(self, now: Run, task: Task, steps: int) -> Bar:
    """Returns the progress of the training of a task."""
    title = f'task {task.index + 1}/{len(self.parts.stream)} {task.name}: train'
    later = Forecast(self.parts, self.output, now).after_training(task, steps)
    self.speed.begin()
    return Bar(title, steps, now.step, later=later)

  def inputs(self, now: Run, plan: TaskPlan) -> StepInputs:
    """Returns the inputs of the task's next step on the devices; the run keeps its own arrays."""
    return inputs_on_devices(
      self.parts, now.params, now.memory['teacher'], plan, now.optimizer, now.step
    )

  def _step(
    self, inputs: StepInputs, loaded: LoadedBatch, loader: BatchLoader, task: Task
  ) -> tuple[StepInputs, tuple[LoadedBatch, Tree, float]]:
    """Dispatches a step -> the inputs of the next one, and what `settle` reads later."""
    of_run = task.index, len(self.parts.stream)
    train, at = self.parts.config.train, (loaded.number, loader.total, *of_run)
    rate = learning_rate(train, *at, peak=peak_rate(train))
    self.output.snapshots.check()
    self.speed.dispatching(inputs, rate, loaded)
    self.output.counter.says('step')
    inputs, metrics = inputs.after(self.train_step, rate, loaded.batch)
    self.output.counter.took(steps=1)
    return inputs, (loaded, metrics, learning_rate(train, *at))

  def _copied(self, state: Tree, due: Due, copies: StateCopy) -> Tree:
    """Returns a copy of the state, which the next step gives up."""
    if due.snapshot:
      self.output.snapshots.wait()  # for the one that holds the last copy, as `save` would
    elif self.output.snapshots.pending:
      copies.keep()
    copy = copies.of(state)
    if due.best:  # the best parameters may be those of this copy
      copies.keep()
    return copy

  def _due(self, loaded: LoadedBatch) -> Due:
    """Returns the work that is due between this step and the next one."""
    config: Config = self.parts.config
    count, evaluate = loaded.number + 1, config.evaluate
    curve = bool(evaluate.every_steps) and count % evaluate.every_steps == 0
    if evaluate.every_epochs and loaded.ends_epoch:
      curve = curve or (loaded.epoch + 1) % evaluate.every_epochs == 0
    best = config.train.keep_best and (loaded.ends_epoch or loaded.last)
    return Due(self.policy.after_step(count) and not loaded.last, curve, best)

  def _after(self, now: Run, state: dict, inputs: StepInputs, loaded: LoadedBatch) -> Run:
    """The run after a step, whose arrays stand in `state`."""
    memory = now.memory
    if 'teacher' in state:
      memory = {**memory, 'teacher': state['teacher']}
    return now.replace(
      params=trainable.join(state['params'], inputs.fixed[0]),
      optimizer=leaves_by_path(state['optimizer']),
      memory=memory,
      step=loaded.number + 1,
    )

  def _between(
    self, now: Run, task: Task, tools: HookTools, loaded: LoadedBatch, loader: BatchLoader, due: Due
  ) -> Run:
    """Takes dev scores, keeps the best parameters and writes a snapshot, as far as they are due."""
    now = self.recorded(now, tools)
    if due.curve or due.best:
      now = self._dev_scores(now, task, tools, loaded, loader, due)
    if due.snapshot and not (self._refused_last and not self.policy.asked):
      self._save(self.recorded(now, tools))
    return now

  def _dev_scores(
    self, now: Run, task: Task, tools: HookTools, loaded: LoadedBatch, loader: BatchLoader, due: Due
  ) -> Run:
    """Writes the dev scores to the log; under `keep_best` keeps parameters that score higher."""
    tasks = self.parts.stream.tasks
    learned = [tasks[i] for i in sorted({tools.example(e).task for e in loader.plan.new})]
    asked = [t for t in tasks if t in learned or (due.curve and t.index <= task.index)]
    tools.forget_states()
    with self._folds(now, task), self.output.clock.of('evaluate'):
      found = self._scores(now, [(t, t.dev) for t in asked], tools)
    scores = {t.name: one.merit for t, one in zip(asked, found, strict=True)}
    tools.folds.forget()
    self.output.dev_scores(task, loaded.number + 1, scores)
    score = float(np.mean([scores[t.name] for t in learned]))
    if due.best and score > now.best_score:
      carried = self.parts.config.train.optimizer_between_tasks == 'carried'
      # Sharded ones stay on the devices, for the host may have no room for the whole of them.
      kept = (lambda x: x) if self.parts.config.train.fsdp else fetch
      moments = jax.tree.map(kept, now.optimizer) if carried else None
      params = jax.tree.map(kept, now.params)
      return now.replace(best=params, best_optimizer=moments, best_score=score)
    return now

  def recorded(self, now: Run, tools: HookTools) -> Run:
    """The run with what its record, clock and log say now."""
    self.output.take(tools)
    return now.replace(record=self.output.recorder.state(), log_length=self.output.log.length())

  def _placed(self, params: Params) -> Params:
    """Parameters where every compiled function expects them."""
    mesh, fsdp = self.parts.tools.mesh, self.parts.config.train.fsdp
    return sharding.place(params, mesh, sharding.specs(params, mesh, fsdp))

  def settle(
    self, task: Task, bar: Bar, weights: Mapping[str, np.float32], loaded: LoadedBatch,
    metrics: Tree, rate: float,
  ) -> None:  # fmt: skip
    """Waits for a step, reads its metrics and writes them down."""
    values = {k: float(v) for k, v in jax.device_get(jax.block_until_ready(metrics)).items()}
    if wrong := failures.not_finite(values, weights):
      self._refuse(task, loaded, wrong)
    else:
      self._warn_of_losses(task, loaded, values)
    self._refused_last = bool(wrong)
    self._values = {t: v for t, v in values.items() if t not in ('loss', 'gradient_norm')}
    self.output.recorder.weighed(task, {t: float(weights.get(t, 1.0)) for t in self._values})
    of_rows = loaded.new_rows, loaded.old_rows
    self.output.recorder.trained(task, loaded.tokens, loaded.old_tokens, of_rows)
    bar.advance(loaded.number + 1, loaded.tokens, self._note(loaded, values['loss']))
    if (loaded.number % self._log_every == 0 or loaded.last) and not wrong:
      self.output.step({'task': task.index, 'step': loaded.number + 1, 'rate': rate, **values})
    if (line := self.speed.after(loaded)) is not None:
      self.output.step({'task': task.index, 'step': loaded.number + 1, **line})

  def _note(self, loaded: LoadedBatch, loss: float) -> str:
    """Returns the loss and the epoch of a step in words."""
    train = self.parts.config.train
    of = '' if train.steps else f'/{train.epochs}'
    return f'loss {loss:.3f}, epoch {loaded.epoch + 1}{of}'

  def _warn_of_losses(self, task: Task, loaded: LoadedBatch, values: Mapping[str, float]) -> None:
    """Warns of cross-entropies that no model has; see `loss_check`."""
    parts, step = self.parts, loaded.number + 1
    uniform = loss_check.uniform_nats(parts.backbone.outputs, max(parts.summed_tasks, 1))
    found = self.output.recorder.doubtful(task, values, uniform, step, loaded.last)
    if found:
      terms = {term: values[term] for term in found}
      self.output.step({'task': task.index, 'step': step, 'doubtful': terms, 'uniform': uniform})
    for term in found:
      line = loss_check.describe(task.name, step, term, values[term], uniform)
      self.output.say(f'warning: {line}')

  def _refuse(self, task: Task, loaded: LoadedBatch, wrong: list[str]) -> None:
    """Counts a step that was not applied, and says so.

    Raises:
      UserError: it is one too many, or the last step of its task.
    """
    rows = [self.parts.stream.called(reference) for reference in loaded.rows]
    line = failures.describe_refused_step(task.name, loaded.number + 1, wrong, rows)
    count = self.output.recorder.refused(task)
    most = self.parts.config.train.max_bad_steps
    self.output.step(
      {'task': task.index, 'step': loaded.number + 1, 'refused': wrong, 'rows': rows}
    )
    if count > most or loaded.last:
      why = 'the last of its task' if loaded.last else f'train.max_bad_steps is {most}'
      raise UserError(
        f'{line}, {count} of this task so far and {why}: lower train.learning_rate or mend these '
        f'rows ({self.output.last_good_snapshot()})'
      )
    self.output.say(f'warning: {line} ({count} of at most {most} in a task)')


def _is_evaluating(now: Run, tools: HookTools) -> bool:
  """Whether a run goes on with a dev evaluation, which a snapshot was taken in."""
  return bool(tools.folds.journal.entries) and not now.drawing
