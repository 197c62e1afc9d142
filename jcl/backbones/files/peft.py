"""PEFT adapter folders in and out: adapter_config.json and adapter_model.safetensors. No torch.

Names come from the family's table. Where a family fuses queries, keys and values into one module,
its adapter has one A [r, in] and one B with the rows of all three. It is read as three adapters
with the same A. Three adapters with the same A are written as one of the same rank. Three adapters
whose A differ are written as one whose rank is the sum of theirs, and B is zero where the columns
of one meet the rows of another, so that ΔW stays the same. GPT-2's Conv1D holds its weight as (in,
out), but its adapter as A [r, in] and B [out, r], like any other.
"""

import collections
import contextlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jcl.backbones import lora
from jcl.backbones.backbone import Params
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import tensors
from jcl.backbones.files.families import find_family
from jcl.backbones.files.family import Entry, Family
from jcl.backbones.files.fields import Fields, read_json
from jcl.backbones.files.peft_config import Targets, read_fields, scalings, unread
from jcl.backbones.files.tensors import TensorSource
from jcl.backbones.files.weights import open_file
from jcl.errors import UserError
from jcl.storage.atomic import new_folder

PREFIX = 'base_model.model.'


class Place(NamedTuple):
  """A module of one layer, as the files call it, that can have an adapter.

  Attributes:
    entry: entry of the family's table; its paths are jcl's kernels that the module holds.
    name: of the module, such as `model.layers.0.self_attn.q_proj`.
    layer: index of the layer.
  """

  entry: Entry
  name: str
  layer: int

  @property
  def projections(self) -> list[str]:
    """jcl's names of the projections that the module holds, such as `q`."""
    return [path.split('/')[1] for path in self.entry.paths]

  def transposed(self, config: DecoderConfig) -> bool:
    """Whether the module's weight is (in, out)."""
    one = [np.zeros((1, config.width)) for _ in self.entry.paths]
    return self.entry.rule.write(one, config).shape[0] == 1

  def split(self, b: np.ndarray, config: DecoderConfig) -> list[np.ndarray]:
    """Returns b [r, out] of each projection from B [out, r] of the module.

    B is read as the module's weight is, since it is a kernel with r inputs.
    """
    return self.entry.rule.read(b.T if self.transposed(config) else b, config)

  def join(self, parts: Sequence[np.ndarray], config: DecoderConfig) -> np.ndarray:
    """Returns B [out, r] of the module from b [r, out] of each projection."""
    b = self.entry.rule.write(list(parts), config)
    return b.T if self.transposed(config) else b


def places(config: DecoderConfig, shapes: Mapping[str, Any]) -> list[Place]:
  """Returns every module of the family's table that holds kernels, layer by layer."""
  found = tensors.present(find_family(config.family).table, shapes, config.layers)
  return [
    Place(entry, name.removesuffix('.weight'), layer)
    for entry, name, layer in found
    if layer is not None and entry.paths[0].endswith('/kernel')
  ]


def common_base(folders: Sequence[pathlib.Path]) -> str:
  """Returns name or folder of the model that all these adapters were made for.

  Raises:
    UserError: an adapter does not say it, or two say different ones.
  """
  first, name = '', ''
  for folder in folders:
    file, own = _named_base(folder)
    if not own:
      raise UserError(f"{file}: field 'base_model_name_or_path' is empty; give --base")
    if name and own != name:
      raise UserError(
        f'{folder} was made for {own}, but {first} for {name}; give --base if these are one model'
      )
    first, name = str(folder), own
  return name


def _named_base(folder: pathlib.Path) -> tuple[pathlib.Path, str]:
  """Returns the file that names the base model of an adapter, and the name; '': it names none."""
  file = folder / 'adapter_config.json'
  return file, Fields(read_json(file), str(file)).get('base_model_name_or_path', str, '')


