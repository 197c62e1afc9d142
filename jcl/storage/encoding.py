"""Memory and other nested data as JSON beside a flat dict of arrays."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jcl.errors import UserError
from jcl.storage.stored import Stored
from jcl.types import Tree

Array = np.ndarray | jax.Array
Place = Callable[[str, Stored], Array]
"""Reads an array, given with its path, to where it was before: on the devices."""


def on_host(path: str, array: Stored) -> np.ndarray:
  """Reads an array to the host; a `Place`."""
  return np.asarray(array)


def encode(value: object, arrays: dict[str, Array], path: str = '') -> object:
  """Returns plain data as JSON can hold it; arrays are moved to `arrays`.

  Dicts with str or int keys, lists, tuples, None, bool, int, float and str come back from `decode`
  with the same types. An array leaves a reference to its path, which says whether it was on a
  device.

  Args:
    value: the data.
    arrays: takes {path: array}.
    path: of the value in the whole, such as `/memory/buffer`.

  Raises:
    UserError: the data holds anything else, which is a mistake of the method that put it there.
  """
  if value is None or isinstance(value, bool | int | float | str):
    return value
  if isinstance(value, np.generic | np.ndarray | jax.Array):
    if path in arrays:
      raise TypeError(f'two arrays of the memory have the path {path}')
    arrays[path] = np.asarray(value) if isinstance(value, np.generic) else value
    return {'on_device' if isinstance(value, jax.Array) else 'array': path}
  if isinstance(value, Mapping):
    items = [[k, encode(v, arrays, f'{path}/{k}')] for k, v in value.items()]
    if not all(isinstance(k, str | int) for k, _ in items):
      raise UserError(f'{path[1:]} has a key that is neither text nor a whole number')
    return {'dict': items}
  if isinstance(value, list | tuple):
    entries = [encode(v, arrays, f'{path}/{i}') for i, v in enumerate(value)]
    return entries if isinstance(value, list) else {'tuple': entries}
  raise UserError(
    f'{path[1:]} is of type {type(value).__name__}; a method may remember dicts, lists, tuples, '
    'arrays, numbers and text'
  )


def decode(value: object, arrays: Mapping[str, Any], place: Place = on_host) -> Any:
  """Returns the data that `encode` was given.

  Args:
    value: what `encode` returned.
    arrays: {path: array, or one that is not read yet}.
    place: called for each array that was on a device.
  """
  if isinstance(value, list):
    return [decode(v, arrays, place) for v in value]
  if not isinstance(value, dict):
    return value
  if 'array' in value:
    return np.asarray(arrays[value['array']])
  if 'on_device' in value:
    return place(value['on_device'], arrays[value['on_device']])
  if 'tuple' in value:
    return tuple(decode(v, arrays, place) for v in value['tuple'])
  return {k: decode(v, arrays, place) for k, v in value['dict']}


def leaves_by_path(tree: Tree) -> dict[str, Tree]:
  """Returns {path: leaf} of any pytree, such as an optimiser's state."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
