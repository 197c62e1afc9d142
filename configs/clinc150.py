"""CLINC150: 150 intents in 15 tasks of 10, in order of first appearance in train.

    python launch/train.py --config=configs/clinc150.py:lamol --workdir=runs/clinc150 \
        --config.stream.path=data/clinc150

The folder holds data_full.json of
github.com/clinc/oos-eval, data/data_full.json.
"""

from jcl.config import BackboneConfig, Config, StreamConfig, TrainConfig
from jcl.methods import settings


def get_config(method: str = 'lamol') -> Config:
  return Config(
    method=settings(method),
    scenario='cil',
    stream=StreamConfig(name='clinc150', path='data/clinc150', classes_per_task=10),
    backbone=BackboneConfig(path='HuggingFaceTB/SmolLM2-135M'),
    train=TrainConfig(learning_rate=1e-4, epochs=5, batch_size=32),
  )
