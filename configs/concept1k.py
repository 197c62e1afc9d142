"""Concept-1K: facts about 1,000 concepts in 10 tasks, in order of first appearance.

    jcl train --config=concept1k:lamol --workdir=runs/concept1k \\
      --config.stream.path=data/concept1k

The folder holds dataset.txt of
github.com/zzz47zzz/codebase-for-incremental-learning-with-llm,
dataset/concept_1k.

Trained on the first question of each fact, tested on the second. `stream.order_seed` orders the
concepts.

The score of this config has not been measured.
"""

from jcl.config import BackboneConfig, Config, StreamConfig, TrainConfig
from jcl.methods import settings


def get_config(method: str = 'lamol') -> Config:
  return Config(
    method=settings(method),
    scenario='iil',
    stream=StreamConfig(name='concept1k', path='data/concept1k'),
    backbone=BackboneConfig(path='HuggingFaceTB/SmolLM2-135M'),
    train=TrainConfig(learning_rate=1e-4, epochs=5, batch_size=32),
  )
