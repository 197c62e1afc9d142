"""The tools of a run and of preflight have all that hooks are promised."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import pytest
from support import tiny

from jcl.memory.tools import Tools
from jcl.preflight.footprint import ShapeOnlyTools, shape_only
from jcl.training.hook_tools import HookTools
from jcl.training.run_context import RunContext

PROMISED = [name for name in vars(Tools) if not name.startswith('_')]


@pytest.mark.parametrize('name', PROMISED)
@pytest.mark.parametrize('kind', [HookTools, ShapeOnlyTools])
def test_tools_have_what_hooks_are_promised(kind, name):
  promised = inspect.getattr_static(Tools, name)
  assert inspect.getdoc(promised)
  if isinstance(promised, property):
    assert hasattr(kind, name) or name in {field.name for field in dataclasses.fields(kind)}
    return
  arguments = lambda fn: [
    (a.name, a.kind, a.default) for a in inspect.signature(fn).parameters.values()
  ]
  assert arguments(getattr(kind, name)) == arguments(promised)


@pytest.mark.parametrize('carry', [None, (3, 2)])
def test_a_fold_over_shapes_has_the_shape_of_its_carry(carry):
  tools = shape_only(tiny.tools('plain'))

  def body(carry, chunk):
    new = jnp.full((3, 2), chunk, jnp.float32)
    return new if carry is None else carry + new

  start = None if carry is None else jnp.zeros(carry)
  fold = lambda: tools.fold('sums', body, start, [1, 2])
  assert jax.eval_shape(fold).shape == (3, 2)
  assert tools.fold('sums', body, None, []) is None


def test_facts_of_a_run_are_those_of_its_tools_and_do_not_change_with_the_task():
  tools = tiny.tools('plain')
  facts = RunContext(tools.backbone, tools.text, tools.stream, tools.mesh, tools.seed, 8)
  later = facts.at(2)
  assert (facts.task_index, later.task_index) == (0, 2)
  assert later.reports is facts.reports
  same = jax.random.key_data(facts.key('draw', 1)) == jax.random.key_data(tools.key('draw', 1))
  assert same.all()
  assert facts.heads is None
