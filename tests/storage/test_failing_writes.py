"""Snapshots and files that a kill or a full disk strikes."""

import errno
import inspect
import json
import pathlib
import shutil
import subprocess
import threading

import pytest
from support import runs
from support.launchers import QUICKSTART, SMALL, call, forks

from jcl.errors import UserError
from jcl.storage import atomic, orbax
from jcl.storage.atomic import write_json, write_text
from jcl.storage.checkpoint import Snapshots
from jcl.storage.in_memory import MemoryLog, NoSnapshots
from jcl.storage.metrics_log import MetricsLog
from jcl.training import experiment

EVENTS = ('snapshot begun', 'snapshot written', 'snapshot committed')


@pytest.fixture
def workdir(tmp_path):
  """A workdir of three snapshots, the last two of which are there."""
  folder = tmp_path / 'run'
  folder.mkdir()
  snapshots = Snapshots(folder)
  for step in range(3):
    snapshots.save({'step': step})
  snapshots.close()
  return folder


def latest(workdir):
  """Returns the contents of the newest whole snapshot."""
  snapshots = Snapshots(workdir, write=False)
  found = snapshots.latest()
  assert snapshots.messages == []
  return found


def test_events_come_in_order_and_what_is_under_way_is_known(tmp_path):
  said, go_on = [], threading.Event()

  def announce(event):
    said.append((event, snapshots.committed))
    assert event != 'snapshot written' or go_on.wait(30)

  snapshots = Snapshots(tmp_path, announce=announce)
  assert (snapshots.number, snapshots.committed, snapshots.pending) == (-1, -1, False)
  snapshots.save({'step': 0})
  assert (snapshots.number, snapshots.committed, snapshots.pending) == (0, -1, True)
  go_on.set()
  snapshots.save({'step': 1})
  snapshots.wait()
  assert (snapshots.number, snapshots.committed, snapshots.pending) == (1, 1, False)
  assert [event for event, _ in said] == [*EVENTS, *EVENTS]
  assert [committed for _, committed in said] == [-1, -1, 0, 0, 0, 1]


@pytest.mark.parametrize('event', EVENTS)
def test_what_dies_at_an_event_leaves_a_snapshot(workdir, event):
  """A process that ends without another word; the one after it goes on."""
  script = (
    'import os, pathlib, sys\nfrom jcl.storage.checkpoint import Snapshots\n'
    'die = lambda event: os._exit(9) if event == sys.argv[2] else None\n'
    'snapshots = Snapshots(pathlib.Path(sys.argv[1]), announce=die)\n'
    'snapshots.save({"step": 3})\nsnapshots.close()\n'
  )
  assert forks().code(script, str(workdir), event).status == 9
  snapshots = Snapshots(workdir)
  assert snapshots.latest()['step'] == (3 if event == 'snapshot committed' else 2)
  assert snapshots.messages == []
  assert snapshots.save({'step': 4}) == (3 if event == 'snapshot begun' else 4)
  snapshots.close()
  assert snapshots.latest()['step'] == 4
  assert len(list((workdir / 'checkpoints').iterdir())) == 2


@pytest.mark.parametrize('event', EVENTS)
def test_what_is_raised_at_an_event_reaches_the_one_who_waits(workdir, event):
  class Kill(BaseException):
    pass

  def announce(said):
    if said == event:
      raise Kill

  snapshots = Snapshots(workdir, announce=announce)

  def saved():
    snapshots.save({'step': 3})
    snapshots.wait()

  with pytest.raises(Kill):
    saved()
  snapshots.close()  # it is said once
  assert latest(workdir)['step'] == (3 if event == 'snapshot committed' else 2)


