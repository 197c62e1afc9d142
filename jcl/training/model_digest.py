"""The digest of a model: the SHA-256 of its parameters."""

import hashlib

import jax
import numpy as np

from jcl.distributed import fetch
from jcl.storage.encoding import leaves_by_path
from jcl.types import Params


def digest(params: Params) -> str:
  """Returns the SHA-256 of the names, shapes and bytes of all parameters.

  Of a leaf that is sharded over devices one layer at a time comes to the host.
  """
  total = hashlib.sha256()
  for path, leaf in sorted(leaves_by_path(params).items()):
    shape = np.shape(leaf) or (1,)
    total.update(f'{path} {shape} {leaf.dtype}\n'.encode())
    sharded = isinstance(leaf, jax.Array) and not leaf.is_fully_replicated
    if sharded and len(shape) > 2:
      for number in range(shape[0]):  # no name keeps an entry while the next one is fetched
        total.update(_bytes_of(_entry(leaf, number)))
    else:
      total.update(_bytes_of(leaf))
  return total.hexdigest()


def _bytes_of(x: jax.Array | np.ndarray) -> memoryview:
  """Returns the bytes of an array, which it brings to the host."""
  return np.ascontiguousarray(fetch(x)).reshape(-1).view(np.uint8).data


@jax.jit
def _entry(leaf: jax.Array, number: int) -> jax.Array:
  """Returns an entry of the first axis, sharded as the leaf is."""
  return jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False)
