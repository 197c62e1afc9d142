"""Random numbers that are a function of (seed, purpose, numbers), without hidden state."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
  """The host's random numbers of (seed, purpose, numbers)."""
  return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *numbers])
