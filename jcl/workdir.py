"""The folder of a run: made with a config, compared with a new one, read again.

`config.json` in a workdir holds the config that the run goes on with. The same command finds the
same config there and resumes the run. A config that differs is refused, unless every field that
differs may change in a run (`CHANGEABLE`) and the user has named it; each change is recorded in
`config_changes.jsonl`. `load_workdir` reads the config back for programs that look at the run.
"""

import dataclasses
import datetime
import json
import pathlib
import shutil
from collections.abc import Callable, Collection, Mapping
from typing import Any

from jcl import distributed, methods
from jcl.config import Config, check_values, unread
from jcl.errors import UserError
from jcl.step import rates
from jcl.storage import lock, paths
from jcl.storage.atomic import write_json, write_text
from jcl.storage.checkpoint import check_format
from jcl.storage.sealed_folder import newest
from jcl.training import inputs
from jcl.training.answer_format import FOLDER
from jcl.types import Json

ABSENT = type('Absent', (), {})()  # stands for the value of a field that a config does not have
Changes = dict[str, tuple[object, object]]  # {dotted name of a field: (old value, new value)}

# These fields decide how numbers are computed. The results stay equal within float rounding.
ROUNDING = (
  'train.fsdp',
  'train.tensor',
  'train.microbatches',
  'train.packing',
  'evaluate.batch_size',
  'backbone.remat',
  'backbone.attention',
)
# All fields that may change in a run. Every other field decides rows, shapes, seeds, memory or the
# meaning of the scores: a run that went on with another value would mix two experiments.
CHANGEABLE = (
  # When something is written.
  'checkpoint.every_steps', 'checkpoint.every_chunks', 'checkpoint.every_minutes',
  'checkpoint.keep_tasks', 'train.log_every', 'train.speed_every', 'train.gradient_norms_every',
  'train.max_bad_steps', 'stream.cache',
  *ROUNDING,
  # How large the coming steps are; the steps already taken and the optimiser's state stay.
  'train.learning_rate', 'train.head_learning_rate', 'train.adapter_learning_rate',
  'train.weight_decay',
)  # fmt: skip


def open_workdir(
  path: str, config: Config, allowed: Collection[str] = (),
  say: Callable[[str], None] = lambda line: None, read: inputs.Inputs | None = None,
) -> pathlib.Path:  # fmt: skip
  """Returns the workdir, made and marked with the config if it is new.

  Allowed changes are written to `config.json`. Before that, a line with the old values, the time
  and the number of the newest snapshot is added to `config_changes.jsonl`.

  Args:
    path: the workdir.
    config: the config of the run.
    allowed: dotted names of the fields that may differ from those of the run that is there.
    say: called with a line for each field that changes.
    read: digests of what the run reads, which must be those of the run that is there.

  Raises:
    UserError: see `check_workdir`.
  """
  workdir = check_workdir(path, config, allowed, read)
  distributed.barrier('workdir checked')
  if distributed.is_first():
    workdir.mkdir(parents=True, exist_ok=True)
    with lock.held(workdir):  # two runs that start at once must not overwrite each other's config
      _write_config(path, config, allowed, say, read)
  distributed.barrier('workdir made')
  return workdir


def is_run(workdir: pathlib.Path | None) -> bool:
  """Whether a folder is that of a run that has begun; None: there is no folder."""
  return workdir is not None and (workdir / 'config.json').is_file()


def check_workdir(
  path: str, config: Config, allowed: Collection[str] = (), read: inputs.Inputs | None = None
) -> pathlib.Path:
  """Returns the workdir if it is new or holds a run of this config; writes nothing.

  Args:
    path: the workdir.
    config: the config of the run.
    allowed: dotted names of the fields that may differ from those of the run that is there.
    read: digests of what the run reads; None: nothing was read yet, so that is not compared.

  Raises:
    UserError: the workdir holds something else or a run of a config that differs in more fields
      than allowed, or the config cannot be stored.
  """
  return _compare_with_run(path, config, allowed, read)[0]