def notes_on(folders: Sequence[pathlib.Path], base: str) -> list[str]:
  """Returns a line for each adapter that names another base model than the one that is given.

  A line more names what stands in an adapter's config and is not read.

  Args:
    folders: of the adapters.
    base: name or folder of the model; folders of the same name in different places count as one.
  """
  lines = []
  for folder in folders:
    file, own = _named_base(folder)
    if own and pathlib.Path(own).name != pathlib.Path(base).name:
      lines.append(f'{file}: base_model_name_or_path is {own}; {base} is taken, as --base says')
    lines += unread(folder)
  return lines


def read(folder: pathlib.Path, config: DecoderConfig) -> Params:
  """Returns the adapter in a PEFT folder, as float32 NumPy arrays.

  Args:
    folder: with adapter_config.json and adapter_model.safetensors.
    config: shape of the model that is adapted.

  Raises:
    UserError: anything is missing, malformed or not supported; the message names file and field or
      tensor.
  """
  shapes = tensors.param_shapes(config)
  fields = read_fields(folder)
  chosen = _chosen(places(config, shapes), fields)
  with contextlib.ExitStack() as stack:
    sources = open_adapter(folder, find_family(config.family), stack)
    names = {_tensor(place, x) for place in chosen for x in 'AB'}
    tensors.check_names(names, set(sources), str(folder / 'adapter_model.safetensors'))
    return _filled(chosen, scalings([p.name for p in chosen], fields), sources, config, shapes)


def _tensor(place: Place, x: str) -> str:
  """Returns the name in the file of a module's matrix `A` or `B`."""
  return f'{PREFIX}{place.name}.lora_{x}.weight'


def open_adapter(
  folder: pathlib.Path, family: Family, stack: contextlib.ExitStack
) -> dict[str, TensorSource]:
  """Returns {name: tensor} of an adapter's file, which stays open as long as `stack`.

  Names are those in a model with a language-model head. The names of a bare model's adapter lack
  the family's prefix, and get it here.

  Raises:
    UserError: there is no safetensors file.
  """
  file = folder / 'adapter_model.safetensors'
  if not file.is_file():
    if (folder / 'adapter_model.bin').is_file():
      raise UserError(
        f'{folder / "adapter_model.bin"}: pickled weights can run code and are not read; save the '
        'adapter with save_pretrained (safetensors) in peft'
      )
    raise UserError(f'{file}: no such file')
  sources = open_file(file, stack)
  prefix, outputs = family.prefix, tuple(PREFIX + name for name in family.output_names)
  if any(name.startswith((PREFIX + prefix, *outputs)) for name in sources):
    return sources
  return {PREFIX + prefix + name.removeprefix(PREFIX): x for name, x in sources.items()}


def _chosen(found: Sequence[Place], fields: Fields) -> list[Place]:
  """Returns the modules that the adapter reaches.

  Raises:
    UserError: `target_modules` names a module that is not there, or none at all.
  """
  targets = Targets(fields)
  if isinstance(targets.targets, list):
    for target in targets.targets:
      if not any(f'.{place.name}'.endswith(f'.{target}') for place in found):
        known = ', '.join(dict.fromkeys(_target(place, found) for place in found))
        raise UserError(
          f'{targets.where}: {target!r} is no module that can be adapted; known: {known}; an '
          'adapter of the embedding or of the output projection is merged alone, with '
          '--weights=1 --into=weights'
        )
  chosen = [place for place in found if targets.hits(place.name)]
  if not chosen:
    raise UserError(f'{targets.where} {targets.targets!r} names no module of the model')
  return chosen


