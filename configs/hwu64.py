"""HWU64, fold 1: 64 intents in 8 tasks of 8, in order of their file names.

    jcl train --config=hwu64:lamol --workdir=runs/hwu64 \\
      --config.stream.path=data/hwu64

The folder holds KFold_1/trainset and KFold_1/testset/csv of
github.com/xliuhw/NLU-Evaluation-Data,
CrossValidation/autoGeneFromRealAnno/autoGene_2018_03_22-13_01_25_169/CrossValidation.

The score of this config has not been measured.
"""

from jcl.config import BackboneConfig, Config, StreamConfig, TrainConfig
from jcl.methods import settings


def get_config(method: str = 'lamol') -> Config:
  return Config(
    method=settings(method),
    scenario='cil',
    stream=StreamConfig(name='hwu64', path='data/hwu64', classes_per_task=8),
    backbone=BackboneConfig(path='HuggingFaceTB/SmolLM2-135M'),
    train=TrainConfig(learning_rate=1e-4, epochs=5, batch_size=32),
  )
