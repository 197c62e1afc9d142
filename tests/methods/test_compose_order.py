"""A composition is the same whatever the order of names: hooks have an order by kind."""

import jax
import numpy as np
import pytest
from support import compositions

from jcl import methods
from jcl.errors import UserError
from jcl.methods import Method, TaskPlan, compose
from jcl.streams.stream import Task

TASK = Task(0, 't0', (), (), (), ())
PARAMS = {'w': np.ones(2, np.float32)}


@pytest.mark.parametrize('pair', compositions.allowed_pairs(), ids='+'.join)
def test_a_pair_is_the_same_in_both_orders(pair):
  assert compositions.difference(pair) == ''


def test_pairs_are_there_for_every_method_that_composes():
  composing = {name for pair in compositions.allowed_pairs() for name in pair}
  afresh = {name for name in methods.BUILT_IN if methods.settings(name).starts_afresh}
  assert composing == set(methods.BUILT_IN) - afresh
  assert {('lamol', 'lora'), ('reptile', 'ewc')} <= set(compositions.allowed_pairs())


def moving(scale: float) -> Method:
  """A method whose hooks both scale the parameters and remember those they were given."""

  def hook(memory, params, task, tools):
    return {**memory, 'seen': params}, jax.tree.map(lambda p: scale * p, params)

  return Method(before_task=hook, after_task=hook)


def looking() -> Method:
  """A method whose hooks remember the parameters they were given."""
  hook = lambda memory, params, task, tools: ({**memory, 'seen': params}, params)
  return Method(before_task=hook, after_task=hook)


@pytest.mark.parametrize('names', ['ab', 'ba'])
def test_before_a_task_changes_come_last_and_after_it_first(names):
  made = {'a': moving(2.0), 'b': looking()}
  whole = compose({name: made[name] for name in names}, {'a': ('before_task', 'after_task')})
  memory, params = whole.init(PARAMS, None, None), PARAMS
  memory, params = whole.before_task(memory, params, TASK, None)
  assert memory['b']['seen'] is PARAMS
  memory, params = whole.after_task(memory, params, TASK, None)
  assert memory['b']['seen'] is params
  assert list(params['w']) == [4, 4]


def test_a_hook_that_changes_parameters_and_does_not_say_so_is_refused():
  whole = compose({'a': moving(2.0), 'b': looking()}, {'a': ('after_task',)})
  memory = whole.init(PARAMS, None, None)
  with pytest.raises(UserError, match=r"a: before_task .* changes = \('before_task',\)"):
    whole.before_task(memory, PARAMS, TASK, None)
  assert whole.after_task(memory, PARAMS, TASK, None)


def test_what_two_methods_bring_is_refused_and_never_dropped():
  step = lambda teacher_params, params, step: (teacher_params, params)
  with pytest.raises(UserError, match='a and b both bring after_step; only one can'):
    compose({'b': Method(after_step=step), 'a': Method(after_step=step)})
  planned = lambda **fields: Method(plan=lambda memory, task: TaskPlan(task.train, **fields))
  for fields, line in (
    ({'level': 'batch'}, r'a and b both set TaskPlan\.level'),
    ({'weights': {'x': 2.0}}, r"b and another method both have TaskPlan\.weights 'x'"),
  ):
    whole = compose({'b': planned(**fields), 'a': planned(**fields)})
    with pytest.raises(UserError, match=line):
      whole.plan(whole.init(PARAMS, None, None), TASK)
  pulls = Method(penalty_fn=lambda params, teacher_params: {'x': 1.0})
  with pytest.raises(UserError, match="b and another method both have penalty 'x'"):
    compose({'a': pulls, 'b': pulls}).penalty_fn(PARAMS, {'a': {}, 'b': {}})


def test_the_one_plan_that_leaves_examples_out_is_followed():
  few = Method(plan=lambda memory, task: TaskPlan(task.train[:1]))
  task = Task(0, 't0', ('x', 'y'), (), (), ())
  for parts in ({'a': few, 'b': Method()}, {'b': few, 'a': Method()}):
    whole = compose(parts)
    assert whole.plan(whole.init(PARAMS, None, None), task).new == ('x',)


@pytest.mark.parametrize('name', list(methods.BUILT_IN))
def test_a_method_changes_parameters_in_the_hooks_that_it_names_and_in_no_other(name):
  changes = compositions.changing(name)
  assert changes == set(methods.settings(name).changes)


def test_two_text_formats_are_refused(monkeypatch):
  chosen = methods.settings('lamol+ewc')
  monkeypatch.setattr(type(chosen.ewc), 'text_format', 'packed')
  with pytest.raises(UserError, match="need one text_format: lamol 'lamol', ewc 'packed'"):
    chosen.check()
