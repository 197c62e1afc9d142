"""Continual learning of language models in JAX: new tasks are learned, old skills are kept.

import jcl
stream = jcl.Stream.from_rows({'billing': rows, 'travel': rows})
result = jcl.learn(stream, 'lamol', gamma=0.5)
print(result)                                   # the accuracy matrix
result.model.answer(['cancel my order'])        # -> ['cancel order']
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = '0.1.0'

if TYPE_CHECKING:
  from jcl.config import (
    AdversarialConfig,
    BackboneConfig,
    CheckpointConfig,
    Config,
    EvaluateConfig,
    StreamConfig,
    TrainConfig,
  )
  from jcl.errors import UserError
  from jcl.learning import Result, learn, load_stream
  from jcl.model import Model, load_model
  from jcl.streams.stream import Stream

# Loaded when first used: `import jcl` starts no backend and takes no time.
_PLACES = {
  'AdversarialConfig': 'jcl.config',
  'BackboneConfig': 'jcl.config',
  'CheckpointConfig': 'jcl.config',
  'Config': 'jcl.config',
  'EvaluateConfig': 'jcl.config',
  'Model': 'jcl.model',
  'Result': 'jcl.learning',
  'Stream': 'jcl.streams.stream',
  'StreamConfig': 'jcl.config',
  'TrainConfig': 'jcl.config',
  'UserError': 'jcl.errors',
  'learn': 'jcl.learning',
  'load_model': 'jcl.model',
  'load_stream': 'jcl.learning',
}
__all__ = [
  'AdversarialConfig',
  'BackboneConfig',
  'CheckpointConfig',
  'Config',
  'EvaluateConfig',
  'Model',
  'Result',
  'Stream',
  'StreamConfig',
  'TrainConfig',
  'UserError',
  '__version__',
  'learn',
  'load_model',
  'load_stream',
]


def __getattr__(name: str) -> Any:
  if name not in _PLACES:
    raise AttributeError(f'jcl has no {name}')
  return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
  return sorted(__all__)
