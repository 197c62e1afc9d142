"""SNIPS: 7 intents in 4 tasks of 2, 2, 2 and 1, in order of first appearance in train.

    jcl train --config=snips:lamol --workdir=runs/snips \\
      --config.stream.path=data/snips

The folder holds seq.in and label in train, dev and test of
github.com/monologg/JointBERT, data/snips.

The score of this config has not been measured.
"""

from jcl.config import BackboneConfig, Config, StreamConfig, TrainConfig
from jcl.methods import settings


def get_config(method: str = 'lamol') -> Config:
  return Config(
    method=settings(method),
    scenario='cil',
    stream=StreamConfig(name='snips', path='data/snips', classes_per_task=2),
    backbone=BackboneConfig(path='HuggingFaceTB/SmolLM2-135M'),
    train=TrainConfig(learning_rate=1e-4, epochs=5, batch_size=32),
  )
