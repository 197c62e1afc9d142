"""Families of models: a config.json, and a table of the tensors of its checkpoints.

A table is data and is read both ways, so that import and export cannot drift apart. An entry counts
only where the model's tree has its paths, so one table serves models with and without biases.

A family that differs from Llama in the names of its tensors alone:

    from jcl import backbones

    MY_LLAMA = backbones.find_family('llama')._replace(
      table=backbones.name_table({'embed': 'tok', 'layers/q': 'blocks.{}.query', …}),
      prefix='',
    )

A run finds it by the setting `backbone.family=package.module:MY_LLAMA`, or by the model_type that
an entry point of the group `jcl.families` is named by.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jcl.backbones.files.fields import Fields
from jcl.backbones.model_config import ModelConfig
from jcl.errors import UserError

NOTHING = '$^'  # a pattern that no name of a tensor matches


class Rule(NamedTuple):
  """How one tensor of a file becomes arrays of jcl's tree, and back.

  Attributes:
    read: (tensor, config) -> one array for each path of the entry.
    write: (arrays, config) -> the tensor: the inverse of `read`.
  """

  read: Callable[[np.ndarray, Any], list[np.ndarray]]
  write: Callable[[Sequence[np.ndarray], Any], np.ndarray]


class Entry(NamedTuple):
  """One tensor of a checkpoint.

  Attributes:
    paths: where its parts stand in jcl's tree, such as `layers/q/kernel`; more than one where the
      file fuses several projections. The tree of a model: see decoder.py and encoder.py.
    tensor: its name in the file; `{}` stands for the number of the layer.
    rule: between the two.
    first: first layer that has it; layers before hold 1 for a scale and 0 for all else.
  """

  paths: tuple[str, ...]
  tensor: str
  rule: Rule
  first: int = 0


class Family(NamedTuple):
  """One architecture, as checkpoints have it.

  Attributes:
    read: fields of a config.json -> a DecoderConfig or EncoderConfig whose vocabulary counts every
      row of the embedding. `family` may be left at its default: the loader sets it.
    write: config -> fields of a config.json, with `architectures` and without `model_type`.
    table: one entry for each tensor.
    prefix: of all tensors but the output projection, which checkpoints of the bare model (saved
      without that projection) leave out; empty: none.
    ignored: pattern of tensors that are neither read nor kept: constants of the code and, of
      encoders, the pooler and the heads of pretraining, on which no final state depends.
  """

  read: Callable[[Fields], ModelConfig]
  write: Callable[[Any], dict[str, Any]]
  table: tuple[Entry, ...]
  prefix: str = ''
  ignored: str = NOTHING

  @property
  def output_names(self) -> tuple[str, ...]:
    """Prefixes of the output projection's tensors in a file, such as `lm_head.`."""
    return tuple(
      entry.tensor.removesuffix(entry.tensor.rpartition('.')[2]) or entry.tensor
      for entry in self.table
      if entry.paths[0].startswith('unembed/')
    )


def check_family(found: Any, name: str, argument: str) -> Family:
  """Returns what a name stands for if it is a Family whose parts have the right types.

  Args:
    found: what stands at the place that the user named.
    name: that place, for messages.
    argument: what the user set, for messages.

  Raises:
    UserError: naming the part that is wrong and what it must be.
  """
  if not isinstance(found, Family):
    kind = found.__name__ if isinstance(found, type) else type(found).__name__
    raise UserError(f'{argument}: {name} is {kind}; it must be a jcl.backbones.Family')
  for part in ('read', 'write'):
    if not callable(getattr(found, part)):
      raise UserError(f'{argument}: {name}: {part} must be a function')
  if not isinstance(found.table, tuple | list) or not found.table:
    raise UserError(f'{argument}: {name}: table must be a tuple of jcl.backbones.Entry')
  for entry in found.table:
    if fault := _entry_fault(entry):
      raise UserError(f'{argument}: {name}: table: {fault}')
  if not isinstance(found.prefix, str):
    raise UserError(f'{argument}: {name}: prefix must be text, not {found.prefix!r}')
  try:
    re.compile(found.ignored)
  except (re.error, TypeError):
    raise UserError(
      f'{argument}: {name}: ignored must be a pattern, not {found.ignored!r}'
    ) from None
  return found


def _entry_fault(entry: Any) -> str:
  """Returns the fault of an entry of a table; empty where there is none."""
  if not isinstance(entry, Entry) or not isinstance(entry.rule, Rule):
    return f'{entry!r} is no jcl.backbones.Entry with a Rule'
  paths = entry.paths
  if not isinstance(paths, tuple) or not paths or not all(isinstance(p, str) for p in paths):
    return f'paths {paths!r} must be a tuple of texts'
  in_layer = {path.startswith('layers/') for path in paths}
  if len(in_layer) > 1:
    return f'paths {paths!r} are in part those of a layer'
  if not isinstance(entry.tensor, str):
    return f'tensor {entry.tensor!r} must be text'
  places = len(re.findall(r'\{\}', entry.tensor))
  if places != in_layer.pop() or re.search(r'[{}]', entry.tensor.replace('{}', '')):
    return (
      f'tensor {entry.tensor!r} must have {{}} once for the layer if its path begins with layers/, '
      'and no other braces'
    )
  return ''


