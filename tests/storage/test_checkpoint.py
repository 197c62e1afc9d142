"""Snapshots come back bit for bit, or are known to be damaged."""

import errno
import json
import os
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jcl
from jcl.errors import UserError
from jcl.storage import checkpoint, parts, sealed_folder
from jcl.storage.checkpoint import Snapshots
from jcl.storage.encoding import decode, encode

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
  with pytest.raises(UserError, match=r'buffer/odd is of type .*; a method may remember dicts'):
    encode({'buffer': {'odd': odd}}, {})
  with pytest.raises(UserError, match='neither text nor a whole number'):
    encode({('a', 1): 2}, {})


def test_digests_tell_bits_shapes_and_types_apart():
  array = np.arange(12, dtype=np.float32).reshape(3, 4)
  flipped = array.copy()
  flipped.view(np.uint8)[1, 5] ^= 1
  digest = lambda *arrays: parts.digest([parts.Piece([0] * a.ndim, a) for a in arrays])
  assert digest(array) == digest(array.copy())
  assert digest(array.T) == digest(np.ascontiguousarray(array.T))
  others = flipped, array.T, array.reshape(4, 3), array.view(np.int32), array[:2]
  assert len({digest(a) for a in (array, *others)}) == 6
  assert digest(array[:1], array[1:]) != digest(array)
  assert len(digest(np.float32(1)[...])) == 32


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


def latest(workdir, write=False):
  """-> what the newest snapshot that is whole holds, and what is said about the others."""
  snapshots = Snapshots(workdir, write=write)
  return snapshots.latest(), snapshots.messages


def names(workdir):
  return sorted(p.name for p in (workdir / 'checkpoints').iterdir())


def files(workdir, number):
  """All files of a snapshot, from its folder."""
  folder = workdir / 'checkpoints' / str(number)
  return sorted(f.relative_to(folder).as_posix() for f in folder.rglob('*') if f.is_file())


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


def noticed(workdir, contents, reason=''):
  """The newest snapshot is passed over with a line, and the one before is as it was."""
  found, said = latest(workdir)
  equal(contents[1], found)
  (line,) = said
  assert line.startswith('snapshot 2 cannot be used (')
  assert reason in line
  assert '\n' not in line


def test_fifty_flipped_bits_are_all_noticed(written, workdir):
  """Anywhere in the snapshot, each byte as likely as any other, and one in every file at least."""
  folder, random = workdir / 'checkpoints' / '2', np.random.default_rng(0)
  sizes = {name: (folder / name).stat().st_size for name in files(workdir, 2)}
  sizes = {name: size for name, size in sizes.items() if size}
  assert 'snapshot.json' in sizes
  assert len(sizes) >= 8
  share = np.array([*sizes.values()]) / sum(sizes.values())
  anywhere = random.choice(list(sizes), 50 - len(sizes), p=share)
  for name in [*sizes, *anywhere.tolist()]:
    good = (folder / name).read_bytes()
    bad = bytearray(good)
    bad[random.integers(len(bad))] ^= 1 << random.integers(8)
    (folder / name).write_bytes(bad)
    noticed(workdir, written[1], name)
    (folder / name).write_bytes(good)
  equal(written[1][2], latest(workdir)[0])


