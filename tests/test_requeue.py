"""Runs of several processes that are killed, stopped and started again: one end, the same bits."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from support import ROOT
from support.processes import Processes, free_port

from jcl.storage import lock
from jcl.storage.sealed_folder import newest
from jcl.training.signals import STATUS

SETTINGS = (
  '--config.stream.max_tasks=2', '--config.stream.max_train_per_task=40',
  '--config.stream.max_test_per_task=16', '--config.backbone.width=16',
  '--config.backbone.layers=1', '--config.backbone.heads=2', '--config.backbone.feed_forward=24',
  '--config.train.batch_size=16', '--config.train.log_every=1', '--config.train.learning_rate=1e-2',
  '--config.evaluate.batch_size=16', '--config.evaluate.every_epochs=0',
  '--config.checkpoint.every_minutes=0.02', '--config.train.speed_every=0',
)  # fmt: skip
SAME = ('params_sha256', 'matrix', 'metrics', 'pseudo', 'negative_flips', 'tokens')
PATIENCE = 20.0  # seconds; fewer are too few on a machine with other work
ABORTED = -signal.SIGABRT  # by JAX, which may be faster than jcl where process 0 is lost


def started(folder, method='seq', count=2, epochs=80) -> Processes:
  """The same command, whichever time it is called."""
  arguments = ['train', f'--config=quickstart:{method}', f'--workdir={folder}', *SETTINGS]
  arguments.append(f'--config.train.epochs={epochs}')
  return Processes(arguments, count, JCL_PEER_TIMEOUT=str(PATIENCE))


def finished(folder, **how) -> tuple[dict, list]:
  """Runs to the end -> the results and the lines of metrics.jsonl."""
  with started(folder, **how) as run:
    for status, _, said in run.ended():
      assert status == 0, said
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return json.loads((folder / 'results.json').read_text()), [json.loads(line) for line in lines]


def check_same(found: tuple[dict, list], wanted: tuple[dict, list]) -> None:
  """Two runs ended in the same bits."""
  assert {key: found[0][key] for key in SAME} == {key: wanted[0][key] for key in SAME}
  assert found[1] == wanted[1]


def wait_for_a_snapshot(folder, run: Processes) -> None:
  """Waits until the run has written one by minutes, in the midst of a task."""
  before, start = newest(folder / 'checkpoints'), time.monotonic()
  while newest(folder / 'checkpoints') <= before + 1:
    assert time.monotonic() - start < 200
    assert all(process.poll() is None for process in run.all), run.ended()
    time.sleep(0.05)


@pytest.mark.slow
def test_a_run_of_two_processes_survives_a_signal_and_the_loss_of_each(tmp_path):
  whole, folder = finished(tmp_path / 'whole'), tmp_path / 'run'
  with started(folder) as run:  # one of them is asked to stop, and both do
    run.wait_for(folder / 'metrics.jsonl', 5)
    run.all[1].send_signal(signal.SIGTERM)
    for status, _, said in run.ended():
      assert status == STATUS, said
      assert said.splitlines()[-1].startswith('stopped: snapshot ')
  with started(folder) as run:  # one is lost
    wait_for_a_snapshot(folder, run)
    run.all[1].kill()
    start = time.monotonic()
    (status, _, said), (killed, _, _) = run.ended()
    assert time.monotonic() - start < PATIENCE + 30
    assert (status, killed) == (STATUS, -signal.SIGKILL)
    assert 'stopped: process 1 has given no sign of life for' in said.splitlines()[-1]
  with started(folder) as run:  # the first one is lost
    wait_for_a_snapshot(folder, run)
    run.all[0].kill()
    _, (status, _, said) = run.ended()
    assert status in (STATUS, ABORTED), said
    if status == STATUS:
      assert 'stopped: process 0, by which the others agree, is lost' in said
  found = finished(folder)
  assert len(found[0]['resumes']) == 3
  assert found[0]['resumes'][0]['steps_repeated'] == 0
  check_same(found, whole)


@pytest.mark.slow
def test_four_processes_that_are_all_asked_stop_at_one_step(tmp_path):
  how = {'method': 'lamol', 'count': 4, 'epochs': 24}
  whole, folder = finished(tmp_path / 'whole', **how), tmp_path / 'run'
  with started(folder, **how) as run:
    run.wait_for(folder / 'metrics.jsonl', 90)  # in the second task, after pseudo samples
    for process in run.all:
      process.send_signal(signal.SIGTERM)
    ends = run.ended()
    assert [status for status, _, _ in ends] == [STATUS] * 4, ends
  found = finished(folder, **how)
  assert [resume['steps_repeated'] for resume in found[0]['resumes']] == [0]
  check_same(found, whole)


@pytest.mark.slow
def test_a_run_that_one_process_refuses_ends_all_with_its_line(tmp_path):
  with lock.held(tmp_path), started(tmp_path) as run:
    (first, _, said), (other, _, heard) = run.ended()
  assert (first, other) == (2, 2)
  assert 'another run is at work in it' in said.splitlines()[-1]
  assert heard.splitlines()[-1].startswith('error: process 0 has ended: ')
  assert 'another run is at work in it' in heard


SRUN = """
import os, signal, subprocess, sys
folder, life = os.environ['HERE'], os.environ.get('SLURM_RESTART_COUNT', '0')
step = {'SLURM_STEP_NODELIST': 'localhost', 'SLURM_NTASKS': '2', 'SLURM_LOCALID': '0'}
ranks = [
  subprocess.Popen(
    [sys.executable, '-m', *sys.argv[2:]], env={**os.environ, **step, 'SLURM_PROCID': str(rank)},
    stderr=open(f'{folder}/rank{rank}.{life}', 'w'),
  ) for rank in range(2)
]
signal.signal(signal.SIGTERM, lambda *_: [rank.send_signal(signal.SIGTERM) for rank in ranks])
sys.exit(max(rank.wait() for rank in ranks))
"""


@pytest.mark.slow
def test_the_slurm_script_stops_and_requeues_a_run_that_then_ends_in_the_same_bits(tmp_path):
  """Two ranks that find each other as Slurm's do; `srun` stands in for Slurm, SIGTERM its own."""
  (tmp_path / 'bin').mkdir()
  for name, text in (
    ('srun', f'#!{sys.executable}{SRUN}'),
    ('scontrol', f'#!/bin/bash\necho "$@" > {tmp_path}/again'),
  ):  # fmt: skip
    (tmp_path / 'bin' / name).write_text(text)
    (tmp_path / 'bin' / name).chmod(0o755)

  def submitted(folder, **more: str) -> subprocess.Popen:
    environment = {
      **os.environ, 'PATH': f'{tmp_path / "bin"}:{os.environ["PATH"]}', 'HERE': str(tmp_path),
      'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '2',
      'SLURM_JOB_ID': str(free_port()), 'SLURM_GPUS_ON_NODE': '2', 'CONFIG': 'quickstart:seq',
      'WORKDIR': str(folder), **more,
    }  # fmt: skip
    script = [str(ROOT / 'launch/slurm/train.sbatch'), *SETTINGS, '--config.train.epochs=80']
    return subprocess.Popen(['bash', *script], env=environment, cwd=ROOT, start_new_session=True)

  assert submitted(tmp_path / 'whole').wait(300) == 0
  script = submitted(tmp_path / 'run')
  try:
    log, start = tmp_path / 'run' / 'metrics.jsonl', time.monotonic()
    while not (log.exists() and log.read_bytes().count(b'\n') >= 5):
      assert time.monotonic() - start < 200
      assert script.poll() is None
      time.sleep(0.05)
    os.killpg(script.pid, signal.SIGTERM)  # the shell, srun and every rank
    assert script.wait(200) == 0
  finally:
    if script.poll() is None:
      os.killpg(script.pid, signal.SIGKILL)
  assert (tmp_path / 'again').read_text().startswith('requeue ')
  assert 'stopped: snapshot' in (tmp_path / 'rank1.0').read_text()
  assert submitted(tmp_path / 'run', SLURM_RESTART_COUNT='1').wait(300) == 0
  whole, run = (json.loads((tmp_path / f / 'results.json').read_text()) for f in ('whole', 'run'))
  assert {key: run[key] for key in SAME} == {key: whole[key] for key in SAME}
  assert [resume['steps_repeated'] for resume in run['resumes']] == [0]