FULL = """
import json, os, pathlib, resource, signal, sys
import numpy as np
from jcl.storage.atomic import write_json
from jcl.storage.checkpoint import Snapshots
from jcl.storage.metrics_log import MetricsLog
from jcl.errors import UserError

folder, limited = pathlib.Path(sys.argv[1]), sys.argv[2] == 'limited'
big = {str(i): np.random.default_rng(i).random(30000) for i in range(20)}
snapshots = Snapshots(folder)
snapshots.save({'step': 0})
snapshots.wait()
snapshots.keep('1-bank')
if limited:
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100000, resource.RLIM_INFINITY))


def line_of(call):
  try:
    call()
  except (UserError, OSError) as error:
    return [type(error).__name__, str(error)]


def saved(and_then):
  snapshots.save(big)
  and_then()


ways = snapshots.wait, lambda: snapshots.save({}), snapshots.close
said = [line_of(lambda: saved(way)) for way in ways]
said += [line_of(f) for f in (snapshots.wait, snapshots.close)]
log = MetricsLog(folder / 'metrics.jsonl')
said.append(line_of(lambda: [log.write({'x': 'y' * 1000}) for _ in range(5000)]))
log.close()
said.append(line_of(lambda: write_json(folder / 'results.json', 'x' * 5000000)))
(folder / 'metrics.jsonl').unlink()
left = sorted(p.name for p in [*folder.iterdir(), *(folder / 'checkpoints').iterdir()])
print(json.dumps([said, left, Snapshots(folder).latest()]))
"""


def full(folder, how, reason):
  """Snapshots, a log and results in a process whose disk is full."""
  done = forks().code(FULL, str(folder), how, limit=120)
  assert done.err == ''
  said, left, found = json.loads(done.out)
  for number, (kind, line) in enumerate(said[:3], 1):
    assert kind == 'UserError'
    assert line == (
      f'{folder}/checkpoints/{number} cannot be written: {reason}; snapshot 0 is the last good '
      'one; free some space or mend the folder, and the same command goes on'
    )
  assert said[3:5] == [None, None]  # said once, and then no more
  for (kind, line), name in zip(said[5:], ('metrics.jsonl', 'results.json'), strict=True):
    assert kind == 'OSError'
    assert f"{reason}: '{folder}/{name}'" in line
  assert left == ['0', 'checkpoints', 'tasks']
  assert found == {'step': 0}


def test_a_file_that_grows_too_large_is_one_line(tmp_path):
  full(tmp_path, 'limited', 'File too large')


@pytest.fixture
def small_disk(tmp_path):
  """(folder on a disk of its own, sets the size of the disk)."""

  def resize(size, *options):
    mount = ['mount', '-t', 'tmpfs', '-o', ','.join([*options, f'size={size}']), 'tmpfs']
    return subprocess.run([*mount, str(tmp_path)], capture_output=True, check=False).returncode

  if resize('2m'):
    pytest.skip('this user may not mount a small tmpfs')
  yield tmp_path, lambda size: resize(size, 'remount')
  subprocess.run(['umount', str(tmp_path)], check=True)


def test_a_full_disk_is_one_line(small_disk):
  full(small_disk[0], 'small', 'No space left on device')


@pytest.mark.slow
def test_a_run_on_a_full_disk_ends_in_a_line_and_goes_on_when_there_is_space(small_disk):
  folder, resize = small_disk
  command = 'train', QUICKSTART + ':seq', *SMALL, f'--workdir={folder / "run"}'
  assert resize('240k') == 0
  done = call(*command)
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert line.startswith(f'error: {folder}/run/checkpoints/1 cannot be written: No space left on')
  assert resize('8m') == 0
  done = call(*command)
  assert done.returncode == 0, done.stderr
  assert 'going on from snapshot 0' in done.stdout


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, workdir):
  (tmp_path / 'checkpoints').write_text('mine')
  wanted = 'checkpoints/0 cannot be written: File exists; there is none before it; free '
  with pytest.raises(UserError, match=wanted):
    Snapshots(tmp_path).save({})
  assert (tmp_path / 'checkpoints').read_text() == 'mine'
  (workdir / 'tasks').write_text('mine')
  with pytest.raises(UserError, match=r'tasks/1-travel cannot be written: .*; snapshot 2 is the'):
    Snapshots(workdir).keep('1-travel')
  assert (workdir / 'tasks').read_text() == 'mine'


