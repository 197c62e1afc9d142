"""Continual learning of language models in JAX: new tasks are learned, old skills are kept."""

__version__ = '0.1.0'
