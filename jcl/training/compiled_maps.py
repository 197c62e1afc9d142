"""Functions of a model that are mapped over the devices, each compiled once."""

import dataclasses
import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from jcl.backbones import Backbone, generate
from jcl.step import device_maps, shards
from jcl.step.sharding import blocks_of
from jcl.types import Params

SHARE = 4  # whole parameters may take one part of so many of a device's memory
UNKNOWN = 16 * 10**9  # bytes that a device is taken to have which does not report its memory


@dataclasses.dataclass(frozen=True)
class CompiledMaps:
  """Functions mapped over the devices, each compiled once for as long as it is the same function.

  Attributes:
    targets: fn -> `device_maps.map_targets(fn, mesh, fsdp)`.
    examples: fn -> `device_maps.sum_examples(fn, mesh, fsdp)`.
    generate: (max_new, k) -> `generate.generate` of at most `max_new` tokens from `k` candidates.
    project: fn -> `jax.jit(fn)`.
    gathered: narrow -> `shards.gathered(mesh, …)`, in which kernels become narrow or not.
    whole: maps of parameters that were gathered; None: parameters are not sharded.
    dtype: `backbone.dtype`.
    mesh: of devices; None: parameters are not sharded.
  """

  targets: Callable[[Callable], Callable]
  examples: Callable[[Callable], Callable]
  generate: Callable[[int, int], Callable]
  project: Callable[[Callable], Callable]
  gathered: Callable[[bool], Callable]
  whole: 'CompiledMaps | None' = None
  dtype: str | None = None
  mesh: Mesh | None = None

  def gathers(self, params: Params, memory: float | None) -> int:
    """Returns the bytes of whole parameters, where a phase gathers them once; otherwise 0.

    Where they are more than a fourth of a device's memory they are gathered a layer at a time,
    anew in each step of a loop. The values are the same.

    Args:
      params: arrays or shapes.
      memory: bytes of a device; None: `UNKNOWN`.
    """
    size = 0 if self.mesh is None else shards.whole_bytes(params, self.mesh, self.dtype)
    return size if size * SHARE <= (UNKNOWN if memory is None else memory) else 0

  def of_phase(self, params: Params, memory: float | None) -> 'tuple[CompiledMaps, Params]':
    """Returns the maps of a phase, and the parameters as they take them; see `gathers`."""
    if self.whole is None or not self.gathers(params, memory):
      return self, params
    return self.whole, self.gathered(True)(params)


@functools.lru_cache(8)
def compiled_maps(
  backbone: Backbone, eos: int, pad: int, mesh: Mesh, fsdp: bool = False
) -> CompiledMaps:
  """Returns the maps of a model, none of them compiled yet; runs of one model share them.

  Args:
    backbone: the model; equal configs give the same.
    eos, pad: ids of end-of-sequence and padding.
    mesh: of devices.
    fsdp: parameters are sharded.
  """
  layered = fsdp and blocks_of(mesh) > 1

  def sampler(max_new: int, k: int) -> Callable:
    largest = device_maps.everywhere if layered else generate.alone
    fn = functools.partial(generate.generate, backbone, max_new, k, eos, pad, largest=largest)
    return device_maps.map_rows(fn, mesh, layered)

  # Bounded, since a method may make a function anew in each run.
  shared = functools.lru_cache(16)
  return CompiledMaps(
    shared(lambda fn: device_maps.map_targets(fn, mesh, fsdp)),
    shared(lambda fn: device_maps.sum_examples(fn, mesh, fsdp)),
    shared(sampler),
    shared(jax.jit),
    shared(lambda narrow: shards.gathered(mesh, backbone.dtype if narrow else None)),
    compiled_maps(backbone, eos, pad, mesh) if layered else None,
    backbone.dtype,
    mesh if layered else None,
  )
