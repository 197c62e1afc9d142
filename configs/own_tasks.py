"""Your own tasks, from a small manifest: copy `configs/own_tasks/` and write your rows into it.

    python launch/train.py --config=configs/own_tasks.py:lamol --workdir=runs/own_tasks
    python launch/train.py --config=configs/own_tasks.py:lamol --workdir=runs/mine \
        --config.stream.path=mine/manifest.json

`configs/own_tasks/manifest.json` names two tasks, three classes each, their files and columns; the
docstring of `jcl/streams/manifest.py` has all that a manifest can say. What is wrong with a file is
said with its name and line before a weight is read.
"""

from jcl.config import BackboneConfig, Config, StreamConfig, TrainConfig
from jcl.methods import settings


def get_config(method: str = 'lamol') -> Config:
  return Config(
    method=settings(method),
    # cil: the classes grow from task to task, and at test time no task is told. The others: til
    # (the task is told), dil (the same classes in every task), iil (free answers, `answer` in
    # place of `label` in the manifest).
    scenario='cil',
    stream=StreamConfig(
      name='files',
      path='configs/own_tasks/manifest.json',
      # A training text that stands in a test split too is refused; `drop` leaves it out of train.
      overlap='refuse',
      # The order of tasks is the manifest's; a seed from 0 up shuffles it.
      order_seed=-1,
    ),
    # A hub name, a folder with config.json, *.safetensors and tokenizer.json, or a GGUF file.
    backbone=BackboneConfig(path='HuggingFaceTB/SmolLM2-135M'),
    train=TrainConfig(learning_rate=1e-4, epochs=5, batch_size=32),
  )
