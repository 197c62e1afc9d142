"""Two processes of four devices that read one model: NUMBER PORT FOLDER; prints JSON."""

import json
import sys

import jax
import numpy as np


def main(number: int, port: int, folder: str) -> None:
  """Prints which share of the entries this process reads of the model's files, and if rightly."""
  jax.distributed.initialize(f'localhost:{port}', num_processes=2, process_id=number)
  from jcl.backbones.files import hf, stored
  from jcl.step import sharding
  from jcl.training.inputs import weights_digest

  cut, sizes = stored._cut, []

  def counted(piece, values, spans):
    found = cut(piece, values, spans)
    sizes.append((piece.file, found.size))
    return found

  stored._cut = counted
  parts, whole = hf.load(folder, stored=True).params, hf.load(folder).params
  mesh = sharding.make_mesh()
  placed = sharding.place(parts, mesh, sharding.specs(parts, mesh, fsdp=True))
  read, sizes[:] = list(sizes), []
  digest = weights_digest(parts)
  leaves, every = jax.tree.leaves(placed), jax.tree.leaves(whole)
  pairs = list(zip(leaves, every, strict=True))
  shards = [(shard, w) for x, w in pairs for shard in x.addressable_shards]
  parts_of = lambda x: {str(shard.index): shard.data.size for shard in x.addressable_shards}
  held = sum(sum(parts_of(x).values()) for x in leaves)
  total = sum(w.size for w in every)
  print(json.dumps({
    'read': sum(size for _, size in read) / total,
    'held': held / total,
    'files': len({file for file, _ in read}),
    'hashed': sum(size for _, size in sizes) / total,
    'bits': all(np.array_equal(np.asarray(part.data), w[part.index]) for part, w in shards),
    'digest': digest == weights_digest(whole),
  }))  # fmt: skip


if __name__ == '__main__':
  main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
