"""One adapter of PEFT merged into its base as PEFT does it, with what goes beyond two factors.

Every module is computed under its name in the checkpoint, with its weight W [out, in]:

    LoRA        W + s B A            s is alpha / r
    DoRA        m (W + s B A) / |W + s B A|, the norm over the inputs, m [out]; Liu et al., 2024
    embedding   E + s (B A)ᵀ         E [V, D], A [r, V], B [D, r]
    PiSSA       s B A takes the place of the r leading singular directions of W; Meng et al., 2024
    OLoRA       s B A takes the place of s Q_r R_r, from W = Q R; Büyükakyüz, 2024

Biases, whole modules (`modules_to_save`) and rows of tokens replace those of the base. A model
whose embedding and output projection are one keeps both where an adapter changes one of them.
"""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jcl.backbones.backbone import Params
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import peft, tensors
from jcl.backbones.files.families import find_family
from jcl.backbones.files.fields import Fields
from jcl.backbones.files.peft_config import Targets, read_fields, scalings
from jcl.backbones.files.tensors import TensorSource
from jcl.errors import UserError

Arrays = dict[str, np.ndarray]


def merge_one(
  folder: pathlib.Path, config: DecoderConfig, params: Params
) -> tuple[DecoderConfig, Params]:
  """Returns shape and parameters of a model with an adapter merged into it.

  Args:
    folder: of the adapter.
    config: of the base model.
    params: of the base model.

  Raises:
    UserError: a file is malformed, does not fit the model, or has a feature that is not supported.
  """
  fields, family = read_fields(folder, merging=True), find_family(config.family)
  weights: Arrays = dict(tensors.write(config, family.table, params))
  embedding = _name(family.table, 'embed/embedding')
  projection = _name(family.table, 'unembed/embedding')
  with contextlib.ExitStack() as stack:
    sources = peft.open_adapter(folder, family, stack)
    given = {name.removeprefix(peft.PREFIX): _read(x, name) for name, x in sources.items()}
  if config.tied:
    weights[projection] = weights[embedding].copy()
  flat = {p.name for p in peft.places(config, tensors.param_shapes(config)) if p.transposed(config)}
  outer = {embedding.removesuffix('.weight'), projection.removesuffix('.weight')}
  _check_targets(Targets(fields), given, weights, outer)
  _merge(given, weights, fields, flat, embedding.removesuffix('.weight'))
  if config.tied:
    if fields.values.get('trainable_token_indices') and not _touched(given, projection):
      weights[projection] = weights[embedding]  # PEFT ties the rows of tokens too
    if fields.values.get('ensure_weight_tying'):
      fields.allow_only('ensure_weight_tying', False)
    config = dataclasses.replace(
      config, tied=np.array_equal(weights[embedding], weights[projection])
    )
    if config.tied:
      del weights[projection]
  held = {
    name: TensorSource(str(folder), x.shape, functools.partial(np.asarray, x))
    for name, x in weights.items()
  }
  return config, tensors.read(config, family.table, held, str(folder))


def _name(table: Any, path: str) -> str:
  return next(entry.tensor for entry in table if entry.paths == (path,))


def _read(source: TensorSource, name: str) -> np.ndarray:
  array = source.read().astype(np.float64)
  if not np.all(np.isfinite(array)):
    raise UserError(f'{source.file}: tensor {name!r} holds NaN or infinity')
  return array


def _touched(given: Mapping[str, Any], tensor: str) -> bool:
  return any(name.startswith(tensor.removesuffix('weight')) for name in given)


def _check_targets(targets: Targets, given: Arrays, weights: Arrays, outer: set[str]) -> None:
  """Refuses an adapter whose factors are not of the modules that its config names."""
  modules = [n.removesuffix('.weight') for n, x in weights.items() if n.endswith('.weight')]
  linear = [n for n in modules if weights[f'{n}.weight'].ndim == 2]
  table = ('positions', 'wpe', 'types')
  wanted = {n for n in linear if targets.hits(n, n in outer) and n.split('.')[-1] not in table}
  found = {n.split('.lora_')[0] for n in given if '.lora_' in n}
  for names, says in ((wanted - found, 'has no factors'), (found - wanted, 'is not named there')):
    if names:
      raise UserError(f'{targets.where}: {min(names)!r} {says} (adapter_model.safetensors)')


