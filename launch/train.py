"""Trains a model on a stream of tasks.

    python launch/train.py --config=configs/quickstart.py:lamol --workdir=runs/lamol

Any setting is a flag: --config.train.learning_rate=3e-4 --config.method.gamma=0.5. The same command
again goes on from the last snapshot. --allow_config_change=train.learning_rate,… names the settings
that may then differ; what a run depends on may not.
"""

from absl import flags

from jcl import launch, workdirs

launch.define_config()
flags.DEFINE_bool('quiet', False, 'print nothing but errors')


def run() -> None:
  """Trains, then prints the accuracy matrix."""
  config, workdir = launch.read_config(), launch.required('workdir')
  launch.use_compile_cache()
  from jcl import doctor, experiment, processes, report, train

  parts = experiment.assemble(config)
  doctor.refuse_new(parts, workdir)
  quiet = flags.FLAGS.quiet or not processes.is_first()
  say = (lambda line: None) if quiet else print
  folder = workdirs.open_workdir(workdir, config, flags.FLAGS.allow_config_change, say)
  results = train.train(parts, folder, quiet)
  if not quiet:
    print(report.matrix_table(results))
    print(f'results, report and pictures are in {workdir}')


if __name__ == '__main__':
  launch.main(run)
