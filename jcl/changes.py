"""What may change in the config of a run that is under way, and what may not."""

from collections.abc import Collection, Mapping
from typing import Any

from jcl.errors import UserError

ABSENT = type('Absent', (), {})()  # a config has no such field

# How it is computed: the same numbers within rounding.
ROUNDING = (
  'train.fsdp',
  'train.microbatches',
  'evaluate.batch_size',
  'backbone.remat',
  'backbone.attention',
)
# Everything else decides rows, shapes, seeds, memory or what the scores mean, so that a run that
# went on with another value would be neither the old run nor the new one.
CHANGEABLE = (
  # When something is written.
  'checkpoint.every_steps',
  'checkpoint.every_chunks',
  'checkpoint.every_minutes',
  'checkpoint.keep_tasks',
  'train.log_every',
  'train.max_bad_steps',
  'stream.cache',
  *ROUNDING,
  # How far the steps to come go; the steps taken and the optimiser's state stay.
  'train.learning_rate',
  'train.head_learning_rate',
  'train.adapter_learning_rate',
  'train.weight_decay',
)


def differences(found: Any, wanted: Any, path: str = '') -> dict[str, tuple[Any, Any]]:
  """{field: (was, is)} of the fields in which two configs differ; `ABSENT` where one has none."""
  if isinstance(wanted, Mapping) and (isinstance(found, Mapping) or found is ABSENT):
    found = {} if found is ABSENT else found
    parts = [
      differences(found.get(key, ABSENT), wanted.get(key, ABSENT), f'{path}.{key}'.lstrip('.'))
      for key in dict.fromkeys([*found, *wanted])
    ]
    return {field: pair for part in parts for field, pair in part.items()}
  return {} if found is not ABSENT and found == wanted else {path: (found, wanted)}


def check(
  found: Mapping, wanted: Mapping, defaults: Mapping, allowed: Collection[str], workdir: Any
) -> dict[str, tuple[Any, Any]]:
  """What changes in a run, all of it allowed.

  Args:
    found: the config that the run was made with, as JSON has it.
    wanted: the config that it is to go on with, likewise.
    defaults: of that config's fields.
    allowed: names of the fields that the user says may change.
    workdir: of the run.

  Returns:
    {field: (was, is)}.

  Raises:
    UserError: a field differs that may not, or that the user has not allowed to.
  """
  unknown = [name for name in allowed if name not in fields(wanted)]
  if unknown:
    raise UserError(
      f'--allow_config_change={unknown[0]} is no field; what can change is {", ".join(CHANGEABLE)}'
    )
  changes, set_here = differences(found, wanted), differences(defaults, wanted)
  if 'method.name' in changes:  # then the fields of the two have nothing to do with each other
    changes = {
      f: c for f, c in changes.items() if f == 'method.name' or f.split('.')[0] != 'method'
    }
  can = {f: f in CHANGEABLE or (c[0] is ABSENT and f not in set_here) for f, c in changes.items()}
  if all(can[field] and field in allowed for field in changes):
    return changes
  lines = [
    words(field, *changes[field]) + ('' if can[field] else ', which cannot change in a run')
    for field in changes
    if not (can[field] and field in allowed)
  ]
  way = f', or go on with --allow_config_change={",".join(changes)}' if all(can.values()) else ''
  raise UserError(
    f'{workdir} holds a run of another config ({"; ".join(lines)}); give another --workdir{way}'
  )


def fields(config: Any, path: str = '') -> set[str]:
  """The names of all fields of a config as JSON has it."""
  if not isinstance(config, Mapping):
    return {path}
  return {f for key, value in config.items() for f in fields(value, f'{path}.{key}'.lstrip('.'))}


def words(field: str, was: Any, now: Any) -> str:
  """A change as the user reads it."""
  if was is ABSENT:
    return f'{field} is new and {now!r}'
  if now is ABSENT:
    return f'{field} was {was!r} and is no setting any more'
  return f'{field} was {was!r}, is {now!r}'
