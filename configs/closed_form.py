"""A frozen sentence encoder and a linear head that is solved: intents, class by class, in minutes.

    jcl train --config=closed_form:closed_form --workdir=runs/closed_form \\
      --config.stream.path=data/clinc150 --config.backbone.path=models/minilm-l6

Another intent set takes the same command with its own stream and classes a task, as HWU64 in
`hwu64_closed_form`, or any other of `--config.stream.name`.
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
