"""Whole runs whose tasks share classes, wholly or partly, with the task told and not told."""

import dataclasses
import math

import pytest
from support import runs

from jcl import model
from jcl.streams.stream import Stream
from jcl.training import experiment
from jcl.training.loop import Loop

WORDS = {
  'shop': ('cheap', 'fine', 'broken', 'late'), 'film': ('moving', 'witty', 'dull', 'endless'),
  'food': ('fresh', 'crisp', 'burnt', 'stale'),
}  # fmt: skip


def domains(labels):
  """Three domains of two labels each: the first two words of a domain say the one."""
  split = lambda name, ends: [
    {'text': f'{end} {word} {name}', 'label': labels[name][i // 2]}
    for i, word in enumerate(WORDS[name])
    for end in ends
  ]
  train = {name: split(name, ('the', 'a', 'one', 'my')) for name in WORDS}
  test = {name: split(name, ('this', 'that')) for name in WORDS}
  return Stream.from_rows(train, test=test)


EVERYWHERE = dict.fromkeys(WORDS, ('good', 'bad'))
PARTLY = {'shop': ('good', 'bad'), 'film': ('bad', 'odd'), 'food': ('odd', 'good')}


def learn(method, scenario, labels, head='linear', **given):
  """-> the matrix and the run's loop."""
  made = runs.config(
    method,
    backbone={'head': head, 'width': 24},
    train={'learning_rate': 1e-2, 'head_learning_rate': 1e-2, 'epochs': 8, 'batch_size': 8},
  )  # fmt: skip
  made.scenario = scenario
  for field, value in given.items():
    setattr(made.method, field, value)
  stream = domains(labels)
  made.stream = dataclasses.replace(stream.settings, max_length=32)
  loop = Loop(experiment.assemble(made, stream=stream), None, quiet=True)
  return loop.run()['matrix'], loop


@pytest.mark.parametrize(
  ('method', 'scenario', 'labels', 'head', 'given'),
  [
    ('seq', 'dil', EVERYWHERE, 'linear', {}),
    pytest.param('seq', 'til', EVERYWHERE, 'linear', {}, marks=pytest.mark.slow),
    pytest.param('single', 'dil', EVERYWHERE, 'linear', {}, marks=pytest.mark.slow),
    pytest.param('derpp', 'til', PARTLY, 'cosine', {'targets': 'stored'}, marks=pytest.mark.slow),
    pytest.param('seq', 'til', PARTLY, 'cosine', {}, marks=pytest.mark.slow),
    pytest.param('ewc', 'til', PARTLY, 'linear', {}, marks=pytest.mark.slow),
    pytest.param('replay', 'til', PARTLY, 'linear', {}, marks=pytest.mark.slow),
  ],
)
def test_every_task_is_learned_where_tasks_share_classes(method, scenario, labels, head, given):
  matrix, loop = learn(method, scenario, labels, head, **given)
  assert [matrix[i + 1][i] for i in range(3)] == [1.0] * 3
  nats = [line['loss'] for line in loop.output.log.lines if 'loss' in line]
  assert max(nats) < 10 * math.log(3)


def test_a_model_answers_with_the_classes_of_the_task_that_is_named():
  _, loop = learn('seq', 'til', PARTLY)
  asked = model.of_run(loop.parts, loop.last)
  for task, labels in PARTLY.items():
    texts = [f'this {word} {task}' for word in WORDS[task]]
    assert asked.answer(texts, task=task) == [labels[0]] * 2 + [labels[1]] * 2
    assert {tuple(sorted(p)) for p in asked.probabilities(texts, task=task)} == {
      tuple(sorted(labels))
    }
