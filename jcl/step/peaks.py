"""The peak of a device: how many floating-point operations a second its products of matrices take.

Figures are those of the makers, dense (half of those with sparsity), for one device as jax counts
them. float32 products are those of jax's default precision: TF32 where a GPU has it, one pass of
bfloat16 on TPUs. A device is left out where no figure was found: it is measured.

Sources:
  TPUs: the pages v3, v4, v5e, v5p and v6e of https://cloud.google.com/tpu/docs, "peak compute per
    chip (bf16)".
  A100, T4, V100: NVIDIA's data sheets of these; nvidia.com/en-us/data-center/a100.
  H100, H200: NVIDIA, H100 Tensor Core GPU Architecture, and nvidia.com/en-us/data-center/h100 for
    PCIe and NVL (TF32 is half of bfloat16). The H200 computes as the H100 SXM does.
  B200, GB200: NVIDIA, Blackwell data sheet, "individual Blackwell GPU specifications".
  L4, L40S: NVIDIA's data sheets of these.
"""

import functools
import time
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Source = Literal['table', 'measured', 'unknown']
# Beginning of the device's kind -> bfloat16, float32; None: another device than the shorter name's.
PEAKS: dict[str, tuple[float, float] | None] = {
  'NVIDIA A100': (312e12, 156e12),
  'NVIDIA B200': (2250e12, 1100e12),
  'NVIDIA GB200': (2500e12, 1250e12),
  'NVIDIA H100 NVL': (835e12, 417e12),
  'NVIDIA H100 PCIe': (756e12, 378e12),
  'NVIDIA H100': (989e12, 494e12),
  'NVIDIA H200 NVL': None,
  'NVIDIA H200': (989e12, 494e12),
  'NVIDIA L4': (121e12, 60e12),
  'NVIDIA L40S': (362e12, 183e12),
  'Tesla T4': (8.1e12, 8.1e12),  # has no bfloat16: it computes in float32
  'Tesla V100-PCIE': (14e12, 14e12),  # likewise
  'Tesla V100': (15.7e12, 15.7e12),  # likewise
  'TPU v3': (61.5e12, 61.5e12),  # a device is a core, two a chip
  'TPU v4 lite': None,
  'TPU v4': (275e12, 275e12),
  'TPU v5 lite': (197e12, 197e12),
  'TPU v5e': (197e12, 197e12),
  'TPU v5': (459e12, 459e12),
  'TPU v5p': (459e12, 459e12),
  'TPU v6 lite': (918e12, 918e12),
  'TPU v6e': (918e12, 918e12),
}
SIZE, TURNS = 4096, 8  # of the product that is measured, and how often


class Peak(NamedTuple):
  """A device's peak.

  Attributes:
    rate: FLOP/s; None: not known.
    source: `table`; `measured`, the best of some large products, on an accelerator that the table
      lacks; `unknown`, on CPUs, whose measure would cost more than it tells.
  """

  rate: float | None
  source: Source


def peak(device: jax.Device, dtype: str) -> Peak:
  """Returns the peak of a device.

  Args:
    device: the device.
    dtype: that the model computes in: `float32` or `bfloat16`.
  """
  if (found := listed(device.device_kind, dtype)) is not None:
    return Peak(found, 'table')
  if device.platform == 'cpu':
    return Peak(None, 'unknown')
  return Peak(measured(dtype), 'measured')


def listed(kind: str, dtype: str) -> float | None:
  """Returns the rate in `PEAKS` of the longest name that a kind of device begins with; or None."""
  names = [name for name in PEAKS if kind == name or kind.startswith((f'{name} ', f'{name}-'))]
  found = PEAKS[max(names, key=len)] if names else None
  return found[dtype != 'bfloat16'] if found else None


@functools.cache
def measured(dtype: str, size: int = SIZE) -> float:
  """Returns the FLOP/s that the default device reaches in large products of square matrices."""
  square = jnp.full((size, size), 1 / size, dtype)

  @jax.jit
  def multiply(x):
    for _ in range(TURNS):
      x = x @ square
    return x

  multiply(square).block_until_ready()  # compiles
  seconds = []
  for _ in range(3):
    start = time.perf_counter()
    multiply(square).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2 * size**3 * TURNS / min(seconds)
