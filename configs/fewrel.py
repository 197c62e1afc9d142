"""FewRel, few-shot: 80 relations in 8 tasks of 10, in order of first appearance in train.

    jcl train --config=fewrel:lamol --workdir=runs/fewrel \\
      --config.stream.path=data/fewrel

The folder, or cfrl in it, holds relation_name.txt and CFRLdata_10_100_10_5 of
github.com/qcwthu/Continual_Fewshot_Relation_Learning, data/fewrel.

For another number of rows a relation than 5, name the file:
`--config.stream.path=…/CFRLdata_10_100_10_2/train_0.txt`. Published numbers for 8 tasks of FewRel
are on a larger set and cannot be compared.

The score of this config has not been measured.
"""

from jcl.config import BackboneConfig, Config, StreamConfig, TrainConfig
from jcl.methods import settings


def get_config(method: str = 'lamol') -> Config:
  return Config(
    method=settings(method),
    scenario='cil',
    stream=StreamConfig(name='fewrel', path='data/fewrel', classes_per_task=10),
    backbone=BackboneConfig(path='HuggingFaceTB/SmolLM2-135M'),
    train=TrainConfig(learning_rate=1e-4, epochs=5, batch_size=32),
  )
