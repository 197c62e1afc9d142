"""Leaves of a model's tree that are still in its files; see `jcl.storage.stored`.

A run that shards its model so reads on each process what its own devices hold, and no process ever
has the whole model on the host. What a part holds has the bits of the same part of the whole leaf.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jcl.backbones.files.family import Rule
from jcl.errors import UserError
from jcl.storage.stored import Spans, Stored, shape_of

BLOCK = 2**26  # bytes of a block of `blocks`, unless one entry of the first axis has more
HELD = 2**28  # bytes of a leaf that the host holds whole; of a larger one a part at a time


class Piece(NamedTuple):
  """The array that a tensor of a file holds of a leaf.

  Attributes:
    name: of the tensor.
    file: that has it.
    rule: between tensor and arrays.
    number: which of the arrays of the rule.
    shapes: of all of these arrays.
    view: () -> the tensor as it lies in the file, of which a part is read when it is copied.
    read: () -> the tensor, float32.
    config: of the model.
  """

  name: str
  file: str
  rule: Rule
  number: int
  shapes: tuple[tuple[int, ...], ...]
  view: Callable[[], np.ndarray] | None
  read: Callable[[], np.ndarray]
  config: Any


def leaf_of(
  shape: tuple[int, ...], pieces: Mapping[int | None, Piece], path: str
) -> Stored:  # fmt: skip
  """Returns a leaf of which each layer is a piece, or which is one piece.

  Args:
    shape: of the leaf.
    pieces: {number of the layer, or None: piece}; a scale of a layer without one is 1, all else 0.
    path: of the leaf, such as `layers/q_norm/scale`.
  """
  seen = {piece.file: _identity(piece.file) for piece in pieces.values()}
  as_view = all(_viewed(piece) is not None for piece in [*pieces.values()][:1])

  def parts(asked: Sequence[Spans]) -> list[np.ndarray]:
    blank = np.ones if path.endswith('/scale') else np.zeros
    found = [blank(shape_of(spans), np.float32) for spans in asked]
    for layer, piece in pieces.items():
      inside = [
        (out, spans) for out, spans in zip(found, asked, strict=True)
        if layer is None or spans[0].start <= layer < spans[0].stop
      ]  # fmt: skip
      if not inside:
        continue
      if _identity(piece.file) != seen[piece.file]:
        raise UserError(f'{piece.file} changed while the model was read; start again')
      values = _values(piece, as_view)
      for out, spans in inside:
        if layer is None:
          out[...] = _cut(piece, values, spans)
        else:
          out[layer - spans[0].start] = _cut(piece, values, spans[1:])
    return found

  return Stored(shape, parts, as_view)


def _identity(file: str) -> tuple[int, ...]:
  """Returns what changes when a file is written or replaced."""
  found = os.stat(file)
  return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _viewed(piece: Piece) -> np.ndarray | None:
  """Returns a piece as a view of its file; None where the rule computes or copies."""
  whole = piece.view() if piece.view is not None else None
  if whole is None:
    return None
  try:
    with np.errstate(all='ignore'):
      array = piece.rule.read(whole, piece.config)[piece.number]
  except ValueError:  # it writes into the tensor, or the tensor does not fit, which `_values` says
    return None
  same = isinstance(array, np.ndarray) and array.dtype == whole.dtype
  return array if same and np.may_share_memory(array, whole) else None


def _values(piece: Piece, as_view: bool) -> np.ndarray:
  """Returns a piece: a view of its file, or read and float32.

  Raises:
    UserError: the rule gives arrays of other shapes than the model has.
  """
  array = _viewed(piece) if as_view else None
  if array is not None and array.shape == piece.shapes[piece.number]:
    return array
  return ruled(piece.rule, piece.read(), piece.config, piece.name, piece.shapes)[piece.number]


def ruled(
  rule: Rule, tensor: np.ndarray, config: Any, name: str, shapes: Sequence[tuple[int, ...]]
) -> Sequence[np.ndarray]:
  """Returns the arrays of a tensor by its rule.

  Args:
    rule: between tensor and arrays.
    tensor: float32.
    config: of the model.
    name: of the tensor.
    shapes: of the arrays that the model has.

  Raises:
    UserError: the rule gives arrays of other shapes.
  """
  values = rule.read(tensor, config)
  if [np.shape(value) for value in values] != list(shapes):
    raise UserError(
      f'backbone.family: {config.family}: the rule of {name!r} reads arrays of the shapes '
      f'{[np.shape(v) for v in values]}; the model has {list(shapes)}'
    )
  return values


def _cut(piece: Piece, values: np.ndarray, spans: Spans) -> np.ndarray:
  """Returns a part of a piece, float32, which must be finite.

  Raises:
    UserError: it holds NaN or an infinity.
  """
  # In the order of the file first: a transposed copy of a narrow type is slow.
  part = np.asarray(values[spans]).astype(np.float32, order='K', copy=False)
  check_finite(part, piece.file, piece.name)
  return part


def check_finite(array: np.ndarray, file: str, name: str) -> None:
  """Refuses a tensor that holds NaN or an infinity, as of a broken download.

  Raises:
    UserError: naming file and tensor.
  """
  if not np.all(np.isfinite(array)):
    raise UserError(f'{file}: tensor {name!r} holds NaN or infinity; fetch the file again')


def grown(leaf: Stored, old: int, tail: np.ndarray) -> Stored:
  """Returns a leaf whose rows from `old` on are `tail`, those before being read from `leaf`.

  Args:
    leaf: [R, …].
    old: rows that stay as they are.
    tail: [n, …] float32.
  """

  def parts(asked: Sequence[Spans]) -> list[np.ndarray]:
    before = [(slice(min(s[0].start, old), min(s[0].stop, old)), *s[1:]) for s in asked]
    after = [
      tail[(slice(max(s[0].start - old, 0), max(s[0].stop - old, 0)), *s[1:])] for s in asked
    ]
    pairs = zip(leaf.parts(before), after, strict=True)
    return [np.concatenate(pair) if len(pair[1]) else pair[0] for pair in pairs]

  return Stored((old + len(tail), *leaf.shape[1:]), parts, leaf.apart)


class Reread:
  """The parts of a leaf, read from its file each time, or cut from the whole leaf while it is held.

  Args:
    leaf: still in its file.
  """

  def __init__(self, leaf: Stored):
    self._leaf = leaf
    self._array: np.ndarray | None = None

  def __call__(self, asked: Sequence[Spans]) -> list[np.ndarray]:
    """Returns an array for each of the spans that are asked for."""
    if self._array is None:
      return self._leaf.parts(asked)
    return [self._array[spans] for spans in asked]

  def hold(self) -> np.ndarray:
    """Reads the whole leaf, which is then held, unless it was read and is held already."""
    if self._array is None:
      self._array = np.asarray(self._leaf)
    return self._array

  def release(self) -> None:
    """Holds the leaf no longer: parts are read from the file again."""
    self._array = None


def rereadable(leaf: np.ndarray | Stored) -> np.ndarray | Stored:
  """Returns a leaf whose `parts`, if it is in its file, are `Reread`."""
  return dataclasses.replace(leaf, parts=Reread(leaf)) if isinstance(leaf, Stored) else leaf


def read_whole(leaf: np.ndarray | Stored) -> np.ndarray:
  """Returns a leaf as an array; one that is `Reread` and not too large for the host is held."""
  if isinstance(leaf, Stored) and isinstance(leaf.parts, Reread) and leaf.nbytes <= HELD:
    return leaf.parts.hold()
  return np.asarray(leaf, np.float32)


def first(leaf: np.ndarray | Stored, count: int) -> np.ndarray | Stored:
  """Returns the first entries of a leaf, which stay in its file if the leaf is there."""
  if not isinstance(leaf, Stored):
    return leaf[:count]
  return dataclasses.replace(leaf, shape=(count, *leaf.shape[1:]))


def blocks(leaf: np.ndarray | Stored) -> Iterator[np.ndarray]:
  """Yields a leaf in contiguous parts along its first axis, each of about `BLOCK` bytes."""
  if not isinstance(leaf, Stored) or not leaf.ndim:
    yield np.ascontiguousarray(leaf)
    return
  # Where parts cannot be read apart, each layer has tensors of its own all the same, a table not.
  whole = not leaf.apart and leaf.ndim < 3
  count = max(leaf.shape[0] * BLOCK // max(leaf.nbytes, 1), 1)
  step = leaf.shape[0] if whole else count
  for start in range(0, leaf.shape[0], max(step, 1)):
    yield leaf[start : start + step]
