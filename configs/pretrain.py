"""Continual pretraining on your own texts: corpora one after another, the old ones mixed in.

    python launch/train.py --config=configs/pretrain.py --workdir=runs/pretrain \
        --config.stream.path=texts/manifest.json

The manifest names the corpora in the order in which they are learned, with a column of texts and no
labels or answers; a row, or a `.txt` file, is a document:

    {"text": "text", "tasks": [
      {"name": "law", "train": "law/train.jsonl", "test": "law/test.jsonl"},
      {"name": "medicine", "train": "medicine/train.txt", "test": "medicine/test.txt"}]}

Each corpus is tokenised once, into a file of `stream.cache`. Of the tokens that train a corpus a
fifth is of those before it (`method.replay_share`), exactly. Rates warm up anew for every corpus;
`train.schedule_between_tasks=continue` makes one course of the whole run. Any other method without
labels runs on the same texts, `configs/pretrain.py:seq` and `:joint` as the bounds.
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
