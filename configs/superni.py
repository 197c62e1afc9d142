"""SuperNI: 15 tasks of Super-NaturalInstructions with free answers.

    jcl train --config=superni:lamol --workdir=runs/superni \\
      --config.stream.path=data/superni --config.stream.task_order=1

The folder holds `TASK/train.json` and `TASK/test.json` of github.com/circle-hit/SAPT,
CL_Benchmark/SuperNI, or whole tasks, `TASK.json`, of github.com/allenai/natural-instructions,
folder tasks. Of a whole task the first 100 instances are test, as in that project, and the next
1,000 are train.

The score of this config has not been measured. It is meant for a GPU.
"""

from jcl.config import BackboneConfig, Config, StreamConfig, TrainConfig
from jcl.methods import settings


def get_config(method: str = 'lamol') -> Config:
  return Config(
    method=settings(method),
    scenario='cil',
    stream=StreamConfig(
      name='superni', path='data/superni', max_train_per_task=1000, max_length=1024
    ),
    backbone=BackboneConfig(path='HuggingFaceTB/SmolLM2-135M'),
    train=TrainConfig(learning_rate=1e-4, epochs=5, batch_size=32),
  )
