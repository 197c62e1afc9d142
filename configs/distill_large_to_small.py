"""A large model teaches a small one with the same tokenizer: train (or load), distil, tune.

    jcl train --config=distill_large_to_small:joint --workdir=runs/large
    jcl export --workdir=runs/large --out=runs/large_model
    jcl train --config=distill_large_to_small:distill --workdir=runs/small
    jcl export --workdir=runs/small --out=runs/small_model
    jcl train --config=distill_large_to_small:replay --workdir=runs/tuned \\
      --config.backbone.path=runs/small_model

Leave out the first two commands if you have a large model: give its folder, GGUF file or hub name
to the third command as --config.method.teacher_path and, for a small model from scratch, as
--config.backbone.tokenizer_path. Give a small model that has been trained as
--config.backbone.path, and leave --config.backbone.tokenizer_path= empty; its vocabulary must be
the teacher's. The last two commands, which tune the small model without a teacher, are optional.

On the first task of the synthetic stream all three models reach 100 %. Distillation sees new rows
alone and prevents no forgetting: over all five tasks (--config.stream.max_tasks=0) A_T is 99.8 %
for the large model, 20.6 % for the small one, which learned them one after another, and 97.7 %
after it was tuned with replay; one seed.
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
