"""Rows that are drawn before every epoch: a killed run goes on with them, to the bit."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from support import runs, tiny
from support.scripted import own_answer, scripted

from jcl import methods
from jcl.errors import UserError
from jcl.methods import compose
from jcl.storage.checkpoint import Snapshots
from jcl.training import experiment
from jcl.training.batch_loader import BatchLoader

STEPS = 3  # of an epoch
TASK = {'stream': {'max_tasks': 1, 'max_train_per_task': 20, 'max_test_per_task': 4}}
OFTEN = {'checkpoint': {'every_steps': 1, 'every_chunks': 1}}


def config(method='sdft', **sections):
  train = {'epochs': 2, 'batch_size': 8, 'log_every': 1, 'speed_every': 0}
  more = {'train': train, 'evaluate': {'batch_size': 8, 'every_epochs': 1}, **TASK, **OFTEN}
  return runs.config(method, **{**more, **sections})


class Course:
  """A run that dies at events of its choice and goes on.

  Attributes:
    drawn: (task, epoch) of every call of the hook that came to its end.
    events: of the whole run: the kind and, in the hook or outside it, the epoch.
  """

  def __init__(self, folder, made):
    self.folder, self.made, self.drawn, self.events = folder, made, [], []
    self.hook = None
    folder.mkdir()

  def run(self, die_at=None):
    """Runs to the end -> results; or to the event -> None."""
    parts = experiment.assemble(self.made)
    hook, seen = parts.method.before_epoch, []

    def noted(memory, params, task, epoch, tools):
      self.hook = task.index, epoch
      found = hook(memory, params, task, epoch, tools)
      self.hook = None
      self.drawn.append((task.index, epoch))
      return found

    def announce(event):
      if event.kind not in ('step', 'chunk'):
        return
      seen.append((event.kind, self.hook, event.steps, event.chunks))
      if seen[-1] == die_at:
        raise runs.Killed

    parts = dataclasses.replace(parts, method=parts.method._replace(before_epoch=noted))
    try:
      return runs.Loop(parts, self.folder, quiet=True, announce=announce).run()
    except runs.Killed:
      self.hook = None
      return None
    finally:
      self.events = seen


def log(folder):
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def test_a_run_that_dies_around_a_draw_goes_on_to_the_same_bits(tmp_path):
  """The run dies in the hook, in the evaluation before it, and at steps of the last epoch."""
  whole = Course(tmp_path / 'whole', config())
  wanted = whole.run()
  assert whole.drawn == [(0, 0), (0, 1)]
  of_hook = [e for e in whole.events if e[1] == (0, 1)]
  before = whole.events.index(of_hook[0]) - 1
  assert whole.events[before][0] == 'chunk'  # of the evaluation
  last = [e for e in whole.events if e[0] == 'step'][-STEPS:]
  assert len(of_hook) >= 4
  places = [whole.events[before], of_hook[1], of_hook[-1], *last[:2]]
  killed = Course(tmp_path / 'killed', config())
  for place in places:
    assert killed.run(place) is None
  found = killed.run()
  # The hook is called again where no step was saved after it, and then answers from its journal.
  assert killed.drawn == [(0, 0), (0, 1), (0, 1)]
  for key in ('params_sha256', 'matrix', 'sdft', 'tokens', 'warnings'):
    assert found[key] == wanted[key], key
  assert log(killed.folder) == log(whole.folder)
  kept, other = (Snapshots(c.folder).latest()['memory'] for c in (killed, whole))
  assert kept['own'] == other['own']
  for one, two in zip(*(jax.tree.leaves(m['tables']) for m in (kept, other)), strict=True):
    np.testing.assert_array_equal(one, two)
  assert len(found['resumes']) == len(places)


def test_a_run_whose_steps_end_inside_an_epoch_draws_no_more(tmp_path):
  made = config(train={'steps': STEPS + 1, 'batch_size': 8}, evaluate={}, **{'checkpoint': {}})
  course = Course(tmp_path / 'run', made)
  results = course.run()
  assert course.drawn == [(0, 0), (0, 1)]
  assert [(line['epoch'], line['asked']) for line in results['sdft']] == [(1, 20), (2, 20)]


def test_every_epoch_has_the_shapes_that_the_longest_answers_have():
  """So nothing compiles anew when answers are drawn."""
  parts = experiment.assemble(config())
  params, task = parts.initial_params(), parts.stream.tasks[0]
  memory = parts.method.init(params, parts.stream, parts.tools)
  memory, params = parts.method.before_task(memory, params, task, parts.tools)
  loader = BatchLoader(parts.method.plan(memory, task), 0, parts.tools, parts.config.train)
  for epoch in range(2):
    memory = parts.method.before_epoch(memory, params, task, epoch, parts.tools)
    plan = parts.method.plan(memory, task)
    mine = loader.of_epoch(plan)
    found = list(mine.batches(STEPS * epoch, STEPS * (epoch + 1)))
    assert [one.number for one in found] == [STEPS * epoch + i for i in range(STEPS)]
    assert [one.ends_epoch for one in found] == [False, False, True]
    assert found[-1].last == (epoch == 1)
    shapes = {(shape.rows, shape.tokens) for shape in loader._shapes}
    assert {one.batch.tokens.shape for one in found} <= shapes
    tokens = {tuple(e.tokens) for e in plan.new}
    rows = {tuple(r.tokens.tolist()) for e in mine.plan.new for r in parts.text.rows(e)}
    assert rows == tokens


def test_shapes_are_chosen_for_the_longest_answers_also_where_short_ones_are_drawn():
  """A run that goes on inside an epoch pads its steps as one that was never killed."""
  tools = scripted(tiny.tools('plain', examples=7), own_answer)
  method = methods.make(tools.backbone, methods.settings('sdft'))
  params, task = tiny.params(tools.backbone), tools.stream.tasks[0]
  memory = method.init(params, tools.stream, tools)
  memory, params = method.before_task(memory, params, task, tools)
  drawn = method.before_epoch(memory, params, task, 0, tools)
  plans = [method.plan(m, task) for m in (memory, drawn)]
  shapes = [BatchLoader(plan, 0, tools, tools.train)._shapes for plan in plans]
  assert shapes[0] == shapes[1]
  sizes = [[e.prompt_size + 3 for e in plan.new] for plan in plans]  # "switch on" and its end
  assert [[len(e.tokens) for e in plan.largest] for plan in plans] == sizes
  assert sum(len(e.tokens) for e in plans[1].new) < sum(sizes[1])
  fitted = BatchLoader(plans[1]._replace(largest=()), 0, tools, tools.train)._shapes
  assert fitted != shapes[1]


@pytest.mark.parametrize('given', [{'unit': 'tokens'}, {'update': 'every_epoch'}])
def test_old_rows_that_make_epochs_differ_are_refused(given, tmp_path):
  made = config('sdft+replay')
  for field, value in given.items():
    setattr(made.method.replay, field, value)
  with pytest.raises(UserError, match=r"method\.unit to 'rows' and method\.update") as error:
    runs.run(made, tmp_path)
  assert '\n' not in str(error.value)


def test_hooks_before_an_epoch_compose():
  """Each has its own memory, and those without a hook keep theirs."""

  def counts(memory, params, task, epoch, tools):
    return memory | {'epochs': [*memory['epochs'], (task.index, epoch)]}

  one = methods.Method(lambda params, stream, tools: {'teacher': {}, 'epochs': []})
  whole = compose({'b': one._replace(before_epoch=counts), 'a': one})
  memory = whole.init({}, None, None)
  task = tiny.stream().tasks[1]
  for epoch in range(2):
    memory = whole.before_epoch(memory, {}, task, epoch, None)
  assert memory['b']['epochs'] == [(1, 0), (1, 1)]
  assert memory['a']['epochs'] == []
  assert compose({'a': one, 'b': one}).before_epoch is None
