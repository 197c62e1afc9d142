"""Models that learn: records of pure functions, their heads, adapters and files.

The names below are all that the author of a model family needs; see files/family.py. They are
imported when first used, so that `import jcl.backbones` takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jcl.backbones.backbone import Backbone, Cache, Params
  from jcl.backbones.decoder_config import DecoderConfig, RopeScaling
  from jcl.backbones.encoder_config import EncoderConfig
  from jcl.backbones.files.families import find_family
  from jcl.backbones.files.family import (
    FUSED,
    FUSED_HEADS,
    FUSED_HEADS_TRANSPOSED,
    SAME,
    TRANSPOSED,
    Entry,
    Family,
    Rule,
    fused_table,
    name_table,
  )
  from jcl.backbones.files.fields import Fields
  from jcl.backbones.model_config import ModelConfig
  from jcl.backbones.models import make_backbone

_MODULES = {
  'backbone': ('Backbone', 'Cache', 'Params'),
  'decoder_config': ('DecoderConfig', 'RopeScaling'),
  'encoder_config': ('EncoderConfig',),
  'model_config': ('ModelConfig',),
  'models': ('make_backbone',),
  'files.families': ('find_family',),
  'files.family': (
    'FUSED', 'FUSED_HEADS', 'FUSED_HEADS_TRANSPOSED', 'SAME', 'TRANSPOSED', 'Entry', 'Family',
    'Rule', 'fused_table', 'name_table',
  ),
  'files.fields': ('Fields',),
}  # fmt: skip
_PUBLIC = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
  'FUSED', 'FUSED_HEADS', 'FUSED_HEADS_TRANSPOSED', 'SAME', 'TRANSPOSED', 'Backbone', 'Cache',
  'DecoderConfig', 'EncoderConfig', 'Entry', 'Family', 'Fields', 'ModelConfig', 'Params',
  'RopeScaling', 'Rule', 'find_family', 'fused_table', 'make_backbone', 'name_table',
]  # fmt: skip


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f'jcl.backbones has no {name}')
  return getattr(importlib.import_module(f'jcl.backbones.{_PUBLIC[name]}'), name)
