"""Arrays that are still in their files: a part is read when it is asked for."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

Spans = tuple[slice, ...]
"""One slice with start and stop for each dimension."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
  """A leaf that is not read yet.

  Attributes:
    shape: of the leaf.
    parts: list of spans -> an array for each, contiguous but for a snapshot's.
    apart: whether parts may be read one by one, so that nothing is read twice; otherwise each call
      of `parts` reads the tensors whole, one after another.
    dtype: of the leaf, whatever that of the file is.
  """

  shape: tuple[int, ...]
  parts: Callable[[Sequence[Spans]], list[np.ndarray]]
  apart: bool = True
  dtype: np.dtype = dataclasses.field(default_factory=lambda: np.dtype(np.float32))

  @property
  def ndim(self) -> int:
    """Number of dimensions."""
    return len(self.shape)

  @property
  def size(self) -> int:
    """Number of entries."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """Bytes of the leaf."""
    return self.size * self.dtype.itemsize

  def __getitem__(self, index: Any) -> np.ndarray:
    """Reads a part, given as NumPy's index of whole numbers and slices without a step."""
    index = index if isinstance(index, tuple) else (index,)
    spans = spans_of(index, self.shape)
    (part,) = self.parts([spans])
    return part[tuple(slice(None) if isinstance(i, slice) else 0 for i in index)]

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    """Reads the whole leaf."""
    return np.asarray(self[()], dtype)


def spans_of(index: Sequence[Any], shape: tuple[int, ...]) -> Spans:
  """Returns an index as one slice with start and stop for each dimension.

  Raises:
    IndexError: the index has a step, or does not fit.
  """
  found = []
  for place, size in zip([*index, *[slice(None)] * (len(shape) - len(index))], shape, strict=True):
    if not isinstance(place, slice):
      if not -size <= place < size:
        raise IndexError(f'{place} is out of the {size} entries of a stored leaf')
      place = slice(place % size, place % size + 1)
    start, stop, step = place.indices(size)
    if step != 1:
      raise IndexError('a stored leaf is read without a step')
    found.append(slice(start, max(start, stop)))
  return tuple(found)


def shape_of(spans: Spans) -> tuple[int, ...]:
  """Returns the shape of a part."""
  return tuple(span.stop - span.start for span in spans)


def placed(leaf: Stored, sharding: jax.sharding.Sharding) -> jax.Array:
  """Returns a leaf on the devices; this process reads the parts that its own devices hold."""
  found: dict[Any, np.ndarray] = {}
  key = lambda index: tuple((span.start, span.stop) for span in spans_of(index, leaf.shape))
  if not leaf.apart:
    asked = sharding.addressable_devices_indices_map(leaf.shape).values()
    spans = {key(index): spans_of(index or (), leaf.shape) for index in asked}
    found = dict(zip(spans, leaf.parts([*spans.values()]), strict=True))
  part = lambda index: found[key(index)] if found else leaf[index]
  return jax.make_array_from_callback(leaf.shape, sharding, part)
