"""Between the named tensors of a file and jcl's tree: every name and shape is checked."""

import collections
import functools
import math
import pathlib
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy

from jcl.backbones.backbone import Params
from jcl.backbones.files.family import NOTHING, Entry
from jcl.backbones.files.stored import Piece, check_finite, leaf_of, ruled
from jcl.backbones.model_config import ModelConfig
from jcl.backbones.models import make_backbone
from jcl.errors import UserError, count_of
from jcl.storage.progress import watched

Shape = tuple[int, ...]


class TensorSource(NamedTuple):
  """One tensor of a file, not read yet.

  Attributes:
    file: for messages.
    shape: of the tensor.
    read: () -> the tensor in float32.
    kind: its type in the file, such as F32, BF16 or Q4_K.
    view: () -> the tensor as it lies in the file, in its own type and not read yet; None: it has to
      be computed.
  """

  file: str
  shape: Shape
  read: Callable[[], np.ndarray]
  kind: str = ''
  view: Callable[[], np.ndarray] | None = None


def flatten(tree: Params) -> dict[str, Any]:
  """Turns a tree into {'layers/q/kernel': leaf, …}."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {'/'.join(key.key for key in path): leaf for path, leaf in leaves}


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flatten`."""
  tree: dict[str, Any] = {}
  for path, leaf in leaves.items():
    *folders, name = path.split('/')
    place = tree
    for folder in folders:
      place = place.setdefault(folder, {})
    place[name] = leaf
  return tree


def param_shapes(config: ModelConfig) -> dict[str, Shape]:
  """Returns {path: shape} of a model's tree, without a head; no array is made."""
  with warnings.catch_warnings():  # of counts beyond int32 in what is never computed
    warnings.simplefilter('ignore')
    abstract = jax.eval_shape(make_backbone(config).init, jax.random.key(0))
  abstract.pop('head', None)
  return {path: leaf.shape for path, leaf in flatten(abstract).items()}


def present(
  table: Sequence[Entry], paths: Mapping[str, Any], layers: int
) -> Iterator[tuple[Entry, str, int | None]]:
  """Yields the tensors that a tree has: (entry, name of the tensor, layer or None).

  Args:
    table: of the family; entries whose path the tree lacks are left out.
    paths: of the tree, flat.
    layers: L.
  """
  for entry in table:
    if entry.paths[0] not in paths:
      continue
    if entry.paths[0].startswith('layers/'):
      yield from ((entry, entry.tensor.format(i), i) for i in range(entry.first, layers))
    else:
      yield entry, entry.tensor, None


def check_table(table: Sequence[Entry], paths: Mapping[str, Any], family: str) -> None:
  """Checks that a family's table names every leaf of a tree, each once, by different tensors.

  Args:
    table: of the family.
    paths: of the tree, flat.
    family: its name, for messages.

  Raises:
    UserError: naming the leaf or the tensor.
  """
  used = [entry for entry in table if entry.paths[0] in paths]
  count = collections.Counter(path for entry in used for path in entry.paths)
  for path in paths:
    if count[path] != 1:
      raise UserError(
        f'backbone.family: {family}: for {path} its table has '
        f'{count_of(count[path], "entry")}; give one'
      )
  for path in count:
    if path not in paths:
      raise UserError(f'backbone.family: {family}: its table has {path}, which the model lacks')
  names = collections.Counter(entry.tensor for entry in used)
  for name, times in names.items():
    if times > 1:
      raise UserError(f'backbone.family: {family}: its table has the tensor {name!r} twice')


def read(
  config: ModelConfig,
  table: Sequence[Entry],
  sources: Mapping[str, TensorSource],
  where: str,
  ignored: str = NOTHING,
) -> dict[str, Any]:
  """Reads a model's tree, float32 numpy arrays, from named tensors.

  Args:
    config: of the model.
    table: of its family.
    sources: {name of the tensor: tensor}.
    where: folder or file, for messages.
    ignored: pattern of names that may be among the sources and are not read.

  Raises:
    UserError: a tensor is missing, unknown or of the wrong shape, or the table does not fit.
  """
  wanted, places = _places(config, table, sources, where, ignored)
  leaves = {path: np.empty(shape, np.float32) for path, shape in wanted.items()}
  for entry in table:
    for path in entry.paths:
      if entry.first and path in leaves:
        leaves[path][: entry.first] = path.endswith('/scale')
  for entry, name, layer in watched(places, 'loading the model'):
    parts = [leaves[path] if layer is None else leaves[path][layer] for path in entry.paths]
    shapes = [part.shape for part in parts]
    values = ruled(entry.rule, finite(sources[name], name), config, name, shapes)
    for part, value in zip(parts, values, strict=True):
      part[...] = value
  return unflatten(leaves)


