"""Counts the floating-point operations of a traced function, with every turn of its loops.

XLA's cost analysis counts the body of a loop once, so a model whose layers are scanned looks as if
it had one layer. Here the operations of the traced program are grouped by how often each is run;
XLA reports the cost of each group without loops, which is multiplied by the number of turns.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr


class Flops(NamedTuple):
  """Floating-point operations, as XLA counts them: an addition is 1, a multiply-add 2.

  Attributes:
    mapped: inside a shard_map, on one device.
    whole: outside, on whole arrays.
  """

  mapped: float
  whole: float


class _Operation(NamedTuple):
  """An equation of a traced program, how often it is run, and whether inside a shard_map."""

  equation: Any
  turns: int
  mapped: bool


def count(fn: Callable, *args: Any) -> Flops:
  """Returns the operations of fn(*args), which is traced but neither compiled nor run.

  Dead code and collectives count nothing. Of the branches of a conditional the costliest counts, of
  a loop without a known number of turns one turn.

  Args:
    fn: a function of trees of arrays.
    *args: arrays, or `jax.ShapeDtypeStruct`s in their place.
  """
  closed = jax.make_jaxpr(fn)(*args)
  program, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
  return _total(list(_operations(program, 1, False)))


def _operations(program: Any, turns: int, mapped: bool) -> Iterator[_Operation]:
  """Yields the operations of a jaxpr and of all that it calls."""
  for equation in getattr(program, 'jaxpr', program).eqns:
    name, params = equation.primitive.name, equation.params
    if name == 'shard_map':
      yield from _operations(params['jaxpr'], turns, True)
    elif name == 'scan':
      yield from _operations(params['jaxpr'], turns * params['length'], mapped)
    elif name == 'while':
      yield from _operations(params['cond_jaxpr'], turns, mapped)
      yield from _operations(params['body_jaxpr'], turns, mapped)
    elif name == 'cond':
      branches = [list(_operations(branch, turns, mapped)) for branch in params['branches']]
      yield from max(branches, key=lambda branch: sum(_total(branch)))
    elif called := [p for p in params.values() if _calls(equation, p)]:
      yield from _operations(called[0], turns, mapped)
    elif not _is_collective(params):
      yield _Operation(equation, turns, mapped)


def _calls(equation: Any, parameter: Any) -> bool:
  """Whether a parameter is a program that the operation only calls.

  The primitives that call (jit, remat, custom_jvp_call, …) have other names in every jax; the
  scalar programs of a reduction or a scatter do not take what the operation takes.
  """
  program = getattr(parameter, 'jaxpr', parameter)
  if not isinstance(program, core.Jaxpr):
    return False
  shapes = lambda variables: [x.aval.shape for x in variables]
  return shapes(program.invars) == shapes(equation.invars)


def _is_collective(params: dict[str, Any]) -> bool:
  """Whether an operation names an axis of the mesh: it is a collective."""
  axes = params.get('axes', params.get('axis_name', ()))
  return any(isinstance(axis, str) for axis in (axes if isinstance(axes, tuple) else (axes,)))


def _total(operations: Sequence[_Operation]) -> Flops:
  """Returns the cost of all operations, each as often as it is run."""
  sums = {True: 0.0, False: 0.0}
  for turns, mapped in sorted({(o.turns, o.mapped) for o in operations}):
    alike = [o.equation for o in operations if (o.turns, o.mapped) == (turns, mapped)]
    sums[mapped] += turns * _side_by_side(alike)
  return Flops(sums[True], sums[False])


def _side_by_side(equations: Sequence[Any]) -> float:
  """Returns XLA's cost of a program that has each equation once, on inputs of its own."""
  shaped = lambda x: jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype)
  inputs = [[shaped(x) for x in equation.invars] for equation in equations]

  def program(inputs):
    pairs = zip(equations, inputs, strict=True)
    return [equation.primitive.bind(*xs, **equation.params) for equation, xs in pairs]

  cost = (jax.jit(program).lower(inputs).cost_analysis() or {}).get('flops', 0.0)
  return cost if math.isfinite(cost) and cost > 0 else 0.0
