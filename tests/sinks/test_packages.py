"""Sinks with their real packages: what they write is read back, also of a killed run."""

import io
import json
import os
import struct
import subprocess
import sys
import time

import PIL.Image
import pytest
from support import ROOT
from support.launchers import SMALL
from support.told import events, tell

from jcl.sinks import sink
from jcl.sinks.tensorboard import TensorBoard
from jcl.sinks.trackio import Trackio
from jcl.sinks.weights_and_biases import WandB
from jcl.training.callbacks import Callbacks


def picture() -> bytes:
  """A PNG of 3 by 2 points."""
  file = io.BytesIO()
  PIL.Image.new('RGBA', (3, 2)).save(file, 'PNG')
  return file.getvalue()


PICTURE = picture()


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
  """The matrix is a picture of 3 by 2 points."""
  monkeypatch.setattr(sink, 'heat_map_png', lambda results: PICTURE)


def package(name: str):
  return pytest.importorskip(name, reason=f'the package {name} is not installed')


def records(folder) -> list:
  """The events of all files of TensorBoard in a folder, in order."""
  from tensorboardX.proto.event_pb2 import Event

  found = []
  for file in sorted(folder.glob('events.out.tfevents.*')):
    data = file.read_bytes()
    while data:
      (size,) = struct.unpack('<Q', data[:8])
      found.append(Event.FromString(data[12 : 12 + size]))
      assert len(data) >= size + 16, f'{file} ends inside a record'
      data = data[size + 16 :]
  return found


def scalars(folder) -> list[tuple]:
  return [
    (value.tag, event.step, round(value.simple_value, 6))
    for event in records(folder)
    for value in event.summary.value
    if value.HasField('simple_value')
  ]


def test_tensorboard_reads_what_was_written_once(tmp_path):
  package('tensorboardX')
  whole, folder = tmp_path / 'whole', tmp_path / 'run' / 'sinks' / 'tensorboard'
  tell(TensorBoard(whole), events(None))
  wanted = scalars(whole)
  assert wanted.count(('train/loss', 4, 1.5)) == 1
  assert ('test/bank', 2, 0.3) in wanted
  (tmp_path / 'run').mkdir()
  every, dying = events(str(tmp_path / 'run')), TensorBoard()
  tell(dying, every[:8])
  dying._note = lambda: None  # it is killed before it notes what it has written
  tell(dying, every[8:9])
  dying._writer.close()
  assert scalars(folder)[-1] == ('pseudo/kept', 1, 5.0)
  tell(TensorBoard(), [events(str(tmp_path / 'run'), resumed=True)[0], *every[3:]])
  assert scalars(folder) == wanted
  values = [value for event in records(folder) for value in event.summary.value]
  units = {value.tag: value.metadata.summary_description for value in values}
  assert units['train/ce'].startswith('nats per target')
  assert units['metrics/forgetting'] == 'accuracy, a share from 0 to 1; by tasks learned'
  pictures = [value.image for value in values if value.tag == 'matrix']
  assert [(p.width, p.height, p.encoded_image_string) for p in pictures] == [(3, 2, PICTURE)] * 2
  (settings,) = (value for value in values if value.tag == 'settings/text_summary')
  assert b'| train.epochs | 2 |' in settings.tensor.string_val[0]
  assert sum(value.tag == '_hparams_/session_start_info' for value in values) == 1


