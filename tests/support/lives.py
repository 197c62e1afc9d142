"""A method taken through its hooks by hand, for the tests of teachers."""

import jax
import jax.numpy as jnp
import numpy as np

from jcl import methods
from jcl.batching.batch import Shape, layout
from support import tiny
from support.scripted import good, scripted

VOCABULARY = tiny.CONFIG.vocabulary
HEAD = tiny.recurrent(VOCABULARY, classes=6)


def chosen(name, **given):
  """The method's settings; every old task gets a pseudo sample for each new example."""
  more = {'gamma': 1.0} if name == 'lamol_kd' else {}
  return methods.settings_class(name)(**{**more, **given})


def moved(leaf, move):
  """The leaf moved by three tenths of another one, without a compiled program."""
  return jnp.asarray(np.asarray(leaf) + np.float32(0.3) * np.asarray(move))


class Life:
  """A method over three tasks, its `training` a step down the gradient or any other move.

  Attributes:
    starts, ends: parameters at the start and the end of each task.
    memories: after each `before_task`.
    plans: of each task.
  """

  def __init__(self, name, tools=None, **given):
    settings = chosen(name, **given)
    given_tools = tools or tiny.tools(settings.text_format, examples=7)
    self.tools = tools = scripted(given_tools, good)
    self.method = method = methods.make(tools.backbone, settings)
    params = tiny.params(tools.backbone)
    memory = method.init(params, tools.stream, tools)
    self.first, self.starts, self.ends, self.memories, self.plans = memory, [], [], [], []
    for task in tools.stream.tasks:
      tools = tools.at(task.index)
      memory, params = method.before_task(memory, params, task, tools)
      self.starts.append(params)
      self.memories.append(memory)
      self.plans.append(method.plan(memory, task))
      move = tiny.params(tools.backbone, 10 + task.index)
      params = jax.tree.map(moved, params, move)
      self.ends.append(params)
      memory, params = method.after_task(memory, params, task, tools)
    self.last = memory

  def rows(self, task, count=16):
    """Rows of a plan, new and old."""
    plan, rows_of = self.plans[task], self.tools.text.rows
    example = self.tools.example
    new = [r for e in plan.new for r in rows_of(example(e), False)]
    old = [r for e in plan.old for r in rows_of(example(e), True)]
    return new[: count // 2] + old[: count // 2]

  def batch(self, task):
    """As the feed lays it out."""
    tables, heads = self.plans[task].tables, self.tools.heads
    if heads is not None:
      heads = heads._replace(current=task)
    return layout(self.rows(task), 1, Shape(16, 24, 256), tables=tables, heads=heads)
