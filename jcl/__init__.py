"""Continual learning of language models in JAX: new tasks are learned, old skills are kept."""

import importlib
from typing import Any

__version__ = '0.1.0'

# Loaded when first used: a launcher that refuses a flag need not wait for jax.
_PUBLIC = {
  'Backbone': 'jcl.backbones',
  'Batch': 'jcl.batching.batch',
  'Config': 'jcl.config',
  'Example': 'jcl.streams.stream',
  'Experiment': 'jcl.training.experiment',
  'Method': 'jcl.methods',
  'Plan': 'jcl.streams.stream',
  'Settings': 'jcl.methods',
  'Stream': 'jcl.streams.stream',
  'Task': 'jcl.streams.stream',
  'UserError': 'jcl.errors',
  'assemble': 'jcl.training.experiment',
}
__all__ = ['__version__', *_PUBLIC]


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f'jcl has no {name}')
  return getattr(importlib.import_module(_PUBLIC[name]), name)