def test_the_line_of_a_full_disk_names_the_file_and_what_to_do():
  error = OSError(errno.ENOSPC, 'No space left on device')
  with (
    pytest.raises(OSError, match='No space') as raised,
    atomic.name_file_in_errors('runs/a/metrics.jsonl'),
  ):
    raise error
  assert atomic.describe_error(raised.value) == (
    'runs/a/metrics.jsonl: No space left on device; free some space, and the same command goes on'
  )
  assert atomic.describe_error(FileNotFoundError(2, 'No such file', 'a.txt')) == (
    'a.txt: No such file; give a path that is there'
  )


@pytest.mark.slow
def test_a_finished_task_is_kept_though_a_kill_came_before_the_copy(tmp_path, monkeypatch):
  made = runs.config('seq', checkpoint={'keep_tasks': True}, stream={'max_tasks': 2})
  real = Snapshots.keep

  def dying(snapshots, name):
    snapshots.wait()
    raise runs.Killed

  monkeypatch.setattr(Snapshots, 'keep', dying)
  with pytest.raises(runs.Killed):
    runs.run(made, tmp_path)
  assert not (tmp_path / 'tasks').exists()
  monkeypatch.setattr(Snapshots, 'keep', real)
  names = [f'{t.index + 1}-{t.name}' for t in experiment.assemble(made).stream.tasks]
  runs.run(made, tmp_path)
  assert sorted(p.name for p in (tmp_path / 'tasks').iterdir()) == names
  runs.run(made, tmp_path)  # and once more, over what is there
  for done, name in zip((6, 10), names, strict=True):  # a kept one can be gone on from
    again = tmp_path / f'from {name}'
    shutil.copytree(tmp_path / 'tasks' / name, again / 'checkpoints' / '0')
    assert latest(again)['done'] == done


# Files.


def test_a_failing_write_leaves_the_old_file(tmp_path):
  path = tmp_path / 'results.json'
  write_json(path, {'a': 'é'})
  assert json.loads(path.read_text('utf-8')) == {'a': 'é'}

  def parts():
    yield 'half of it'
    raise OSError('disk full')

  with pytest.raises(OSError, match='disk full'):
    write_text(path, parts())
  with pytest.raises(TypeError):
    write_json(path, {'a': object()})
  assert json.loads(path.read_text('utf-8')) == {'a': 'é'}
  write_json(path, [1])
  assert json.loads(path.read_text()) == [1]
  assert [p.name for p in tmp_path.iterdir()] == ['results.json']


def lines(path: pathlib.Path):
  return [json.loads(line)['step'] for line in path.read_text().splitlines()]


def test_the_log_is_cut_back_to_where_the_snapshot_was(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  log = MetricsLog(path)
  for step in range(3):
    log.write({'step': step})
  length = log.length()
  assert length == path.stat().st_size
  log.write({'step': 99})
  log.close()
  assert lines(path) == [0, 1, 2, 99]
  log = MetricsLog(path, length)
  log.write({'step': 3})
  log.close()
  assert lines(path) == [0, 1, 2, 3]
  log = MetricsLog(path, 10**6)  # the disk lost the end of it
  assert log.length() == path.stat().st_size
  log.close()
  assert lines(path) == [0, 1, 2, 3]
  MetricsLog(path).close()  # a run from its start
  assert path.read_text() == ''


@pytest.mark.parametrize(
  ('error', 'words'),
  [
    (OSError(errno.ENOSPC, 'as it may be'), 'No space left on device'),
    (ValueError('UNKNOWN: [Errno 27] write failed'), 'File too large'),
    (ValueError("status [os_error_code='13'] source"), 'Permission denied'),
    (ValueError('two\nlines'), 'ValueError: two lines'),
  ],
)
def test_the_reason_of_a_failed_write_is_that_of_the_system(error, words):
  assert orbax.failure_reason(error) == words


def test_what_stands_in_for_files_takes_the_same_calls():
  """A run without a workdir calls both kinds alike."""
  for real, stand_in in ((Snapshots, NoSnapshots), (MetricsLog, MemoryLog)):
    methods = {name for name in vars(stand_in) if not name.startswith('_')}
    assert methods
    for name in methods:
      wanted, given = (inspect.signature(getattr(kind, name)) for kind in (real, stand_in))
      assert list(wanted.parameters) == list(given.parameters), name