def stored(
  config: ModelConfig,
  table: Sequence[Entry],
  sources: Mapping[str, TensorSource],
  where: str,
  ignored: str = NOTHING,
) -> dict[str, Any]:
  """Returns the tree of `read` with leaves that are still in the files (`Stored`).

  Args:
    config, table, sources, where, ignored: as in `read`.

  Raises:
    UserError: as in `read`, but for what the tensors hold, which is found when they are read.
  """
  wanted, places = _places(config, table, sources, where, ignored)
  pieces: dict[str, dict[int | None, Piece]] = {path: {} for path in wanted}
  for entry, name, layer in places:
    shapes = tuple(wanted[path][layer is not None :] for path in entry.paths)
    source = sources[name]
    read = functools.partial(finite, source, name)
    for number, path in enumerate(entry.paths):
      pieces[path][layer] = Piece(
        name, source.file, entry.rule, number, shapes, source.view, read, config
      )
  return unflatten({path: leaf_of(shape, pieces[path], path) for path, shape in wanted.items()})


def _places(
  config: ModelConfig, table: Sequence[Entry], sources: Mapping[str, TensorSource], where: str,
  ignored: str,
) -> tuple[dict[str, Shape], list[tuple[Entry, str, int | None]]]:  # fmt: skip
  """Returns the shapes of a model's tree by path, and the tensors that it has, all checked.

  Args:
    config, table, sources, where, ignored: as in `read`, whose errors these are.
  """
  wanted = param_shapes(config)
  check_table(table, wanted, config.family)
  places = list(present(table, wanted, config.layers))
  names = {name for _, name, _ in places}
  check_names(names, {n for n in sources if not re.search(ignored, n)}, where)
  for entry, name, layer in places:
    shapes = [wanted[path][layer is not None :] for path in entry.paths]
    _check_shape(entry, name, shapes, sources[name], config)
  return wanted, places


def finite(source: TensorSource, name: str) -> np.ndarray:
  """Reads a tensor; one that holds NaN or an infinity, as of a broken download, is refused."""
  array = source.read()
  check_finite(array, source.file, name)
  return array


def _check_shape(
  entry: Entry, name: str, parts: Sequence[Shape], source: TensorSource, config: ModelConfig
) -> None:
  """Refuses a tensor whose shape is not that of its parts in jcl's tree together."""
  size = sum(map(math.prod, parts))
  says = f'{source.file}: tensor {name!r} has shape {tuple(source.shape)}; the config wants'
  if size > 2 * math.prod(source.shape):  # more than memory may hold: not made to be compared
    raise UserError(f'{says} {size} numbers')
  blank = [np.broadcast_to(np.float32(0), shape) for shape in parts]
  if tuple(source.shape) != (shape := entry.rule.write(blank, config).shape):
    raise UserError(f'{says} {shape}')


def write(
  config: ModelConfig, table: Sequence[Entry], params: Params
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (name of the tensor, contiguous float32 array): the inverse of `read`.

  Args:
    config: of the model.
    table: of its family.
    params: its tree; a head is left out.
  """
  leaves = flatten(params)
  for entry, name, layer in present(table, leaves, config.layers):
    parts = [
      np.asarray(leaves[path] if layer is None else leaves[path][layer]) for path in entry.paths
    ]
    # safetensors writes an array that is not contiguous as garbage, silently.
    yield name, np.ascontiguousarray(entry.rule.write(parts, config), np.float32)


def save_tensors(arrays: dict[str, np.ndarray], file: pathlib.Path) -> None:
  """Writes a safetensors file with the permissions of the user's other new files (umask).

  Args:
    arrays: contiguous arrays; safetensors writes others as garbage, silently.
    file: path of the file, which must not exist yet.
  """
  file.touch()
  rights = stat.S_IMODE(file.stat().st_mode)
  safetensors.numpy.save_file(arrays, file, {'format': 'pt'})  # readable by its owner alone
  file.chmod(rights)


def check_names(wanted: set[str], found: set[str], where: str) -> None:
  """Refuses tensors that are missing or unknown.

  Raises:
    UserError: naming the first of them and how many there are.
  """
  for names, says in ((wanted - found, 'is missing'), (found - wanted, 'is unknown')):
    if names:
      more = f' ({len(names)} such tensors)' if len(names) > 1 else ''
      raise UserError(f'{where}: tensor {min(names)!r} {says}{more}')
