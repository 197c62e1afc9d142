"""Small whole runs: three tasks of the embedded stream, a tiny decoder, a few steps."""

import pathlib
from typing import Any

import pytest

from jcl import methods
from jcl.config import BackboneConfig, Config, EvaluateConfig, StreamConfig, TrainConfig
from jcl.training import experiment
from jcl.training.loop import Loop

FEATURES = 24  # random features of a head


def config(method: str, **sections: dict[str, Any]) -> Config:
  """A run of seconds; `sections` are fields by section, e.g. train={'epochs': 1}.

  What nothing reads is left out: sizes of the decoder from scratch where `backbone` has a path,
  epochs where `train` has steps, and all of training for a method that takes no step.
  """
  settings = methods.settings(method)
  head = 'linear' if 'linear_head' in settings.needs else 'cosine'
  head = head if 'head' in settings.needs else ''
  made = Config(
    method=settings,
    scenario='cpt' if method == 'pretrain' else 'cil',
    stream=StreamConfig(
      name='synthetic', order_seed=0, max_tasks=3, max_train_per_task=40, max_test_per_task=16,
      # Rows of one length: one program. Longer are blocks of raw text, and prompts of a teacher.
      max_length=48 if {'pretrain', 'sdft'} & {*method.split('+')} else 16,
    ),
    backbone=from_scratch(head),
    train=TrainConfig(
      learning_rate=None if settings.adapters else 1e-2, epochs=2, batch_size=16, log_every=1,
      speed_every=0, gradient_norms_every=0,
    ),
    evaluate=EvaluateConfig(batch_size=16),
  )  # fmt: skip
  if not settings.takes_steps:
    made.train = TrainConfig()
  if hasattr(settings, 'projection'):
    settings.projection = FEATURES
  if sections.get('backbone', {}).get('path'):
    made.backbone = BackboneConfig(head=made.backbone.head)
  if sections.get('train', {}).get('steps'):
    made.train.epochs = TrainConfig.epochs
  for section, fields in sections.items():
    target = getattr(made, section)
    for name, value in fields.items():
      assert hasattr(target, name), f'{section}.{name}'
      if settings.takes_steps or name in experiment.READ_WITHOUT_STEPS.get(section, (name,)):
        setattr(target, name, value)
  return made


def from_scratch(head: str = '') -> BackboneConfig:
  """A decoder of one small layer."""
  return BackboneConfig(width=16, layers=1, heads=2, feed_forward=24, head=head)


class Killed(BaseException):
  """Stands for a kill: nothing in the loop may catch it."""


def run(made: Config, workdir: pathlib.Path, kill: tuple[str, int] | None = None) -> dict[str, Any]:
  """Runs to the end, or dies in a phase: `kill` is (phase, index of the task)."""
  workdir.mkdir(exist_ok=True)
  loop = Loop(experiment.assemble(made), workdir, quiet=True)
  if kill is not None:
    phase, index = kill
    real = getattr(loop, phase)

    def dying(now, task):
      if task is not None and task.index == index:
        raise Killed
      return real(now, task)

    setattr(loop, phase, dying)
  return loop.run()


def die_after_step(loop: Loop, task: int, step: int) -> None:
  """Runs a loop that dies right after a step of a task, both counted from 0."""
  real = loop.trainer.settle

  def dying(now, bar, weights, loaded, *rest):
    real(now, bar, weights, loaded, *rest)
    if now.index == task and loaded.number == step:
      raise Killed

  loop.trainer.settle = dying
  with pytest.raises(Killed):
    loop.run()
  loop.output.snapshots.close()
