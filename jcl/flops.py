"""Floating-point operations of a function that is only traced, every turn of every loop counted.

XLA's own cost analysis counts the body of a loop once, so a model whose layers are scanned looks as
if it had one. Here XLA is asked for the cost of every operation alone, and the sum is taken over
the traced program: a scan of n turns costs n times its body.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.interpreters.partial_eval import dce_jaxpr

# What only calls another program; the parameter that holds it has one of two names.
CALLS = (
  'jit', 'pjit', 'closed_call', 'core_call', 'checkpoint', 'remat', 'remat2', 'custom_jvp_call',
  'custom_vjp_call', 'custom_vjp_call_jaxpr', 'run_state',
)  # fmt: skip
PROGRAMS = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')


class Flops(NamedTuple):
  """Floating-point operations, as XLA counts them: an addition is 1, a multiply-add 2.

  Attributes:
    mapped: inside a shard_map, on one device.
    whole: outside, on whole arrays.
  """

  mapped: float = 0.0
  whole: float = 0.0

  def times(self, turns: int) -> 'Flops':
    """That often."""
    return Flops(self.mapped * turns, self.whole * turns)

  def plus(self, other: 'Flops') -> 'Flops':
    """Both."""
    return Flops(self.mapped + other.mapped, self.whole + other.whole)


def count(fn: Callable, *args: Any) -> Flops:
  """What fn(*args) costs; it is traced, and neither compiled nor run.

  What no result depends on counts nothing, nor do collectives. Of a branch the dearest counts, and
  of a loop without a known number of turns one turn.

  Args:
    fn: a function of trees of arrays.
    *args: arrays, or `jax.ShapeDtypeStruct`s in their place.
  """
  closed = jax.make_jaxpr(fn)(*args)
  program, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
  return _program(program)


def _program(program: Any, mapped: bool = False) -> Flops:
  """The sum over a jaxpr's equations."""
  program = getattr(program, 'jaxpr', program)
  return functools.reduce(Flops.plus, (_equation(e, mapped) for e in program.eqns), Flops())


def _equation(equation: Any, mapped: bool) -> Flops:
  name, params = equation.primitive.name, equation.params
  if name == 'shard_map':
    return _program(params['jaxpr'], mapped=True)
  if name == 'scan':
    return _program(params['jaxpr'], mapped).times(params['length'])
  if name == 'while':
    parts = (_program(params[key], mapped) for key in ('cond_jaxpr', 'body_jaxpr'))
    return functools.reduce(Flops.plus, parts)
  if name == 'cond':
    return max((_program(branch, mapped) for branch in params['branches']), key=sum)
  if name in CALLS:
    return _program(next(params[key] for key in PROGRAMS if key in params), mapped)
  cost = _operation(equation)
  return Flops(cost, 0.0) if mapped else Flops(0.0, cost)


def _operation(equation: Any) -> float:
  """What XLA says of one operation."""
  params = equation.params
  axes = params.get('axes', params.get('axis_name', ()))
  if any(isinstance(axis, str) for axis in (axes if isinstance(axes, tuple) else (axes,))):
    return 0.0  # a collective: it has a meaning on the mesh alone
  avals = [(x.aval.shape, x.aval.dtype) for x in equation.invars]
  key = equation.primitive, tuple(avals), str(sorted(params.items(), key=lambda item: item[0]))
  if key not in _KNOWN:
    args = [jax.ShapeDtypeStruct(*aval) for aval in avals]
    call = jax.jit(lambda *xs: equation.primitive.bind(*xs, **params))
    _KNOWN[key] = max((call.lower(*args).cost_analysis() or {}).get('flops', 0.0), 0.0)
  return _KNOWN[key]


_KNOWN: dict[tuple, float] = {}
