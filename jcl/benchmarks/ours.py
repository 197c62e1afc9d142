"""jcl as a contender: what a run does, by the same functions."""

import collections
import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jcl.benchmarks import RATE
from jcl.benchmarks.setting import Setting
from jcl.benchmarks.timing import OURS
from jcl.benchmarks.work import (
  MOMENTS,
  MOVED,
  Contender,
  Importance,
  Learner,
  Lesson,
  Prompts,
  Shown,
)
from jcl.memory import fisher, teacher
from jcl.step import sharding
from jcl.step.numerics import computing
from jcl.storage.checkpoint import Snapshots
from jcl.training.batch_loader import BatchLoader, LoadedBatch
from jcl.training.experiment import Experiment
from jcl.training.state_copy import StateCopy
from jcl.training.step_inputs import StepInputs, inputs_on_devices
from jcl.training.task_trainer import IN_FLIGHT
from jcl.types import Params


def contender(setting: Setting) -> Contender:
  """Returns jcl as a contender on the model of a setting."""
  parts = setting.parts
  params = sharding.place(setting.params, parts.tools.mesh)
  calls = itertools.count()
  compiled: dict[int, jax.stages.Wrapped] = {}
  squared = fisher.squared_gradient(fisher.answer_nats(parts.backbone))
  copies, waits = StateCopy(), list[float]()

  def learner(lesson: Lesson) -> Learner:
    own = lesson.parts is parts
    if id(lesson.parts) not in compiled:
      compiled[id(lesson.parts)] = lesson.parts.train_step()
    step = compiled[id(lesson.parts)]
    return OurLearner(lesson, params if own else lesson.parts.initial_params(), step)

  return Contender(
    OURS, learner,
    write=lambda prompts: write(parts, params, prompts, next(calls)),
    fisher=lambda work: importance(parts, params, squared, work),
    store=lambda folder: store(params, folder, copies, waits),
    restore=lambda folder: restore(parts, folder),
    caches_teacher=True, waits=waits,
  )  # fmt: skip


class OurLearner:
  """jcl on a lesson.

  Args:
    lesson: what is learned.
    params: of the teacher, from which the student starts.
    step: the train step of the run, which compiles once for each shape of its batches.
  """

  def __init__(self, lesson: Lesson, params: Params, step: jax.stages.Wrapped):
    self._lesson, self._params, self._compiled = lesson, params, step
    parts = lesson.parts
    self._memory = parts.method.init(params, parts.stream, parts.tools)
    self._inputs: StepInputs | None = None

  @computing
  def teach(self) -> float:
    """Takes the teacher's states at the targets of all old rows -> 1."""
    parts, old = self._lesson.parts, self._lesson.plan.old
    if old:
      states = teacher.freeze(
        self._memory, parts.backbone, self._params, old, parts.tools.at(self._lesson.task)
      )
      jax.block_until_ready(states['teacher'])
      self._memory = self._memory | states
      parts.tools.folds.forget()
    return 1.0

  def _loader(self) -> BatchLoader:
    """Returns the loader of the batches of all steps."""
    lesson = self._lesson
    plan = lesson.plan._replace(tables=self._memory.get('tables', {}))
    train = dataclasses.replace(
      lesson.parts.config.train, steps=len(lesson.steps), batch_size=lesson.batch_size
    )
    return BatchLoader(plan, lesson.task, lesson.parts.tools.at(lesson.task), train)

  def _start(self, params: Params) -> StepInputs:
    """Returns the inputs of a first step from some parameters."""
    lesson = self._lesson
    return inputs_on_devices(lesson.parts, params, self._memory['teacher'], lesson.plan)

  def _step(self, inputs: StepInputs, loaded: LoadedBatch) -> tuple[StepInputs, dict]:
    """Dispatches a step -> the inputs of the next one, and its metrics."""
    return inputs.after(self._compiled, RATE, loaded.batch)

  @computing
  def show(self) -> Shown:
    """Returns objective and gradient norm of step `Lesson.shown`, the student's weights `MOVED`."""
    moved = jax.tree.map(lambda x: jnp.float32(MOVED) * x, self._params)
    batches = self._loader().batches()
    wanted = next(itertools.islice(batches, self._lesson.shown, None))
    _, metrics = self._step(self._start(moved), wanted)
    batches.close()
    found = jax.device_get(metrics)
    return Shown(float(found['loss']), float(found['gradient_norm']))

  @computing
  def warm(self) -> None:
    """Compiles for every shape of a batch, by a step on each."""
    inputs, seen = self._start(self._params), set()
    for loaded in self._loader().batches():
      if loaded.shape not in seen:
        seen.add(loaded.shape)
        inputs, metrics = self._step(inputs, loaded)
        jax.block_until_ready(metrics)
    self._inputs = inputs
    self._batches = self._loader().batches()

  @computing
  def train(self, steps: int) -> float:
    """Takes the next steps as a run does, at most two of them in flight, and returns their number.

    Args:
      steps: their number.
    """
    assert self._inputs is not None, 'warm comes first'
    flight: collections.deque = collections.deque()
    for loaded in itertools.islice(self._batches, steps):
      while len(flight) >= IN_FLIGHT:
        jax.device_get(flight.popleft())
      self._inputs, metrics = self._step(self._inputs, loaded)
      flight.append(metrics)
    jax.device_get(list(flight))
    jax.block_until_ready(self._inputs.state)
    return float(steps)

  def close(self) -> None:
    """Ends the thread that makes batches."""
    if self._inputs is not None:
      self._batches.close()


