"""Trains a model on a stream of tasks.

    python launch/train.py --config=configs/quickstart.py:lamol --workdir=runs/lamol

Any setting is a flag: --config.train.learning_rate=3e-4 --config.method.gamma=0.5. The same command
again goes on from the last snapshot. --allow_config_change=train.learning_rate,… names the settings
that may then differ; what a run depends on may not.
"""

from absl import flags

from jcl import cli

cli.define_config()
flags.DEFINE_bool('quiet', False, 'print nothing but errors')


def run() -> None:
  """Trains, then prints the accuracy matrix."""
  config, workdir = cli.read_config(), cli.required('workdir')
  cli.use_compile_cache()
  from jcl import distributed, learning
  from jcl.reports import report

  quiet, allowed = flags.FLAGS.quiet, flags.FLAGS.allow_config_change
  finished = learning.run(config, workdir, allowed=allowed, quiet=quiet)
  if not quiet and distributed.is_first():
    print(report.matrix_table(finished.results))
    print(f'results, report and pictures are in {workdir}')


if __name__ == '__main__':
  cli.main(run)
