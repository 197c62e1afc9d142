"""The folder of a run and its config: made, checked, changed where that may be, read again."""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from jcl import changes, distributed, methods
from jcl.changes import ABSENT, words
from jcl.config import Config, check_values
from jcl.errors import UserError
from jcl.storage import lock
from jcl.storage.checkpoint import write_json, write_text
from jcl.storage.sealed_folder import newest


def plain(config: Config) -> dict[str, Any]:
  """A config as JSON has it, the method's name among its settings."""
  values = dataclasses.asdict(config)
  values['method'] = {'name': methods.name_of(config.method), **values['method']}
  return json.loads(json.dumps(values))


def open_workdir(
  path: str,
  config: Config,
  allowed: Collection[str] = (),
  say: Callable[[str], None] = lambda line: None,
) -> pathlib.Path:
  """The workdir, checked, and if it is new made and marked with its config.

  What changes in the config of a run is written to `config.json`, after a line of
  `config_changes.jsonl` has what was there before, when it changed and after which snapshot.

  Args:
    path: of the workdir.
    config: of the run.
    allowed: names of the fields in which it may differ from the run that is there.
    say: takes a line about each that does.
  """
  workdir = check_workdir(path, config, allowed)
  distributed.meet('workdir checked')
  if distributed.is_first():
    workdir.mkdir(parents=True, exist_ok=True)
    with lock.held(workdir):  # two runs that begin at once are not to write over each other
      _mark(path, config, allowed, say)
  distributed.meet('workdir made')
  return workdir


def _mark(path: str, config: Config, allowed: Collection[str], say: Callable[[str], None]) -> None:
  """Writes the config of a new run, or what changes in that of an old one."""
  workdir, changed = _checked(path, config, allowed)
  kept = workdir / 'config.json'
  if not kept.exists():
    write_json(kept, plain(config))
  elif changed:
    line = {
      'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
      'snapshot': newest(workdir / 'checkpoints'),
      'changes': {f: [None if v is ABSENT else v for v in pair] for f, pair in changed.items()},
    }
    log = workdir / 'config_changes.jsonl'
    before = log.read_text() if log.exists() else ''
    write_text(log, [before, json.dumps(line, ensure_ascii=False), '\n'])
    write_json(kept, plain(config))
    for field, pair in changed.items():
      exactly = ': within rounding, not bit for bit' if field in changes.ROUNDING else ''
      say(f'changed: {words(field, *pair)}, from snapshot {line["snapshot"]} on{exactly}')


def check_workdir(path: str, config: Config, allowed: Collection[str] = ()) -> pathlib.Path:
  """The workdir, if it is new or holds a run of this config, up to the fields that may differ.

  Raises:
    UserError: it holds a run of another config, or something else.
  """
  return _checked(path, config, allowed)[0]


def _checked(
  path: str, config: Config, allowed: Collection[str]
) -> tuple[pathlib.Path, dict[str, tuple[Any, Any]]]:
  """-> the workdir, {field: (was, is)} of what changes in its run."""
  workdir, kept = pathlib.Path(path), pathlib.Path(path) / 'config.json'
  if kept.exists():
    try:
      found = json.loads(kept.read_text())
    except (ValueError, RecursionError):
      raise UserError(f'{kept} is not JSON; give another --workdir') from None
    defaults = plain(Config(method=methods.settings(methods.name_of(config.method))))
    return workdir, changes.check(found, plain(config), defaults, allowed, workdir)
  if workdir.is_file() or (workdir.exists() and {p.name for p in workdir.iterdir()} - {lock.LOCK}):
    raise UserError(f'{workdir} is not empty and holds no run; give another --workdir')
  return workdir, {}


def load_workdir(path: str) -> Config:
  """The config that a workdir was made with.

  Raises:
    UserError: it holds no run.
  """
  kept = pathlib.Path(path) / 'config.json'
  try:
    found = json.loads(kept.read_text())
    chosen = methods.settings(found['method'].pop('name'))
    config = Config(method=chosen)
    _fill(config, found)
  except (FileNotFoundError, NotADirectoryError):
    raise UserError(
      f'{path} holds no run: there is no config.json in it; give the --workdir of a run'
    ) from None
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    raise UserError(f'{kept} is not the config of a run; give another --workdir') from None
  try:
    check_values(config)
  except UserError as error:
    raise UserError(f'{kept}: {error}; give another --workdir') from None
  return config


def _fill(settings: Any, values: Mapping[str, Any]) -> None:
  """Sets the fields of a settings dataclass, and of those in it, to what JSON has."""
  for field, value in values.items():
    if field not in {f.name for f in dataclasses.fields(settings)}:
      raise KeyError(field)
    inside = getattr(settings, field)
    if dataclasses.is_dataclass(inside):
      _fill(inside, value)
    else:
      setattr(settings, field, tuple(value) if isinstance(value, list) else value)
