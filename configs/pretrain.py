"""Continual pretraining on your own texts: corpora one after another, old ones mixed in.

    jcl train --config=pretrain --workdir=runs/pretrain \\
      --config.stream.path=texts/manifest.json

The manifest names the corpora in the order in which they are learned, with a column of texts and
without labels or answers. A row, or a `.txt` file, is a document:

    {"text": "text", "tasks": [
      {"name": "law", "train": "law/train.jsonl", "test": "law/test.jsonl"},
      {"name": "medicine", "train": "medicine/train.txt", "test": "medicine/test.txt"}]}

Each corpus is tokenised once, into a file in the folder `stream.cache`. Exactly a fifth of the
tokens that train a corpus comes from the corpora before it (`method.replay_share`). The learning
rate warms up anew for every corpus; with `train.schedule_between_tasks=continue` one schedule spans
the whole run. Any other method without labels runs on the same texts; `pretrain:seq` and
`pretrain:joint` are the lower and the upper bound.

Measured on small texts, the first three tasks of the config quickstart (jcl compare
--config=quickstart --methods=pretrain,seq,joint --seeds=0,1,2 --config.scenario=cpt
--config.stream.max_tasks=3), in nats per token at the end, lower is better: pretrain 2.64 ± 0.19,
seq 3.02 ± 0.25, joint 2.57 ± 0.20.
"""

from jcl.config import BackboneConfig, Config, StreamConfig, TrainConfig
from jcl.methods import settings


def get_config(method: str = 'pretrain') -> Config:
  return Config(
    method=settings(method),
    scenario='cpt',
    stream=StreamConfig(name='files', path='texts/manifest.json', max_length=512),
    backbone=BackboneConfig(path='HuggingFaceTB/SmolLM2-135M'),
    # The schedule after warm-up: constant, cosine, linear, or wsd (stable, then decay).
    train=TrainConfig(
      learning_rate=1e-5, warmup_fraction=0.1, schedule='cosine', epochs=1, batch_size=32
    ),
  )
