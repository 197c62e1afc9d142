"""A large model teaches a small one that has its tokenizer: train (or load) it, distil, tune.

    python launch/train.py --config=configs/distill_large_to_small.py:joint --workdir=runs/large
    python launch/export.py --workdir=runs/large --out=runs/large_model
    python launch/train.py --config=configs/distill_large_to_small.py:distill --workdir=runs/small
    python launch/export.py --workdir=runs/small --out=runs/small_model
    python launch/train.py --config=configs/distill_large_to_small.py:replay --workdir=runs/tuned \\
      --config.backbone.path=runs/small_model

The first two commands fall away where there is a large model: give its folder, GGUF file or hub
name to the third as --config.method.teacher_path and, for a small model from scratch, as
--config.backbone.tokenizer_path. A small model that has been trained is --config.backbone.path,
with --config.backbone.tokenizer_path= left empty; its vocabulary must be the teacher's. The last
two commands, which tune the small model without a teacher, are optional.

On the first task of the embedded stream all three end at 100 %. Distillation looks at new rows
alone and holds no forgetting off: over all five tasks (--config.stream.max_tasks=0) A_T is 99.8 of
the large model, 20.6 of the small one, which learned them one after another, and 97.7 once it was
tuned with replay; one seed.
"""

from jcl import methods
from jcl.config import BackboneConfig, Config, EvaluateConfig, StreamConfig, TrainConfig

LARGE = 'runs/large_model'


def get_config(method: str = 'distill') -> Config:
  settings = methods.settings(method)
  backbone = BackboneConfig(width=128, layers=3, heads=4, feed_forward=384)
  if method == 'distill':
    settings.teacher_path = LARGE
    backbone = BackboneConfig(width=48, layers=1, heads=4, feed_forward=144, tokenizer_path=LARGE)
  return Config(
    method=settings,
    stream=StreamConfig(name='synthetic', order_seed=0, max_tasks=1, max_length=48),
    backbone=backbone,
    train=TrainConfig(learning_rate=1e-3, beta2=0.98, epochs=12, batch_size=32),
    evaluate=EvaluateConfig(batch_size=128),
  )
