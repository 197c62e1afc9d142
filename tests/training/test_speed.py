"""Speed of training: what a line says, when there is one, and the operations that it counts."""

import json
import types

import jax
import numpy as np
import pytest
from support import runs

from jcl import learning
from jcl.config import BackboneConfig
from jcl.preflight import cost, first_step
from jcl.step import sharding
from jcl.step.peaks import Peak
from jcl.storage.in_memory import MemoryLog, NoSnapshots
from jcl.training import speed
from jcl.training.batch_loader import LoadedBatch
from jcl.training.run_output import RunOutput
from jcl.training.run_state import ProgressCounter
from jcl.training.speed import Speed

RATE = 1e9  # FLOP/s of a made-up device


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """-> a run of two tasks on a device with a known peak, its folder, its lines about speed."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(speed, 'peak', lambda device, dtype: Peak(RATE, 'table'))
    patch.setattr(speed, 'ThreadPoolExecutor', AtOnce)
    made = runs.config('seq', stream={'max_tasks': 2}, train={'speed_every': 1e-9})
    folder = tmp_path_factory.mktemp('run') / 'run'
    done = learning.run(made, folder, quiet=True)
  lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
  return done, made, [line for line in lines if 'seconds_per_step' in line]


class AtOnce:
  """Runs what it is given at once, so that the first line knows it."""

  def __init__(self, workers, name):
    assert workers == 1

  def submit(self, fn, *arguments):
    value = fn(*arguments)
    return types.SimpleNamespace(done=lambda: True, result=lambda: value)

  def shutdown(self, wait, cancel_futures):
    """Has nothing to end."""


def test_a_line_has_the_seconds_and_tokens_of_its_steps(trained):
  done, _, lines = trained
  per_task = [[line for line in lines if line['task'] == task] for task in (0, 1)]
  for found in per_task:
    steps = [line['step'] for line in found]
    assert steps == list(range(1, steps[-1] + 1))
  seconds = sum(line['seconds_per_step'] for line in lines)
  assert 0 < seconds < done.results['seconds']['train'] + 0.05
  tokens = sum(line['seconds_per_step'] * line['tokens_per_second'] for line in lines)
  assert tokens == pytest.approx(done.results['tokens']['train'])


def test_the_share_of_the_peak_is_that_of_the_operations_that_a_plan_counts(trained):
  _, made, lines = trained
  outline = first_step.outline(made, sharding.make_mesh(1))
  planned = cost.operations(outline).values['per_device']['total']
  counted = {line['mfu'] * line['seconds_per_step'] * RATE for line in lines}
  assert max(counted) == pytest.approx(planned, rel=1e-6)
  assert {line['peak'] for line in lines} == {'table'}


def output():
  seconds = {'train': 0.0}
  return RunOutput(
    clock=types.SimpleNamespace(settle=lambda: None, seconds=seconds),
    recorder=types.SimpleNamespace(seconds={'train': 10.0}),
    counter=ProgressCounter(None), log=MemoryLog(), snapshots=NoSnapshots(),
  )  # fmt: skip


def loaded(tokens: int, width: int = 8, last: bool = False):
  batch = {'tokens': np.zeros((2, width))}
  return LoadedBatch(0, batch, tokens, 0, 0, 0, (), 0, ends_epoch=last, last=last)


def measured(every: float, output) -> Speed:
  train = types.SimpleNamespace(speed_every=every, fsdp=False)
  mesh = sharding.make_mesh(1)
  parts = types.SimpleNamespace(
    config=types.SimpleNamespace(train=train, backbone=BackboneConfig()),
    tools=types.SimpleNamespace(mesh=mesh),
  )  # fmt: skip
  return Speed(parts, output, jax.jit(lambda *x: x))


def test_a_line_comes_when_time_has_passed_and_at_the_end(monkeypatch):
  now, told = [0.0], output()
  monkeypatch.setattr(speed.time, 'monotonic', lambda: now[0])
  found = measured(30.0, told)
  told.clock.seconds['train'] = 1.0
  assert found.after(loaded(100)) is None
  now[0], told.clock.seconds['train'] = 31.0, 4.0
  line = {'seconds_per_step': 2.0, 'tokens_per_second': 75.0, 'mfu': None, 'peak': 'unknown'}
  assert found.after(loaded(200)) == line
  told.clock.seconds['train'] = 5.0
  line = {'seconds_per_step': 1.0, 'tokens_per_second': 50.0, 'mfu': None, 'peak': 'unknown'}
  assert found.after(loaded(50, last=True)) == line
  assert measured(0.0, told).after(loaded(50, last=True)) is None


def test_operations_that_are_not_counted_yet_are_not_guessed():
  told = output()
  found = measured(30.0, told)
  found._peak = Peak(RATE, 'measured')
  waiting = types.SimpleNamespace(done=lambda: False)
  counted = types.SimpleNamespace(done=lambda: True, result=lambda: 1e9)
  found._counts = {loaded(1).shape: counted, loaded(1, 16).shape: waiting}
  found.after(loaded(5))
  told.clock.seconds['train'] = 4.0
  line = found.after(loaded(5, last=True))
  assert line['mfu'] == pytest.approx(0.5)  # two steps of a second in four
  found.after(loaded(5, 16))
  assert found.after(loaded(5, last=True))['mfu'] is None


def test_counting_on_another_thread_gives_the_same(tmp_path, monkeypatch):
  monkeypatch.setattr(speed, 'peak', lambda device, dtype: Peak(RATE, 'table'))
  made = runs.config('seq', stream={'max_tasks': 1}, train={'speed_every': 1e6, 'steps': 2})
  loop = runs.Loop(runs.experiment.assemble(made), None, quiet=True)
  pools = []
  monkeypatch.setattr(speed.Speed, 'close', lambda self: pools.append(self._pool))
  loop.run()
  (count,) = (future.result(timeout=60) for future in loop.trainer.speed._counts.values())
  planned = cost.operations(first_step.outline(made, sharding.make_mesh(1)))
  assert count == pytest.approx(planned.values['per_device']['total'], rel=1e-6)
  pools[0].shutdown()
