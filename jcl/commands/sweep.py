"""Trains a run again with some values of one setting: one table, one picture, one page.

    jcl sweep --workdir=runs/ewc --setting=method.lambda_ewc --values=1e5,1e6,1e7

All other settings are those of the run in --workdir, which stands in the table too. The runs stand
in folders of --out, each named by its value; one that has finished is not run again.
"""

import copy
import dataclasses
import operator
import pathlib
from collections.abc import Sequence

from absl import flags

from jcl.commands import command_line, compare, jax_settings
from jcl.config import Config
from jcl.errors import UserError, nearest
from jcl.types import Json


def define_flags(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Defines the flags of the command."""
  command_line.define_path(given, 'workdir', None, 'folder of a run, whose settings are taken')
  flags.DEFINE_string('setting', None, 'a number in the config, such as method.gamma', given)
  command_line.define_list(given, 'values', '', 'of the setting, with commas', float, once='value')
  command_line.define_path(given, 'out', None, 'folder for the runs; empty: WORKDIR-sweep')


def run(given: flags.FlagValues) -> None:
  """Trains a run for each value, then prints and writes the comparison."""
  workdir = pathlib.Path(command_line.required(given, 'workdir'))
  setting, values = (command_line.required(given, name) for name in ('setting', 'values'))
  out = pathlib.Path(given.out or f'{workdir}-sweep')
  from jcl import learning
  from jcl import workdir as workdirs
  from jcl.reports import results as results_json
  from jcl.training import experiment

  base = workdirs.load_workdir(str(workdir))
  configs = {value: with_value(base, setting, value) for value in values}
  folders = {value: out / f'{setting.rpartition(".")[2]}-{value:g}' for value in values}
  for value, config in configs.items():
    experiment.check(config, workdirs.is_run(folders[value]))
    workdirs.check_workdir(str(folders[value]), config)
  jax_settings.use_compile_cache()
  results, logs, places = [], [], []
  if (file := workdir / 'results.json').is_file():
    before = results_json.read(file)
    if before.get('finished') and _value(base, setting) not in values:
      results, logs, places = [before], [_log(workdir)], [str(workdir)]
  for number, (value, config) in enumerate(configs.items(), 1):
    if not given.quiet:
      print(f'[{number}/{len(configs)}] {setting}={value:g}', flush=True)
    done = learning.run(config, folders[value], quiet=given.quiet)
    results.append(done.results)
    logs.append(done.log)
    places.append(str(folders[value]))
  compare.show(results, logs, out, given.quiet, places)


def with_value(config: Config, setting: str, value: float) -> Config:
  """Returns a copy of a config in which a setting has another value.

  Args:
    config: the settings; they stay as they are.
    setting: dotted name of a number.
    value: of it; a whole number where the setting counts.

  Raises:
    UserError: there is no such number, or the value is not whole where the setting counts.
  """
  changed = copy.deepcopy(config)
  now = _value(changed, setting)
  if isinstance(now, int) and value != int(value):
    raise UserError(f'--values: {value:g} is no whole number, which {setting} must be')
  holder, _, name = setting.rpartition('.')
  where = operator.attrgetter(holder)(changed) if holder else changed
  setattr(where, name, int(value) if isinstance(now, int) else value)
  return changed


def _value(config: Config, setting: str) -> float | int:
  """Returns the value of a number among the settings.

  Raises:
    UserError: there is no such number.
  """
  try:
    found = operator.attrgetter(setting)(config)
  except AttributeError:
    found = None
  if isinstance(found, bool) or not isinstance(found, int | float):
    holder = setting.rpartition('.')[0]
    near = nearest(setting, (f'{holder}.{name}' for name in _names(config, holder)))
    raise UserError(
      f'--setting is {setting!r}, which is no number of this run; {near}give one of its '
      'config.json, such as train.learning_rate'
    )
  return found


def _names(config: Config, group: str) -> list[str]:
  """Returns the settings of a group such as `train`; none where there is no such group."""
  inside = getattr(config, group, None)
  return [field.name for field in dataclasses.fields(inside)] if inside is not None else []


def _log(workdir: pathlib.Path) -> Sequence[Json]:
  """Returns the lines of metrics.jsonl."""
  from jcl.storage import metrics_log

  return metrics_log.read(workdir / 'metrics.jsonl')[0]
