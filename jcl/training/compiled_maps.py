"""Functions of a model that are mapped over the devices, each compiled once."""

import dataclasses
import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from jcl.backbones import Backbone, generate
from jcl.step import device_maps


@dataclasses.dataclass(frozen=True)
class CompiledMaps:
  """Functions mapped over the devices, each compiled once for as long as it is the same function.

  Attributes:
    targets: fn -> `device_maps.map_targets(fn, mesh, fsdp)`.
    examples: fn -> `device_maps.sum_examples(fn, mesh, fsdp)`.
    generate: (max_new, k) -> `generate.generate` of at most `max_new` tokens from `k` candidates.
    project: fn -> `jax.jit(fn)`.
  """

  targets: Callable[[Callable], Callable]
  examples: Callable[[Callable], Callable]
  generate: Callable[[int, int], Callable]
  project: Callable[[Callable], Callable]


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
  layered = fsdp and mesh.size > 1

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
  )
