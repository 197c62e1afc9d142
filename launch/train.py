"""Trains a model on a stream of tasks.

    python launch/train.py --config=configs/quickstart.py:lamol --workdir=runs/lamol

Any setting is a flag: --config.train.learning_rate=3e-4 --config.method.gamma=0.5. The same command
again goes on from the last snapshot. --allow_config_change=train.learning_rate,… names the settings
that may then differ; what a run depends on may not.
"""

from absl import flags

from jcl import cli
from jcl import workdir as workdirs

cli.define_config()
flags.DEFINE_bool('quiet', False, 'print nothing but errors')


def run() -> None:
  """Trains, then prints the accuracy matrix."""
  config, workdir = cli.read_config(), cli.required('workdir')
  cli.use_compile_cache()
  from jcl import distributed
  from jcl.preflight import checks
  from jcl.reports import report
  from jcl.training import experiment, loop

  parts = experiment.assemble(config)
  checks.refuse_new(parts, workdir)
  quiet = flags.FLAGS.quiet or not distributed.is_first()
  say = (lambda line: None) if quiet else print
  folder = workdirs.open_workdir(workdir, config, flags.FLAGS.allow_config_change, say)
  results = loop.train(parts, folder, quiet)
  if not quiet:
    print(report.matrix_table(results))
    print(f'results, report and pictures are in {workdir}')


if __name__ == '__main__':
  cli.main(run)
