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


# Of each kind of hook one: draws, adapters, blocks, slow parameters, anchors, objectives, combined
# gradients, old rows, teachers, raw text. All other pairs are slow.
KINDS = (
  ('replay', 'ewc'), ('agem', 'mas'), ('lamol', 'lora'), ('lamol_kd', 'l2'), ('reptile', 'ewc'),
  ('maml', 'ewc'), ('derpp', 'l2'), ('distill', 'reptile'), ('replay', 'expand'),
)  # fmt: skip


@pytest.mark.parametrize(
  'pair',
  [
    pytest.param(pair, marks=[] if pair in KINDS else pytest.mark.slow)
    for pair in compositions.allowed_pairs()
  ],
  ids='+'.join,
)
def test_a_pair_is_the_same_in_both_orders(pair):
  assert compositions.difference(pair) == ''


def stand_in(name):
  """A method that brings and changes what the named one does, and notes what it sees."""
  settings = methods.settings(name)
  factor, brings = 2.0 + list(methods.BUILT_IN).index(name), settings.brings

  def hook(field):
    def call(memory, params, task, tools):
      changed = {'w': factor * params['w'] + 1} if field in settings.changes else params
      return {**memory, field: params['w']}, changed

    return call

  def move(teacher_params, params, step):
    return {'slow': params['w']}, {'w': params['w'] - factor}

  made = Method(
    init=lambda params, stream, tools: {'teacher': {name: params['w']}},
    before_task=hook('before_task'),
    plan=lambda memory, task: TaskPlan(
      task.train, weights={name: factor}, **({'old': (name,)} if 'rows' in brings else {})
    ),
    penalty_fn=lambda params, teacher_params: {name: factor * params['w'].sum()},
    project=lambda updates, params, teacher_params, step: factor * updates + 1,
    after_task=hook('after_task'),
  )
  brought = {
    'loss': {'loss_fn': lambda params, teacher_params, batch: (name, teacher_params)},
    'objective': {'objective': lambda plain: lambda params, batch: (name, plain(params, batch))},
    'combine': {'combine': lambda gradients, teacher_params: (name, gradients)},
    'slow': {'after_step': move},
    'tree': {'params_for': lambda memory, params, task: {'w': factor * params['w']}},
  }
  fields = {field: fn for what in brings for field, fn in brought.get(what, {}).items()}
  return made._replace(**fields)


def noted(names):
  """All that a composition of stand-ins does in a task, in words."""
  whole = compose(
    {name: stand_in(name) for name in names},
    {name: methods.settings(name).changes for name in names},
  )
  memory = whole.init(PARAMS, None, None)
  memory, params = whole.before_task(memory, PARAMS, TASK, None)
  seen = [whole.plan(memory, TASK), whole.penalty_fn(params, memory['teacher'])]
  seen.append(whole.loss_fn and whole.loss_fn(params, memory['teacher'], None))
  seen.append(whole.objective(lambda params, batch: params['w'])(params, None))
  seen.append(whole.combine and whole.combine({}, memory['teacher']))
  seen.append(whole.project(np.ones(2), params, memory['teacher'], 0))
  if whole.after_step:
    memory['teacher'], params = whole.after_step(memory['teacher'], params, 0)
  memory, params = whole.after_task(memory, params, TASK, None)
  return str((seen, memory, params, whole.params_for(memory, params, None)))


@pytest.mark.parametrize('pair', compositions.allowed_pairs(), ids='+'.join)
def test_what_stands_in_for_a_pair_sees_and_does_the_same_in_both_orders(pair):
  """Every pair, at no cost: functions that note what they are given stand for the real ones."""
  assert noted(pair) == noted(pair[::-1])


def test_pairs_are_there_for_every_method_that_composes():
  composing = {name for pair in compositions.allowed_pairs() for name in pair}
  every = {name: methods.settings(name) for name in methods.BUILT_IN}
  alone = {name for name, one in every.items() if one.starts_afresh or not one.takes_steps}
  assert composing == set(every) - alone
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
