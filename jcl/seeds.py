"""Random numbers that are a function of (seed, purpose, numbers), without hidden state."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
  """Returns NumPy's generator for one purpose.

  Args:
    seed: the run's seed.
    purpose: a word for what is drawn, such as `order`.
    *numbers: tell draws of one purpose apart, such as task and epoch; each at least 0.
  """
  return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *numbers])
