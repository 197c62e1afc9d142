"""Five tasks of Long Sequence: AG News, Amazon, DBpedia, Yahoo and Yelp.

    jcl train --config=standard_cl:lamol --workdir=runs/standard_cl \\
      --config.stream.path=data/long_sequence --config.stream.task_order=i

The files are those of the config long_sequence. The orders `i` to `iv` are those of de Masson
d'Autume et al. (2019); the orders `1` to `3` are those of O-LoRA (Wang et al. 2023), without Yelp.

The score of this config has not been measured. On two CPU cores take a slice, such as
--config.stream.max_train_per_task=100 --config.stream.max_test_per_task=60.
"""

from jcl.config import BackboneConfig, Config, StreamConfig, TrainConfig
from jcl.methods import settings


def get_config(method: str = 'lamol') -> Config:
  return Config(
    method=settings(method),
    scenario='cil',
    stream=StreamConfig(name='standard_cl', path='data/long_sequence', max_length=512),
    backbone=BackboneConfig(path='HuggingFaceTB/SmolLM2-135M'),
    train=TrainConfig(learning_rate=1e-4, epochs=5, batch_size=32),
  )
