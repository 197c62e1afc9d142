"""O-LoRA's penalty, written from its formula in float64 NumPy."""

import numpy as np


def overlap(adapter: dict, task: int, rank: int) -> float:
  """Σ over earlier tasks, layers and projections of Σ_ij |a_earlier,i · a_own,j|."""
  total = 0.0
  for part in adapter['layers'].values():
    for layer_RI in np.asarray(part['a'], np.float64):
      tasks = [layer_RI[i : i + rank] for i in range(0, len(layer_RI), rank)]
      for earlier in tasks[:task]:
        for one in earlier:
          for other in tasks[task]:
            total += abs(float(one @ other))
  return total
