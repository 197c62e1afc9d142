"""What a run holds does not grow with the number of its tasks, but where the method says so."""

import dataclasses

import pytest
from support import runs, slow

import jcl
from jcl import methods
from jcl.preflight.footprint import footprint
from jcl.training import experiment

TASKS = (4, 12, 20)
# Bytes on a device that each task adds.
GROWS = {
  'single': 'a model a task',
  'lora': 'an adapter a task',
  'olora': 'an adapter a task',
  'expand': 'blocks a task',
  'lamol_kd': 'a token a task, that pseudo samples of the task begin with',
}
KEPT = {**GROWS, 'derpp': 'logits of the examples that are held'}  # in a snapshot
TEXTS = ('play a song', 'turn off the lamp', 'book a flight', 'what is new')


def stream(tasks: int) -> jcl.Stream:
  """Tasks of the same rows, so that neither words nor classes become more."""
  rows = [
    {'text': f'{text} {when}', 'label': ('yes', 'no')[number % 2]}
    for number, text in enumerate(TEXTS)
    for when in ('now', 'soon')
  ]
  every = {f'task {number:02}': rows for number in range(tasks)}
  return jcl.Stream.from_rows(every, test=every, overlap='keep')


@pytest.mark.parametrize('method', slow.but(('ewc', 'lora'), methods.BUILT_IN))
def test_bytes_grow_by_the_same_for_each_task_or_not_at_all(method):
  made, found = runs.config(method), []
  made.scenario = next(s for s in ('dil', 'cpt', 'til') if s in made.method.scenarios)
  for tasks in TASKS:
    given = stream(tasks)
    made.stream = dataclasses.replace(given.settings, max_length=24)
    size = footprint(experiment.assemble(made, stream=given))
    assert size.whole
    found.append((size.device['total'], size.snapshot['total']))
  for bytes, growing in zip(zip(*found, strict=True), (GROWS, KEPT), strict=True):
    more, again = bytes[1] - bytes[0], bytes[2] - bytes[1]
    assert more == again
    assert (more > 0) == (method in growing)
