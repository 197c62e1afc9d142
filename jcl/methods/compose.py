"""Composition: several methods become one, such as `replay+ewc`.

Hooks run in the order given, projections of updates in the order of names. Penalties, weights and
tables are united. Everything else that a method can bring (`Settings.brings`) comes from the one
method that brings it, so cross-entropy counts once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jcl.methods.method import Hook, Method
from jcl.streams.stream import Task, TaskPlan
from jcl.types import Memory, Params, Tree


def _projected(parts: Mapping[str, Method]) -> Callable[[Tree, Params, Tree], Tree] | None:
  """Returns the projections of all parts as one, in the order of names; None without any."""
  projections = {name: part.project for name, part in sorted(parts.items()) if part.project}

  def project(updates, params, teacher_params):
    for name, one in projections.items():
      updates = one(updates, params, teacher_params[name])
    return updates

  return project if projections else None


def compose(parts: Mapping[str, Method]) -> Method:
  """Returns the method that does what all of `parts` do.

  Its memory has an entry for each method, and so has `teacher` in it.

  Args:
    parts: {name: method}, of which one at most brings each of `loss_fn`, `objective`, `combine`,
      `after_step` and `params_for`.
  """

  def hook(field: str) -> Hook:
    """Returns the hook that calls the hooks of all methods in order."""

    def call(memory, params, task, tools):
      memories = {}
      for name, part in parts.items():
        memories[name], params = getattr(part, field)(_own(memory, name), params, task, tools)
      return _together(memories), params

    return call

  def init(params, stream, tools):
    return _together({name: part.init(params, stream, tools) for name, part in parts.items()})

  def plan(memory, task):
    return _united([part.plan(_own(memory, name), task) for name, part in parts.items()], task)

  def penalty_fn(params, teacher_params):
    values = [part.penalty_fn(params, teacher_params[name]) for name, part in parts.items()]
    return {term: value for terms in values for term, value in terms.items()}

  (reader, loss), (mover, move) = _brought(parts, 'loss_fn'), _brought(parts, 'after_step')
  (keeper, give), (_, objective) = _brought(parts, 'params_for'), _brought(parts, 'objective')
  combiner, merge = _brought(parts, 'combine')

  def loss_fn(params, teacher_params, batch):
    return loss(params, teacher_params[reader], batch)

  def after_step(teacher_params, params, step):
    moved, params = move(teacher_params[mover], params, step)
    return {**teacher_params, mover: moved}, params

  def combine(gradients, teacher_params):
    return merge(gradients, teacher_params[combiner])

  def params_for(memory, params, task):
    return give(_own(memory, keeper) if keeper else memory, params, task)

  return Method(
    init, hook('before_task'), plan, loss_fn if reader else None, penalty_fn, objective,
    combine if combiner else None, _projected(parts),
    after_step if mover else None, hook('after_task'), params_for,
  )  # fmt: skip


def _own(memory: Memory, name: str) -> Memory:
  """Returns the memory of one method."""
  return {**memory[name], 'teacher': memory['teacher'][name]}


def _together(memories: Mapping[str, Memory]) -> Memory:
  """Returns the memory of the composition."""
  rest = {n: {k: v for k, v in m.items() if k != 'teacher'} for n, m in memories.items()}
  return {'teacher': {n: m['teacher'] for n, m in memories.items()}, **rest}


def _united(plans: Sequence[TaskPlan], task: Task) -> TaskPlan:
  """Returns one plan with the weights and tables of all and whatever else one of them sets."""
  united = lambda field: {k: v for p in plans for k, v in getattr(p, field).items()}
  rest = {
    f: v for p in plans for f, v in p._asdict().items() if v != TaskPlan._field_defaults.get(f)
  }
  return TaskPlan(
    **rest | {'new': task.train, 'weights': united('weights'), 'tables': united('tables')}
  )


def _brought(parts: Mapping[str, Method], field: str) -> tuple[str, Any]:
  """Returns the name of the method that sets a field, and the field; else '' and its default."""
  plain = Method._field_defaults[field]
  found = [(n, getattr(p, field)) for n, p in parts.items() if getattr(p, field) is not plain]
  return found[0] if found else ('', plain)
