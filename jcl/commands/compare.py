"""Trains several methods on one stream, over several seeds: one table, one picture, one page.

    jcl compare --config=quickstart --methods=seq,lamol,joint --seeds=0,1,2 --workdir=runs/three

A seed determines the initial parameters, every random draw and, in the synthetic stream, the
benchmarks and data that is cut by classes, the order of the stream; own files keep their order of
tasks unless stream.order_seed is given. A run that has finished is not run again. Any setting is a
flag, as for `jcl train`; a setting of a method, --config.method.gamma=0.5, holds for the methods
that have it, and any other for those that read it.
"""

import copy
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from jcl.commands import command_line, config_flag, jax_settings
from jcl.config import Config
from jcl.errors import UserError
from jcl.storage import console
from jcl.types import Json

if TYPE_CHECKING:
  from jcl.reports.results import Results


def define_flags(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Defines the flags of the command."""
  config_flag.define(given, arguments, several_methods=True)
  config_flag.define_run_flags(given)
  command_line.define_list(
    given, 'methods', 'seq,lamol,joint', 'names of methods, with commas', once='method'
  )
  command_line.define_list(given, 'seeds', '0', 'numbers, with commas', int, once='seed')


def run(given: flags.FlagValues) -> None:
  """Trains every method with every seed, then prints and writes the comparison."""
  workdir = pathlib.Path(command_line.required(given, 'workdir'))
  configs = _read_configs(given)
  jax_settings.join_processes(given.distributed)
  jax_settings.use_compile_cache()
  from jcl import distributed, learning, sinks
  from jcl import workdir as workdirs
  from jcl.training import experiment

  allowed = given.allow_config_change
  folders = [workdir / f'{name.replace(":", ".")}-{seed}' for name, seed in configs]
  for folder, ((_, seed), config) in zip(folders, configs.items(), strict=True):
    experiment.check(config, workdirs.is_run(folder))
    if not config_flag.overrides(given, 'stream.order_seed'):
      _keep_stored_order(folder, config, seed)
    workdirs.check_workdir(str(folder), config, allowed)
  sinks.named(given.sinks)  # refuses a name before a run begins
  results: list[Results] = []
  logs: list[Sequence[Json]] = []
  for folder, ((name, seed), config) in zip(folders, configs.items(), strict=True):
    if distributed.is_first() and not given.quiet:
      print(f'[{len(results) + 1}/{len(configs)}] {name}, seed {seed}', flush=True)
    done = learning.run(
      config, folder, allowed=allowed, quiet=given.quiet, callbacks=sinks.named(given.sinks)
    )
    results.append(done.results)
    logs.append(done.log)
  if not distributed.is_first():
    return
  show(results, logs, workdir, given.quiet, [str(folder) for folder in folders])


def show(
  results: 'Sequence[Results]', logs: Sequence[Sequence[Json]], folder: pathlib.Path, quiet: bool,
  places: Sequence[str],
) -> None:  # fmt: skip
  """Prints the table of runs, and writes their picture and page.

  Args:
    results: of each run.
    logs: lines of metrics.jsonl of each run.
    folder: that takes picture and page.
    quiet: print the table alone.
    places: folder of each run.
  """
  from jcl.reports import report

  print(report.comparison_table(results))
  report.comparison_picture(results, folder / 'comparison.png')
  report.html_report(results, folder / 'report.html', logs, places)
  if quiet:
    return
  for line in report.picture_notes(results):
    console.show(f'warning: {line}')
  print(f'the picture is {folder / "comparison.png"}, the page {folder / "report.html"}')


def _keep_stored_order(folder: pathlib.Path, config: Config, seed: int) -> None:
  """Keeps the order of tasks of a run that an earlier jcl began, which the seed then determined."""
  from jcl import workdir as workdirs

  try:
    stored = workdirs.load_workdir(str(folder)).stream.order_seed
  except UserError:  # none is there, or it is refused where it is looked at
    return
  if stored == seed and config.stream.order_seed < 0:
    config.stream.order_seed = stored


def _read_configs(given: flags.FlagValues) -> dict[tuple[str, int], Config]:
  """Returns the config of each run by its method and seed.

  Raises:
    UserError: no method or no seed is named, or the runs would have no score in common.
  """
  from jcl.streams import task_order

  seeds, names = (command_line.required(given, name) for name in ('seeds', 'methods'))
  bases = dict(zip(names, config_flag.read_each(given, names), strict=True))
  scenarios = {base.scenario: name for name, base in bases.items()}
  if len(scenarios) > 1 and 'cpt' in scenarios:
    other = next(s for s in scenarios if s != 'cpt')
    raise UserError(
      f'{scenarios["cpt"]} runs in scenario cpt and {scenarios[other]} in {other}, which have no '
      'score in common; give --config.scenario=cpt'
    )
  configs = {}
  for name, base in bases.items():
    for seed in seeds:
      config = configs[name, seed] = copy.deepcopy(base)
      config.train.seed = seed
      drawn = task_order.is_drawn(config.stream.name)
      if drawn and not config_flag.overrides(given, 'stream.order_seed'):
        config.stream.order_seed = seed
  return configs
