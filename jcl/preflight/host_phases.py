"""Bytes that the phases of a run beside its programs take on the host: load, digest, save, restore.

A process is taken to have eight devices, or all of them where there are fewer. What stands on the
host all the time (the stream's rows, a method's arrays of NumPy) is left out.
"""

import math
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from jcl.backbones.files import stored
from jcl.preflight.first_step import Outline
from jcl.storage import parts
from jcl.types import Json

LOCAL = 8  # devices of a process
THREADS = min(32, (os.cpu_count() or 1) + 4)  # of Python's pool, by which weights are hashed


class Part(NamedTuple):
  """Equal arrays that are on the host together.

  Attributes:
    shape: of each.
    dtype: of each.
    times: their number.
  """

  shape: tuple[int, ...]
  dtype: Any
  times: int = 1


def on_host(now: Outline) -> dict[str, Json]:
  """Returns {phase: {bytes, largest, array}} of a process: in all, of its largest array, its shape.

  `load` places the leaves of the base model one after another, each process its own parts.
  `digest of weights` reads a leaf a thread: whole, and places it, if it has at most `stored.HELD`
  bytes, else a block at a time. `snapshot` fetches and writes one array's own shards after another,
  and the small ones together. `restore` places arrays alike with `train.fsdp`, and else first has
  model and optimiser state on the host. `digest` fetches a layer of what is sharded, and whole
  arrays of what is not.

  Args:
    now: the first step, with shardings.
  """
  held = now.held
  params = jax.tree.leaves(held['parameters'])
  kept = [*params, *jax.tree.leaves(held['optimizer']), *jax.tree.leaves(held['teacher'])]
  found: dict[str, Json] = {}
  if now.parts.config.backbone.path:
    found['load'] = _each(params, _own)
    blocks = sorted((_bytes(_block(x)) for x in params), reverse=True)[:THREADS]
    found['digest of weights'] = _each(params, _block) | {'bytes': sum(blocks)}
  small = sum(_bytes(_own(x)) for x in kept if _bytes(_own(x)) < parts.LARGE)
  saved = _each(kept, _own)
  found['snapshot'] = saved | {'bytes': small + saved['largest']}
  if now.parts.config.train.fsdp:
    found['restore'] = found['snapshot']
  else:
    state = [*params, *jax.tree.leaves(held['optimizer'])]
    found['restore'] = _each(kept, _whole) | {'bytes': sum(_bytes(_whole(x)) for x in state)}
  found['digest'] = _each(params, _layer)
  return found


def _bytes(part: Part) -> int:
  """Returns the bytes of some equal arrays."""
  return math.prod(part.shape) * part.dtype.itemsize * part.times


def _each(leaves: Iterable[Any], part: Callable[[Any], Part]) -> Json:
  """Returns the phase in which one leaf after another is on the host."""
  most = max(map(part, leaves), key=_bytes)
  size = _bytes(most)
  several = f'{most.times} × ' if most.times > 1 else ''
  name = f'{several}{most.dtype}[{",".join(map(str, most.shape))}]'
  return {'bytes': size, 'largest': size, 'array': name}


def _whole(x: Any) -> Part:
  """Returns a leaf as a whole."""
  return Part(x.shape, x.dtype)


def _own(x: Any) -> Part:
  """Returns the shards of a leaf that a process has."""
  shape = x.sharding.shard_shape(x.shape)
  return Part(shape, x.dtype, 1 if shape == x.shape else min(LOCAL, x.sharding.num_devices))


def _layer(x: Any) -> Part:
  """Returns what the digest of the model fetches at once of a leaf."""
  sharded = x.sharding.shard_shape(x.shape) != x.shape
  return Part(x.shape[1:] if sharded and len(x.shape) > 2 else x.shape, x.dtype)


def _block(x: Any) -> Part:
  """Returns what the digest of weights reads at once of a leaf."""
  if _bytes(_whole(x)) <= stored.HELD:
    return _whole(x)
  rows = max(x.shape[0] * stored.BLOCK // max(_bytes(_whole(x)), 1), 1) if x.shape else 1
  return Part((min(rows, *x.shape[:1]), *x.shape[1:]) if x.shape else (), x.dtype)
