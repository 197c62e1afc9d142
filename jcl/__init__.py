"""Continual learning of language models in JAX: new tasks are learned, old skills are kept.

import jcl
stream = jcl.Stream.from_rows({'billing': rows, 'travel': rows})
result = jcl.learn(stream, 'lamol', gamma=0.5)
print(result)                                   # the accuracy matrix
result.model.answer(['cancel my order'])        # -> ['cancel order']
jcl.methods.names()                             # the methods, with a line on each
help(jcl.methods.settings('lamol'))             # the settings of one, with a line on each
help(jcl.TrainConfig)                           # those that all methods share
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = '0.1.0'

if TYPE_CHECKING:
  from jcl import methods
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
  from jcl.learning import Result, compare, learn, load_stream
  from jcl.model import Model, load_model
  from jcl.reports.report import Comparison, Report
  from jcl.sinks.sink import Sink
  from jcl.sinks.tensorboard import TensorBoard
  from jcl.sinks.trackio import Trackio
  from jcl.sinks.weights_and_biases import WandB
  from jcl.streams.stream import Stream
  from jcl.training.signals import Stopped

# Loaded when first used: `import jcl` starts no backend and takes no time.
_PLACES = {
  'AdversarialConfig': 'jcl.config',
  'BackboneConfig': 'jcl.config',
  'CheckpointConfig': 'jcl.config',
  'Comparison': 'jcl.reports.report',
  'Config': 'jcl.config',
  'EvaluateConfig': 'jcl.config',
  'Model': 'jcl.model',
  'Report': 'jcl.reports.report',
  'Result': 'jcl.learning',
  'Sink': 'jcl.sinks.sink',
  'Stopped': 'jcl.training.signals',
  'Stream': 'jcl.streams.stream',
  'StreamConfig': 'jcl.config',
  'TensorBoard': 'jcl.sinks.tensorboard',
  'Trackio': 'jcl.sinks.trackio',
  'TrainConfig': 'jcl.config',
  'UserError': 'jcl.errors',
  'WandB': 'jcl.sinks.weights_and_biases',
  'compare': 'jcl.learning',
  'learn': 'jcl.learning',
  'load_model': 'jcl.model',
  'load_stream': 'jcl.learning',
}
__all__ = [
  'AdversarialConfig',
  'BackboneConfig',
  'CheckpointConfig',
  'Comparison',
  'Config',
  'EvaluateConfig',
  'Model',
  'Report',
  'Result',
  'Sink',
  'Stopped',
  'Stream',
  'StreamConfig',
  'TensorBoard',
  'Trackio',
  'TrainConfig',
  'UserError',
  'WandB',
  '__version__',
  'compare',
  'learn',
  'load_model',
  'load_stream',
  'methods',
]


def __getattr__(name: str) -> Any:
  if name == 'methods':
    return importlib.import_module('jcl.methods')
  if name not in _PLACES:
    from jcl.errors import nearest

    raise AttributeError(f'jcl has no {name}; {nearest(name, __all__)}dir(jcl) lists the names')
  return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
  return sorted(__all__)
