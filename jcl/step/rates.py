"""The learning rate of a run that leaves it open: by what trains, or that of the run that goes on.

    from scratch          1e-3
    from a file           1e-5

Heads and adapters have rates of their own, `train.head_learning_rate` and
`train.adapter_learning_rate`.
"""

import dataclasses
import json
import pathlib

from jcl.config import Config, check_values
from jcl.storage import paths

SCRATCH, PRETRAINED = 1e-3, 1e-5


def with_rate(config: Config, pretrained: bool) -> tuple[Config, str]:
  """Returns a config whose `train.learning_rate` is a number, and where it comes from, in words.

  Args:
    config: the settings.
    pretrained: whether the model comes from a file.
  """
  kind = 'of a pretrained model' if pretrained else 'from scratch'
  rate, default = config.train.learning_rate, PRETRAINED if pretrained else SCRATCH
  if rate is not None:
    return config, 'as set' if rate == default else f'as set; the default {kind} is {default:g}'
  train = dataclasses.replace(config.train, learning_rate=default)
  return dataclasses.replace(config, train=train), f'the default {kind}'


def with_stored_rate(workdir: str | pathlib.Path, config: Config) -> Config:
  """Returns the config; a rate that it leaves open is that of the run in the workdir, if any.

  So a run goes on with the rate that it began with, whatever the default is by now.

  Raises:
    UserError: a value of the config is not what it must be.
  """
  check_values(config)
  file = paths.local(workdir, 'workdir') / 'config.json'
  if config.train.learning_rate is not None or not file.is_file():
    return config
  try:
    stored = json.loads(file.read_text(encoding='utf-8'))['train']['learning_rate']
  except (ValueError, KeyError, TypeError, RecursionError):  # refused where the run is looked at
    return config
  train = dataclasses.replace(config.train, learning_rate=stored)
  return dataclasses.replace(config, train=train)
