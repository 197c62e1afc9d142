"""Gradients of `eight_devices.py`, norms of `terms.py`, on two processes of four devices.

Arguments: NUMBER PORT OUT.npz
"""

import sys

import jax
import numpy as np

NORMS = ('lamol', 'adapters')  # cells of `terms.py`


def main(number: int, port: int, path: str) -> None:
  """Computes a few cells; the first process writes them."""
  jax.distributed.initialize(f'localhost:{port}', num_processes=2, process_id=number)
  from support import eight_devices as cells
  from support import terms

  assert jax.device_count() == 8
  assert jax.local_device_count() == 4
  out: dict[str, np.ndarray] = {}
  for name in ('lamol', 'ewc', 'inner step', 'taught'):
    for way in ('8', '8 fsdp'):
      cells.gradients(out, name, way)
  cells.gradients(out, 'decoder', '8 fsdp')
  cells.training(out, '8 fsdp')
  for name in NORMS:
    for term, norm in terms.norms(name, 'all').items():
      out[f'norms/{name}/{term}'] = np.asarray(norm)
  if number == 0:
    np.savez(path, **out)


if __name__ == '__main__':
  main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
