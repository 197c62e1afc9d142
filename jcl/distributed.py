"""The machine, and one process of several: who they are, who writes, where they wait."""

import os
from typing import Any

import jax
import jaxlib
import numpy as np

from jcl.errors import UserError


def join_processes() -> None:
  """Makes this process one of several: of a pod or a cluster that jax knows, or as said.

  JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say so where jax cannot know.

  Raises:
    UserError: nothing says how many processes there are.
  """
  said = {
    name: int(os.environ[variable])
    for name, variable in (('num_processes', 'JAX_NUM_PROCESSES'), ('process_id', 'JAX_PROCESS_ID'))
    if os.environ.get(variable, '').isdigit()
  }
  try:
    jax.distributed.initialize(**said)
  except (ValueError, RuntimeError) as error:
    raise UserError(
      f'--distributed: {error}; set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID'
    ) from None


def is_first() -> bool:
  """Whether this process is the one that writes and speaks."""
  return jax.process_index() == 0


def meet(name: str) -> None:
  """Waits until every process is here."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def machine(mesh: Any) -> dict[str, Any]:
  """What equal bits depend on, beside the seed."""
  return {
    'jax': jax.__version__,
    'jaxlib': jaxlib.__version__,
    'platform': jax.devices()[0].platform,
    'device': jax.devices()[0].device_kind,
    'devices': [mesh.size, jax.device_count()],
    'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
  }


def fetch(x: Any) -> np.ndarray:
  """A whole array on the host, wherever its shards are."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
  return np.asarray(x)