def _filled(
  chosen: Sequence[Place],
  scalings: Mapping[str, tuple[int, float]],
  sources: Mapping[str, TensorSource],
  config: DecoderConfig,
  shapes: Mapping[str, Any],
) -> Params:
  """Returns the adapter; in a layer whose rank is smaller than another's, A and B end in zeros.

  Args:
    chosen: modules that the adapter reaches.
    scalings: {name of the module: (rank, scale)}.
    sources: {name: tensor} of the adapter's file.
    config: shape of the model.
    shapes: {path: shape} of the model's parameters.
  """
  layers: dict = {}
  for place in chosen:
    rank, scale = scalings[place.name]
    widths = [shapes[path] for path in place.entry.paths]  # [L, in, out]
    width_in, width_out = widths[0][1], sum(width[2] for width in widths)
    a = _array(sources[_tensor(place, 'A')], _tensor(place, 'A'), (rank, width_in))
    b = _array(sources[_tensor(place, 'B')], _tensor(place, 'B'), (width_out, rank))
    top = max(scalings[p.name][0] for p in chosen if p.entry == place.entry)
    for name, width, part in zip(place.projections, widths, place.split(b, config), strict=True):
      if name not in layers:
        layers[name] = {
          'a': np.zeros((config.layers, top, width_in), np.float32),
          'b': np.zeros((config.layers, top, width[2]), np.float32),
          'scale': np.zeros(config.layers, np.float32),
        }
      layers[name]['a'][place.layer, :rank] = a
      layers[name]['b'][place.layer, :rank] = part
      layers[name]['scale'][place.layer] = scale
  return {'layers': layers}


def _array(source: TensorSource, name: str, shape: tuple[int, int]) -> np.ndarray:
  """Returns a tensor, of which shape and finite values are checked."""
  if tuple(source.shape) != shape:
    raise UserError(
      f'{source.file}: tensor {name!r} has shape {tuple(source.shape)}; model and config want '
      f'{shape}'
    )
  return tensors.finite(source, name)


def write(
  folder: pathlib.Path,
  config: DecoderConfig,
  adapter: Params,
  base: str = '',
  dropout: float = 0.0,
) -> None:
  """Writes a PEFT folder whole or not at all; `read` gives the same adapter, bit for bit.

  Args:
    folder: new or empty.
    config: shape of the model that the adapter is for.
    adapter: its parameters.
    base: name or folder of that model.
    dropout: probability for the adapter's input, in training that goes on elsewhere.

  Raises:
    UserError: the folder holds something else, or the adapter does not fit the model.
  """
  shapes = tensors.param_shapes(config)
  lora.check_fits(adapter, _kernels(shapes))
  found = places(config, shapes)
  arrays: dict[str, np.ndarray] = {}
  scales: dict[str, list[tuple[str, int, float]]] = {}
  fused: dict[Entry, tuple[np.ndarray, list[np.ndarray], np.ndarray]] = {}
  for place in found:
    if not any(name in adapter['layers'] for name in place.projections):
      continue
    if place.entry not in fused:
      fused[place.entry] = _fused(place, adapter, shapes)
    (a, parts, scale), i = fused[place.entry], place.layer
    if not scale[i] and not a[i].any():
      continue  # the adapter does not reach this layer
    arrays[_tensor(place, 'A')] = a[i]
    arrays[_tensor(place, 'B')] = place.join([part[i] for part in parts], config)
    target = _target(place, found) if _in_all_layers(a, scale) else place.name
    scales.setdefault(target, []).append((place.name, a.shape[1], float(scale[i])))
  # transformers loads a model with its language-model head, or, where jcl has none, the bare model.
  whole = isinstance(config, DecoderConfig) and not config.classes
  cut = PREFIX if whole else PREFIX + find_family(config.family).prefix
  # An array must be contiguous: safetensors silently writes any other as garbage.
  arrays = {
    PREFIX + name.removeprefix(cut): np.ascontiguousarray(x, np.float32)
    for name, x in arrays.items()
  }
  values = {
    'base_model_name_or_path': base or None,
    'bias': 'none',
    'fan_in_fan_out': any(p.transposed(config) for p in found),
    'inference_mode': True,
    'lora_dropout': dropout,
    'peft_type': 'LORA',
    'target_modules': list(scales),
    'task_type': 'CAUSAL_LM' if whole else 'FEATURE_EXTRACTION',
    **_ranks_and_alphas(scales),
  }
  with new_folder(folder) as part:
    (part / 'adapter_config.json').write_text(json.dumps(values, indent=2) + '\n')
    tensors.save_tensors(arrays, part / 'adapter_model.safetensors')


