"""Long Sequence: 15 tasks of classification, 1,000 training rows a task.

    jcl train --config=long_sequence:lamol --workdir=runs/long_sequence \\
      --config.stream.path=data/long_sequence --config.stream.task_order=1

The folder holds `train/TASK_T5.json` and `test/TASK_T5.json` of github.com/WoodScene/AimMerging,
folder data_longsequence, or `TASK/train.json` and `TASK/test.json` of github.com/circle-hit/SAPT,
CL_Benchmark/Long_Sequence. `stream.task_order` is one of the three published orders, `1` to `3`.
Each input lists the possible answers of its task; the task is not told. The literature compares
`lora` and `olora`: --config=long_sequence:olora.

The score of the whole stream has not been measured: it takes a GPU. A slice with SmolLM2-135M on
two CPU cores, order 1, 20 training and 10 test rows a task, one epoch, 11 to 18 CPU minutes a run:
A_T seq 40.0 %, lora 38.0, olora 46.0, replay of 10 % 48.0, each ± 7.6 (docs/results.md).
"""

from jcl.config import BackboneConfig, Config, StreamConfig, TrainConfig
from jcl.methods import settings


def get_config(method: str = 'lamol') -> Config:
  return Config(
    method=settings(method),
    scenario='cil',
    stream=StreamConfig(name='long_sequence', path='data/long_sequence', max_length=512),
    backbone=BackboneConfig(path='HuggingFaceTB/SmolLM2-135M'),
    train=TrainConfig(learning_rate=1e-4, epochs=5, batch_size=32),
  )
