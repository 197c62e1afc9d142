"""The model of the past, frozen for a task: whole, or as states taken once and what projects them.

Within a task the teacher and the rows it looks at stand still. So its final states at their targets
are computed once before the task and come with the batch as `fields['teacher_hidden']` [M, D];
`teacher_params` is then the part that projects them. Where they would not fit the teacher is whole
and runs in the step. Which of the two is decided once a run, so that no task compiles anew, and a
loss is the same function either way.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jcl import batch as batches
from jcl import losses
from jcl.batch import Batch
from jcl.streams.stream import Example, Reference

HIDDEN = 'teacher_hidden'


def start(backbone: Any, params: Any, tools: Any, examples: int, cache_mb: int) -> dict[str, Any]:
  """What `memory` holds of the teacher, in its structure for the whole run.

  Args:
    backbone: of the teacher.
    params: the initial ones: the teacher of the first task.
    tools: the run's.
    examples: the most that the teacher will look at in a task.
    cache_mb: MiB that its states may take, as `examples` times the longest answers of the stream.

  Returns:
    `teacher`, which is `teacher_params`, and `tables`, those of the plan.
  """
  items = tools.rows([e for t in tools.stream.tasks for e in t.train])
  targets = examples * len(items[0]) * max(len(row.targets) for item in items for row in item)
  if targets * backbone.width * 4 > cache_mb * 2**20:
    return {'teacher': params, 'tables': {}}
  empty = batches.table({}, (backbone.width,))
  return {'teacher': backbone.unembedding(params), 'tables': {HIDDEN: empty}}


def freeze(
  memory: dict[str, Any],
  backbone: Any,
  params: Any,
  examples: Sequence[Example | Reference],
  tools: Any,
) -> dict[str, Any]:
  """`start`'s entries with `params` as the teacher of the task to come.

  Args:
    memory: holds the entries so far.
    backbone: of the teacher.
    params: the model at the end of the last task.
    examples: those whose targets it will be compared at.
    tools: the run's.
  """
  if not memory['tables']:
    return {'teacher': params, 'tables': {}}
  rows = [row for item in tools.rows(examples) for row in item]
  states = tools.map_targets(_states(backbone), params, rows)
  of_row = {row.number: hidden_mD for row, hidden_mD in zip(rows, states, strict=True)}
  table = batches.table(of_row, (backbone.width,))
  return {'teacher': backbone.unembedding(params), 'tables': {HIDDEN: table}}


@functools.cache
def _states(backbone: Any) -> Callable:
  """(params, batch) -> [M, D]; one function a backbone, so that it compiles once."""

  def teacher_states(params, batch):
    return backbone.hidden(params, batch)

  return teacher_states


def compare(
  backbone: Any, params: Any, teacher_params: Any, batch: Batch, difference: Callable
) -> tuple[jax.Array, jax.Array]:
  """The cross-entropy of every target, and how far the model is from its teacher there.

  Args:
    backbone: of both.
    params: of the model.
    teacher_params: whole, or with its states in `batch.fields` what projects them.
    batch: rows of any kind.
    difference: (logits_MV, teacher_MV, where=known) -> [M].

  Returns:
    ce_M in nats and difference_M. The latter counts where `knows` says so.
  """
  teacher_MD = batch.fields.get(HIDDEN)
  if teacher_MD is None:
    teacher_MD = backbone.hidden(teacher_params, batch.replace(embedding_delta=None))

  def each(logits_MV, token_M, allowed_MC, known_MC, teacher_MD):
    teacher_MV = backbone.project(teacher_params, teacher_MD)
    ce_M = losses.cross_entropy(logits_MV, token_M, allowed_MC)
    return ce_M, difference(logits_MV, teacher_MV, where=known_MC)

  hidden_MD = backbone.hidden(params, batch, train=True)
  rest = (batch.target_token, batch.allowed, batch.known, teacher_MD)
  return losses.per_target(each, backbone, params, hidden_MD, *rest)


def knows(batch: Batch) -> jax.Array | bool:
  """[M] bool, the teacher had learned a class that may be answered here; of a vocabulary always."""
  return True if batch.known is None else batch.known.any(-1)
