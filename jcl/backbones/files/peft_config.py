"""The adapter_config.json of PEFT: which modules an adapter has, of what rank and scale."""

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jcl import notation
from jcl.backbones import lora
from jcl.backbones.files.fields import Fields, read_json
from jcl.errors import UserError

# Fields that do not change what the tensors mean, or that are read below. Any other that is set
# changes the model, and is refused; one that is false is named.
KNOWN = {
  'alpha_pattern', 'auto_mapping', 'base_model_name_or_path', 'bias', 'corda_config', 'eva_config',
  'exclude_modules', 'fan_in_fan_out', 'inference_mode', 'init_lora_weights', 'layers_pattern',
  'layers_to_transform', 'loftq_config', 'lora_alpha',
  'lora_dropout', 'lora_ga_config', 'megatron_core', 'peft_type', 'peft_version',
  'qalora_group_size', 'r', 'rank_pattern', 'revision', 'runtime_config', 'target_modules',
  'task_type', 'use_rslora',
}  # fmt: skip


# Features that change more than two factors of a kernel: such an adapter is merged, see
# peft_merging.py, and cannot be trained on by itself.
MERGED = (
  'ensure_weight_tying', 'lora_bias', 'modules_to_save', 'trainable_token_indices', 'use_dora',
)  # fmt: skip
OFF = ('use_bdlora', 'use_qalora')  # switches of PEFT for what jcl does not do
STARTS = ('gaussian', 'eva', 'orthogonal')  # of an adapter, which leave the base as it is
RESIDUAL = ('pissa', 'olora')  # which take from the base what the adapter starts with


def read_fields(folder: pathlib.Path, merging: bool = False) -> Fields:
  """Reads adapter_config.json.

  Args:
    folder: of the adapter.
    merging: accept the features that change more than kernels; see `MERGED`.

  Raises:
    UserError: the adapter is of another kind or has a feature that is not supported, by its name.
  """
  file = folder / 'adapter_config.json'
  fields = Fields(read_json(file), str(file))
  if fields.get('peft_type', str) != 'LORA':
    fields.allow_only('peft_type', 'LORA')
  start = fields.values.get('init_lora_weights')
  beyond = [name for name in MERGED if fields.values.get(name) not in (None, False, '', [], {})]
  beyond += [f"bias '{bias}'" for bias in ('all', 'lora_only') if fields.values.get('bias') == bias]
  beyond += [f'init_lora_weights {start!r}'] if start in RESIDUAL else []
  if not beyond:
    fields.allow_only('bias', 'none')
  elif not merging:
    raise UserError(
      f'{file}: {", ".join(beyond)}: not supported in an adapter by itself; merge it alone into '
      f'its base: jcl merge --adapters={folder} --weights=1 --into=weights --out=NEW'
    )
  if isinstance(start, str) and start not in (*STARTS, *RESIDUAL):
    fields.allow_only('init_lora_weights')  # it has changed the base, or may have
  for name, value in fields.values.items():
    if name not in KNOWN and name not in MERGED and value is not False:
      fields.allow_only(name, '', [], {})
  return fields


def unread(folder: pathlib.Path) -> list[str]:
  """Returns a line about the fields of adapter_config.json that are false and that nothing reads.

  Raises:
    UserError: the file is missing or malformed.
  """
  file = folder / 'adapter_config.json'
  known = {*KNOWN, *MERGED, *OFF}
  names = [name for name, x in read_json(file).items() if x is False and name not in known]
  return [f'{file}: settings that nothing reads: {", ".join(names)} (false)'] if names else []


