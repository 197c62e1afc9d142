"""Bytes on the host of the phases beside a run's programs: python -m support.host_peaks FOLDER FSDP

Prints JSON {phase: {stated, largest, measured}}. What NumPy allocates is measured; arrays of the
devices, which on a CPU are the host's, are copied to it as from an accelerator.
"""

import dataclasses
import json
import pathlib
import sys
import tracemalloc
from collections.abc import Callable

import jax
import numpy as np

from jcl import methods
from jcl.backbones.decoder import decoder
from jcl.backbones.files import hf
from jcl.backbones.files.stored import rereadable
from jcl.config import Config, TrainConfig
from jcl.preflight import first_step, host_phases
from jcl.step import sharding
from jcl.storage import parts
from jcl.storage.encoding import encode, leaves_by_path, on_host
from jcl.training import model_digest
from jcl.training.first_weights import FirstWeights
from support import gguf_files, tiny
from support.decoders import TINY

SIZES = {'width': 256, 'head_dim': 64, 'feed_forward': 2048, 'layers': 4}


def peak(work: Callable[[], object]) -> int:
  """The most bytes that NumPy has allocated at once during some work, beside those before."""
  tracemalloc.start()
  kept = work()
  found = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  del kept
  return found


def copied_pieces(array: parts.Array) -> list[parts.Piece]:
  """Pieces that are on the host as those of an accelerator."""
  return [parts.Piece(start, np.array(values)) for start, values in PIECES_OF(array)]


def taken(shape: tuple, sharding: jax.sharding.Sharding, part: Callable) -> None:
  """Asks for all parts of this process, as for an accelerator, which then has them."""
  where = sharding.addressable_devices_indices_map(shape)
  one = [*where.values()][:1] if sharding.is_fully_replicated else where.values()
  for found in [part(index) for index in one]:
    assert found.size


PIECES_OF = parts.pieces_of


def main(folder: pathlib.Path, fsdp: bool) -> None:
  """Prints the figures of a Llama whose largest leaves have eight megabytes."""
  shape = dataclasses.replace(TINY, **SIZES)
  file = gguf_files.write(folder / 'm.gguf', tiny.params(decoder(shape)), shape, kind='F32')
  made = Config(method=methods.settings('seq'), train=TrainConfig(batch_size=8, fsdp=fsdp))
  made.backbone.path = str(file)
  mesh = sharding.make_mesh()
  parts.LARGE = 2**20  # for most arrays of so small a model to be larger
  now = first_step.outline(made, mesh, tokens=16)
  stated = host_phases.on_host(now)
  in_file = lambda: hf.load(str(file), stored=True).params
  specs = sharding.specs(now.params, mesh, fsdp)
  params = sharding.place(in_file(), mesh, specs)
  moments = sharding.born(now.parts.optimizer().init, mesh, fsdp)(params)
  arrays: dict[str, parts.Array] = {}
  encode({'params': params, 'optimizer': leaves_by_path(moments)}, arrays)
  parts.write(folder / 'warm', arrays)
  parts.pieces_of = copied_pieces
  saved = lambda: parts.Saved([folder / 'warm']).leaves
  place = lambda path, leaf: sharding.place_leaf(path, leaf, mesh, True)
  read = lambda: [(place if fsdp else on_host)(path, leaf) for path, leaf in saved().items()]
  read()
  if not fsdp:  # what is whole on every device is not copied on a CPU
    model_digest.fetch = lambda x: np.array(x)  # type: ignore[assignment]
  jax.make_array_from_callback = taken  # type: ignore[assignment]
  load = parts.load_arrays
  parts.load_arrays = lambda *of: {name: x.copy() for name, x in load(*of).items()}
  files = jax.tree.map(rereadable, in_file())
  hashed = lambda: FirstWeights(files, mesh, fsdp, begins=True).digest(files)
  measured = {
    'load': peak(lambda: sharding.place(in_file(), mesh, specs)),
    'digest of weights': peak(hashed),
    'snapshot': peak(lambda: parts.write(folder / '0', arrays)),
    'restore': peak(read),
    'digest': peak(lambda: model_digest.digest(params)),
  }
  assert measured.keys() == stated.keys()
  found = {
    phase: {'stated': one['bytes'], 'largest': one['largest'], 'measured': measured[phase]}
    for phase, one in stated.items()
  }
  print(json.dumps(found))


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]), sys.argv[2] == 'true')
