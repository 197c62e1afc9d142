"""Pretrained weights of a run, read from their files once: for the digest and for the devices."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jcl.backbones.files.stored import HELD, Reread, blocks
from jcl.step import sharding
from jcl.storage.encoding import leaves_by_path
from jcl.storage.stored import Stored
from jcl.training.inputs import weights_digest
from jcl.types import Params


class FirstWeights:
  """The weights that a run starts from: `digest` places what it reads, `taken` hands it out.

  Leaves of more than `HELD` bytes are read twice, a part at a time, and so are those of several
  processes, of which each hashes other leaves than it places.

  Args:
    weights: of the run, in part still in their files; None: from scratch, or not read.
    mesh: of devices.
    fsdp: as in `sharding.specs`.
    begins: the run begins; otherwise nothing is placed, for a snapshot has its parameters.
  """

  def __init__(self, weights: Params | None, mesh: Mesh, fsdp: bool, begins: bool):
    self._weights, self._mesh, self._fsdp = weights, mesh, fsdp
    self._begins = begins and jax.process_count() == 1
    self._leaves = leaves_by_path(weights)
    self._placed: dict[str, jax.Array] = {}

  def digest(self, files: Params | None) -> str | None:
    """Returns the digest of the weights as the files have them, and places those that it reads.

    Args:
      files: leaves that are those of the run, or that those of the run are made of.

    Raises:
      UserError: a tensor holds NaN or an infinity, or a file changed.
    """
    return None if files is None else weights_digest(files, self._read)

  def taken(self) -> Params:
    """Returns the weights; those that are placed already are handed out once, then read again."""
    placed, self._placed = self._placed, {}
    of = lambda path, leaf: placed.get(jax.tree_util.keystr(path), leaf)
    return jax.tree_util.tree_map_with_path(of, self._weights)

  def _read(self, path: str, leaf: Any) -> Iterator[np.ndarray]:
    """Yields a leaf in blocks; a small one in its file whole, and it is placed on the way."""
    if not isinstance(leaf, Stored) or not isinstance(leaf.parts, Reread):
      yield from blocks(leaf)
      return
    try:
      if self._begins and leaf.nbytes <= HELD:
        yield leaf.parts.hold()
        if (own := self._leaves.get(path)) is not None:
          self._placed[path] = sharding.place_leaf(path, own, self._mesh, self._fsdp)
      else:
        yield from blocks(leaf)
    finally:
      leaf.parts.release()
