"""CLINC150 by a frozen sentence encoder and a linear head that is solved, without training steps.

    jcl train --config=closed_form:closed_form --workdir=runs/closed_form \\
      --config.stream.path=data/clinc150 --config.backbone.path=models/minilm-l6

The model is all-MiniLM-L6-v2; docs/results.md has the figures. The config hwu64_closed_form is the
same for HWU64. Another data set of intents needs another --config.stream.name and
--config.stream.classes_per_task; the name `classes` reads a table with the columns text and label,
or a folder with train.csv and test.csv.

CLINC150, 15 tasks, all rows, three seeds: A_T 95.0 % in 257 to 305 CPU seconds on two cores.
"""

from jcl.config import BackboneConfig, Config, StreamConfig
from jcl.methods import settings


def get_config(method: str = 'closed_form') -> Config:
  return Config(
    method=settings(method),
    scenario='cil',
    stream=StreamConfig(name='clinc150', path='data/clinc150', classes_per_task=10),
    backbone=BackboneConfig(
      path='sentence-transformers/all-MiniLM-L6-v2', head='linear', pooling='mean'
    ),
  )
