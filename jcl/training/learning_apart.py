"""Training inside a hook: a model learns the examples of a plan apart from the run."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Wrapped

from jcl.config import TrainConfig
from jcl.methods.method import Method
from jcl.step import optimizer, sharding, train_step, trainable
from jcl.step.groups import NO_GROUPS
from jcl.storage.encoding import leaves_by_path
from jcl.streams.stream import TaskPlan
from jcl.training.batch_loader import BatchLoader, LoadedBatch
from jcl.types import Params, Tree

if TYPE_CHECKING:
  from jcl.training.hook_tools import HookTools

STEPS = 16  # of a chunk, which a kill costs at most
TABLES = ('embed', 'unembed')  # leaves whose rows are tokens


def learned(
  tools: 'HookTools', params: Params, plan: TaskPlan, loss_fn: Callable, train: TrainConfig,
  name: str,
) -> Params:  # fmt: skip
  """Returns the parameters after the steps of a plan, with a fresh optimiser.

  Args:
    tools: of the run.
    params: where the training starts.
    plan: examples, mix and weights of terms; `trainable` and `groups` are not read.
    loss_fn: as `Method.loss_fn`, with an empty teacher; give the same one each time, or it compiles
      again.
    train: settings of the training.
    name: of the fold.
  """
  mesh, fsdp = tools.mesh, train.fsdp
  put = lambda tree: sharding.place(tree, mesh, sharding.specs(tree, mesh, fsdp))
  rules = optimizer.rules_of(train.trainable, ())
  trained, frozen, masks = trainable.split(params, rules)
  made = optimizer.make_optimizer(train, tools.added, TABLES)
  like = {'params': trained, 'optimizer': jax.eval_shape(made.init, trained)}
  step = tools.steps.setdefault(loss_fn, _compiled(tools, loss_fn, train))
  loader = BatchLoader(plan, tools.task_index, tools, train)
  fixed: tuple[Tree, Tree, Tree] = put(frozen), sharding.place(masks, mesh), {}
  weights = {term: np.float32(weight) for term, weight in plan.weights.items()}
  peak = optimizer.peak_rate(train)
  batches: Iterator[LoadedBatch] = iter(())
  coming = -1  # number of the step that `batches` gives next

  def part(carry: Tree, numbers: range) -> Tree:
    nonlocal batches, coming
    if coming != numbers[0]:
      batches, coming = loader.batches(numbers[0]), numbers[0]
    whole = {name: _tree(leaves, like[name]) for name, leaves in carry.items()}
    state = {name: put(jax.tree.map(jnp.array, tree)) for name, tree in whole.items()}
    state['step'] = sharding.place(np.int32(numbers[0]), mesh)
    for number in numbers:
      rate = optimizer.learning_rate(train, number, loader.total, peak=peak)
      batch = next(batches).batch
      state, metrics = step(state, fixed, weights, np.float32(rate), batch, NO_GROUPS)
      jax.block_until_ready(metrics)
    coming = numbers[-1] + 1
    return {name: leaves_by_path(state[name]) for name in carry}

  start = {'params': trained, 'optimizer': sharding.born(made.init, mesh, fsdp)(trained)}
  chunks = [
    range(first, min(first + STEPS, loader.total)) for first in range(0, loader.total, STEPS)
  ]
  carry = {name: leaves_by_path(tree) for name, tree in start.items()}
  found = tools.folds.run(name, part, carry, chunks, train.batch_size)
  return trainable.join(_tree(found['params'], trained), frozen)


def _compiled(tools: 'HookTools', loss_fn: Callable, train: TrainConfig) -> Wrapped:
  """Returns the train step, not compiled yet."""
  tasks = len(tools.stream.tasks) if tools.heads is not None and tools.task_id_given else 0
  return train_step.make_step(
    Method(loss_fn=loss_fn), loss_fn, optimizer.make_optimizer(train, tools.added, TABLES),
    tools.mesh, fsdp=train.fsdp, tasks=tasks, microbatches=train.microbatches,
  )  # fmt: skip


def _tree(leaves: Tree, like: Tree) -> Tree:
  """Returns the leaves of `leaves_by_path` in a tree of the structure of another."""
  paths, structure = jax.tree_util.tree_flatten_with_path(like)
  return jax.tree.unflatten(structure, [leaves[jax.tree_util.keystr(path)] for path, _ in paths])