def _kernels(shapes: Mapping[str, Any]) -> lora.Kernels:
  """Returns {projection: (layers, in, out)} of a model's kernels."""
  return {
    path.split('/')[1]: (shape[0], shape[1], shape[2])
    for path, shape in shapes.items()
    if path.endswith('/kernel')
  }


def _in_all_layers(a: np.ndarray, scale: np.ndarray) -> bool:
  """Whether an adapter reaches a module in every layer; A is [L, R, in], scale [L]."""
  return all(s or x.any() for x, s in zip(a, scale, strict=True))


def _target(place: Place, found: Sequence[Place]) -> str:
  """Returns the entry of `target_modules` for a module: the shortest name that is its own alone.

  That is the last part of its name (`q_proj`), or all that follows the layer (`self_attn.q_proj`).
  """
  under = place.entry.tensor.split('{}.')[1].removesuffix('.weight')
  last = under.split('.')[-1]
  same = {p.entry.tensor for p in found if p.name.split('.')[-1] == last}
  return last if len(same) == 1 else under


def _fused(
  place: Place, adapter: Params, shapes: Mapping[str, Any]
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
  """Returns A [L, R, in] of a module, b [L, R, out] of each of its projections, and scale [L]."""
  given = adapter['layers']
  parts = {name: given[name] for name in place.projections if name in given}
  parts = {name: {k: np.asarray(x) for k, x in part.items()} for name, part in parts.items()}
  first, *others = parts.values()
  alike = lambda leaf: all(np.array_equal(first[leaf], other[leaf]) for other in others)
  same_scale = alike('scale')
  shared = same_scale and alike('a')
  a = first['a'] if shared else np.concatenate([part['a'] for part in parts.values()], 1)
  bs, start = [], 0
  for name, path in zip(place.projections, place.entry.paths, strict=True):
    b = np.zeros((*a.shape[:2], shapes[path][2]), np.float32)
    if name in parts:
      part = parts[name]
      own = part['b'] if same_scale else part['b'] * part['scale'][:, None, None]
      b[:, start : start + own.shape[1]] = own
      start += 0 if shared else own.shape[1]
    bs.append(b)
  return a, bs, first['scale'] if same_scale else np.ones_like(first['scale'])


def _ranks_and_alphas(modules: Mapping[str, list[tuple[str, int, float]]]) -> dict[str, Any]:
  """Returns the fields of adapter_config.json that tell ranks and scales.

  The most frequent rank and alpha are `r` and `lora_alpha`; the patterns name the exceptions.

  Args:
    modules: {target: [(module, rank, scale)]}.
  """
  ranks = {target: rows[0][1] for target, rows in modules.items()}
  alphas = {t: [_alpha(rank, scale) for _, rank, scale in rows] for t, rows in modules.items()}
  rank = collections.Counter(ranks.values()).most_common(1)[0][0]
  alpha = collections.Counter(x for row in alphas.values() for x in row).most_common(1)[0][0]
  pattern: dict[str, float] = {}
  for target, rows in modules.items():
    own = alphas[target]
    if len(set(own)) > 1:
      pattern |= {module: x for (module, *_), x in zip(rows, own, strict=True)}
    elif own[0] != alpha:
      pattern[target] = own[0]
  return {
    'r': rank,
    'lora_alpha': alpha,
    'rank_pattern': {target: x for target, x in ranks.items() if x != rank},
    'alpha_pattern': pattern,
  }


def _alpha(rank: int, scale: float) -> float:
  """Returns scale · rank, rounded to 6 places where the same float32 scale comes back from that."""
  alpha = scale * rank  # exact in float64: the scale has 24 bits and the rank a few
  short = round(alpha, 6)
  if np.float32(short / rank) == np.float32(scale):
    alpha = short
  return int(alpha) if alpha == int(alpha) else alpha