def test_a_truncated_or_missing_file_is_noticed_whichever_it_is(written, workdir):
  folder = workdir / 'checkpoints' / '2'
  for name in files(workdir, 2):
    good = (folder / name).read_bytes()
    for length in {0, len(good) // 2} if good else ():
      (folder / name).write_bytes(good[:length])
      how = (
        'is damaged' if name == 'snapshot.json' else f'has {length:,} bytes and had {len(good):,}'
      )
      noticed(workdir, written[1], f'{name} {how}')
    (folder / name).unlink()
    if name == 'snapshot.json':  # then it was never finished
      equal(written[1][1], latest(workdir)[0])
    else:
      noticed(workdir, written[1], f'{name} is missing')
    (folder / name).write_bytes(good)
  assert latest(workdir)[1] == []


def test_a_file_that_came_later_is_said_and_does_no_harm(written, workdir):
  (workdir / 'checkpoints' / '2' / '0' / 'notes.txt').write_text('mine')
  found, said = latest(workdir)
  equal(written[1][2], found)
  assert said == [f'{workdir}/checkpoints/2 holds what is not of the snapshot: 0/notes.txt']


def test_a_leaf_that_orbax_did_not_write_as_it_was_is_noticed(written, workdir, monkeypatch):
  """The files are those of the seal, the array is not that of the run."""
  real = parts.digest
  wrong = lambda pieces: real(pieces)[:: -1 if pieces[0].values.size == 20000 else 1]
  snapshots = Snapshots(workdir)
  monkeypatch.setattr(parts, 'digest', wrong)
  snapshots.save(written[1][2])
  snapshots.close()
  monkeypatch.setattr(parts, 'digest', real)
  found, (line,) = latest(workdir)
  equal(written[1][2], found)
  assert line.startswith('snapshot 3 cannot be used (the checksum of /w is wrong): going back')


def test_what_was_never_finished_is_not_read_and_goes_away(written, workdir):
  """One without a seal, and one whose deletion was cut short."""
  folder = workdir / 'checkpoints'
  shutil.copytree(folder / '2', folder / '9')
  (folder / '9' / 'snapshot.json').unlink()
  (folder / '0').mkdir()
  (folder / 'notes').mkdir()
  found, said = latest(workdir)
  equal(written[1][2], found)
  assert said == []
  assert names(workdir) == ['0', '1', '2', '9', 'notes']  # as they were
  snapshots = Snapshots(workdir)
  assert (snapshots.number, snapshots.committed) == (9, 2)
  assert snapshots.save({'step': 3}) == 10
  snapshots.close()
  assert names(workdir) == ['10', '2', 'notes']


def test_a_damaged_snapshot_is_put_away_and_is_none_of_the_two(written, workdir):
  victim = workdir / 'checkpoints' / '2' / '0' / 'small' / '_CHECKPOINT_METADATA'
  victim.write_bytes(victim.read_bytes()[:-1])
  noticed(workdir, written[1])
  assert names(workdir) == ['1', '2']  # a reader touches nothing
  snapshots = Snapshots(workdir)
  equal(written[1][1], snapshots.latest())
  (line,) = snapshots.messages
  assert line.endswith(f'put away as {workdir}/checkpoints/damaged/2: going back to the one before')
  assert (snapshots.loaded, snapshots.committed) == (1, 1)
  assert names(workdir) == ['1', 'damaged']
  assert snapshots.save({'step': 3}) == 3
  snapshots.close()
  assert names(workdir) == ['1', '3', 'damaged']
  assert files(workdir, 'damaged/2')
  shutil.rmtree(workdir / 'checkpoints' / '3')
  assert Snapshots(workdir).save({'step': 4}) == 3
  assert latest(workdir)[1] == []


def test_what_the_machine_lacks_is_no_damage(written, workdir, monkeypatch):
  def few_files(path, content, reads):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

  def full(name, array):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, 'check_files', few_files)
    with pytest.raises(UserError, match='2 cannot be read: Too many open files; it may be whole'):
      Snapshots(workdir).latest()
  with pytest.raises(UserError, match='out of memory in reading snapshot 2'):
    Snapshots(workdir).latest(full)
  assert names(workdir) == ['1', '2']
  equal(written[1][2], Snapshots(workdir).latest())


def test_no_number_comes_twice(workdir):
  (workdir / 'checkpoints' / 'damaged').mkdir()
  (workdir / 'checkpoints' / '1').rename(workdir / 'checkpoints' / 'damaged' / '5')
  snapshots = Snapshots(workdir)
  assert snapshots.save({}) == 6
  snapshots.close()


@pytest.mark.parametrize('write', [True, False])
def test_where_none_can_be_read_the_user_is_told(workdir, write):
  for number in (1, 2):
    (workdir / 'checkpoints' / str(number) / '0' / 'small' / '_METADATA').unlink()
  for _ in range(2):  # and the next time too: nothing was put away, nothing starts afresh
    with pytest.raises(UserError, match=r'no snapshot can be read \(.*; start a new workdir') as e:
      latest(workdir, write)
    assert '\n' not in str(e.value)
    assert 'snapshot 2: 0/small/_METADATA is missing; snapshot 1: 0/small/_METADATA' in str(e.value)
  assert names(workdir) == ['1', '2']


