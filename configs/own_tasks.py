"""Your own tasks, from a small manifest: copy the folder `own_tasks` and put your rows into it.

    jcl train --config=own_tasks:lamol --workdir=runs/own_tasks
    jcl train --config=own_tasks:lamol --workdir=runs/mine \\
      --config.stream.path=mine/manifest.json

`jcl` prints the folder that holds this file and the folder `own_tasks`, whose manifest.json names
two tasks of three classes each, their files and columns. The docstring of jcl/streams/manifest.py
lists everything that a manifest can say. An error in a file is reported with its name and line
before a weight is read.

With --config.backbone.path= (empty) a small decoder is trained from scratch, at the rate for that.
The few rows of the example are five steps a task; --config.train.epochs=30 makes it thirty.
"""

import pathlib

from jcl.config import BackboneConfig, Config, StreamConfig, TrainConfig
from jcl.methods import settings


def get_config(method: str = 'lamol') -> Config:
  return Config(
    method=settings(method),
    # cil: the classes grow from task to task, and the task is not told at test time. til: the task
    # is told. dil: every task has the same classes. iil: free answers, `answer` in place of `label`
    # in the manifest.
    scenario='cil',
    stream=StreamConfig(
      name='files',
      path=str(pathlib.Path(__file__).with_suffix('') / 'manifest.json'),
      # A training text that is also in a test split is refused; `drop` leaves it out of train.
      overlap='refuse',
      # The order of tasks is the manifest's; a seed from 0 up shuffles it.
      order_seed=-1,
    ),
    # A hub name, a folder with config.json, *.safetensors and tokenizer.json, or a GGUF file.
    backbone=BackboneConfig(path='HuggingFaceTB/SmolLM2-135M'),
    # The rate is meant for this model; from scratch it is left open, which is 1e-3.
    train=TrainConfig(learning_rate=1e-4, epochs=5, batch_size=32),
  )
