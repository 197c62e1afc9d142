"""The inputs of the train step, assembled once for training, cost and footprint."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jcl.batching.batch import Batch
from jcl.step import sharding
from jcl.step.groups import NO_GROUPS, Groups
from jcl.step.optimizer import merged
from jcl.streams.stream import TaskPlan
from jcl.training.experiment import Experiment
from jcl.types import Tree


class StepInputs(NamedTuple):
  """Inputs of the train step beside the batch and the learning rate.

  Attributes:
    state: `params` (those that train), `optimizer`, `step`, and `teacher` where it moves.
    fixed: (frozen parameters, masks, a teacher that does not move).
    weights: {term: float32 weight}.
    groups: of the terms, static; none but for a method that combines their gradients.
  """

  state: dict[str, Tree]
  fixed: tuple[Tree, Tree, Tree]
  weights: dict[str, np.float32]
  groups: Groups = NO_GROUPS

  @property
  def teacher(self) -> Tree:
    """The teacher parameters, wherever they stand."""
    return self.state.get('teacher', self.fixed[2])

  def after(self, step: Callable, rate: float, batch: Batch) -> tuple['StepInputs', dict]:
    """Dispatches a step and returns the inputs of the next one, and its metrics.

    Args:
      step: jitted, of `train_step.make_step`; the state is given up to it.
      rate: learning rate.
      batch: on the devices.
    """
    state, metrics = step(
      self.state, self.fixed, self.weights, np.float32(rate), batch, self.groups
    )
    return self._replace(state=state), metrics


def step_inputs(
  parts: Experiment,
  params: Tree,
  teacher: Tree,
  plan: TaskPlan,
  place: Callable[[Tree, Tree, bool], Tree],
  start: Callable[[Tree], Tree],
  carried: dict[str, Tree] | None = None,
  step: int = 0,
) -> StepInputs:
  """Assembles the inputs of the first step of a task.

  Args:
    parts: of the run.
    params: all parameters, arrays or their shapes.
    teacher: `teacher_params`, likewise.
    plan: of the task.
    place: (tree, partition specs, shared) -> the tree on the mesh; the step gives up what it gets,
      so a tree that something else keeps must be copied.
    start: trained parameters -> fresh optimiser state, which nothing else keeps.
    carried: leaves of an earlier optimiser state by path; None: fresh.
    step: steps taken in the task.

  Raises:
    UserError: nothing would train.
  """
  mesh, fsdp = parts.tools.mesh, parts.config.train.fsdp
  put = lambda tree, donated: place(tree, sharding.specs(tree, mesh, fsdp), donated)
  trained, frozen, masks = parts.split(params, plan)
  state = {
    'params': put(trained, True),
    'optimizer': put(merged(start(trained), carried, masks, step), carried is not None),
    'step': place(np.int32(step), sharding.WHOLE, False),
  }
  theirs = put(teacher, True)
  if parts.method.after_step is not None:
    state['teacher'], theirs = theirs, {}
  weights = {name: np.float32(weight) for name, weight in plan.weights.items()}
  fixed = put(frozen, False), place(masks, sharding.WHOLE, False), theirs
  return StepInputs(state, fixed, weights, Groups.of(plan.groups))


def inputs_on_devices(
  parts: Experiment, params: Tree, teacher: Tree, plan: TaskPlan,
  carried: dict[str, Tree] | None = None, step: int = 0,
) -> StepInputs:  # fmt: skip
  """Returns `step_inputs` on the devices, the optimiser state fresh but for what is carried."""
  start = sharding.born(parts.optimizer().init, parts.tools.mesh, parts.config.train.fsdp)
  return step_inputs(parts, params, teacher, plan, place_on_devices(parts), start, carried, step)


def place_on_devices(parts: Experiment) -> Callable[[Tree, Tree, bool], Tree]:
  """Returns `place` for `step_inputs` that copies to the devices what is shared."""
  mesh = parts.tools.mesh

  def place(tree: Tree, specs: Tree, shared: bool) -> Tree:
    copied = jax.tree.map(jax.numpy.array, tree) if shared else tree
    return sharding.place(copied, mesh, specs)

  return place


def outline_on_devices(parts: Experiment) -> Callable[[Tree, Tree, bool], Tree]:
  """Returns `place` for `step_inputs` that gives shapes with shardings and allocates nothing."""
  return lambda tree, specs, donated: sharding.outline(tree, parts.tools.mesh, specs)