@computing
def write(parts: Experiment, params: Params, prompts: Prompts, call: int) -> list[list[int]]:
  """Continues prompts as hooks and evaluation do; draws differ from call to call."""
  tools = parts.tools
  if prompts.rows is not None:
    tools = dataclasses.replace(tools, batch_size=prompts.rows)
  ids_RN = tools.sample(
    params, prompts.ids, tools.key('benchmark', call), k=prompts.k, max_new=prompts.longest
  )
  tools.folds.forget()
  return [up_to(row, parts.text.eos) for row in ids_RN.tolist()]


def up_to(ids: list[int], eos: int) -> list[int]:
  """Returns ids up to the first end-of-sequence, which is included."""
  return ids[: ids.index(eos) + 1] if eos in ids else ids


@computing
def importance(
  parts: Experiment, params: Params, squared: Callable[..., Params], work: Importance
) -> float:
  """Returns the sum over all parameters of the mean squared gradient of the examples."""
  found = parts.tools.mean_examples(squared, params, work.examples)
  parts.tools.folds.forget()
  return float(sum(np.asarray(x, np.float64).sum() for x in jax.tree.leaves(jax.device_get(found))))


_scaled = jax.jit(lambda x, scale: x * scale)


@computing
def store(params: Params, folder: pathlib.Path, copies: StateCopy, waits: list[float]) -> float:
  """Writes a snapshot of model and optimiser state and waits until it is on the disk -> 1.

  No two are alike, for what did not change would not be written.

  Args:
    params: of the model.
    folder: of the snapshots.
    copies: of the states, as a run makes them.
    waits: takes the seconds before a next step could begin.
  """
  scale = np.float32(1.0 + 2.0**-12 * len(waits))
  trained = jax.tree.map(lambda x: _scaled(x, scale), params)
  moments = [jax.tree.map(jax.jit(moment), trained) for moment in MOMENTS]
  state = jax.block_until_ready({'params': trained, 'first': moments[0], 'second': moments[1]})
  start = time.perf_counter()
  snapshots = Snapshots(folder)
  snapshots.save(copies.of(state))
  waits.append(time.perf_counter() - start)
  snapshots.close()
  return 1.0


@computing
def restore(parts: Experiment, folder: pathlib.Path) -> float:
  """Reads the newest snapshot, checks it and places it on the devices -> 1."""
  found = Snapshots(folder, write=False).latest()
  assert found is not None, 'store comes first'
  jax.block_until_ready(sharding.place(found, parts.tools.mesh))
  return 1.0
