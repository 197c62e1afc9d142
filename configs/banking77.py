"""Banking77: 77 intents in 7 tasks of 11, in order of first appearance in train.

    jcl train --config=banking77:lamol --workdir=runs/banking77 \\
      --config.stream.path=data/banking77

The folder holds train.csv and test.csv (with categories.json, if there is one) of
github.com/PolyAI-LDN/task-specific-datasets, banking_data.

The score of this config has not been measured.
"""

from jcl.config import BackboneConfig, Config, StreamConfig, TrainConfig
from jcl.methods import settings


def get_config(method: str = 'lamol') -> Config:
  return Config(
    method=settings(method),
    scenario='cil',
    stream=StreamConfig(name='banking77', path='data/banking77', classes_per_task=11),
    backbone=BackboneConfig(path='HuggingFaceTB/SmolLM2-135M'),
    train=TrainConfig(learning_rate=1e-4, epochs=5, batch_size=32),
  )
