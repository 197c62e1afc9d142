"""Parts of a snapshot: what did not change is linked, and no bit kills both snapshots."""

import errno
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from jcl.storage import parts
from jcl.storage.checkpoint import Snapshots
from jcl.storage.stored import spans_of

FROZEN = np.random.default_rng(0).random(1_200_000, np.float32)  # larger than parts.LARGE


def content(step):
  """A frozen base, an adapter that trains, and a buffer."""
  adapter = np.random.default_rng(step + 1).random(1_100_000, np.float32)
  return {'base': jnp.asarray(FROZEN), 'adapter': jnp.asarray(adapter), 'step': np.arange(step)}


def save(workdir, *steps):
  snapshots = Snapshots(workdir)
  for step in steps:
    snapshots.save(content(step))
  snapshots.close()
  return snapshots


def data(folder, size=FROZEN.nbytes):
  """{path in the snapshot: file} of the files with at least so many bytes."""
  found = (f for f in folder.rglob('*') if f.is_file() and f.stat().st_size >= size)
  return {f.relative_to(folder).as_posix(): f for f in found}


def inodes(folder):
  """Numbers of the files that hold the frozen base."""
  return {f.stat().st_ino for f in data(folder).values()}


def same(found, wanted):
  assert found.keys() == wanted.keys()
  for key, value in wanted.items():
    assert np.asarray(found[key]).tobytes() == np.asarray(value).tobytes(), key


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """A workdir after six snapshots."""
  workdir = tmp_path_factory.mktemp('run')
  save(workdir, *range(6))
  return workdir


@pytest.fixture
def workdir(written, tmp_path):
  """A copy of it, with links as they are, that may be damaged."""
  shutil.copytree(written, tmp_path / 'run')
  return tmp_path / 'run'


def test_what_does_not_change_is_written_twice_in_a_run(tmp_path):
  seen = []
  for step in range(6):
    save(tmp_path, step)
    (frozen,) = inodes(tmp_path / 'checkpoints' / str(step))
    seen.append(frozen)
  assert seen[0] == seen[2] == seen[4]
  assert seen[1] == seen[3] == seen[5]
  assert seen[0] != seen[1]
  adapters = [data(tmp_path / 'checkpoints' / n, parts.LARGE).keys() for n in '45']
  assert len(adapters[0] ^ adapters[1]) >= 2  # what changed is written
  same(Snapshots(tmp_path, write=False).latest(), content(5))


@pytest.mark.parametrize('large', [2**20, 2**24])
def test_parts_of_a_jcl_to_which_others_were_large_are_read_and_linked(
  large, tmp_path, monkeypatch
):  # fmt: skip
  with monkeypatch.context() as older:
    older.setattr(parts, 'LARGE', large)
    save(tmp_path, 0, 1)
  same(Snapshots(tmp_path, write=False).latest(), content(1))
  save(tmp_path, 2)
  same(Snapshots(tmp_path, write=False).latest(), content(2))


def test_a_flipped_bit_of_a_linked_part_damages_one_snapshot_and_is_not_passed_on(workdir):
  (victim,) = data(workdir / 'checkpoints' / '4').values()
  bad = bytearray(victim.read_bytes())
  bad[len(bad) // 2] ^= 4
  victim.write_bytes(bad)
  number = victim.stat().st_ino
  snapshots = save(workdir, 6)  # would link from 4
  same(snapshots.latest(), content(6))
  assert snapshots.messages == []
  assert number not in inodes(workdir / 'checkpoints' / '6')


@pytest.mark.parametrize('number', ['4', '5'])
def test_either_of_the_two_is_enough(workdir, number):
  for path in data(workdir / 'checkpoints' / number, parts.LARGE).values():
    path.write_bytes(path.read_bytes()[:-1])
  same(Snapshots(workdir).latest(), content({'4': 5, '5': 4}[number]))
  save(workdir, 6, 7, 8)
  same(Snapshots(workdir, write=False).latest(), content(8))


def test_where_the_newest_is_put_away_nothing_is_shared_with_the_only_one(workdir):
  (workdir / 'checkpoints' / '5' / '0' / 'snapshot.json').unlink()
  Snapshots(workdir).latest()
  save(workdir, 6)
  folder = workdir / 'checkpoints'
  assert sorted(p.name for p in folder.iterdir()) == ['4', '6', 'damaged']
  assert not inodes(folder / '4') & inodes(folder / '6')


def test_a_file_system_without_links_gets_whole_files(workdir, monkeypatch):
  def refuse(source, target):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))

  monkeypatch.setattr(os, 'link', refuse)
  snapshots = save(workdir, 6)
  same(snapshots.latest(), content(6))
  assert len(data(workdir / 'checkpoints' / '6')) == 1
  snapshots.keep('1-travel')
  same_files(workdir / 'checkpoints' / '6', workdir / 'tasks' / '1-travel', shared=False)


