"""Pairs of methods in both orders of their names: the same lives, and the order of their hooks.

Two tasks of the tiny stream are gone through. In place of training all parameters shrink, so every
hook that reads them sees other numbers than the one before. The objective is compared as the
program that JAX traces, which costs no compilation.
"""

import atexit
import contextlib
import dataclasses
import functools
import itertools
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

from jcl import methods
from jcl.backbones import tokenizers
from jcl.batching.batch import layout
from jcl.batching.batch_shapes import rungs
from jcl.batching.packed_text import PackedText, pack
from jcl.errors import UserError
from jcl.methods.compose import HOOKS
from jcl.step import losses, sharding, train_step, trainable
from jcl.training.hook_tools import HookTools, make_tools
from support import tiny
from support.scripted import ScriptedTools, good, scripted

SETTINGS = {
  'lambda_ewc': 30.0, 'replay_ratio': 1.0, 'gamma': 1.0, 'r': 2, 'every': 1, 'drift': False,
  'task_tokens': True, 'projection': 8, 'teacher_epochs': 1,
}  # fmt: skip
TASKS = 2
BLOCK = 7  # tokens of raw text


class Call(NamedTuple):
  """A call of a hook of one method of a composition."""

  name: str
  hook: str
  given: Any
  found: Any


@dataclasses.dataclass(frozen=True)
class DrawingTools(ScriptedTools):
  """Tools that note the parameters that samples are drawn from."""

  drawn_from: list = dataclasses.field(default_factory=list)

  def sample(self, params, *args, **kwargs):
    """As scripted."""
    self.drawn_from.append(params)
    return super().sample(params, *args, **kwargs)


@functools.cache
def allowed_pairs() -> tuple[tuple[str, str], ...]:
  """Every pair of methods of the package that composes; both orders do, or neither does."""
  found = []
  for pair in itertools.combinations(methods.BUILT_IN, 2):
    composes = [_composes(names) for names in (pair, pair[::-1])]
    assert composes[0] == composes[1], pair
    found += [pair] if composes[0] and _scenarios(pair) else []
  return tuple(found)


def partners(name: str) -> list[str]:
  """Methods that compose with a method."""
  return [b if a == name else a for a, b in allowed_pairs() if name in (a, b)]


def _composes(names: tuple[str, ...]) -> bool:
  try:
    methods.settings('+'.join(names))
  except UserError:
    return False
  return True


def _scenarios(names: tuple[str, ...]) -> tuple[str, ...]:
  """Scenarios in which both have a meaning; a pair without one cannot run."""
  return methods.settings('+'.join(names)).scenarios


def chosen(names: tuple[str, ...]) -> methods.Settings:
  """Settings of a composition for a tiny run."""
  made = methods.settings('+'.join(names))
  for part in methods.parts(made).values():
    for field in dataclasses.fields(part):
      setattr(part, field.name, SETTINGS.get(field.name, getattr(part, field.name)))
  return made


@functools.cache
def _tools(packed: bool, deep: bool) -> tuple[HookTools, Any]:
  """Tools for raw text or for rows, and initial parameters; shared, with what they compiled."""
  make = tiny.small_decoder if deep else tiny.recurrent
  if not packed:
    tools = tiny.tools('lamol_task', make=make)  # which every method can read
    return tools, tiny.params(tools.backbone)
  documents, folder = tiny.stream(), tempfile.mkdtemp()
  words = tiny.text('plain', documents)
  text = PackedText(pathlib.Path(folder), words.tokenizer, words.special, documents.template, BLOCK)
  backbone = make(tokenizers.vocabulary_size(words.tokenizer))
  tools = make_tools(backbone, text, pack(documents, text), sharding.make_mesh(1), 0, 8)
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return tools, tiny.params(tools.backbone)


@functools.cache
def _built(name: str, backbone: Any) -> methods.Method:
  """A method, built once for a backbone, so that what its hooks compile is shared by all pairs."""
  return methods.make(backbone, chosen((name,)))


@contextlib.contextmanager
def _watched(names: tuple[str, ...], calls: list[Call]) -> Iterator[None]:
  """Within it the methods are built once, and every call of their hooks is noted."""

  def watched(name: str, backbone: Any) -> methods.Method:
    method = _built(name, backbone)

    def hook(field):
      def call(memory, params, task, tools):
        memory, found = getattr(method, field)(memory, params, task, tools)
        calls.append(Call(name, field, params, found))
        return memory, found

      return call

    return method._replace(**{field: hook(field) for field in HOOKS})

  with contextlib.ExitStack() as stack:
    for name in names:
      build = lambda self, backbone, teacher=None, name=name: watched(name, backbone)
      stack.enter_context(mock.patch.object(methods.settings_class(name), 'build', build))
    yield


class Life(NamedTuple):
  """Memory, parameters and objective of a composition after two tasks.

  Attributes:
    after: (memory, parameters, plan) of each task, on the host.
    program: the traced objective of the last task.
    wrong: calls of hooks that saw other parameters than they should, in words.
  """

  after: list[tuple]
  program: str
  wrong: list[str]


