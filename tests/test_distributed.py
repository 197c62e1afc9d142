"""Two processes of four devices each: the same numbers as one of eight, and whole runs."""

import itertools
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from support import ROOT, external, rounding, two_snapshots
from support.launchers import forks
from support.tiny import DEEP_ROUNDING
from support.two_processes import NORMS

from jcl.backbones.files import weights
from jcl.storage.checkpoint import Snapshots

SETTINGS = (
  '--config.stream.max_tasks=2', '--config.stream.max_train_per_task=40',
  '--config.stream.max_test_per_task=16', '--config.backbone.width=16',
  '--config.backbone.layers=1', '--config.backbone.heads=2', '--config.backbone.feed_forward=24',
  '--config.train.epochs=2', '--config.train.batch_size=16', '--config.train.log_every=1',
  '--config.train.speed_every=0', '--config.train.gradient_norms_every=2',
  '--config.train.learning_rate=1e-2', '--config.evaluate.batch_size=16',
  '--config.evaluate.every_epochs=0', '--config.train.fsdp=true',
)  # fmt: skip


def free_port() -> int:
  with socket.socket() as it:
    it.bind(('localhost', 0))
    return it.getsockname()[1]


def together(commands, environments):
  """Runs commands at once -> what each printed; all must succeed."""
  running = [
    subprocess.Popen(
      command, cwd=ROOT, env={**os.environ, 'JAX_PLATFORMS': 'cpu', **environment},
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    for command, environment in zip(commands, environments, strict=True)
  ]  # fmt: skip
  try:
    outputs = [process.communicate(timeout=600) for process in running]
  finally:
    for process in running:
      process.kill()
  for process, (_, errors) in zip(running, outputs, strict=True):
    assert process.returncode == 0, errors[-4000:]
  # What the transport itself says is not ours.
  lines = [[s for s in said.splitlines() if not s.startswith('[Gloo]')] for said, _ in outputs]
  return ['\n'.join(said) for said in lines]


@pytest.mark.slow
def test_two_processes_of_four_devices_compute_what_one_of_eight_does(
  eight_devices, eight_devices_every_way, tmp_path
):
  port, out = str(free_port()), str(tmp_path / 'out.npz')
  program = [sys.executable, '-m', 'support.two_processes']
  commands = [[*program, str(i), port, out] for i in (0, 1)]
  together(commands, [{'JAX_NUM_CPU_DEVICES': '4'}] * 2)
  with np.load(out) as file:
    found = dict(file)
  assert len([k for k in found if k.endswith('/13/gradient')]) == 9
  of_one = forks().module('support.terms', devices=8)
  assert of_one.status == 0, of_one.err[-3000:]
  one = {name: ways['one'] for name, ways in json.loads(of_one.out).items() if name in NORMS}
  norms = {f'norms/{name}/{term}': n for name, terms in one.items() for term, n in terms.items()}
  assert norms.keys() <= found.keys()
  computed = eight_devices | eight_devices_every_way | norms
  for key, value in found.items():
    if key == 'training/sharded':
      continue
    wanted = computed[key]
    steps = 3 if key.startswith('training') else 1
    assert np.abs(value - wanted).max() <= steps * DEEP_ROUNDING * np.abs(wanted).max(), key


def train(workdir, processes):
  """The launcher on four devices in all, which belong to one or to two processes."""
  command = [
    sys.executable, 'launch/train.py', '--config=configs/quickstart.py:lamol',
    f'--workdir={workdir}', *SETTINGS,
  ]  # fmt: skip
  environment = {'JAX_NUM_CPU_DEVICES': str(4 // processes)}
  if processes == 1:
    return together([command], [environment])
  environment |= {'JAX_COORDINATOR_ADDRESS': f'localhost:{free_port()}', 'JAX_NUM_PROCESSES': '2'}
  return together(
    [[*command, '--distributed']] * 2, [{**environment, 'JAX_PROCESS_ID': i} for i in '01']
  )


def test_of_each_file_two_processes_read_their_parts(tmp_path, monkeypatch):
  monkeypatch.setattr(weights, 'SHARD_BYTES', 20_000)
  folder, port = external.written(tmp_path / 'model'), str(free_port())
  program = [sys.executable, '-m', 'support.two_readers']
  commands = [[*program, str(i), port, str(folder)] for i in (0, 1)]
  found = [
    json.loads(out.splitlines()[-1])
    for out in together(commands, [{'JAX_NUM_CPU_DEVICES': '4'}] * 2)
  ]
  assert len(list(folder.glob('model-*.safetensors'))) > 1
  for one in found:
    assert one['read'] == one['held'] < 0.51  # norms are whole in both
    assert one['bits']
    assert one['digest']
    assert one['files'] == len(list(folder.glob('model-*.safetensors')))
  assert sum(one['hashed'] for one in found) == 1


@pytest.mark.slow
def test_two_processes_write_their_own_shards_and_one_can_read_them(tmp_path):
  """Two devices each; the last snapshot cannot be written by the second one alone."""
  port, program = str(free_port()), [sys.executable, '-m', 'support.two_snapshots']
  commands = [[*program, str(i), port, str(tmp_path)] for i in (0, 1)]
  said = [
    json.loads(out.splitlines()[-1])
    for out in together(commands, [{'JAX_NUM_CPU_DEVICES': '2'}] * 2)
  ]
  wrong = f'{tmp_path}/checkpoints/3 cannot be written: '
  assert said[0]['said'].startswith(f'{wrong}process 1: No space left on device; snapshot 2 is')
  assert said[1]['said'].startswith(f'{wrong}No space left on device; snapshot 2 is the last good')
  assert [one['committed'] for one in said] == [2, 2]
  folder = tmp_path / 'checkpoints'
  assert sorted(path.name for path in folder.iterdir()) == ['1', '2']
  sizes = lambda own: [f.stat().st_size for f in (folder / '2' / own).rglob('*') if f.is_file()]
  array = np.prod(two_snapshots.SIZE) * 4
  whole = 1_500_000 * 4  # replicated: the first process writes it
  assert array + whole < sum(sizes('0')) < array + whole + 40_000
  assert array < sum(sizes('1')) < array + 20_000
  snapshots = Snapshots(tmp_path)
  found = snapshots.latest()
  for name, wanted in two_snapshots.contents(2).items():
    assert np.asarray(found[name]).tobytes() == wanted.tobytes(), name
  (victim,) = (folder / '2' / '1' / 'small').rglob('_METADATA')  # not in the first one's folder
  victim.write_bytes(b'x' + victim.read_bytes()[1:])
  found = Snapshots(tmp_path, write=False).latest()
  assert np.asarray(found['trained']).tobytes() == two_snapshots.contents(1)['trained'].tobytes()


def norms_of(log):
  """((task, step), {term: norm}) of each line of norms."""
  lines = [x for x in map(json.loads, log.read_text().splitlines()) if 'gradient_norms' in x]
  assert lines
  return [((x['task'], x['step']), x['gradient_norms']) for x in lines]


@pytest.mark.slow
def test_a_run_of_two_processes_is_that_of_one(tmp_path):
  one, first = (tmp_path / name for name in ('one', 'two'))
  train(one, 1)
  said = train(first, 2)
  assert 'after' in said[0]
  assert said[1] == ''  # one of them speaks
  results = [json.loads((d / 'results.json').read_text()) for d in (one, first)]
  assert results[1]['finished']
  assert results[0]['tokens']['train'] == results[1]['tokens']['train']
  losses = [
    [x['loss'] for x in map(json.loads, text.splitlines()) if 'loss' in x][:5]
    for text in ((d / 'metrics.jsonl').read_text() for d in (one, first))
  ]
  depth = 5 * rounding.layers(1, gradient=True)  # a step starts from the one before
  rounding.assert_close(np.array(losses[1]), np.array(losses[0]), terms=64, depth=depth)
  norms = [norms_of(d / 'metrics.jsonl') for d in (one, first)]
  assert [at for at, _ in norms[0]] == [at for at, _ in norms[1]]
  for (at, wanted), (_, found) in itertools.islice(zip(*norms, strict=True), 2):
    assert wanted.keys() == found.keys() == {'qa', 'gen'}
    assert found == pytest.approx(wanted, rel=rounding.tolerance(64, depth, margin=64)), at
  again = train(first, 2)  # nothing is left to do, and both know it
  assert 'going on from snapshot' in again[0]
  assert json.loads((first / 'results.json').read_text())['matrix'] == results[1]['matrix']
