"""CLINC150: 150 intents in 15 tasks of 10, in order of first appearance in train.

    jcl train --config=clinc150:lamol --workdir=runs/clinc150 \\
      --config.stream.path=data/clinc150

The folder holds data_full.json of github.com/clinc/oos-eval, folder data.

A slice, measured with SmolLM2-135M-Instruct (a Q4_1 GGUF) on two CPU cores: 3 tasks of 10 classes,
20 training and 6 test rows a class, 3 epochs at rate 2e-4 (--config.stream.max_tasks=3
--config.stream.max_train_per_task=200 --config.stream.max_test_per_task=60 --config.train.epochs=3
--config.train.learning_rate=2e-4), A_T in %: single 94.4 (96.7, 90.0, 96.7), replay 90.0,
lamol 75.6, seq 56.1. One seed, 10 to 45 minutes each.
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
