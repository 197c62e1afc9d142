"""Trains a model on a stream of tasks: what launchers, the console script and Python call."""

import pathlib
import time
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from jcl import distributed
from jcl import workdir as workdirs
from jcl.config import Config
from jcl.preflight import checks
from jcl.storage.sealed_folder import newest
from jcl.training import experiment
from jcl.training.experiment import Experiment
from jcl.training.loop import Loop
from jcl.training.run_state import Run


class Finished(NamedTuple):
  """A run that has ended.

  Attributes:
    parts: of the run.
    results: the contents of `results.json`.
    last: the run after its last phase: parameters and the method's memory.
  """

  parts: Experiment
  results: dict[str, Any]
  last: Run


def run(
  config: Config,
  workdir: str | pathlib.Path | None,
  *,
  parts: Experiment | None = None,
  allowed: Collection[str] = (),
  quiet: bool = False,
  callbacks: Sequence[Any] = (),
) -> Finished:
  """Runs what a config describes: looks it over, trains, evaluates.

  Args:
    config: of the run.
    workdir: folder that it leaves its files in; a run that is there goes on. None: all stays in
      memory.
    parts: of the run, where they are assembled already.
    allowed: names of settings that may differ from those of the run that is there.
    quiet: nothing is printed.
    callbacks: objects with any of `on_step(metrics)`, `on_evaluation(row)`, `on_task(results)`.

  Raises:
    UserError: the run cannot end well, or the workdir holds something else. Nothing is written
      then.
  """
  parts = experiment.assemble(config) if parts is None else parts
  quiet = quiet or not distributed.is_first()
  say = (lambda line: None) if quiet else lambda line: print(line, flush=True)
  fresh = workdir is None or newest(pathlib.Path(workdir) / 'checkpoints') < 0
  opening = checks.opening(checks.checkup(parts), workdir) if fresh else []
  folder = None
  if workdir is not None:
    folder = workdirs.open_workdir(str(workdir), config, allowed, say)
  for line in opening:
    say(line)
  start = time.monotonic()
  loop = Loop(parts, folder, quiet, callbacks=callbacks)
  results = loop.run()
  say(f'{time.monotonic() - start:.0f} s')
  assert loop.last is not None
  return Finished(parts, results, loop.last)
