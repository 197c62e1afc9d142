"""Snapshots come back bit for bit, or are known to be damaged."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jcl import checkpoint
from jcl.checkpoint import MetricsLog, Snapshots, decode, encode, write_json, write_text
from jcl.errors import UserError

# Orbax leaves reads behind that go on failing after the first of a damaged snapshot has.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
BFLOAT16 = ml_dtypes.bfloat16
MEMORY = {
  'teacher': {'layers': {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3)}, 'scale': None},
  'buffer': {'examples': [(0, 5), (1, 17)], 'seen': 40},
  'models': {0: {'w': np.ones(2, BFLOAT16)}, 1: {'w': np.zeros(2, BFLOAT16)}},
  'journal': [['pseudo samples of t0', 3, np.arange(4, dtype=np.int32)], ['x', 0, None]],
  'empty': np.zeros((0, 7), np.float32),
  'whole': np.float32(2.5),
  'flags': np.array([True, False]),
  'keys': np.array([[1, 2**32 - 1]], np.uint32),
  'nested': ((1, (2.5, 'a', None)), [], (), {}, ''),
  'on device': jnp.full((2, 2), 3, jnp.bfloat16),
  'number': 0.1 + 0.2,
  'yes': True,
}


def equal(one, other):
  """The same structure, kinds, dtypes and bits; arrays may have moved to the host."""
  array = (np.ndarray, np.generic, jax.Array)
  if isinstance(one, array):
    assert isinstance(other, array)
    one, other = np.asarray(one), np.asarray(other)
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
    assert one.tobytes() == other.tobytes()
  elif isinstance(one, dict):
    assert list(one) == list(other)
    assert [type(k) for k in one] == [type(k) for k in other]
    for key in one:
      equal(one[key], other[key])
  elif isinstance(one, list | tuple):
    assert type(one) is type(other)
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
      equal(a, b)
  else:
    assert type(one) is type(other)
    assert one == other


def test_memory_survives_json_and_arrays():
  arrays = {}
  structure = json.loads(json.dumps(encode(MEMORY, arrays)))
  equal(MEMORY, decode(structure, arrays))
  assert '/teacher/layers/kernel' in arrays


@pytest.mark.parametrize('odd', [{1, 2}, object(), len, b'bytes'])
def test_what_is_no_plain_data_is_refused_by_its_place(odd):
  with pytest.raises(TypeError, match=r'memory/buffer/odd holds a .*; only plain data'):
    encode({'buffer': {'odd': odd}}, {})
  with pytest.raises(TypeError, match='neither a string nor a number'):
    encode({('a', 1): 2}, {})


def test_checksums_tell_bits_apart():
  array = np.arange(12, dtype=np.float32).reshape(3, 4)
  flipped = array.copy()
  flipped.view(np.uint8)[1, 5] ^= 1
  assert checkpoint.checksum(array) == checkpoint.checksum(array.copy())
  assert checkpoint.checksum(array) != checkpoint.checksum(flipped)
  assert checkpoint.checksum(array.T) == checkpoint.checksum(np.ascontiguousarray(array.T))
  assert isinstance(checkpoint.checksum(np.float32(1)[...]), int)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """A workdir in which three snapshots were taken, and what the last two hold."""
  workdir = tmp_path_factory.mktemp('run')
  snapshots = Snapshots(workdir)
  assert snapshots.latest() is None
  contents = [{**MEMORY, 'step': i, 'w': np.random.default_rng(i).random(20000)} for i in range(3)]
  assert [snapshots.save(c) for c in contents] == [0, 1, 2]
  snapshots.close()
  return workdir, contents


@pytest.fixture
def workdir(written, tmp_path):
  """A copy of it that may be damaged."""
  shutil.copytree(written[0], tmp_path / 'run')
  return tmp_path / 'run'


def latest(workdir):
  snapshots = Snapshots(workdir)
  try:
    return snapshots.latest(), snapshots.said
  finally:
    snapshots.close()


def files(workdir, number):
  """All files with content of a snapshot."""
  return [
    f for f in sorted((workdir / 'checkpoints' / str(number)).rglob('*'))
    if f.is_file() and f.stat().st_size
  ]  # fmt: skip


def test_the_last_two_are_kept_and_the_newest_comes_back(written, workdir):
  assert sorted(p.name for p in (workdir / 'checkpoints').iterdir()) == ['1', '2']
  found, said = latest(workdir)
  equal(written[1][2], found)
  assert said == []


def test_going_on_counts_on(workdir):
  snapshots = Snapshots(workdir)
  assert snapshots.number == 2
  assert snapshots.save({'step': 3}) == 3
  snapshots.close()
  assert latest(workdir)[0] == {'step': 3}
  assert sorted(p.name for p in (workdir / 'checkpoints').iterdir()) == ['2', '3']


def flip(path, at):
  """One bit of a file."""
  data = bytearray(path.read_bytes())
  data[at] ^= 1
  path.write_bytes(data)


def test_a_flipped_bit_anywhere_is_harmless_or_noticed(written, workdir):
  """Whatever byte is hit: the snapshot as it was, or the one before and a word about it."""
  random = np.random.default_rng(0)
  reasons = []
  names = [f.relative_to(workdir) for f in files(workdir, 2)]
  assert len(names) >= 5
  biggest = max(names, key=lambda name: (workdir / name).stat().st_size)
  assert (workdir / biggest).stat().st_size > 1e5  # large arrays stand in files of their own
  for name in names:
    path = workdir / name
    good, size = path.read_bytes(), path.stat().st_size
    anywhere = random.integers(size, size=6 if name == biggest else 1)
    for at in {0, size // 2, size - 1, *anywhere.tolist()}:
      flip(path, at)
      found, said = latest(workdir)
      equal(written[1][1 if said else 2], found)
      reasons += said
      assert all(line.startswith('snapshot 2 cannot be used') for line in said)
      assert not any('\n' in line for line in said)
      path.write_bytes(good)
  assert sum('the checksum of /w is wrong' in line for line in reasons) >= 5, reasons


def test_a_truncated_or_missing_file_is_noticed(written, workdir):
  biggest = max(files(workdir, 2), key=lambda f: f.stat().st_size)
  biggest.write_bytes(biggest.read_bytes()[: biggest.stat().st_size // 2])
  found, said = latest(workdir)
  equal(written[1][1], found)
  assert len(said) == 1
  biggest.unlink()
  equal(written[1][1], latest(workdir)[0])


def test_where_none_can_be_read_the_user_is_told(workdir):
  for number in (1, 2):
    biggest = max(files(workdir, number), key=lambda f: f.stat().st_size)
    biggest.unlink()
  with pytest.raises(UserError, match=r'no snapshot can be read; .*; start a new workdir') as error:
    latest(workdir)
  assert '\n' not in str(error.value)


def test_a_kept_snapshot_stays_when_the_others_roll_on(workdir):
  snapshots = Snapshots(workdir)
  snapshots.keep('1-travel')
  for i in range(3):
    snapshots.save({'step': 10 + i})
  snapshots.close()
  kept = workdir / 'tasks' / '1-travel'
  assert kept.is_dir()
  assert [p.name for p in (workdir / 'tasks').iterdir()] == ['1-travel']
  assert sorted(p.name for p in (workdir / 'checkpoints').iterdir()) == ['4', '5']


def test_arrays_of_a_snapshot_are_those_of_the_call_though_they_change_later(tmp_path):
  """Writing goes on behind the loop's back; the host's arrays may be reused at once."""
  snapshots, array = Snapshots(tmp_path), np.zeros(1000)
  snapshots.save({'w': array})
  array += 1
  snapshots.close()
  (found, said) = latest(tmp_path)
  assert said == []
  assert (found['w'] == 0).all()


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