@pytest.mark.slow
def test_a_real_run_that_is_killed_and_resumed_has_no_step_twice(tmp_path):
  """SIGKILL in the second task, far behind the last snapshot; the same command goes on."""
  package('tensorboardX')
  folder = tmp_path / 'run'
  command = [
    sys.executable, 'launch/train.py', '--config=configs/quickstart.py:replay', *SMALL,
    '--sinks=tensorboard', f'--workdir={folder}', '--config.train.log_every=1',
    '--config.train.speed_every=0', '--config.train.epochs=40',
    '--config.checkpoint.every_steps=25',
  ]  # fmt: skip
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  child = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
  log, deadline = folder / 'metrics.jsonl', time.monotonic() + 240
  while not (log.is_file() and '"task": 1, "step": 38' in log.read_text()):
    assert child.poll() is None, 'the run has ended before it was killed'
    assert time.monotonic() < deadline
    time.sleep(0.01)
  child.kill()
  child.wait()
  before = scalars(folder / 'sinks' / 'tensorboard')
  done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  (resumed,) = json.loads((folder / 'results.json').read_text())['resumes']
  assert resumed['steps_repeated'] > 0
  after = scalars(folder / 'sinks' / 'tensorboard')
  assert after[: len(before)] == before
  places = [(tag, step) for tag, step, _ in after]
  assert len(places) == len(set(places))
  steps = [step for tag, step in places if tag == 'train/loss']
  logged = [x for x in map(json.loads, log.read_text().splitlines()) if 'loss' in x]
  assert steps == [*range(1, len(logged) + 1)]


def test_tensorboard_needs_a_folder(tmp_path, monkeypatch):
  package('tensorboardX')
  said: list[str] = []
  Callbacks([TensorBoard()], said.append).tell('on_start', events(None)[0][1])
  assert 'the run has no workdir; give TensorBoard(folder)' in said[0]


@pytest.mark.slow
def test_trackio_holds_what_was_written_once(tmp_path, monkeypatch):
  monkeypatch.setenv('TRACKIO_DIR', str(tmp_path / 'trackio'))
  package('trackio')
  from trackio.sqlite_storage import SQLiteStorage

  (tmp_path / 'run').mkdir()
  every = events(str(tmp_path / 'run'))
  dying = Trackio('jcl-test')
  tell(dying, every[:9])
  dying._run.finish()
  tell(Trackio('jcl-test'), [events(str(tmp_path / 'run'), resumed=True)[0], *every[3:]])
  (name,) = SQLiteStorage.get_runs('jcl-test')
  assert name.startswith('run-')
  logs = SQLiteStorage.get_logs('jcl-test', name)
  losses = [(line['step'], line['train/loss']) for line in logs if 'train/loss' in line]
  assert losses == [(step, 1.5) for step in (1, 2, 3, 4)]
  assert [line['test/bank'] for line in logs if 'test/bank' in line] == [0.0, 0.9, 0.3]
  assert sum('matrix' in line for line in logs) == 2
  config = SQLiteStorage.get_run_config('jcl-test', name)
  assert config['train.epochs'] == 2
  assert config['units']['speed/seconds_per_step'] == 's'


@pytest.mark.slow
def test_wandb_keeps_its_run_offline(tmp_path, monkeypatch):
  package('wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  (tmp_path / 'run').mkdir()
  every = events(str(tmp_path / 'run'))
  dying = WandB()
  tell(dying, every[:9])
  dying._run.finish()
  again = WandB()
  tell(again, [events(str(tmp_path / 'run'), resumed=True)[0], *every[3:-1]])
  assert again._run.id == dying._run.id
  summary = dict(again._run.summary)
  assert (summary['train/loss'], summary['run_step'], summary['tasks']) == (1.5, 4, 2)
  assert summary['test/bank'] == 0.3
  assert again._run.config['train.epochs'] == 2
  tell(again, every[-1:])
  runs = sorted((tmp_path / 'run' / 'wandb').glob('offline-run-*'))
  assert len(runs) == 2
  assert all(next(run.glob('*.wandb')).stat().st_size for run in runs)


@pytest.mark.slow
def test_wandb_without_a_login_is_left_out(tmp_path, monkeypatch):
  package('wandb')
  for name in ('WANDB_API_KEY', 'WANDB_MODE'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('NETRC', str(tmp_path / 'netrc'))
  monkeypatch.setenv('HOME', str(tmp_path))
  said: list[str] = []
  Callbacks([WandB()], said.append).tell('on_start', events(str(tmp_path))[0][1])
  (line,) = said
  assert line.startswith(
    'warning: wandb: nobody is logged in; call wandb login, or set WANDB_MODE='
  )
  assert 'wandb' in sys.modules