def same_files(one, other, shared):
  """Two folders hold the same files, by links or not."""
  found = [sorted(p.relative_to(f) for p in f.rglob('*')) for f in (one, other)]
  assert found[0] == found[1]
  for name in found[0]:
    if (one / name).is_file():
      assert (one / name).read_bytes() == (other / name).read_bytes()
      assert os.path.samefile(one / name, other / name) == shared


def test_the_snapshot_of_a_task_takes_no_room_of_its_own(workdir):
  Snapshots(workdir).keep('1-travel')
  same_files(workdir / 'checkpoints' / '5', workdir / 'tasks' / '1-travel', shared=True)
  save(workdir, 6, 7, 8)
  again = workdir.parent / 'again'
  shutil.copytree(workdir / 'tasks' / '1-travel', again / 'checkpoints' / '0')
  same(Snapshots(again, write=False).latest(), content(5))


def test_equal_arrays_are_written_once_and_come_back_apart(tmp_path):
  snapshots = Snapshots(tmp_path)
  few = np.zeros(5, np.int32)
  snapshots.save({'params': FROZEN, 'teacher': FROZEN.copy(), 'journal': [few, few.copy()]})
  snapshots.close()
  assert len(data(tmp_path / 'checkpoints' / '0')) == 1
  found = snapshots.latest()
  found['journal'][0] += 1
  found['params'] += 1
  assert not found['journal'][1].any()
  assert found['teacher'].tobytes() == FROZEN.tobytes()


def test_only_what_somebody_may_write_to_is_copied():
  array = np.arange(6.0)
  view = array[:3]
  view.flags.writeable = False
  for one in (array, array[1:], view):
    assert not np.shares_memory(parts.still(one), array)
  array.flags.writeable = False
  assert parts.still(view) is view
  of_device = jnp.arange(3.0)
  assert parts.still(of_device) is of_device
  on_host = np.asarray(of_device)
  assert parts.still(on_host) is on_host


@pytest.mark.parametrize('size', [(16, 6), (16, 80_000)])
def test_any_span_of_an_array_comes_back_whatever_its_shards_were(size, tmp_path, monkeypatch):
  """Two processes with shards of three and five rows and of other columns."""
  whole = np.random.default_rng(0).random(size)
  cuts = [(0, 3, 0, size[1]), (3, 8, 0, 2), (8, 16, 2, size[1]), (3, 8, 2, size[1]), (8, 16, 0, 2)]
  pieces = [parts.Piece([a, c], whole[a:b, c:d]) for a, b, c, d in cuts]
  for process, own in enumerate((pieces[:2], pieces[2:])):
    monkeypatch.setattr(parts, 'pieces_of', lambda array, own=own: own)
    parts.write(tmp_path / str(process), {'/w': whole})
  leaf = parts.Saved([tmp_path / '0', tmp_path / '1']).leaves['/w']
  assert (leaf.shape, leaf.dtype, leaf.nbytes) == (size, whole.dtype, whole.nbytes)
  assert np.asarray(leaf).tobytes() == whole.tobytes()
  asked = [np.s_[0:3], np.s_[2:9, 1:4], np.s_[15:16, 5:6], np.s_[3:8, 0:2], np.s_[4:4]]
  spans = [spans_of(i if isinstance(i, tuple) else (i,), size) for i in asked]
  for index, found in zip(asked, leaf.parts(spans), strict=True):
    assert found.tobytes() == whole[index].tobytes()


def test_on_a_device_one_array_at_a_time_is_fetched(tmp_path, monkeypatch):
  """The next one is not asked for before the one before is on the disk."""
  order = []
  fetch, put = parts.pieces_of, parts.save_arrays
  monkeypatch.setattr(parts, 'pieces_of', lambda x: (order.append('fetch'), fetch(x))[1])
  monkeypatch.setattr(
    parts, 'save_arrays', lambda *given, **how: (order.append('write'), put(*given, **how))
  )
  parts.write(tmp_path / '0', {f'/{i}': jnp.full(parts.LARGE // 4, i) for i in range(3)})
  assert order == ['fetch', 'write'] * 3