def _merge(given: Arrays, weights: Arrays, fields: Fields, flat: set[str], embedding: str) -> None:
  """Changes the weights in place."""
  adapted = sorted({name.split('.lora_')[0] for name in given if '.lora_' in name})
  scale = scalings(adapted, fields)
  left = dict(given)
  take = lambda name: left.pop(name, None)
  for name in [n for n in left if '.base_layer.' in n]:
    _replace(weights, name.replace('.base_layer.', '.'), left.pop(name), fields)
  for module in adapted:
    rank, s = scale[module]
    name = f'{module}.weight'
    base, where = weights[name].astype(np.float64), f'{fields.where}: {module}'
    a, b = take(f'{module}.lora_A.weight'), take(f'{module}.lora_B.weight')
    in_rows = module in flat or module == embedding
    if module == embedding:
      a, b = take(f'{module}.lora_embedding_A'), take(f'{module}.lora_embedding_B')
    weight = base.T if in_rows else base
    if (
      a is None or b is None or a.shape != (rank, weight.shape[1]) or b.shape != (len(weight), rank)
    ):
      raise UserError(f'{where}: factors of rank {rank} for {weight.shape} are not in the file')
    weight = _residual(weight, fields, rank, s, where, module in flat) + s * (b @ a)
    magnitude = take(f'{module}.lora_magnitude_vector')
    magnitude = take(f'{module}.lora_magnitude_vector.weight') if magnitude is None else magnitude
    if module != embedding:
      _check_said(fields, where, 'use_dora', 'magnitudes', magnitude)
      _check_said(fields, where, 'lora_bias', 'biases of lora_B', left.get(f'{module}.lora_B.bias'))
    if magnitude is not None:
      if module == embedding or magnitude.size != len(weight):
        raise UserError(f'{where}: use_dora is not supported for this module')
      weight = magnitude.reshape(-1, 1) * weight / np.linalg.norm(weight, axis=1, keepdims=True)
    weights[name] = np.ascontiguousarray(weight.T if in_rows else weight, np.float32)
    if (bias := take(f'{module}.lora_B.bias')) is not None:
      if f'{module}.bias' not in weights:
        raise UserError(
          f'{where}: lora_bias: the module has no bias to merge it into, in PEFT neither'
        )
      weights[f'{module}.bias'] = (weights[f'{module}.bias'] + s * bias).astype(np.float32)
  _replace_tokens(left, weights, fields)
  for name, value in left.items():
    _replace(weights, name, value, fields)


def _check_said(
  fields: Fields, where: str, field: str, tensors: str, found: np.ndarray | None
) -> None:
  """Refuses a field of the config that says of tensors what the file does not hold."""
  said = bool(fields.values.get(field))
  if said != (found is not None):
    raise UserError(
      f'{where}: {field} is {str(said).lower()}, but the file holds {"no " if said else ""}'
      f'{tensors}: one of the two is of another adapter'
    )


def _residual(
  weight: np.ndarray, fields: Fields, rank: int, scale: float, where: str, flat: bool
) -> np.ndarray:
  """Returns W without what the adapter started with, where it was taken from the base."""
  start = fields.values.get('init_lora_weights')
  if start == 'pissa':
    left, values, right = np.linalg.svd(weight, full_matrices=False)
    return weight - (left[:, :rank] * values[:rank]) @ right[:rank]
  if start == 'olora':
    if flat:
      raise UserError(f"{where}: init_lora_weights 'olora' is not supported for Conv1D")
    q, r = np.linalg.qr(weight)
    return weight - scale * q[:, :rank] @ r[:rank]
  return weight


def _replace_tokens(left: Arrays, weights: Arrays, fields: Fields) -> None:
  """Puts rows of single tokens (`trainable_token_indices`) in the place of those of the base."""
  indices = fields.values.get('trainable_token_indices')
  for name in [n for n in left if n.endswith('.token_adapter.trainable_tokens_delta')]:
    module, rows = name.removesuffix('.token_adapter.trainable_tokens_delta'), left.pop(name)
    ids = indices
    if isinstance(indices, dict):
      ids = next((v for k, v in indices.items() if f'.{module}'.endswith(f'.{k}')), None)
    table = weights.get(f'{module}.weight')
    right = isinstance(ids, list) and all(isinstance(i, int) for i in ids) and table is not None
    if (
      not right
      or table is None
      or rows.shape != (len(ids), table.shape[1])
      or not all(0 <= i < len(table) for i in ids)
    ):
      raise UserError(f'{fields.where}: trainable_token_indices does not fit tensor {name!r}')
    changed = table.copy()
    changed[ids] = rows
    weights[f'{module}.weight'] = changed


def _replace(weights: Arrays, name: str, value: np.ndarray, fields: Fields) -> None:
  """Puts a whole tensor (`modules_to_save`, `bias`) in the place of that of the base."""
  if name not in weights or weights[name].shape != value.shape:
    held = weights[name].shape if name in weights else 'no such tensor'
    raise UserError(
      f'{fields.where}: the adapter brings {name!r} {value.shape}, the model has {held}; '
      'modules_to_save and bias are supported for what the model has'
    )
  weights[name] = value.astype(np.float32)
