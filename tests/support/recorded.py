"""Which shared settings a run reads, seen by recording attributes, and which have an effect."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import jcl
from jcl import config as settings
from jcl.batching.batch import layout
from jcl.batching.batch_shapes import rungs
from jcl.config import Config
from jcl.preflight.footprint import shape_only
from jcl.step import optimizer, sharding, train_step
from jcl.training.batch_loader import BatchLoader
from jcl.training.experiment import Experiment
from support import tiny

JCL = pathlib.Path(jcl.__file__).parent
SECTIONS = {
  'stream': settings.StreamConfig, 'backbone': settings.BackboneConfig,
  'train': settings.TrainConfig, 'adversarial': settings.AdversarialConfig,
  'evaluate': settings.EvaluateConfig, 'checkpoint': settings.CheckpointConfig,
}  # fmt: skip
# Code that reads every field of a settings class, or reads one to show it.
GENERIC = tuple(
  str(JCL / place) for place in
  ('config', 'workdir.py', 'storage/paths.py', 'preflight', 'reports', 'streams/task_order.py')
)  # fmt: skip
RATES = ('learning_rate', 'head_learning_rate', 'adapter_learning_rate')


@contextlib.contextmanager
def recorded() -> Iterator[set[str]]:
  """Within it, the names of the shared settings that are read, such as `train.seed`.

  What generic code reads, and what a function called `check…` reads to refuse it, does not count.
  """
  found: set[str] = set()
  with contextlib.ExitStack() as stack:
    for section, kind in SECTIONS.items():
      names = {f'{field.name}': f'{section}.{field.name}' for field in dataclasses.fields(kind)}

      def reading(self, name, names=names):
        if name in names and _counts(sys._getframe(1)):
          found.add(names[name])
        return object.__getattribute__(self, name)

      stack.enter_context(mock.patch.object(kind, '__getattribute__', reading))
    yield found


def _counts(frame) -> bool:
  """Whether a read in a frame is of code that uses the value."""
  file = frame.f_code.co_filename
  while frame.f_code.co_name.startswith('<') and frame.f_back is not None:
    frame = frame.f_back
  name = frame.f_code.co_name.lstrip('_')
  return file.startswith(str(JCL)) and not file.startswith(GENERIC) and not name.startswith('check')


def trace(parts: Experiment) -> set[str]:
  """Traces the hooks and the step of the first two tasks; returns the names of what trains."""
  tools, stream, groups = shape_only(parts.tools), parts.stream, set()
  parts.train_step()

  def life(params):
    out, memory = [], parts.method.init(params, stream, tools)
    for task in stream.tasks[:2]:
      here = tools.at(task.index)
      memory, params = parts.method.before_task(memory, params, task, here)
      plan = parts.method.plan(memory, task)
      if not plan.new:
        continue
      plan = plan._replace(new=[here.example(e) for e in plan.new])
      loader = BatchLoader(plan, task.index, parts.tools.at(task.index), parts.config.train)
      assert loader.largest
      trained, frozen, masks = parts.split(params, plan)
      groups.update(k for k, v in trained.items() if jax.tree.leaves(v))
      rows = [row for e in plan.new[:2] for row in parts.text.rows(e)]
      batch = layout(
        rows, 1, rungs([rows], 1, 16)[0], tiny.keys(len(rows)), plan.tables, heads=here.heads
      )
      fn = train_step.make_gradient(
        parts.method, parts.loss_fn, sharding.make_mesh(1), tasks=parts.summed_tasks
      )
      of = train_step.Groups.of(plan.groups)
      out.append(fn(trained, frozen, memory['teacher'], dict(plan.weights), batch, of, masks))
      memory, params = parts.method.after_task(memory, params, task, here)
    return out

  jax.eval_shape(life, jax.eval_shape(parts.backbone.init, jax.random.key(0)))
  train = parts.config.train
  optimizer.learning_rate(train, 1, 4, 1, 2, peak=optimizer.peak_rate(train))
  return groups


def rates_with_effect(config: Config, groups: set[str]) -> set[str]:
  """Names of the learning rates on which a step of some groups of leaves depends."""

  def step(train):
    whole = {name: {'kernel': jnp.ones(3)} for name in groups}
    made = optimizer.make_optimizer(train)
    updates, _ = made.update(whole, made.init(whole), whole)
    peak = optimizer.peak_rate(train)
    return {k: peak * np.asarray(v['kernel'], np.float64) for k, v in updates.items()}

  train = dataclasses.replace(config.train, learning_rate=config.train.learning_rate or 1e-3)
  found, before = set(), step(train)
  for name in RATES:
    after = step(dataclasses.replace(train, **{name: 2 * getattr(train, name)}))
    if not all(np.allclose(after[k], before[k], rtol=1e-5) for k in groups):
      found.add(f'train.{name}')
  return found
