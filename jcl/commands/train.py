"""Trains a model on a stream of tasks.

    jcl train --config=quickstart:lamol --workdir=runs/lamol

The method stands behind the colon, several with + between them; `jcl choose` helps to find one, and
a wrong name lists all. Any setting is a flag (docs/settings.md), as in
--config.train.learning_rate=3e-4 --config.method.gamma=0.5. The same command again resumes the run
from its last snapshot. --allow_config_change=train.learning_rate,… names the settings that may then
differ from the run's; settings that its numbers depend on may not.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from jcl.commands import command_line, config_flag, jax_settings
from jcl.storage import console


def define_flags(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Defines the flags of the command."""
  config_flag.define(given, arguments)
  config_flag.define_run_flags(given)


def run(given: flags.FlagValues) -> None:
  """Trains, then prints the accuracy matrix."""
  config, workdir = config_flag.read(given), command_line.required(given, 'workdir')
  jax_settings.join_processes(given.distributed)
  jax_settings.use_compile_cache()
  from jcl import distributed, learning, sinks
  from jcl.commands import doctor
  from jcl.reports import report

  finished = learning.run(
    config, workdir, allowed=given.allow_config_change, quiet=given.quiet,
    callbacks=sinks.named(given.sinks),
  )  # fmt: skip
  if not given.quiet and distributed.is_first():
    print(report.matrix_table(finished.results, coloured=console.has_colours()))
    doctor.say(finished.results, pathlib.Path(workdir))
    print(f'look: {pathlib.Path(workdir) / "report.html"}, or jcl doctor --workdir={workdir}')