def load_workdir(path: str, base: str = '', stream: str = '') -> Config:
  """Returns the config of the run in a workdir.

  Args:
    path: the workdir.
    base: place of the base model, where it has moved.
    stream: place of the data, where it has moved.

  Raises:
    UserError: the workdir holds no run, its run has no base model or no data that could move, or
      the method of the run cannot be imported.
  """
  file = paths.local(path, 'workdir') / 'config.json'
  try:
    stored = rates.as_before(json.loads(file.read_text('utf-8')))
    name = stored['method'].pop('name')
    config = Config(method=_settings_of_stored_method(file, name))
    _fill(config, stored)
    check_values(config)
    for flag, given, section in (
      ('base', base, config.backbone), ('stream', stream, config.stream),
    ):  # fmt: skip
      if given and not section.path:
        raise UserError(f'{flag} is {given!r}, but this run has no {flag} in a file')
      section.path = given or section.path
  except (FileNotFoundError, NotADirectoryError):
    raise UserError(
      f'{path} holds no run: there is no config.json in it; give the workdir of a run'
    ) from None
  except UserError as error:
    shown = str(error) if str(error).startswith(str(file)) else f'{file}: {error}'
    raise UserError(shown) from None
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    raise UserError(f'{file} is not the config of a run; give another workdir') from None
  return config


def config_to_json(config: Config) -> Json:
  """Returns a config as `config.json` stores it.

  The entry `method` holds the settings of the method and its `name`. The name of a method from
  outside this package is `package.module:Class`, by which `load_workdir` imports it again.

  Raises:
    UserError: a setting has a type that JSON cannot hold, or the class of the settings cannot be
      imported by its name.
  """
  values = dataclasses.asdict(config)
  if 'name' in values['method']:
    raise UserError(
      f'method: {_place(config.method)} has a setting called name, which stands for the method in '
      'config.json; give the setting another name'
    )
  name = '+'.join(_stored_name(part) for part in methods.parts(config.method).values())
  values['method'] = {'name': name, **values['method']}
  return {section: _json_value(value, section) for section, value in values.items()}


def _place(settings: methods.Settings) -> str:
  """Returns `package.module:Class` of a settings object."""
  return f'{type(settings).__module__}:{type(settings).__qualname__}'


def _stored_name(settings: methods.Settings) -> str:
  """Returns the name by which another process finds the class of these settings."""
  name, place = methods.name_of(settings), _place(settings)
  if name in methods.BUILT_IN:
    return name
  if '<' in place:  # <run_path>: a file of configs/; <locals>: a function
    raise UserError(
      f'method: the class {type(settings).__name__} is defined in a config file or in a function, '
      'where no other command finds it; move it to a module and name it package.module:'
      f'{type(settings).__name__}'
    )
  return place


def _settings_of_stored_method(file: pathlib.Path, name: str) -> methods.Settings:
  """Returns default settings of the method that a config.json names."""
  try:
    return methods.settings(name)
  except UserError as error:
    if '__main__:' not in name:
      raise
    raise UserError(
      f'{file}: {error}; a method that was defined in a notebook or script is found again once its '
      'class is in a module: write package.module:Class for its name in this file'
    ) from None


def _json_value(value: object, field: str) -> object:
  """Returns a setting as JSON holds it: tuples become lists.

  Raises:
    UserError: JSON has no such type; the message names the field.
  """
  if value is None or isinstance(value, bool | int | float | str):
    return value
  if isinstance(value, list | tuple):
    return [_json_value(item, f'{field}[{i}]') for i, item in enumerate(value)]
  if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
    return {key: _json_value(item, f'{field}.{key}') for key, item in value.items()}
  kind = 'dict with a key that is no str' if isinstance(value, Mapping) else type(value).__name__
  raise UserError(
    f'{field} is a {kind}, which config.json cannot hold; a setting is a number, a str, True, '
    'False, None, or a tuple, list or dict of these'
  )


def _fill(settings: Any, values: Json, path: str = '') -> None:
  """Sets the fields of a settings dataclass, and of the dataclasses in it, from JSON."""
  known = {field.name for field in dataclasses.fields(settings)}
  for name, value in values.items():
    if name not in known:
      raise UserError(
        f'there is no setting {path}{name}; go on with the version that made it, or give another '
        'workdir'
      )
    default = getattr(settings, name)
    if dataclasses.is_dataclass(default):
      _fill(default, value, f'{path}{name}.')
    else:
      setattr(settings, name, _with_tuples(value) if isinstance(default, tuple) else value)


