"""Steps that are not finite, memory that does not suffice, two runs in one workdir."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import runs

from jcl import failures
from jcl.errors import UserError
from jcl.step import sharding
from jcl.storage import lock
from jcl.storage.checkpoint import Snapshots
from jcl.training import experiment
from jcl.training.run_state import Event, ProgressCounter


def config(**train):
  return runs.config(
    'derpp', stream={'max_tasks': 2}, checkpoint={'every_steps': 2}, train={'epochs': 2, **train}
  )


class Poisoned(runs.Loop):
  """A run whose targets count NaN in some steps, or in which these steps are left out."""

  def __init__(self, made, folder, steps=(), left_out=False, die_in=None):
    folder.mkdir(exist_ok=True)
    super().__init__(experiment.assemble(made), folder, quiet=True)
    self.said, self.feeds, self._die_in = [], [], die_in
    self.output.say = self.said.append
    real, taken = self.trainer.train_step, [0]

    def step(state, fixed, weights, rate, batch, groups):
      taken[0] += 1
      if taken[0] not in steps:
        return real(state, fixed, weights, rate, batch, groups)
      if left_out:
        nan = np.float32(np.nan)
        return {**state, 'step': state['step'] + 1}, {'loss': nan, 'gradient_norm': nan}
      bad = jnp.where(jnp.arange(batch.target_weight.size) == 0, jnp.nan, batch.target_weight)
      bad = sharding.place(bad, self.tools.mesh, sharding.ROWS)
      batch = dataclasses.replace(batch, target_weight=bad)
      return real(state, fixed, weights, rate, batch, groups)

    self.trainer.train_step = step
    settle = self.trainer.settle

    def watched(task, bar, weights, loaded, *rest):
      self.feeds.append((task.index, loaded))
      settle(task, bar, weights, loaded, *rest)

    self.trainer.settle = watched

  def before_task(self, now, task):
    if task.index == self._die_in:
      raise runs.Killed
    return super().before_task(now, task)


def log(folder):
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.slow
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path):
  """The run ends as if it had never been taken; a kill afterwards loses no count."""
  loop = Poisoned(config(), tmp_path / 'a', steps=(2, 9))
  results = loop.run()
  without = Poisoned(config(), tmp_path / 'b', steps=(2, 9), left_out=True).run()
  clean = Poisoned(config(), tmp_path / 'c').run()
  assert results['params_sha256'] == without['params_sha256'] != clean['params_sha256']
  assert results['refused_steps'] == [{'task': t, 'count': 1} for t in results['tasks']]
  assert clean['refused_steps'] == []
  refused = [line for line in log(tmp_path / 'a') if 'refused' in line]
  assert [(line['task'], line['step']) for line in refused] == [(0, 2), (1, 3)]
  assert all({'loss', 'new'} <= set(line['refused']) for line in refused)
  for line in refused:
    (loaded,) = (f for t, f in loop.feeds if (t, f.number + 1) == (line['task'], line['step']))
    names = {
      e.reference: f'{task.name}, {split}, {e.name} #{e.number}'
      for task in loop.parts.stream.tasks
      for split in ('train', 'dev', 'test')
      for e in getattr(task, split)
    }
    assert line['rows'] == [names[r] for r in loaded.rows]
    assert len(line['rows']) >= 8
  assert not any('NaN' in line for line in (tmp_path / 'a' / 'metrics.jsonl').read_text().split())
  warned = [line for line in loop.said if 'not applied (1 of at most 10 in a task)' in line]
  assert len(warned) == 2
  assert warned[0].startswith('warning: task kitchen, step 2: ')
  killed = Poisoned(config(), tmp_path / 'd', steps=(2,), die_in=1)
  with pytest.raises(runs.Killed):
    killed.run()
  resumed = Poisoned(config(), tmp_path / 'd', steps=(3,)).run()
  for key in ('params_sha256', 'refused_steps', 'matrix', 'tokens'):
    assert resumed[key] == results[key], key
  assert log(tmp_path / 'd') == log(tmp_path / 'a')


@pytest.mark.slow
def test_too_many_end_the_run_at_its_last_good_snapshot(tmp_path):
  """The error names term, task, step and rows; a run goes on when the fault is mended."""
  made = config(max_bad_steps=1, epochs=4)
  whole = Poisoned(made, tmp_path / 'whole').run()
  loop = Poisoned(made, tmp_path / 'run', steps=(5, 6, 7, 8))
  wanted = r'task kitchen, step 6: .*new, loss is not finite \(rows .*#\d.*\); '
  with pytest.raises(UserError, match=wanted + r'.*2 of this task so far and .*max_bad_steps is 1'):
    loop.run()
  found = Snapshots(tmp_path / 'run').latest()
  assert found['step'] == 4
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(found['params']))
  resumed = Poisoned(made, tmp_path / 'run').run()
  assert resumed['params_sha256'] == whole['params_sha256']
  assert resumed['refused_steps'] == []


def test_a_task_does_not_end_on_a_step_that_was_not_applied(tmp_path):
  with pytest.raises(UserError, match=r'task kitchen, step 6: .*the last of its task: lower'):
    Poisoned(config(), tmp_path, steps=(6,)).run()


def test_a_penalty_that_overflows_is_named(tmp_path):
  made = runs.config(
    'l2', stream={'max_tasks': 2}, train={'max_bad_steps': 0, 'learning_rate': 0.1}
  )
  made.method.lambda_l2 = 1e38
  with pytest.raises(UserError, match=r'task \w+, step 2: l2, loss(, gradient_norm)? is not'):
    runs.run(made, tmp_path)


def test_memory_that_does_not_suffice_is_told_with_the_batch(tmp_path):
  """The runtime's own error, of a train step and of a chunk."""
  loop = Poisoned(config(), tmp_path / 'a')
  loop.trainer.train_step = lambda *_: (jnp.zeros(2**46), {})
  shape = r'a batch of \d+ rows of \d+ tokens with \d+ targets, on 1 device'
  wanted = rf'out of memory in task kitchen, step 1: {shape}: RESOURCE_EXHAUSTED.*; lower train\.b'
  with pytest.raises(UserError, match=wanted) as error:
    loop.run()
  assert '\n' not in str(error.value)
  loop = Poisoned(config(), tmp_path / 'b')
  body = lambda carry, chunk: jnp.zeros(2**46)
  with pytest.raises(UserError, match=r'in hidden, 16 rows a chunk: .*lower evaluate\.batch_size'):
    loop.tools.fold('hidden', body, None, [1])
  with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):  # any other stays what it is
    loop.tools.fold('hidden', _fails, None, [1])


