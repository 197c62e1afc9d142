"""Runs that are asked to stop, and snapshots between two chunks of long work."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support import ROOT, runs
from support.launchers import QUICKSTART, SMALL

from jcl.errors import UserError
from jcl.storage.checkpoint import Snapshots
from jcl.training import experiment
from jcl.training.signals import STATUS, Requests, Stopped, stopped

SAME = ('params_sha256', 'matrix', 'metrics', 'pseudo', 'negative_flips', 'tokens')


def config(method, **checkpoint):
  """Returns a config with chunks so small that every fold has some."""
  return runs.config(
    method, checkpoint=checkpoint, stream={'max_tasks': 2}, evaluate={'batch_size': 8},
    train={'epochs': 1},
  )  # fmt: skip


class Counted(runs.Loop):
  """Counts the chunks of folds by phase; `at` is called at the chunk of that number."""

  def __init__(self, made, folder, at=None, number=0):
    folder.mkdir(exist_ok=True)
    super().__init__(experiment.assemble(made), folder, quiet=True)
    self.chunks, self._at, self._number = [], at, number

  def _after_chunk(self, now):
    self.chunks.append(now.done)
    super()._after_chunk(now)
    if len(self.chunks) == self._number:
      self._at()


def killed():
  raise runs.Killed


def interrupted():
  os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope='module', params=['ewc'])
def whole(request, tmp_path_factory):
  """-> method, results of a run without a stop, the phase of each of its chunks."""
  folder = tmp_path_factory.mktemp(request.param)
  loop = Counted(config(request.param), folder)
  return request.param, loop.run(), loop.chunks


def places(chunks):
  """A chunk in the midst of each phase that has several: by its number from 1."""
  found = {}
  for number, phase in enumerate(chunks, 1):
    found.setdefault(phase, []).append(number)
  return {phase: numbers[len(numbers) // 2] for phase, numbers in found.items() if len(numbers) > 1}


def test_a_request_to_stop_is_met_at_the_next_chunk(whole, tmp_path):
  method, results, chunks = whole
  before = signal.getsignal(signal.SIGINT)
  loop = Counted(config(method), tmp_path, interrupted, max(places(chunks).values()))
  words = r'snapshot \d+ is in .*checkpoints; the same call goes on'
  with pytest.raises(KeyboardInterrupt, match=words) as raised:
    loop.run()
  assert isinstance(raised.value, Stopped)
  assert len(loop.chunks) == max(places(chunks).values()) + 1
  assert signal.getsignal(signal.SIGINT) is before
  again = Counted(config(method), tmp_path)
  resumed = again.run()
  assert {key: resumed[key] for key in SAME} == {key: results[key] for key in SAME}
  assert len(loop.chunks) + len(again.chunks) == len(chunks)


def test_a_loop_that_catches_errors_is_stopped_too():
  for name in ('SIGINT', 'SIGTERM'):
    found = stopped(name, 'snapshot 3 is in x')
    assert not isinstance(found, Exception)
    assert isinstance(found, KeyboardInterrupt) == (name == 'SIGINT')
    assert found.for_a_shell() == 'snapshot 3 is in x; the same command goes on'
  assert str(stopped('SIGINT', 'nothing is kept', kept=False)) == 'nothing is kept'


@pytest.mark.slow
def test_snapshots_come_by_minutes_too(tmp_path):
  """With such a limit every step leaves a snapshot: a kill after the fifth repeats nothing."""
  made = config('seq', every_minutes=1e-9)
  loop = Counted(made, tmp_path / 'run')
  runs.die_after_step(loop, task=1, step=2)
  assert Snapshots(tmp_path / 'run').latest()['step'] == 2
  assert config('seq').checkpoint.every_minutes == 15


@pytest.mark.slow
@pytest.mark.parametrize('every', [1, 2, 5])
def test_a_slow_disk_makes_no_kill_dearer(every, tmp_path):
  """Whenever it struck: what is sealed is never further behind than the settings say."""
  made = config('seq', every_steps=every, every_chunks=every)
  made.train.epochs, made.evaluate.every_epochs = 4, 1
  begun, sealed, behind, beside = [], [(0, 0)], [], []

  def announce(event):
    if event.kind == 'snapshot written':
      time.sleep(0.05)  # where it is written
    if event.kind == 'snapshot committed':
      sealed.append(begun[len(sealed) - 1])
    behind.append(np.subtract((event.steps, event.chunks), sealed[-1]))
    if event.kind == 'snapshot begun':
      begun.append((event.steps, event.chunks))
    beside.append(event.kind == 'step' and len(begun) >= len(sealed))

  parts = experiment.assemble(made)
  runs.Loop(parts, tmp_path, quiet=True, announce=announce).run()
  assert every - 1 <= np.max(behind, 0).max() <= every
  assert any(beside) == (every > 1)  # one step goes on while another's snapshot is written
  assert len(begun) == len(sealed) - 1 > 12 // every


@pytest.mark.parametrize('field', ['every_chunks', 'every_minutes'])
def test_negative_intervals_are_refused(field):
  with pytest.raises(UserError, match=rf'checkpoint\.{field} is -1; it must be at least 0'):
    experiment.assemble(config('seq', **{field: -1}))


@pytest.mark.slow
def test_a_terminated_launcher_says_where_it_stopped_and_goes_on(tmp_path):
  """SIGTERM in the midst of training; the run that went on is the one that was left alone."""
  command = [sys.executable, 'launch/train.py', QUICKSTART + ':seq', *SMALL]
  run = dict(cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  long = ['--config.train.epochs=200', '--config.train.log_every=1', '--config.stream.max_tasks=1']
  long += ['--config.train.speed_every=0']  # lines with times differ
  process = subprocess.Popen([*command, *long, f'--workdir={tmp_path / "a"}'], **run)
  log, start = tmp_path / 'a' / 'metrics.jsonl', time.monotonic()
  while not (log.exists() and log.stat().st_size) and process.poll() is None:
    assert time.monotonic() - start < 200
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  _, said = process.communicate(timeout=200)
  assert process.returncode == STATUS, said
  assert 'SIGTERM: saving at the next step' in said
  assert f'in {tmp_path / "a" / "checkpoints"}; the same command goes on' in said
  for folder in ('a', 'b'):
    done = subprocess.run([*command, *long, f'--workdir={tmp_path / folder}'], check=False, **run)
    assert done.returncode == 0, done.stderr
  a, b = (json.loads((tmp_path / f / 'results.json').read_text()) for f in 'ab')
  assert {key: a[key] for key in SAME} == {key: b[key] for key in SAME}
  assert [r['steps_repeated'] for r in a['resumes']] == [0]
  lines = lambda f: [
    json.loads(x) for x in (tmp_path / f / 'metrics.jsonl').read_text().split('\n')[:-1]
  ]
  assert lines('a') == lines('b')


def signalled(*steps: str) -> subprocess.CompletedProcess:
  """A process that takes some steps while it listens to signals."""
  script = (
    'import os, signal, time\nfrom jcl.training.signals import ONE, Requests\n'
    'send = lambda name: os.kill(os.getpid(), getattr(signal, name))\n'
    'with Requests() as requests:\n'
  )
  script += ''.join(f'  {step}\n' for step in steps) + '  print("still here")\n'
  return subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=False)


def test_a_second_request_ends_at_once():
  said = 'print(requests.asked, flush=True)'
  done = signalled('send("SIGINT")', said, 'send("SIGINT")')
  assert (done.returncode, done.stdout) == (128 + signal.SIGINT, 'SIGINT\n')
  done = signalled('send("SIGTERM")', said, 'time.sleep(ONE)', 'send("SIGTERM")')
  assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, 'SIGTERM\n')


@pytest.mark.parametrize('lives', ['sys.ps1 = ">>> "', 'sys.modules["ipykernel"] = sys'])
def test_a_second_one_leaves_a_notebook_its_variables(lives):
  again = 'send("SIGINT")\n  except KeyboardInterrupt: print("still here")'
  done = signalled('import sys', lives, 'send("SIGINT")', 'try:', f'  {again}', 'sys.exit(3)')
  assert (done.returncode, done.stdout) == (3, 'still here\n'), done.stderr


def test_a_signal_that_comes_by_two_ways_is_one():
  done = signalled('send("SIGTERM")', 'send("SIGTERM")')
  assert (done.returncode, done.stdout) == (0, 'still here\n')


def test_among_several_processes_a_signal_is_told_and_not_obeyed_yet():
  told = []
  with Requests(told.append) as requests:
    os.kill(os.getpid(), signal.SIGTERM)
    assert told == ['SIGTERM']
    assert requests.asked == ''