def _with_tuples(value: object) -> object:
  """Returns a value in which every list, at any depth, is a tuple."""
  return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _write_config(
  path: str, config: Config, allowed: Collection[str], say: Callable[[str], None],
  read: inputs.Inputs | None,
) -> None:  # fmt: skip
  """Writes config and digests of a new run, or what changes in those of a run that is there."""
  workdir, changes = _compare_with_run(path, config, allowed, read)
  file = workdir / 'config.json'
  if not file.exists():
    write_json(file, config_to_json(config))
  elif changes:
    line = {
      'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
      'snapshot': newest(workdir / 'checkpoints'),
      'changes': {f: [None if v is ABSENT else v for v in pair] for f, pair in changes.items()},
    }
    log = workdir / 'config_changes.jsonl'
    before = log.read_text('utf-8') if log.exists() else ''
    write_text(log, [before, json.dumps(line, ensure_ascii=False), '\n'])
    write_json(file, config_to_json(config))
    for field, pair in changes.items():
      exactly = ': within rounding, not bit for bit' if field in ROUNDING else ''
      if field in inputs.WORDS:
        say(f'changed: {field}: {pair[0]}, from snapshot {line["snapshot"]} on')
      elif field in inputs.PLACES:
        say(f'moved: {_describe(field, *pair)}; what the run reads there is the same')
      else:
        say(f'changed: {_describe(field, *pair)}, from snapshot {line["snapshot"]} on{exactly}')
  if read is None:
    return
  if not (workdir / inputs.FILE).exists() and newest(workdir / 'checkpoints') >= 0:
    say(
      'an earlier jcl began this run and left no digests of what it read: whether data, tokenizer '
      'and weights are the same is not known; from now on it is'
    )
  if changes or not (workdir / inputs.FILE).exists():
    if any(field in inputs.WORDS for field in changes):  # it describes the tokenizer and the tasks
      shutil.rmtree(workdir / FOLDER, ignore_errors=True)
    inputs.write(workdir, read)


def _compare_with_run(
  path: str, config: Config, allowed: Collection[str], read: inputs.Inputs | None
) -> tuple[pathlib.Path, Changes]:
  """Returns the workdir, and the changes against the config of the run in it."""
  workdir = paths.local(path, 'workdir')
  wanted = config_to_json(rates.with_stored(workdir, config))
  file = workdir / 'config.json'
  if file.exists():
    try:
      found = rates.as_before(json.loads(file.read_text('utf-8')))
    except (ValueError, RecursionError):
      raise UserError(f'{file} is not JSON; give another workdir') from None
    if not isinstance(found, dict) or 'method' not in found:  # such as a model's config
      raise UserError(f'{file} is not the config of a run; give another workdir')
    check_format(workdir / 'checkpoints')  # before anything is written
    defaults = config_to_json(Config(method=type(config.method)()))
    before = inputs.read(workdir)
    changed = inputs.changes(before, read, config, _begun(workdir))
    useless = {name for name, *_ in unread(config, whole=config)}
    return workdir, check_changes(
      found, wanted, defaults, allowed, workdir, before is not None, changed, useless
    )
  if workdir.is_file() or (workdir.exists() and {p.name for p in workdir.iterdir()} - {lock.LOCK}):
    what = 'is a file' if workdir.is_file() else 'is not empty and holds no run'
    raise UserError(f'{workdir} {what}; give another workdir')
  return workdir, {}