def test_a_reader_follows_a_run_that_goes_on(written, workdir, monkeypatch):
  """Between two looks at the folder the run may have deleted what was there."""
  reader, real = Snapshots(workdir, write=False), checkpoint.read_seal

  def late(folder):
    monkeypatch.setattr(checkpoint, 'read_seal', real)
    run = Snapshots(workdir)
    for step in (10, 11):
      run.save({'step': step})
    run.close()
    return real(folder)

  monkeypatch.setattr(checkpoint, 'read_seal', late)
  assert reader.latest() == {'step': 11}
  assert reader.messages == []
  assert reader.loaded == 4


# What made it.


def reseal(workdir, number, **changes):
  folder = workdir / 'checkpoints' / str(number)
  content = sealed_folder.read_seal(folder) | changes
  (folder / 'snapshot.json').unlink()
  sealed_folder.seal(folder, content)


def test_the_seal_says_what_made_it_without_the_arrays(workdir):
  content = json.loads((workdir / 'checkpoints' / '2' / 'snapshot.json').read_text())['content']
  assert content['format'] == checkpoint.FORMAT
  assert content['jcl'] == jcl.__version__
  assert content['jax'] == jax.__version__
  assert {'jaxlib', 'orbax-checkpoint'} <= set(content)
  assert set(content['files']) == {'0/snapshot.json'}
  folder = workdir / 'checkpoints' / '2' / '0'
  own = json.loads((folder / 'snapshot.json').read_text())['content']
  assert own['leaves']['/teacher/layers/kernel'][:2] == [[2, 3], 'float32']
  assert set(own['files']) == {*files(workdir, '2/0')} - {'snapshot.json'}


@pytest.mark.parametrize('other', [1, 2, 99])
def test_another_format_is_refused_with_both_versions(workdir, other):
  reseal(workdir, 2, format=other, jcl='7.1')
  wanted = (
    rf'2 has format {other}, of jcl 7\.1; this is jcl {jcl.__version__}, which reads format 3'
  )
  with pytest.raises(UserError, match=wanted):
    latest(workdir)
  assert names(workdir) == ['1', '2']


def test_snapshots_of_before_there_were_seals_are_refused_and_stay(tmp_path):
  from orbax.checkpoint import v1

  folder = tmp_path / 'checkpoints' / '4'
  leaves = {'leaves': {'/w': [[2], 'float64', 0]}}
  v1.save_checkpointables(folder, {'run': {'/w': np.ones(2)}}, custom_metadata=leaves)
  with pytest.raises(UserError, match='has format 1, of an earlier jcl; this is'):
    latest(tmp_path)
  snapshots = Snapshots(tmp_path)
  snapshots.save({})
  snapshots.close()
  assert names(tmp_path) == ['4', '5']


def test_another_jcl_of_the_same_format_is_read_and_said(written, workdir):
  reseal(workdir, 2, jcl='7.1')
  found, said = latest(workdir)
  equal(written[1][2], found)
  assert said == [f'snapshot 2 was made by jcl 7.1, this is jcl {jcl.__version__}']


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


def test_what_was_on_a_device_is_placed_there_again(tmp_path):
  """And what was the host's is not: a hook that goes on must find the same kinds of arrays."""
  snapshots = Snapshots(tmp_path)
  snapshots.save({'memory': {'a': jnp.ones(3), 'b': np.ones(3), 'c': [jnp.zeros(0)]}})
  snapshots.close()
  placed = {}
  found = Snapshots(tmp_path).latest(lambda path, x: placed.setdefault(path, jnp.asarray(x)))
  assert list(placed) == ['/memory/a', '/memory/c/0']
  assert found['memory']['a'] is placed['/memory/a']
  assert type(found['memory']['b']) is np.ndarray