def _fails(carry, chunk):
  raise jax.errors.JaxRuntimeError('INTERNAL: a bug')


HOLD = (
  'import pathlib, sys, time\nfrom jcl.storage import lock\n'
  'with lock.held(pathlib.Path(sys.argv[1])):\n  print("held", flush=True)\n  time.sleep(300)\n'
)


def test_a_second_run_in_a_workdir_is_refused_until_the_first_is_dead(tmp_path):
  owner = subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path)], stdout=subprocess.PIPE)
  assert owner.stdout.readline() == b'held\n'
  left = sorted(p.name for p in tmp_path.iterdir())
  loop = Poisoned(config(), tmp_path)
  wanted = rf'another run is at work in it \(process {owner.pid} on .*, since 20\d\d-.*\); wait'
  with pytest.raises(UserError, match=wanted):
    loop.run()
  assert sorted(p.name for p in tmp_path.iterdir()) == left
  owner.send_signal(signal.SIGKILL)
  owner.communicate()
  with lock.held(tmp_path):
    assert json.loads((tmp_path / lock.LOCK).read_text())['process'] == os.getpid()
    with pytest.raises(UserError, match=f'process {os.getpid()} on'), lock.held(tmp_path):
      pass
  with lock.held(tmp_path):  # nothing is left to clear up
    pass


def test_a_position_outlives_its_process(tmp_path):
  heard = []
  position = ProgressCounter(tmp_path, heard.append).open()
  position.done = 3
  position.took(steps=2)
  position.says('step')
  position.took(steps=1, chunks=4)
  assert heard == [Event('step', 3, 2, 0)]
  again = ProgressCounter(tmp_path).open()  # the first was never closed
  assert again.restore(3, [1, 4]) == (2, 0)
  assert again.state() == [1, 4]
  assert again.resumed({'phase': 'train'}) == [{'phase': 'train'}]
  with open(tmp_path / 'resumes.jsonl', 'a') as file:
    file.write('{"phase": "ev')  # a kill struck
  assert again.resumed() == [{'phase': 'train'}]
  assert again.resumed({'phase': 'evaluate'}) == [{'phase': 'train'}, {'phase': 'evaluate'}]
  (tmp_path / 'position').write_bytes(b'\xff nonsense')
  assert ProgressCounter(tmp_path).open().restore(3, [1, 4]) == (0, 0)


def test_a_log_that_was_shortened_and_snapshots_that_are_gone_are_told(tmp_path):
  made = config()
  loop = Poisoned(made, tmp_path, die_in=1)
  with pytest.raises(runs.Killed):
    loop.run()
  assert not [line for line in loop.said if 'shortened' in line or 'begins again' in line]
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(path.read_bytes()[:-30])
  loop = Poisoned(made, tmp_path, die_in=1)
  with pytest.raises(runs.Killed):
    loop.run()
  assert 'warning: metrics.jsonl was shortened: lines of 30 bytes are lost' in loop.said
  (tmp_path / 'checkpoints').rename(tmp_path / 'elsewhere')
  (tmp_path / 'checkpoints').mkdir()
  (tmp_path / 'checkpoints' / '7').write_text('not a snapshot')
  loop = Poisoned(made, tmp_path)
  loop.run()
  assert 'no snapshot is left of an earlier run here: it begins again' in loop.said
  assert (tmp_path / 'checkpoints' / '7').read_text() == 'not a snapshot'
  assert min(int(p.name) for p in (tmp_path / 'checkpoints').iterdir() if p.is_dir()) > 7


def test_terms_that_are_not_finite_once_weighted_come_before_their_sum():
  values = {'loss': math.inf, 'ce': 1.0, 'ewc': 1e30, 'gradient_norm': math.nan, 'l2': math.inf}
  weights = {'ewc': np.float32(1e30), 'l2': np.float32(0.5)}
  assert failures.not_finite(values, weights) == ['ewc', 'l2', 'loss', 'gradient_norm']
  assert failures.not_finite({'ce': 1.0, 'loss': 1.0}, {}) == []


def test_a_refused_step_names_a_few_of_its_rows():
  rows = [f'train.csv:{i}' for i in range(10)]
  line = failures.describe_refused_step('bank', 3, ['ce', 'loss'], rows)
  assert line.startswith('task bank, step 3: ce, loss is not finite (rows train.csv:0, train.csv:1')
  assert line.endswith('train.csv:7 and 2 more); the step was not applied')
  assert 'more' not in failures.describe_refused_step('bank', 3, ['ce'], rows[:8])
