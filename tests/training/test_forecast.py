"""The time left for a run, from what its tasks have cost so far."""

import types

import pytest

from jcl.storage.in_memory import MemoryLog, NoSnapshots
from jcl.training.forecast import Forecast
from jcl.training.run_output import RunOutput

SIZES = (100, 50, 200)  # training examples


def forecast(done: int, steps: int = 0, **spent: float) -> tuple[Forecast, list]:
  """A forecast of three tasks of ten test examples each, with seconds spent by kind."""
  task = lambda i: types.SimpleNamespace(index=i, train=range(SIZES[i]), test=range(10))
  tasks = [task(i) for i in range(3)]
  seconds = dict.fromkeys(('train', 'generate', 'evaluate', 'memory', 'compile'), 0.0)
  output = RunOutput(
    recorder=types.SimpleNamespace(seconds=seconds | spent),
    clock=types.SimpleNamespace(seconds=seconds),
    counter=types.SimpleNamespace(steps=steps),
    log=MemoryLog(),
    snapshots=NoSnapshots(),
  )
  parts = types.SimpleNamespace(stream=types.SimpleNamespace(tasks=tasks))
  return Forecast(parts, output, types.SimpleNamespace(done=done)), tasks


def test_training_to_come_is_counted_in_steps_an_example():
  found, tasks = forecast(done=3, evaluate=30.0)
  later = found.after_training(tasks[0], steps=20)
  # 50 steps for 250 examples; 30 examples took 30 s, and 20 + 30 + 30 are to come
  assert later(0.1) == pytest.approx(50 * 0.1 + 80)


def test_hooks_to_come_cost_what_those_before_them_did():
  found, tasks = forecast(done=7, evaluate=50.0, memory=4.0, generate=2.0)
  later = found.after_training(tasks[1], steps=10)  # of 50 examples; 200 are to come
  assert later(1.0) == pytest.approx(40 + 6 + 60)


def test_a_fold_after_training_counts_the_tasks_that_have_not_trained():
  found, tasks = forecast(done=4, steps=20, train=10.0, evaluate=30.0)  # after the first task
  assert found.after_fold(tasks[0])(0.0) == pytest.approx(10 * 250 / 100 + 80)
  found, tasks = forecast(done=6, steps=20, train=10.0, evaluate=50.0)  # before the second
  assert found.after_fold(tasks[1])(0.0) == pytest.approx(10 * 250 / 100 + 60)
  found, tasks = forecast(done=13, steps=20, train=10.0)  # the last evaluation
  assert found.after_fold(tasks[2])(0.0) == 0


def test_what_is_not_known_is_not_said():
  found, tasks = forecast(done=1)
  assert found.after_fold(None)(1.0) is None  # before training
  assert found.after_fold(tasks[0])(1.0) is None  # no step has been taken
  found, tasks = forecast(done=3, steps=5, train=1.0)
  assert found.after_fold(tasks[0])(1.0) is None  # inside training
