"""What is scored inside a task depends on the parameters in training, whatever the method."""

import types

import jax
import numpy as np
import pytest
from support import runs, tiny
from support.scripted import good, scripted

from jcl import methods
from jcl.backbones import lora_merging
from jcl.methods import settings
from jcl.step import trainable
from jcl.training import experiment
from jcl.training.loop import Loop

WAYS = [
  *((n, {}) for n in methods.BUILT_IN if n != 'pretrain' and 'slow' not in settings(n).brings),
  *(('lora', {'merge': how}) for how in lora_merging.WAYS),
  ('lora', {'stack': True}), ('lora+replay', {}), ('joint', {'every_task': True}),
]  # fmt: skip


def moved(method, memory, params, task):
  """The parameters after training: noise on whatever the plan lets train."""
  rules = method.plan(memory, task).trainable or (('.*', True),)
  trained, frozen, masks = trainable.split(params, rules)
  random = np.random.default_rng(task.index)
  step = lambda p, m: p + np.float32(0.1 * random.standard_normal(p.shape)) * m
  return trainable.join(jax.tree.map(step, trained, masks), frozen)


@pytest.mark.parametrize('told', [False, True])
@pytest.mark.parametrize(('name', 'given'), WAYS)
def test_what_answers_inside_a_task_is_what_trains(name, given, told):
  """After each task it is what answers then, too."""
  chosen = settings(name)
  for field, value in given.items():
    setattr(chosen, field, value)
  tools = scripted(tiny.tools(chosen.text_format, make=tiny.small_decoder, examples=7), good)
  method, params = methods.make(tools.backbone, chosen), tiny.params(tools.backbone)
  if method.params_for is methods.Method._field_defaults['params_for']:
    return  # the parameters themselves
  memory = method.init(params, tools.stream, tools)
  for task in tools.stream.tasks[:2]:
    tools = tools.at(task.index)
    memory, params = method.before_task(memory, params, task, tools)
    given_task = task if told else None
    answers = lambda params, memory: jax.tree.leaves(
      lora_merging.lora.merged(method.params_for(memory, params, given_task))
    )
    before = answers(params, memory)
    params = moved(method, memory, params, task)
    inside = answers(params, memory)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(before, inside, strict=True))
    memory, params = method.after_task(memory, params, task, tools)
    for a, b in zip(inside, answers(params, memory), strict=True):
      np.testing.assert_array_equal(a, b)


def test_the_slow_parameters_answer_inside_a_task_of_reptile():
  """Slow parameters follow those in training; the loop hands them on with the step's state."""
  tools = tiny.tools('plain', examples=7)
  method, params = methods.make(tools.backbone, methods.settings('reptile')), {'a': np.ones(2)}
  slow = {'a': np.zeros(2)}
  assert method.params_for({'teacher': slow}, params, None) is slow


@pytest.mark.slow
def test_dev_scores_of_a_merge_follow_the_adapter_in_training():
  """In the second task a merge of the first adapter alone would score the same in every epoch."""
  made = runs.config(
    'lora', stream={'max_tasks': 2}, evaluate={'every_epochs': 1},
    train={'epochs': 3, 'adapter_learning_rate': 3e-2, 'keep_best': True},
  )  # fmt: skip
  made.method.merge, made.method.r = 'linear', 2
  loop = Loop(experiment.assemble(made), None, quiet=True)
  seen = []

  def scored(params, task, examples, tools):
    if examples is task.dev and tools.task_index == 1:
      seen.append(jax.device_get(params['lora']['layers']['q']['b']))
    return types.SimpleNamespace(merit=0.5)

  loop.score = scored
  now = loop.init(loop._start(), None)
  for task in loop.parts.stream.tasks:
    now = loop.after_task(loop.train(loop.before_task(now, task), task), task)
  assert len(seen) == 6  # two tasks in each of three epochs
  assert not np.allclose(seen[0], seen[2])
  assert not np.allclose(seen[2], seen[4])
