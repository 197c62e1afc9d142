"""The model of the past: frozen for a task, whole or as states taken once, or as stored logits.

Within a task the teacher and the rows it looks at stand still. So its final states at their targets
are computed once before the task and come with the batch as `fields['teacher_hidden']` [M, D];
`teacher_params` is then the part that projects them. Where they would not fit the teacher is whole
and runs in the step. Which of the two is decided once a run, so that no task compiles anew, and a
loss is the same function either way.

Or each example has a past of its own: the logits that the model gave when the example entered a
buffer, `fields['teacher_logits']` [M, V]; there is no teacher then.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jcl.batching import batch as batches
from jcl.batching.batch import Batch
from jcl.errors import UserError
from jcl.step import losses
from jcl.streams.stream import Example, Reference

HIDDEN, LOGITS, FAMILIAR = 'teacher_hidden', 'teacher_logits', 'familiar'


class ExternalTeacher(NamedTuple):
  """Another model that teaches, from the first task on.

  Attributes:
    backbone: of the same vocabulary, its width and depth its own.
    params: () -> its parameters.
  """

  backbone: Any
  params: Callable[[], Any]


def field_of(targets: str, update: str) -> str:
  """What comes with the batch where the past looks at what a buffer holds; see `start`."""
  if targets == 'stored':
    return LOGITS
  return HIDDEN if update == 'after_task' else FAMILIAR


def start(
  backbone: Any, params: Any, tools: Any, examples: int, cache_mb: int, field: str = HIDDEN
) -> dict[str, Any]:
  """What `memory` holds of the past, in its structure for the whole run.

  Args:
    backbone: of the teacher.
    params: the initial ones: the teacher of the first task.
    tools: the run's.
    examples: the most that the teacher will look at in a task.
    cache_mb: MiB that its states may take, as `examples` times the longest answers of the stream.
    field: what comes with the batch: `HIDDEN`, states as far as they fit; `FAMILIAR`, which rows
      the teacher knows, where others join them within the task, and it runs in the step; `LOGITS`.

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
  memory: dict[str, Any],
  backbone: Any,
  params: Any,
  examples: Sequence[Example | Reference],
  tools: Any,
  later: int = 0,
) -> dict[str, Any]:
  """`start`'s entries with `params` as the teacher of the task to come; stored logits stay.

  Args:
    memory: holds the entries so far.
    backbone: of the teacher.
    params: the model at the end of the last task.
    examples: those whose targets it will be compared at.
    tools: the run's.
    later: positions after its targets at which a row is compared.
  """
  tables = memory['tables']
  if LOGITS in tables:
    return {'tables': tables}
  rows = [row for item in tools.rows(examples) for row in item]
  if FAMILIAR in tables:
    of_row = {row.number: np.ones(len(row.targets), np.float32) for row in rows}
    return {'teacher': params, 'tables': {FAMILIAR: batches.table(of_row, ())}}
  if not tables:
    return {'teacher': params, 'tables': {}}
  moved = [dataclasses.replace(row, targets=row.targets + later) for row in rows]
  states = tools.map_targets(backbone.hidden, params, moved, name='teacher_states')
  of_row = {row.number: hidden_mD for row, hidden_mD in zip(rows, states, strict=True)}
  table = batches.table(of_row, (backbone.width,))
  return {'teacher': backbone.unembedding(params), 'tables': {HIDDEN: table}}