class Targets:
  """The modules that an adapter_config.json names, as PEFT's check_target_module_exists has them.

  Args:
    fields: of the adapter_config.json.

  Raises:
    UserError: a field is neither a pattern nor a list of modules.
  """

  def __init__(self, fields: Fields):
    self.where = f"{fields.where}: field 'target_modules'"
    self.targets = _names(fields, 'target_modules')
    self.excluded, self.saved = _names(fields, 'exclude_modules'), _names(fields, 'modules_to_save')
    if isinstance(self.saved, str):
      raise UserError(f"{fields.where}: field 'modules_to_save' must be a list")
    layers = fields.values.get('layers_to_transform')
    self.layers = [layers] if isinstance(layers, int) else layers or []
    pattern = fields.values.get('layers_pattern') or []
    self.patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    for name, value, kind in (
      ('layers_to_transform', self.layers, int), ('layers_pattern', self.patterns, str),
    ):  # fmt: skip
      if not isinstance(value, list) or not all(isinstance(x, kind) for x in value):
        raise UserError(f'{fields.where}: field {name!r} is {value!r}; it must be a list')
    if self.layers and isinstance(self.targets, str):
      raise UserError(
        f"{fields.where}: field 'layers_to_transform' has no meaning beside a pattern in "
        "'target_modules'; name the layers in the pattern"
      )
    for text in self.patterns:
      if why := notation.regex_fault(text):
        raise UserError(f"{fields.where}: field 'layers_pattern': {text!r} {why}")

  def hits(self, module: str, outer: bool = False) -> bool:
    """Whether the adapter has a module.

    Args:
      module: its name.
      outer: it is an embedding or the output projection, which `all-linear` leaves out.
    """
    if self._named(self.excluded, module) or any(f'.{m}.' in f'.{module}.' for m in self.saved):
      return False
    if isinstance(self.targets, str):
      if self.targets == 'all-linear':
        return not outer
      return re.fullmatch(self.targets, module) is not None
    if not self._named(self.targets, module):
      return False
    return not self.layers or self._layer(module) in self.layers

  def _layer(self, module: str) -> int | None:
    starts = [rf'(?:^|.*?\.){text}' for text in self.patterns] or [r'.*?\.[^.]*']
    found = (re.match(rf'{start}\.(?P<index>\d+)\.', module) for start in starts)
    return next((int(match['index']) for match in found if match), None)

  @staticmethod
  def _named(names: str | list[str], module: str) -> bool:
    if isinstance(names, str):
      return bool(names) and re.fullmatch(names, module) is not None
    return any(f'.{module}'.endswith(f'.{name}') for name in names)


def _names(fields: Fields, name: str) -> str | list[str]:
  """Returns a pattern or a list of modules; an empty list where the field is absent."""
  found = fields.values.get(name)
  if found is None and name != 'target_modules':
    return []
  where = f'{fields.where}: field {name!r}'
  if isinstance(found, str):
    if why := notation.regex_fault(found):
      raise UserError(f'{where}: {found!r} {why}; list the modules')
  elif not isinstance(found, list) or not all(isinstance(x, str) for x in found):
    raise UserError(f'{where} is {found!r}, neither a pattern nor a list of modules')
  return found


def scalings(modules: Iterable[str], fields: Fields) -> dict[str, tuple[int, float]]:
  """Returns {module: (rank, scale)}."""
  rank, alpha = fields.get('r', int), fields.get('lora_alpha', float)
  rslora = fields.get('use_rslora', bool, False)
  ranks, alphas = _pattern(fields, 'rank_pattern', int), _pattern(fields, 'alpha_pattern', float)
  out = {}
  for module in modules:
    own = _matching(ranks, module, rank)
    scale = lora.scaling(_matching(alphas, module, alpha), own, rslora)
    if not np.isfinite(scale):
      raise UserError(f"{fields.where}: field 'lora_alpha' makes the scale of {module} {scale}")
    out[module] = own, scale
  return out


def _pattern(fields: Fields, name: str, kind: type) -> dict[str, Any]:
  """Returns {pattern of modules: value}, every pattern and value checked."""
  values = fields.get(name, dict, {})
  inner = Fields(values, f'{fields.where}: {name}')
  for key in values:
    if why := notation.regex_fault(_ending(key)):
      raise UserError(f'{inner.where}: {key!r} {why}; name the modules')
  return {key: inner.get(key, kind) for key in values}


def _matching(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
  """Returns the value of the first pattern that the module ends with, as PEFT decides it."""
  return next((v for key, v in pattern.items() if re.match(_ending(key), module)), default)


def _ending(key: str) -> str:
  return rf'(.*\.)?({key})$'