def life(names: tuple[str, ...]) -> Life:
  """Takes a composition through two tasks."""
  settings, calls = chosen(names), []
  for name in names:
    _built(name, _context(settings)[0].backbone)
  with _watched(names, calls):
    tools, params = _context(settings)
    method = methods.make(tools.backbone, settings)
  tools = DrawingTools(**{
    f.name: getattr(scripted(tools, good), f.name) for f in dataclasses.fields(ScriptedTools)
  })  # fmt: skip
  memory, after, wrong, program = method.init(params, tools.stream, tools), [], [], ''
  for task in tools.stream.tasks[:TASKS]:
    here = dataclasses.replace(tools, task_index=task.index)
    calls.clear(), tools.drawn_from.clear()
    start = params
    memory, params = method.before_task(memory, params, task, here)
    wrong += [f'{c.name}: before_task' for c in calls if not _reads(settings, c, start)]
    wrong += ['samples' for model in tools.drawn_from if not _alike(model, start)]
    if method.before_epoch is not None:
      memory = method.before_epoch(memory, params, task, 0, here)
    plan = method.plan(memory, task)
    if task.index == TASKS - 1:
      program = _program(tools, method, memory, params, plan, task)
    params = jax.tree.map(lambda p: p * 0.9, params)
    if method.after_step is not None:
      memory['teacher'], params = method.after_step(memory['teacher'], params, np.int32(0))
    calls.clear()
    memory, params = method.after_task(memory, params, task, here)
    wrong += [f'{c.name}: after_task' for c in calls if not _reads(settings, c, params)]
    after.append(jax.device_get((memory, params, plan._asdict())))
  return Life(after, program, wrong)


def _context(settings: methods.Settings) -> tuple[HookTools, Any]:
  """Tools and initial parameters for a composition."""
  if 'linear_head' in settings.needs:  # which composes with none
    tools = tiny.tools_for(settings)
    return tools, tiny.params(tools.backbone)
  deep = any('tree' in part.brings for part in methods.parts(settings).values())
  return _tools(settings.text_format == 'packed', deep)


def _reads(settings: methods.Settings, call: Call, wanted: Any) -> bool:
  """Whether a hook that leaves the parameters saw those that it should; any that changes them."""
  changes = methods.parts(settings)[call.name].changes
  return call.hook in changes or (_alike(call.given, wanted) and _alike(call.found, call.given))


def _alike(one: Any, other: Any) -> bool:
  """Whether two trees are equal in structure and bits."""
  (some, a), (others, b) = jax.tree.flatten(one), jax.tree.flatten(other)
  return a == b and all(x is y or np.array_equal(x, y) for x, y in zip(some, others, strict=True))


def _program(tools, method, memory, params, plan, task) -> str:
  """The traced objective and gradient of a batch of new and old rows."""
  fn = train_step.make_gradient(
    method, method.loss_fn or losses.plain(tools.backbone), tools.mesh, norms=losses.norms
  )
  old = [tools.example(e) for e in plan.old] or tools.stream.tasks[0].train
  rows = [r for e in task.train[:4] for r in tools.text.rows(e)]
  rows += [r for e in old[:4] for r in tools.text.rows(e, True)]
  shape = rungs([rows], 1, 16)[0]
  batch = layout(rows, 1, shape, tiny.keys(len(rows)), plan.tables)
  trained, frozen, masks = trainable.split(params, tuple(plan.trainable) or (('.*', True),))
  groups = train_step.Groups.of(plan.groups)
  traced = jax.make_jaxpr(lambda *args: fn(*args, groups, masks))(
    trained, frozen, memory['teacher'], dict(plan.weights), batch
  )
  return re.sub(r'0x[0-9a-f]+', '', str(traced))


@functools.cache
def difference(pair: tuple[str, str]) -> str:
  """Says what differs between both orders, or which hook ran out of order; '' if nothing."""
  one, other = life(pair), life(pair[::-1])
  if one.wrong:
    return f'{", ".join(one.wrong)}: out of order'
  for task, (some, others) in enumerate(zip(one.after, other.after, strict=True), 1):
    for what, a, b in zip(('memory', 'parameters', 'plan'), some, others, strict=True):
      if not _alike(a, b):
        return f'{what} of task {task}'
  return '' if one.program == other.program else 'the objective'


def changing(name: str) -> set[str]:
  """The hooks of a method that give other parameters than they are given, seen in two tasks."""
  settings, calls = chosen((name,)), []
  _built(name, _context(settings)[0].backbone)
  with _watched((name,), calls):
    tools, params = _context(settings)
    method = methods.make(tools.backbone, settings)
  tools = scripted(tools, good)
  memory = method.init(params, tools.stream, tools)
  for task in tools.stream.tasks[:TASKS]:
    here = dataclasses.replace(tools, task_index=task.index)
    memory, params = method.before_task(memory, params, task, here)
    params = jax.tree.map(lambda p: p * 0.9, params)
    memory, params = method.after_task(memory, params, task, here)
  return {call.hook for call in calls if not _alike(call.given, call.found)}
