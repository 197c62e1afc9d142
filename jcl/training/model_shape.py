"""The shape of a model as a run stores it: what its config.json says beside the weights.

The same weights are another function with another `rope_theta`, window or epsilon.
"""

import dataclasses
import json
import math
from collections.abc import Mapping

from jcl.backbones.model_config import ModelConfig
from jcl.types import Json

# Fields that a run chooses, that weights and tokenizer say already, or that only limit rows.
OTHERS = {
  'added_rows', 'attention', 'block_every', 'classes', 'dropout', 'dtype', 'family', 'head',
  'lora_dropout', 'max_positions', 'mixed', 'model_type', 'pooling', 'random_features', 'remat',
  'rows', 'tied', 'vocabulary',
}  # fmt: skip


def shape_fields(config: ModelConfig) -> Json:
  """Returns {field: value} of what the config of a model says about its function, as JSON."""
  fields = dataclasses.asdict(config)
  return json.loads(json.dumps({k: v for k, v in fields.items() if k not in OTHERS}, default=str))


def changed_fields(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
  """Returns a line for each field that two shapes have and that differs."""
  return [
    f'{name} {now[name]}, not {before[name]}'
    for name in before
    if name in now and not alike(before[name], now[name])
  ]


def alike(one: object, other: object) -> bool:
  """Whether two values of JSON are equal; numbers to float32, in which GGUF files hold them."""
  if isinstance(one, int | float) and isinstance(other, int | float):
    return math.isclose(one, other, rel_tol=1e-6)
  if isinstance(one, dict) and isinstance(other, dict):
    return one.keys() == other.keys() and all(alike(one[k], other[k]) for k in one)
  if isinstance(one, list) and isinstance(other, list):
    return len(one) == len(other) and all(map(alike, one, other))
  return one == other
