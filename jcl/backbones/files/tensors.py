"""Between named tensors of a file and our tree: every name and shape checked, nothing guessed."""

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jcl.backbones import Params
from jcl.backbones.files.families import Entry
from jcl.backbones.model_config import ModelConfig
from jcl.backbones.models import backbone_of
from jcl.errors import UserError


class Source(NamedTuple):
  """One tensor of a file, not read yet."""

  file: str
  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]


def flat(tree: Params) -> dict[str, Any]:
  """{'layers/q/kernel': leaf, …}."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {'/'.join(key.key for key in path): leaf for path, leaf in leaves}


def nested(leaves: Mapping[str, Any]) -> Params:
  """The inverse of `flat`."""
  tree: dict = {}
  for path, leaf in leaves.items():
    *folders, name = path.split('/')
    place = tree
    for folder in folders:
      place = place.setdefault(folder, {})
    place[name] = leaf
  return tree


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
  """{path: shape} of our tree, without a head."""
  with warnings.catch_warnings():  # of counts beyond int32 in what is never computed
    warnings.simplefilter('ignore')
    abstract = jax.eval_shape(backbone_of(config).init, jax.random.key(0))
  abstract.pop('head', None)
  return {path: leaf.shape for path, leaf in flat(abstract).items()}


def expand(
  table: Sequence[Entry], paths: Mapping[str, Any], layers: int
) -> Iterator[tuple[Entry, str, int | None]]:
  """The entries that our tree has, with their name and layer (None: not in a layer)."""
  for entry in table:
    if entry.ours[0] not in paths:
      continue
    if entry.ours[0].startswith('layers/'):
      yield from ((entry, entry.theirs.format(i), i) for i in range(layers))
    else:
      yield entry, entry.theirs, None


def read(
  config: ModelConfig,
  table: Sequence[Entry],
  sources: Mapping[str, Source],
  where: str,
  ignored: str = '$^',
) -> Params:
  """Our tree, float32 numpy arrays, from named tensors.

  Args:
    config: whose tree.
    table: of names.
    sources: {their name: tensor}.
    where: folder or file, for messages.
    ignored: pattern of names that may stand there and are not read.

  Raises:
    UserError: a tensor is missing, unknown or of the wrong shape.
  """
  wanted = shapes(config)
  places = list(expand(table, wanted, config.layers))
  names = {name for _, name, _ in places}
  check_names(names, {n for n in sources if not re.search(ignored, n)}, where)
  for entry, name, layer in places:
    _check_shape(entry, name, [wanted[p][layer is not None :] for p in entry.ours], sources, config)
  leaves = {path: np.empty(shape, np.float32) for path, shape in wanted.items()}
  for entry, name, layer in places:
    parts = [leaves[path] if layer is None else leaves[path][layer] for path in entry.ours]
    for part, value in zip(parts, entry.rule.read(sources[name].read(), config), strict=True):
      part[...] = value
  return nested(leaves)


def _check_shape(
  entry: Entry,
  name: str,
  parts: Sequence[tuple[int, ...]],
  sources: Mapping[str, Source],
  config: ModelConfig,
) -> None:
  """Refuses a tensor that is not of the shape that its parts of ours have together."""
  source, size = sources[name], sum(map(math.prod, parts))
  says = f'{source.file}: tensor {name!r} has shape {tuple(source.shape)}; the config wants'
  if size > 2 * math.prod(source.shape):  # it may be more than memory holds
    raise UserError(f'{says} {size} numbers')
  blank = [np.broadcast_to(np.float32(0), shape) for shape in parts]
  if tuple(source.shape) != (shape := entry.rule.write(blank, config).shape):
    raise UserError(f'{says} {shape}')


def write(
  config: ModelConfig, table: Sequence[Entry], params: Params
) -> Iterator[tuple[str, np.ndarray]]:
  """Their (name, contiguous float32 array), one after another: the inverse of `read`."""
  leaves = flat(params)
  for entry, name, layer in expand(table, leaves, config.layers):
    parts = [
      np.asarray(leaves[path] if layer is None else leaves[path][layer]) for path in entry.ours
    ]
    # safetensors writes what is not contiguous as garbage, silently.
    yield name, np.ascontiguousarray(entry.rule.write(parts, config), np.float32)


def check_names(wanted: set[str], found: set[str], where: str) -> None:
  """Refuses names that are missing or unknown, by the first of them."""
  for names, says in ((wanted - found, 'is missing'), (found - wanted, 'is unknown')):
    if names:
      more = f' ({len(names)} such tensors)' if len(names) > 1 else ''
      raise UserError(f'{where}: tensor {min(names)!r} {says}{more}')