def check_changes(
  found: Json, wanted: Json, defaults: Json, allowed: Collection[str], workdir: pathlib.Path,
  movable: bool = False, read: Mapping[str, inputs.Change] | None = None,
  useless: Collection[str] = (),
) -> Changes:  # fmt: skip
  """Returns what changes in the config of a run, after checking that all of it may change.

  A field that the stored config does not have, because an older jcl wrote it, may take its default.

  Args:
    found: the config in `config.json`.
    wanted: the config that the run is to go on with, as `config_to_json` gives it.
    defaults: the default config of the same method, likewise.
    allowed: dotted names of the fields that the user lets change.
    workdir: named in messages.
    movable: whether what lies at a path is compared, so that the path itself may change.
    read: {word of an input: what changed in it}.
    useless: names of the fields that nothing reads; one may be at its default again.

  Raises:
    UserError: a field differs that cannot change, or that the user has not named.
  """
  read = read or {}
  unknown = [name for name in allowed if name not in {*field_names(wanted), *inputs.WORDS}]
  if unknown:
    raise UserError(
      f'allow_config_change has {unknown[0]!r}, which is no field; what can change is '
      f'{", ".join((*CHANGEABLE, *inputs.WORDS))}'
    )
  changes, not_default = differences(found, wanted), differences(defaults, wanted)
  left_out = {f for f in useless if f not in not_default and changes.get(f, [ABSENT])[0] != ABSENT}
  changes = {field: pair for field, pair in changes.items() if field not in left_out}
  if 'method.name' in changes:  # the settings of two methods have nothing to do with each other
    changes = {
      f: c for f, c in changes.items() if f == 'method.name' or f.split('.')[0] != 'method'
    }
  may_change = {
    f: f in CHANGEABLE or (old is ABSENT and f not in not_default)
    for f, (old, _) in changes.items()
  }
  moved = {f for f, pair in changes.items() if f in inputs.PLACES and movable and all(pair)}
  may_change |= {word: not change.never for word, change in read.items()}
  named = {*changes, *read} - moved
  refused = [f for f in (*changes, *read) if f in named and not (may_change[f] and f in allowed)]
  if not refused:
    return changes | {word: (change.what, 'allowed') for word, change in read.items()}
  lines = [
    read[f].line if f in read
    else _describe(f, *changes[f]) + ('' if may_change[f] else ', which cannot change in a run')
    for f in refused
  ]  # fmt: skip
  listed = ','.join(f for f in (*changes, *read) if f in named)
  ways = f'in Python allow_config_change={listed!r}, on a shell --allow_config_change={listed}'
  way = f', or go on: {ways}' if all(may_change[f] for f in named) else ''
  of = 'on other inputs' if set(refused) <= {*read} else 'of another config'
  back = 'put back what it read, or give' if set(refused) <= {*read} else 'give'
  raise UserError(f'{workdir} holds a run {of} ({"; ".join(lines)}); {back} another workdir{way}')


def _begun(workdir: pathlib.Path) -> int:
  """Returns the number of tasks of a run that have begun, as its results say."""
  try:
    matrix = json.loads((workdir / 'results.json').read_text('utf-8'))['matrix']
    return max(sum(any(x is not None for x in row) for row in matrix), 1)
  except (OSError, ValueError, KeyError, TypeError):
    return 1


def differences(found: object, wanted: object, path: str = '') -> Changes:
  """Returns the fields in which two configs differ, at any depth; `ABSENT` where one has none."""
  if isinstance(wanted, Mapping) and (isinstance(found, Mapping) or found is ABSENT):
    old = found if isinstance(found, Mapping) else {}
    parts = [
      differences(old.get(key, ABSENT), wanted.get(key, ABSENT), f'{path}.{key}'.lstrip('.'))
      for key in dict.fromkeys([*old, *wanted])
    ]
    return {field: pair for part in parts for field, pair in part.items()}
  return {} if found is not ABSENT and found == wanted else {path: (found, wanted)}


def field_names(config: object, path: str = '') -> set[str]:
  """Returns the dotted names of all fields of a config as JSON holds it."""
  if not isinstance(config, Mapping):
    return {path}
  return {f for key, v in config.items() for f in field_names(v, f'{path}.{key}'.lstrip('.'))}


def _describe(field: str, old: object, new: object) -> str:
  """Returns a change in words."""
  if old is ABSENT:
    return f'{field} is new and {new!r}'
  if new is ABSENT:
    return f'{field} was {old!r} and is no setting any more'
  return f'{field} was {old!r}, is {new!r}'
