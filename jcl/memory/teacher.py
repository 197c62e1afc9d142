"""The teacher of a task: the model before it as a whole, its states taken once, or stored logits.

Within a task neither the teacher nor the rows that it is compared at change. Its final states at
the targets of these rows are therefore computed once before the task, and the batch has them as
`fields['teacher_hidden']` [M, D]; `teacher_params` is then the part of the teacher that projects
states. Where the states would take too much memory, `teacher_params` is the whole teacher, which
runs in the step. A run decides once which of the two it is, so that no task compiles anew; a loss
is the same function either way.

With stored logits each example has a past of its own: the logits that the model gave when the
example entered a buffer, `fields['teacher_logits']` [M, V]. There is no teacher then.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jcl.backbones import Backbone
from jcl.batching import batch as batches
from jcl.batching.batch import Batch, Row
from jcl.errors import UserError, count_of
from jcl.memory.tools import Tools
from jcl.step import losses
from jcl.streams.stream import Example, Lazy, Reference, Stream
from jcl.types import Memory, Params, Tree

HIDDEN, LOGITS, FAMILIAR = 'teacher_hidden', 'teacher_logits', 'familiar'


class ExternalTeacher(NamedTuple):
  """Another model that is the teacher in every task.

  Attributes:
    backbone: a model with the vocabulary of the run's own; width and depth may differ.
    params: its parameters, which may still be in their files; shapes where none were read.
  """

  backbone: Backbone
  params: Params


class HasHooks(Protocol):
  """The hooks of a `jcl.methods.Method` that `follow` builds on."""

  @property
  def init(self) -> Callable: ...
  @property
  def before_task(self) -> Callable: ...
  @property
  def plan(self) -> Callable: ...
  @property
  def after_task(self) -> Callable: ...
  @property
  def _replace(self) -> Callable[..., Any]: ...


class StoresLogits(Protocol):
  """The settings that `check_stored` reads."""

  targets: str
  stored_logits_mb: int

  def max_cached_examples(self, stream: Stream) -> int: ...


SomeMethod = TypeVar('SomeMethod', bound=HasHooks)


def field_of(targets: str, update: str) -> str:
  """Returns the batch field for a teacher that is compared at the rows of a buffer; see `start`.

  Args:
    targets: `teacher` or `stored`, the logits that a loss compares with.
    update: when new examples enter the buffer; see `Replay`.
  """
  if targets == 'stored':
    return LOGITS
  return HIDDEN if update == 'after_task' else FAMILIAR


def start(
  backbone: Backbone, params: Params, tools: Tools, examples: int, cache_mb: int,
  field: str = HIDDEN,
) -> Memory:  # fmt: skip
  """Returns the teacher's entries of `memory` at the start of a run, in their final structure.

  Args:
    backbone: of the teacher.
    params: the initial parameters, which are the teacher of the first task.
    tools: of the run.
    examples: the largest number of examples that a task compares with the teacher.
    cache_mb: MiB that the teacher's states may take; they take at most those of `examples` times
      the longest answer of the stream.
    field: what the batch has of the teacher. `HIDDEN`: states, if they fit in `cache_mb`.
      `FAMILIAR`: which rows the teacher knows, where rows that it does not know join them within
      the task; the teacher then runs in the step. `LOGITS`: stored logits.

  Returns:
    `teacher`, which is `teacher_params`, and `tables`, those of the plan.
  """
  if field == LOGITS:
    empty = batches.table({}, (backbone.outputs,))
    return {'teacher': {}, 'tables': {LOGITS: empty, **({'known': empty} if tools.heads else {})}}
  if field == FAMILIAR:
    return {'teacher': params, 'tables': {FAMILIAR: batches.table({}, ())}}
  if examples * longest_targets(tools) * backbone.width * 4 > cache_mb * 2**20:
    return {'teacher': params, 'tables': {}}
  empty = batches.table({}, (backbone.width,))
  return {'teacher': backbone.unembedding(params), 'tables': {HIDDEN: empty}}


def freeze(
  memory: Memory,
  backbone: Backbone,
  params: Params,
  examples: Sequence[Example | Reference],
  tools: Tools,
  later: int = 0,
) -> Memory:
  """Returns the entries of `start` with `params` as the teacher of the coming task.

  Stored logits do not change.

  Args:
    memory: has the entries so far.
    backbone: of the teacher.
    params: the model at the end of the last task.
    examples: the loss compares model and teacher at their targets.
    tools: of the run.
    later: number of tokens by which the compared positions stand behind a row's targets.
  """
  tables = memory['tables']
  if LOGITS in tables:
    return {'tables': tables}
  rows = every_row(examples, tools)
  if FAMILIAR in tables:
    of_row = {row.number: np.ones(len(row.targets), np.float32) for row in rows}
    return {'teacher': params, 'tables': {FAMILIAR: batches.table(of_row, ())}}
  if not tables:
    return {'teacher': params, 'tables': {}}
  move = lambda _, row: dataclasses.replace(row, targets=row.targets + later)
  moved = Lazy(rows, move) if later else rows
  states = tools.map_targets(backbone.hidden, params, moved, name='teacher_states')
  of_row = {row.number: hidden_mD for row, hidden_mD in zip(rows, states, strict=True)}
  table = batches.table(of_row, (backbone.width,))
  return {'teacher': backbone.unembedding(params), 'tables': {HIDDEN: table}}


def store(
  memory: Memory,
  backbone: Backbone,
  params: Params,
  held: Sequence[Example | Reference],
  tools: Tools,
) -> Memory:
  """Returns the entries of `start` with stored logits for exactly the examples in a buffer.

  Logits that are stored already stay; those of new examples come from `params`. Without stored
  logits the entries do not change. With a head, the classes that could be answered when the logits
  were stored are stored beside them as `known`.

  Args:
    memory: has the entries so far.
    backbone: the model.
    params: the model at the end of the task.
    held: the examples in the buffer now.
    tools: of the run.
  """
  if LOGITS not in memory['tables']:
    return {'tables': memory['tables']}
  rows = every_row(held, tools)
  kept: dict[str, dict] = {}
  for name, entries in memory['tables'].items():
    found = {row.number: batches.look_up(entries, row.number) for row in rows}
    kept[name] = {number: values for number, values in found.items() if values is not None}
  new = [row for row in rows if row.number not in kept[LOGITS]]
  logits = tools.map_targets(backbone.logits, params, new, name='stored_logits')
  for row, logits_mV in zip(new, logits, strict=True):
    kept[LOGITS][row.number] = logits_mV
    if tools.heads is not None and 'known' in kept:
      kept['known'][row.number] = np.broadcast_to(tools.heads.allowed(row.task), logits_mV.shape)
  return {'tables': {k: batches.table(x, (backbone.outputs,)) for k, x in kept.items()}}


def follow(
  method: SomeMethod, backbone: Backbone, max_cached_examples: Callable[[Stream], int],
  looked_at: Callable[[Memory], Sequence[Example | Reference]], cache_mb: int,
  field: str = HIDDEN, later: int = 0,
) -> SomeMethod:  # fmt: skip
  """Returns the method with a teacher: frozen before every task, or logits stored after it.

  Args:
    method: its own hooks run first.
    backbone: of the model and of its teacher.
    max_cached_examples: stream -> `examples` of `start`.
    looked_at: memory -> the examples whose targets the coming task compares with the teacher.
    cache_mb, field: as in `start`.
    later: as in `freeze`.
  """

  def init(params, stream, tools):
    frozen = start(backbone, params, tools, max_cached_examples(stream), cache_mb, field)
    return method.init(params, stream, tools) | frozen

  def before_task(memory, params, task, tools):
    memory, params = method.before_task(memory, params, task, tools)
    return memory | freeze(memory, backbone, params, looked_at(memory), tools, later), params

  def plan(memory, task):
    return method.plan(memory, task)._replace(tables=memory['tables'])

  def after_task(memory, params, task, tools):
    memory, params = method.after_task(memory, params, task, tools)
    return memory | store(memory, backbone, params, looked_at(memory), tools), params

  return method._replace(init=init, before_task=before_task, plan=plan, after_task=after_task)


def check_stored(tools: Tools, settings: StoresLogits) -> None:
  """Refuses stored logits that could take more than `stored_logits_mb` MiB.

  Every example counts as many targets as the one with the most.

  Args:
    tools: of the run.
    settings: of a method with a buffer.

  Raises:
    UserError: naming `method.stored_logits_mb`.
  """
  if settings.targets != 'stored':
    return
  most_mb = settings.stored_logits_mb
  examples = settings.max_cached_examples(tools.stream)
  targets, outputs = longest_targets(tools), tools.backbone.outputs
  wanted = -(-examples * targets * outputs * 4 // 2**20)
  if wanted > most_mb:
    raise UserError(
      f'method.stored_logits_mb is {most_mb}; logits of '
      f'{count_of(examples, "example")}, {count_of(targets, "target")} and '
      f"{count_of(outputs, 'output')} take {wanted} MiB: raise it, or use method.targets='teacher'"
    )


def longest_targets(tools: Tools) -> int:
  """Returns the largest number of targets that the rows of one training example have together."""
  items = (tools.text.outlines(e) for task in tools.stream.tasks for e in task.train)
  return max(len(item) * len(row.targets) for item in items for row in item)


def every_row(examples: Sequence[Example | Reference], tools: Tools) -> Sequence[Row]:
  """Returns the rows of examples one after another, each made when it is asked for."""
  if not examples:
    return ()
  items = tools.rows(examples)
  width = len(tools.text.outlines(tools.example(examples[0])))
  return Lazy(range(width * len(items)), lambda _, i: items[i // width][i % width])


def compare(
  backbone: Backbone,
  params: Params,
  teacher_params: Tree,
  batch: Batch,
  difference: Callable[..., jax.Array],
  where_M: jax.Array | bool = True,
  teacher_backbone: Backbone | None = None,
  train: bool = True,
) -> tuple[jax.Array, jax.Array]:
  """Computes cross-entropy and the difference from the teacher at every target.

  Args:
    backbone: of the model.
    params: of the model.
    teacher_params: the whole teacher; the part that projects, where `batch.fields` has its states;
      empty, where `batch.fields` has its logits.
    batch: rows of any kind.
    difference: (logits_MV, teacher_MV, where=known) -> [M].
    where_M: [M] bool, or one for all: the targets whose difference is read.
    teacher_backbone: of the teacher; None: that of the model.
    train: whether dropout is on.

  Returns:
    ce_M in nats per target, and difference_M, whose mean is over the targets in `where_M` that
    `knows` names; elsewhere it has no meaning.
  """
  teacher_backbone = backbone if teacher_backbone is None else teacher_backbone
  stored_MV, states_MD = (batch.fields.get(name) for name in (LOGITS, HIDDEN))
  if stored_MV is None and states_MD is None:
    states_MD = teacher_backbone.hidden(teacher_params, batch.replace(embedding_delta=None))

  def apart(logits_MV, known_MC, stored_MV, states_MD):
    teacher_MV = stored_MV
    if stored_MV is None:
      teacher_MV = teacher_backbone.project(teacher_params, states_MD)
    return difference(logits_MV, teacher_MV, where=known_MC)

  def each(logits_MV, token_M, allowed_MC, read_M, *past):
    ce_M = losses.cross_entropy(logits_MV, token_M, allowed_MC)
    if read_M is None:
      return ce_M, apart(logits_MV, *past)
    return ce_M, losses.where_it_counts(apart, read_M, logits_MV, *past)

  hidden_MD = backbone.hidden(params, batch, train=train)
  read_M = None if where_M is True else jnp.logical_and(where_M, batch.target_weight > 0)
  rest = (batch.target_token, batch.allowed, read_M, batch.known, stored_MV, states_MD)
  return losses.per_target(each, backbone, params, hidden_MD, *rest)


def knows(batch: Batch) -> jax.Array | bool:
  """Returns where a comparison with the teacher has a meaning, [M] bool or True for everywhere.

  The teacher had learned the example, and with a head at least one class that is allowed here.
  """
  known = True if batch.known is None else batch.known.any(-1)
  return known if FAMILIAR not in batch.fields else known & (batch.fields[FAMILIAR] > 0)


@functools.cache
def drift(backbone: Backbone) -> Callable[[dict[str, Params], Batch], dict[str, jax.Array]]:
  """Returns (models, batch) -> {kl, nats} of each target, without dropout; one a backbone.

  `models` has the parameters `now` and `base`; kl is KL(base ‖ now) and nats the cross-entropy of
  `now`. Logits are made a chunk at a time.
  """
  divergence = functools.partial(losses.distillation, temperature=1.0)

  def drift(models: dict[str, Params], batch: Batch) -> dict[str, jax.Array]:
    nats_M, kl_M = compare(backbone, models['now'], models['base'], batch, divergence, train=False)
    return {'kl': kl_M, 'nats': nats_M}

  return drift
