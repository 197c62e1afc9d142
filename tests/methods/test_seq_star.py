"""SEQ*: what it refuses, its warm-up in steps, and a class that comes again."""

import dataclasses

import numpy as np
import pytest
from support import runs, tiny

from jcl import methods
from jcl.errors import UserError
from jcl.streams.stream import TaskPlan
from jcl.training import experiment
from jcl.training.batch_loader import BatchLoader

CLASSES_OF = ((0, 1), (1, 2), (0, 1))  # the second task brings one new class, the third none


def life(**given):
  """The plans of three tasks that share classes, the memory at last, and the tools."""
  tools = tiny.tools('class', make=lambda v: tiny.recurrent(v, classes=6), examples=7)
  tools = dataclasses.replace(tools, stream=tiny.sharing(tools.stream, CLASSES_OF))
  method = methods.make(tools.backbone, methods.settings_class('seq_star')(**given))
  params = tiny.params(tools.backbone)
  memory, plans = method.init(params, tools.stream, tools), []
  for task in tools.stream.tasks:
    memory, params = method.before_task(memory, params, task, tools.at(task.index))
    plans.append(method.plan(memory, task))
  return plans, memory, tools


def test_a_task_trains_the_rows_of_its_new_classes_alone():
  plans, _, tools = life()
  rows = [np.flatnonzero(dict(plan.trainable)['^head/kernel$']).tolist() for plan in plans]
  assert rows == [[0, 1], [2], []]
  assert [dict(plan.trainable)[''] for plan in plans] == [True, False, False]
  assert tools.reports == {'warnings': ['t2 has no class that is new, so nothing of it is learned']}


@pytest.mark.parametrize(('epochs', 'steps'), [(0, 0), (1, 4), (3, 12)])
def test_the_warm_up_is_of_whole_epochs(epochs, steps):
  """Seven examples in batches of two: the last one is short."""
  plans, _, tools = life(warmup_epochs=epochs)
  train = dataclasses.replace(tools.train, batch_size=2)
  tools = dataclasses.replace(tools, train=train)
  loader = BatchLoader(TaskPlan(tools.stream.tasks[0].train), 0, tools, train)
  assert tools.steps_per_epoch(7) == loader.per_epoch == 4
  method = methods.make(tools.backbone, methods.settings_class('seq_star')(warmup_epochs=epochs))
  assert int(method.init({}, tools.stream, tools)['teacher']['warm_up']) == steps
  assert dict(plans[0].trainable)[''] == (epochs > 0)


def test_what_it_cannot_have_is_refused():
  made = runs.config('seq_star')
  made.backbone.head = ''
  with pytest.raises(UserError, match=r"backbone\.head is '', but seq_star needs a head"):
    experiment.check(made)
  made = runs.config('seq_star')
  made.scenario = 'dil'
  with pytest.raises(UserError, match="scenario is 'dil', in which seq_star has no meaning"):
    experiment.check(made)
  with pytest.raises(UserError, match='both bring rules of what trains'):
    methods.settings('lora+seq_star')
  with pytest.raises(UserError, match=r'method\.warmup_epochs is -1; it must be at least 0'):
    methods.settings_class('seq_star')(warmup_epochs=-1).check()
