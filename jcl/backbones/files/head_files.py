"""A classifier's head beside its model: head.json says what head.safetensors holds."""

import contextlib
import dataclasses
import functools
import pathlib
from typing import Any, cast

import jax
import numpy as np

from jcl.backbones import heads
from jcl.backbones.backbone import Params
from jcl.backbones.files.fields import Fields, existing_file, read_json
from jcl.backbones.files.tensors import check_names, save_tensors
from jcl.backbones.files.weights import open_file, write_json
from jcl.backbones.model_config import Config, ModelConfig, RandomFeatures
from jcl.errors import UserError

KINDS = ('linear', 'cosine')
POOLINGS = ('last', 'first', 'mean')


def write_head(folder: pathlib.Path, config: ModelConfig, head: Params | None) -> None:
  """Writes a head's arrays, and in a small JSON what they compute.

  A linear head computes h W + b with `kernel` W [D, C] and `bias` b [C], a cosine head
  s · cos(h, w) with `kernel` [D, C], whose columns are w, and `scale` s []. A linear head of
  random features (see heads.py) has P in place of D, and `projection` and `phase` besides. A head
  that reads a mix of states has `mix` [L + 1, Q].

  Args:
    folder: that exists.
    config: of the model.
    head: the arrays; None: the JSON alone is written.
  """
  if head is not None:
    arrays = {name: np.array(x, np.float32, order='C') for name, x in head.items()}
    save_tensors(arrays, folder / 'head.safetensors')
  values: dict[str, Any] = {
    'kind': config.head, 'classes': config.classes, 'pooling': config.pooling
  }  # fmt: skip
  if config.random_features:
    values['random_features'] = dataclasses.asdict(config.random_features)
  if config.mixed:
    values['mixed'] = True
  write_json(folder / 'head.json', values)


def with_head(folder: pathlib.Path, config: Config) -> Config:
  """Returns the config with the head that head.json describes; unchanged without such a file.

  Raises:
    UserError: a field of head.json is missing or has an unknown value.
  """
  file = folder / 'head.json'
  if not file.is_file():
    return config
  fields = Fields(read_json(file), str(file))
  kind, pooling = fields.get('kind', str), fields.get('pooling', str)
  for name, value, known in (('kind', kind, KINDS), ('pooling', pooling, POOLINGS)):
    if value not in known:
      raise UserError(f'{file}: field {name!r} is {value!r}, not one of {", ".join(known)}')
  changes: dict[str, Any] = {'head': kind, 'pooling': pooling}
  if 'mixed' in fields.values:
    changes['mixed'] = fields.get('mixed', bool)
  if 'random_features' in fields.values:
    changes['random_features'] = _random_features(fields.get('random_features', dict), str(file))
  return dataclasses.replace(config, classes=fields.get('classes', int), **changes)


def _random_features(values: dict[str, Any], where: str) -> RandomFeatures:
  """Returns the random features that a head.json describes.

  Raises:
    UserError: a field is missing, of another type or has an unknown value.
  """
  fields = Fields(values, f'{where}: random_features')
  kind, count = fields.get('kind', str), fields.get('count', int)
  if kind not in ('relu', 'fourier'):
    raise UserError(f"{where}: random_features: field 'kind' is {kind!r}, not relu or fourier")
  if count < 1:
    raise UserError(f"{where}: random_features: field 'count' is {count}; it must be at least 1")
  return RandomFeatures(cast(Any, kind), count, fields.get('bandwidth', float))


def read_head(folder: pathlib.Path, config: ModelConfig) -> dict[str, np.ndarray]:
  """Reads the arrays of a folder's head, float32.

  Args:
    folder: of the model.
    config: with the head that head.json describes.

  Raises:
    UserError: the file is missing, or an array of it is missing, unknown or of the wrong shape.
  """
  file = existing_file(folder / 'head.safetensors')
  wanted = jax.eval_shape(functools.partial(heads.init, config=config), jax.random.key(0))
  with contextlib.ExitStack() as stack:
    sources = open_file(file, stack)
    check_names(set(wanted), set(sources), str(file))
    for name, source in sources.items():
      if source.shape != wanted[name].shape:
        raise UserError(
          f'{file}: tensor {name!r} has shape {source.shape}; head.json wants {wanted[name].shape}'
        )
    return {name: source.read() for name, source in sources.items()}