def _split_heads(x: np.ndarray, config: Any) -> list[np.ndarray]:
  """Splits [heads · 3 · head, …] of GPT-NeoX into three of [heads · head, …]."""
  parts = x.reshape(config.heads, 3, config.head_dim, *x.shape[1:])
  return [parts[:, i].reshape(-1, *x.shape[1:]) for i in range(3)]


def _join_heads(parts: Sequence[np.ndarray], config: Any) -> np.ndarray:
  """The inverse of `_split_heads`."""
  rows = [x.reshape(config.heads, config.head_dim, *x.shape[1:]) for x in parts]
  return np.stack(rows, 1).reshape(-1, *parts[0].shape[1:])


SAME = Rule(lambda x, c: [x], lambda xs, c: xs[0])
"""The tensor is the array: tables of embeddings, norms, biases, kernels stored as [in, out]."""

TRANSPOSED = Rule(lambda x, c: [x.T], lambda xs, c: xs[0].T)
"""A kernel stored as [out, in], as torch's Linear has it."""

FUSED = Rule(lambda x, c: np.split(x, 3, -1), lambda xs, c: np.concatenate(xs, -1))
"""Queries, keys and values side by side along the last axis, as in GPT-2."""

FUSED_HEADS = Rule(_split_heads, _join_heads)
"""Queries, keys and values of a head side by side along the first axis, as in GPT-NeoX."""

FUSED_HEADS_TRANSPOSED = Rule(
  lambda x, c: [part.T for part in _split_heads(x, c)],
  lambda xs, c: _join_heads([x.T for x in xs], c),
)
"""The same for a kernel stored as [out, in]."""


def _qkv_ends(config: Any) -> list[int]:
  """Where queries and keys end among the columns of queries, keys and values."""
  kv_heads = getattr(config, 'kv_heads', config.heads)
  head = getattr(config, 'head_dim', config.width // config.heads)
  return [config.heads * head, (config.heads + kv_heads) * head]


FUSED_QKV_TRANSPOSED = Rule(
  lambda x, c: np.split(x.T, _qkv_ends(c), -1), lambda xs, c: np.concatenate(xs, -1).T
)
"""All queries, all keys, all values along the first axis of a kernel stored as [out, in]."""

FUSED_QKV = Rule(lambda x, c: np.split(x, _qkv_ends(c), -1), lambda xs, c: np.concatenate(xs, -1))
"""The same for a bias."""

FUSED_GATE_TRANSPOSED = Rule(
  lambda x, c: np.split(x.T, 2, -1), lambda xs, c: np.concatenate(xs, -1).T
)
"""Gate and up along the first axis of a kernel stored as [out, in]."""

FUSED_GATE = Rule(lambda x, c: np.split(x, 2, -1), lambda xs, c: np.concatenate(xs, -1))
"""The same for a bias."""


def name_table(names: Mapping[str, str], kernel: Rule = TRANSPOSED) -> tuple[Entry, ...]:
  """Makes a table from the names of modules.

  A module called `…norm` has a scale and a bias, `embed`, `unembed`, `positions`, `types` and
  `relative` have an embedding, all others a kernel and a bias; in a file the first is `weight`, the
  second `bias`.

  Args:
    names: {module of jcl's tree: module in the file, with `{}` for the number of the layer}.
    kernel: how the file stores kernels.
  """
  entries = []
  for module, name in names.items():
    if module in ('embed', 'unembed', 'positions', 'types', 'relative'):
      entries.append(Entry((f'{module}/embedding',), f'{name}.weight', SAME))
      continue
    leaf, rule = ('scale', SAME) if module.endswith('norm') else ('kernel', kernel)
    entries.append(Entry((f'{module}/{leaf}',), f'{name}.weight', rule))
    entries.append(Entry((f'{module}/bias',), f'{name}.bias', SAME))
  return tuple(entries)


def fused_table(
  name: str, kernel: Rule, bias: Rule, parts: Sequence[str] = ('q', 'k', 'v')
) -> tuple[Entry, ...]:
  """Makes the entries of queries, keys and values that a file keeps in one module.

  Args:
    name: of the module in the file.
    kernel: how its weight is split.
    bias: how its bias is split.
    parts: projections that the module holds.
  """
  paths = lambda leaf: tuple(f'layers/{projection}/{leaf}' for projection in parts)
  return (
    Entry(paths('kernel'), f'{name}.weight', kernel),
    Entry(paths('bias'), f'{name}.bias', bias),
  )
