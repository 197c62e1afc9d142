"""One of two processes that write and read snapshots of sharded arrays.

python -m support.two_snapshots PROCESS PORT WORKDIR
"""

import errno
import json
import os
import pathlib
import sys
from typing import Any

import numpy as np

from jcl.distributed import join_processes
from jcl.errors import UserError
from jcl.step import sharding
from jcl.storage import parts
from jcl.storage.checkpoint import Snapshots

SIZE = (8, 300_000)  # of an array; a process holds more than `parts.LARGE` bytes of it


def contents(step: int) -> dict[str, np.ndarray]:
  """Arrays that are sharded, replicated, small, or the host's, one of which changes."""
  random = np.random.default_rng
  return {
    'frozen': random(0).random(SIZE, np.float32), 'trained': random(step).random(SIZE, np.float32),
    'small': np.full((4, 6), step, np.int32), 'norm': random(3).random(1_500_000, np.float32),
    'table': np.arange(step + 5),
  }  # fmt: skip


def main(process: str, port: str, workdir: str) -> None:
  """Writes three snapshots, reads the last one and fails in the second process at the fourth."""
  os.environ |= {
    'JAX_COORDINATOR_ADDRESS': f'localhost:{port}', 'JAX_NUM_PROCESSES': '2',
    'JAX_PROCESS_ID': process,
  }  # fmt: skip
  join_processes()
  mesh, folder = sharding.make_mesh(), pathlib.Path(workdir)
  place = lambda path, leaf: sharding.place_leaf(path, leaf, mesh, fsdp=True)

  def content(step: int) -> dict[str, Any]:
    made = contents(step)
    placed = {k: x if k == 'table' else place(f'/{k}', x) for k, x in made.items()}
    return placed | {'seconds': [0.5] * (1 + int(process))}  # plain data of this process

  snapshots = Snapshots(folder)
  for step in range(3):
    snapshots.save(content(step))
  snapshots.wait()
  found, own = Snapshots(folder).latest(place), content(2)
  assert found is not None
  shown = lambda x: [np.asarray(s.data).tolist() for s in x.addressable_shards]
  for name, array in own.items():
    if name == 'seconds':
      assert found[name] == [0.5]
    elif name == 'table':
      assert np.array_equal(array, found[name])
    else:
      assert found[name].sharding == array.sharding, name
      assert shown(found[name]) == shown(array), name
  said, real = '', parts.write

  def write(*given: object) -> None:
    if process == '1':
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    real(*given)  # type: ignore[arg-type]

  parts.write = write  # type: ignore[assignment]
  snapshots.save(content(3))
  try:
    snapshots.wait()
  except UserError as error:
    said = str(error)
  print(json.dumps({'said': said, 'committed': snapshots.committed}), flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