def store(
  memory: dict[str, Any], backbone: Any, params: Any, held: Sequence[Reference], tools: Any
) -> dict[str, Any]:
  """`start`'s entries with the logits of the examples that a buffer holds now, and of no others.

  Args:
    memory: holds the entries so far; where no logits are stored they stay.
    backbone: whose logits they are.
    params: the model that those come from that are not there yet, at their targets. Of a head it is
      stored, too, which classes might be answered: those that the logits cover.
    held: the examples.
    tools: the run's.
  """
  if LOGITS not in memory['tables']:
    return {'tables': memory['tables']}
  rows = [row for item in tools.rows(held) for row in item]
  kept: dict[str, dict] = {}
  for name, entries in memory['tables'].items():
    found = {row.number: batches.look_up(entries, row.number) for row in rows}
    kept[name] = {number: values for number, values in found.items() if values is not None}
  new = [row for row in rows if row.number not in kept[LOGITS]]
  logits = tools.map_targets(backbone.logits, params, new, name='stored_logits')
  for row, logits_mV in zip(new, logits, strict=True):
    kept[LOGITS][row.number] = logits_mV
    if 'known' in kept:
      kept['known'][row.number] = np.broadcast_to(tools.heads.allowed(row.task), logits_mV.shape)
  return {'tables': {k: batches.table(x, (backbone.outputs,)) for k, x in kept.items()}}


def follow(
  method: Any, backbone: Any, max_cached_examples: Callable, looked_at: Callable, cache_mb: int,
  field: str = HIDDEN, later: int = 0,
) -> Any:  # fmt: skip
  """The method with a past to look at: frozen before every task, or stored after it.

  Args:
    method: whose own hooks come first.
    backbone: of the model and of its past.
    max_cached_examples: stream -> the most examples that are looked at in a task.
    looked_at: memory -> those of the task to come.
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


def check_stored(tools: Any, settings: Any) -> None:
  """Refuses logits that would take too much, with the longest answers of the stream.

  Args:
    tools: the run's.
    settings: of a method with a buffer, `targets` and `stored_logits_mb`.

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
      f'method.stored_logits_mb is {most_mb}; logits of {examples} examples, {targets} targets and '
      f"{outputs} outputs take {wanted} MiB: raise it, or use method.targets='teacher'"
    )


def longest_targets(tools: Any) -> int:
  """Targets that an example of the stream has at most, over all its rows."""
  items = tools.rows([e for t in tools.stream.tasks for e in t.train])
  return len(items[0]) * max(len(row.targets) for item in items for row in item)


def compare(
  backbone: Any,
  params: Any,
  teacher_params: Any,
  batch: Batch,
  difference: Callable,
  teacher_backbone: Any = None,
  train: bool = True,
) -> tuple[jax.Array, jax.Array]:
  """The cross-entropy of every target, and how far the model is from its teacher there.

  Args:
    backbone: of the model.
    params: of the model.
    teacher_params: whole, or with its states in `batch.fields` what projects them, or with its
      logits there nothing.
    batch: rows of any kind.
    difference: (logits_MV, teacher_MV, where=known) -> [M].
    teacher_backbone: the teacher's backbone; None: the same.
    train: whether the model drops out.

  Returns:
    ce_M in nats and difference_M. The latter counts where `knows` says so.
  """
  teacher_backbone = backbone if teacher_backbone is None else teacher_backbone
  stored_MV, states_MD = (batch.fields.get(name) for name in (LOGITS, HIDDEN))
  if stored_MV is None and states_MD is None:
    states_MD = teacher_backbone.hidden(teacher_params, batch.replace(embedding_delta=None))

  def each(logits_MV, token_M, allowed_MC, known_MC, stored_MV, states_MD):
    teacher_MV = stored_MV
    if stored_MV is None:
      teacher_MV = teacher_backbone.project(teacher_params, states_MD)
    ce_M = losses.cross_entropy(logits_MV, token_M, allowed_MC)
    return ce_M, difference(logits_MV, teacher_MV, where=known_MC)

  hidden_MD = backbone.hidden(params, batch, train=train)
  rest = (batch.target_token, batch.allowed, batch.known, stored_MV, states_MD)
  return losses.per_target(each, backbone, params, hidden_MD, *rest)


def knows(batch: Batch) -> jax.Array | bool:
  """[M] bool, the teacher had learned the example, and a class that may be answered here."""
  known = True if batch.known is None else batch.known.any(-1)
  return known if FAMILIAR not in batch.fields else known & (batch.fields[FAMILIAR] > 0)
