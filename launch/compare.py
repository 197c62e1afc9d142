"""Trains several methods on one stream, over several seeds: one table, one picture, one page.

    python launch/compare.py --config=configs/quickstart.py --methods=seq,lamol,joint \\
      --seeds=0,1,2 --workdir=runs/quickstart

A seed is that of the stream's order, of the initial parameters and of every draw. Runs that are
finished are not run again. Any setting is a flag, as in train.py; one of a method's own holds for
the methods that have it.
"""

import copy
import pathlib
import sys

from absl import flags

from jcl import cli
from jcl import workdir as workdirs
from jcl.errors import UserError

METHOD_FLAGS = cli.take_method_flags(sys.argv)
cli.define_config()
flags.DEFINE_string('methods', 'seq,lamol,joint', 'names, with commas')
flags.DEFINE_string('seeds', '0', 'numbers, with commas')


def run() -> None:
  """Trains every method with every seed, then prints and writes the comparison."""
  workdir = pathlib.Path(cli.required('workdir'))
  seeds, names = cli.numbers(flags.FLAGS.seeds, 'seeds'), flags.FLAGS.methods.split(',')
  if len(set(names)) != len(names):
    raise UserError(f'--methods={flags.FLAGS.methods} names a method twice')
  bases = cli.read_configs(names, METHOD_FLAGS)
  scenarios = {base.scenario: name for name, base in zip(names, bases, strict=True)}
  if len(scenarios) > 1 and 'cpt' in scenarios:
    other = next(s for s in scenarios if s != 'cpt')
    raise UserError(
      f'{scenarios["cpt"]} runs in scenario cpt and {scenarios[other]} in {other}, which have no '
      'score in common; give --config.scenario=cpt'
    )
  cli.use_compile_cache()
  from jcl import distributed, learning
  from jcl.reports import report
  from jcl.training import experiment

  runs, allowed = [], flags.FLAGS.allow_config_change
  for name, base in zip(names, bases, strict=True):
    for seed in seeds:
      config = copy.deepcopy(base)
      config.train.seed = seed
      if not cli.overridden('stream.order_seed'):
        config.stream.order_seed = seed
      experiment.check(config)
      workdirs.check_workdir(str(workdir / f'{name}-{seed}'), config, allowed)
      runs.append((name, seed, config))
  results = []
  for number, (name, seed, config) in enumerate(runs):
    if distributed.is_first():
      print(f'[{number + 1}/{len(runs)}] {name}, seed {seed}', flush=True)
    folder = workdir / f'{name}-{seed}'
    results.append(learning.run(config, folder, allowed=allowed).results)
  if not distributed.is_first():
    return
  print(report.comparison_table(results))
  report.comparison_picture(results, workdir / 'comparison.png')
  report.html_report(results, workdir / 'report.html')
  print(f'the picture is {workdir / "comparison.png"}, the page {workdir / "report.html"}')


if __name__ == '__main__':
  cli.main(run)
