"""Composition: several methods become one, such as `replay+ewc`.

The order in which the methods are named changes nothing. A hook that reads the parameters sees
them before the hooks that change them, before a task, and after these, after a task:

    before_task   those that read (pseudo samples, teachers), then those that change (adapters)
    after_task    those that change (slow parameters), then those that read (anchors, buffers)

`Settings.changes` says which hooks change parameters; hooks of one kind run in the order of names
in the alphabet, and so does everything else. Penalties, weights and tables are united. Whatever
else a method can bring (`Settings.brings`) comes from the one method that brings it, so
cross-entropy counts once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jcl.errors import UserError
from jcl.methods.method import EpochHook, Hook, Method
from jcl.streams.stream import Task, TaskPlan
from jcl.types import Memory, Params, Tree

HOOKS = ('before_task', 'after_task')
Parts = Mapping[str, Method]


def compose(parts: Parts, changes: Mapping[str, Sequence[str]] | None = None) -> Method:
  """Returns the method that does what all of `parts` do.

  Its memory has an entry for each method, and so has `teacher` in it.

  Args:
    parts: {name: method}, of which one at most brings each of `loss_fn`, `objective`, `combine`,
      `after_step` and `params_for`. The order of names changes nothing.
    changes: {name: hooks that change the parameters}, as `Settings.changes`; default: none does.

  Raises:
    UserError: two methods bring one of these.
  """
  parts, changes = dict(sorted(parts.items())), changes or {}

  def init(params, stream, tools):
    return _together({name: part.init(params, stream, tools) for name, part in parts.items()})

  def plan(memory, task):
    return _united(
      {name: part.plan(_own(memory, name), task) for name, part in parts.items()}, task
    )

  def penalty_fn(params, teacher_params):
    return _merged(
      'penalty',
      {name: part.penalty_fn(params, teacher_params[name]) for name, part in parts.items()},
    )

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
    return give(_own(memory, keeper), params, task)

  before, after = (_hook(field, parts, changes) for field in HOOKS)
  return Method(
    init, before, plan, loss_fn if reader else None, penalty_fn, objective,
    combine if combiner else None, _projected(parts, 'project_gradient'),
    _projected(parts, 'project'), after_step if mover else None, after,
    params_for if keeper else give, _epoch_hook(parts),
  )  # fmt: skip


def _hook(field: str, parts: Parts, changes: Mapping[str, Sequence[str]]) -> Hook:
  """Returns the hook that calls the hooks of all parts, in the order of this module's first lines.

  The hook raises a UserError if a part changes the parameters and `changes` does not say so: its
  place among the others would be wrong.
  """
  changing = lambda name: field in changes.get(name, ())
  order = sorted(parts, key=changing, reverse=field == 'after_task')

  def call(memory, params, task, tools):
    memories = {}
    for name in order:
      hook = getattr(parts[name], field)
      memories[name], found = hook(_own(memory, name), params, task, tools)
      if not (changing(name) or same_arrays(found, params)):
        raise UserError(
          f'{name}: {field} changes the parameters, so its settings must say '
          f'changes = ({field!r},): other methods of a composition run before or after it'
        )
      params = found
    return _together({name: memories[name] for name in parts}), params

  return call


def _epoch_hook(parts: Parts) -> EpochHook | None:
  """Returns the hook that calls `before_epoch` of all parts; None without any."""
  found = {name: part.before_epoch for name, part in parts.items()}
  hooks = {name: hook for name, hook in found.items() if hook is not None}

  def call(memory, params, task, epoch, tools):
    memories = {name: _own(memory, name) for name in parts}
    for name, hook in hooks.items():
      memories[name] = hook(memories[name], params, task, epoch, tools)
    return _together(memories)

  return call if hooks else None


def same_arrays(found: Params, given: Params) -> bool:
  """Whether two trees hold the very same arrays."""
  some, others = (jax.tree_util.tree_leaves_with_path(tree) for tree in (found, given))
  paths = [[path for path, _ in leaves] for leaves in (some, others)]
  return paths[0] == paths[1] and all(a is b for (_, a), (_, b) in zip(some, others, strict=True))


def _projected(parts: Parts, field: str) -> Callable[..., Tree] | None:
  """Returns the projections of all parts as one, in the order of names; None without any.

  Args:
    parts: {name: method}.
    field: `project` or `project_gradient`.
  """
  found = {name: getattr(part, field) for name, part in parts.items()}
  projections = {name: one for name, one in found.items() if one is not None}

  def project(tree, params, teacher_params, *step):
    for name, one in projections.items():
      tree = one(tree, params, teacher_params[name], *step)
    return tree

  return project if projections else None


def _own(memory: Memory, name: str) -> Memory:
  """Returns the memory of one method."""
  return {**memory[name], 'teacher': memory['teacher'][name]}


def _together(memories: Mapping[str, Memory]) -> Memory:
  """Returns the memory of the composition."""
  rest = {n: {k: v for k, v in m.items() if k != 'teacher'} for n, m in memories.items()}
  return {'teacher': {n: m['teacher'] for n, m in memories.items()}, **rest}


UNITED = ('weights', 'tables')  # fields of a plan whose entries come from all methods


def _united(plans: Mapping[str, TaskPlan], task: Task) -> TaskPlan:
  """Returns one plan with the weights and tables of all and whatever else one of them sets.

  Raises:
    UserError: two plans set one field.
  """
  fields: dict[str, Any] = {'new': task.train}
  for field, default in {**dict.fromkeys(TaskPlan._fields), **TaskPlan._field_defaults}.items():
    found = {name: getattr(plan, field) for name, plan in plans.items()}
    if field in UNITED:
      fields[field] = _merged(f'TaskPlan.{field}', found)
      continue
    plain = task.train if field == 'new' else default
    own = [name for name, value in found.items() if _is_set(value, plain)]
    if len(own) > 1:
      raise UserError(f'{" and ".join(own)} both set TaskPlan.{field}; only one can')
    if own:
      fields[field] = found[own[0]]
  return TaskPlan(**fields)


def _is_set(value: Any, plain: Any) -> bool:
  """Whether a field of a plan is another than its default; all empty sequences are alike."""
  if plain == ():
    return len(value) > 0
  return value is not plain and value != plain


def _merged(what: str, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """Returns the entries of all methods in one dict.

  Raises:
    UserError: two methods have an entry of one name.
  """
  merged: dict[str, Any] = {}
  for name, entries in found.items():
    if twice := sorted(merged.keys() & entries.keys()):
      raise UserError(f'{name} and another method both have {what} {twice[0]!r}; only one can')
    merged |= entries
  return merged


def _brought(parts: Parts, field: str) -> tuple[str, Any]:
  """Returns the name of the method that sets a field, and the field; else '' and its default.

  Raises:
    UserError: two methods set it.
  """
  plain = Method._field_defaults[field]
  found = [(n, getattr(p, field)) for n, p in parts.items() if getattr(p, field) is not plain]
  if len(found) > 1:
    raise UserError(f'{" and ".join(n for n, _ in found)} both bring {field}; only one can')
  return found[0] if found else ('', plain)
