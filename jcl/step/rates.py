"""The learning rate of a run that leaves it open: by what trains, or that of the run that goes on;
so is the date that a chat template writes, and what an older jcl did not have as a setting.

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
from jcl.types import Json

SCRATCH, PRETRAINED = 1e-3, 1e-5
OPEN = (('train', 'learning_rate'), ('stream', 'chat_date'))  # decided when a run begins
# Settings that runs of an older jcl have no value of, and what these runs do.
BEFORE = {('train', 'packing'): 'off'}


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


def as_before(stored: Json) -> Json:
  """Returns a stored config in which settings that are younger than it say what the run does."""
  for (section, field), value in BEFORE.items():
    of = stored.get(section) if isinstance(stored, dict) else None
    if isinstance(of, dict) and field not in of:
      stored = {**stored, section: {**of, field: value}}
  return stored


def with_stored(workdir: str | pathlib.Path, config: Config) -> Config:
  """Returns the config; what it leaves open is as in the run in the workdir, if there is one.

  So a run goes on with the rate and the date that it began with, whatever the default is by now.

  Raises:
    UserError: a value of the config is not what it must be.
  """
  check_values(config)
  file = paths.local(workdir, 'workdir') / 'config.json'
  if not file.is_file():
    return config
  try:
    found = json.loads(file.read_text(encoding='utf-8'))
    stored = as_before(found)
    for section, field in (*OPEN, *BEFORE):
      settings, default = getattr(config, section), getattr(getattr(Config(), section), field)
      younger = (section, field) in BEFORE and field not in found[section]
      is_open = younger and getattr(settings, field) == default
      is_open = is_open or getattr(settings, field) in (None, '')
      if is_open and field in stored[section]:
        settings = dataclasses.replace(settings, **{field: stored[section][field]})
        config = dataclasses.replace(config, **{section: settings})
  except (ValueError, KeyError, TypeError, RecursionError):  # refused where the run is looked at
    return config
  return config
