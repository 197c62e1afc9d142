"""One process of several: how it joins them, which one writes, where all wait."""

import concurrent.futures
import itertools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jaxlib
import numpy as np
from jax.sharding import Mesh

from jcl.errors import UserError

PATIENCE = 'JCL_PEER_TIMEOUT'  # environment variable: seconds, see `patience`
WEEK = 7 * 24 * 3600 * 1000  # ms; a process that is lost is found otherwise
LATER = 40  # seconds after which JAX ends a process whose peer is lost and that is still there

_exchanges = itertools.count()


def join_processes() -> None:
  """Joins the processes of one run by `jax.distributed.initialize`.

  On a pod or a cluster that JAX knows, JAX finds the others by itself. Elsewhere the environment
  variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name them.

  JAX's own handler of SIGTERM is left out: `jcl.training.signals` has one, which the run obeys.

  Raises:
    UserError: the number of processes is unknown, or the coordinator cannot be used.
  """
  seconds = patience()

  def number(variable: str) -> int | None:
    text = os.environ.get(variable, '')
    return int(text) if text.isdigit() else None

  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      num_processes=number('JAX_NUM_PROCESSES'), process_id=number('JAX_PROCESS_ID'),
      heartbeat_timeout_seconds=math.ceil(seconds) + LATER,
    )  # fmt: skip
  except (ValueError, RuntimeError) as error:
    raise UserError(
      f'--distributed: {error}; set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID'
    ) from None


def patience() -> float:
  """Returns the seconds without a sign of life after which a process of the run is lost.

  Raises:
    UserError: JCL_PEER_TIMEOUT is no such number.
  """
  text = os.environ.get(PATIENCE) or '60'
  try:
    seconds = float(text)
  except ValueError:
    seconds = math.nan
  if not 2 <= seconds <= 1e6:
    raise UserError(f'{PATIENCE} is {text!r}; give seconds, at least 2')
  return seconds


class Service(NamedTuple):
  """JAX's coordination service, through which the processes of a run exchange texts.

  Attributes:
    client: of the service.
    process: number of this process.
    processes: their number.
  """

  client: Any
  process: int
  processes: int


def service() -> Service | None:
  """Returns the service of several processes; None: this is the only one. No device is asked for.

  JAX exports no name for it.
  """
  from jax._src.distributed import global_state as state

  if state.client is None or state.num_processes == 1:
    return None
  return Service(state.client, state.process_id, state.num_processes)


def is_first() -> bool:
  """Whether this is process 0, the one that writes files and prints."""
  return jax.process_index() == 0


def barrier(name: str) -> None:
  """Waits until every process of the run has called this with the same name."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def exchanged(text: str) -> list[str]:
  """Returns the text of every process of the run, in order.

  All processes call this equally often, each from one thread at a time. It needs no device.
  """
  here = service()
  if here is None:
    return [text]
  number = next(_exchanges)
  key = lambda process: f'jcl/exchange/{number}/{process}'
  here.client.key_value_set(key(here.process), text)
  return [here.client.blocking_key_value_get(key(i), WEEK) for i in range(here.processes)]


def machine(mesh: Mesh) -> dict[str, str | int | list[int] | None]:
  """Returns all facts, beside seed and config, on which the bits of a result depend.

  Args:
    mesh: the devices of the run.
  """
  return {
    'jax': jax.__version__,
    'jaxlib': jaxlib.__version__,
    'platform': jax.devices()[0].platform,
    'device': jax.devices()[0].device_kind,
    'devices': [mesh.size, jax.device_count()],
    'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
  }


def memory_limit(device: jax.Device) -> int | None:
  """Returns the memory of a device in bytes; None if the device does not report it."""
  return (device.memory_stats() or {}).get('bytes_limit')


def least_memory(mesh: Mesh) -> int | None:
  """Returns the memory of the smallest device in bytes, the same in every process; None: unknown.

  Args:
    mesh: of devices.
  """
  found = [memory_limit(device) for device in mesh.local_devices]
  least = min(x or 0 for x in found) if found else 0
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    # In MiB, for a number of 64 bits needs a setting of JAX.
    least = int(multihost_utils.process_allgather(np.int32(least >> 20)).min()) << 20
  return least or None


def shared_out(fn: Callable[[Any], bytes], items: Sequence[Any]) -> list[bytes]:
  """Returns fn(item) of every item in order; processes share the items, threads those of each.

  Args:
    fn: gives as many bytes for each item.
    items: the same in every process.
  """
  count, own = jax.process_count(), jax.process_index()
  with concurrent.futures.ThreadPoolExecutor() as pool:
    found = list(pool.map(fn, items[own::count]))
  if count == 1:
    return found
  from jax.experimental import multihost_utils

  each = -(-len(items) // count)
  size = len(found[0]) if found else 0
  sizes = np.asarray(multihost_utils.process_allgather(np.int32(size)))
  table = np.zeros((each, int(sizes.max())), np.uint8)
  for row, value in enumerate(found):
    table[row] = np.frombuffer(value, np.uint8)
  every = np.asarray(multihost_utils.process_allgather(table))
  return [every[i % count, i // count].tobytes() for i in range(len(items))]


def fetch(x: jax.Array | np.ndarray) -> np.ndarray:
  """Returns the whole array on the host, its shards gathered from all processes."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
  return np.asarray(x)
