"""TRACE: eight tasks with free answers, in three languages and in code.

    jcl train --config=trace:lamol --workdir=runs/trace --config.stream.path=data/trace

The folder holds `TASK/train.json` and `TASK/test.json` of LLM-CL-Benchmark_500 or _5000 of
github.com/BeyonderXX/TRACE. To leave out a task whose files you do not have, name the others:
--config.stream.task_order=C-STANCE,FOMC,Py150,ScienceQA,NumGLUE-cm,NumGLUE-ds,20Minuten.

An input ends with its question, and a row longer than `stream.max_length` tokens loses the end of
its input. Py150 has inputs of some thousand tokens; `jcl plan` counts the rows that are cut.

The score of the whole stream has not been measured: it takes a GPU. Slices with SmolLM2-135M on two
CPU cores, docs/results.md: three tasks (FOMC, NumGLUE-cm, NumGLUE-ds), 32 training and 10 test rows
each, one epoch at rate 1e-4, four to six minutes a run: A_T seq 23.3 %, lora 20.0 %; the KL from
the base on prompts of the last task is 0.99 nats a token for seq and 0.30 for lora.
"""

from jcl.config import BackboneConfig, Config, StreamConfig, TrainConfig
from jcl.methods import settings


def get_config(method: str = 'lamol') -> Config:
  return Config(
    method=settings(method),
    scenario='cil',
    stream=StreamConfig(name='trace', path='data/trace', max_length=2048),
    backbone=BackboneConfig(path='HuggingFaceTB/SmolLM2-135M'),
    train=TrainConfig(learning_rate=1e-4, epochs=5, batch_size=32),
  )
