"""The front door: `learn` trains a model on a stream of tasks, `load_stream` reads one, `compare`
puts results side by side.

Launchers and the console script call `run`, which `learn` calls too: nothing can be done there that
cannot be done in Python.
"""

import dataclasses
import pathlib
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jcl import distributed, methods, model, notation, streams
from jcl import workdir as workdirs
from jcl.backbones.files import hf
from jcl.config import (
  AdversarialConfig,
  BackboneConfig,
  CheckpointConfig,
  Config,
  EvaluateConfig,
  StreamConfig,
  TrainConfig,
  check_read,
)
from jcl.errors import UserError
from jcl.methods import chosen
from jcl.model import Model
from jcl.preflight import checks
from jcl.reports import doctor, report
from jcl.reports.doctor import Findings
from jcl.reports.report import Comparison, Report
from jcl.reports.results import Results
from jcl.step import rates
from jcl.step.numerics import computing
from jcl.storage import console, paths, progress
from jcl.storage.sealed_folder import newest
from jcl.streams.escaping import escaped
from jcl.streams.stream import Stream
from jcl.training import experiment, peers, run_folders, run_output
from jcl.training.callbacks import checked_callbacks
from jcl.training.experiment import Experiment
from jcl.training.loop import Loop
from jcl.training.run_state import Run
from jcl.types import Json, Params


class Finished(NamedTuple):
  """A run that has ended; `last` is it after its last phase, the others as in `Result`."""

  parts: Experiment
  results: Results
  last: Run
  workdir: pathlib.Path | None
  log: Sequence[Json]


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
  """Scores, model and files of a finished run.

  Attributes:
    results: the contents of `results.json`.
    model: the trained model, which answers.
    workdir: where the run left its files; None: there are none.
    log: the lines of `metrics.jsonl`.
  """

  results: Results
  model: Model
  workdir: pathlib.Path | None = None
  log: Sequence[Json] = ()

  @property
  def params(self) -> Params:
    """The parameters after the last task, where no task is named."""
    return self.model.params

  @property
  def matrix(self) -> np.ndarray:
    """[T+1, T] scores on the test splits: row 0 before training, row i after task i; NaN: none.

    Accuracy in [0, 1]; for raw text nats per token.
    """
    return np.array([[np.nan if x is None else x for x in row] for row in self.results['matrix']])

  @property
  def metrics(self) -> Json:
    """Averages, forgetting and transfer; see `jcl.reports.metrics`."""
    return dict(self.results['metrics'] or {})

  @property
  def findings(self) -> Findings:
    """Findings of `jcl doctor` about the run; `learn` prints them at its end, as `print` does.

    Each has a `name`, a `figure` of the run, what the figure is `meaning`, one `advice`, and the
    `command` that follows it, empty where none does: a run in memory is no folder to go on from.
    """
    if self.workdir is not None:
      return doctor.findings(self.results, self.log, str(self.workdir))
    found = doctor.findings(self.results, self.log)
    return Findings(finding._replace(command='') for finding in found)

  def report(self) -> Report:
    """Returns the report: it shows itself in a notebook, and `.save(file)` writes it."""
    return Report(self.results, logs=[self.log], places=[str(self.workdir or '')])

  def __str__(self) -> str:
    return console.sayable(report.matrix_table(self.results))

  def __repr__(self) -> str:
    return str(self)

  def _repr_html_(self) -> str:
    return report.matrix_html(self.results)


@computing
def learn(
  stream: Stream | str,
  method: str | methods.Settings | methods.Method = 'seq',
  *,
  model: str | pathlib.Path | Model | BackboneConfig | None = None,
  scenario: str = '',
  train: TrainConfig | None = None,
  evaluate: EvaluateConfig | None = None,
  checkpoint: CheckpointConfig | None = None,
  adversarial: AdversarialConfig | None = None,
  workdir: str | pathlib.Path | None = None,
  callbacks: Sequence[object] = (),
  allow_config_change: str | Sequence[str] = (),
  mesh: Mesh | None = None,
  quiet: bool = False,
  **method_settings: Any,
) -> Result:
  """Trains a model on a stream of tasks, one after another, and evaluates it after each.

      result = jcl.learn(stream, 'lamol', model='HuggingFaceTB/SmolLM2-135M', gamma=0.5)

  Args:
    stream: of `Stream.from_rows`, `Stream.from_datasets` or `load_stream`, or the name of one.
    method: a name, several with `+` between them, `package.module:Class`, a settings object, or a
      `Method` record (which is then not stored, so it needs `workdir=None`).
    model: a folder, a name on the hub, a GGUF file, a `Model`, a `BackboneConfig(path=…,
      head='linear')`; None: a small decoder, trained from scratch.
    scenario: `cil`, `til`, `iil`, `dil`, `cpt`; empty: the first of the method's that suits the
      stream, `cpt` for raw text.
    train, evaluate, checkpoint, adversarial: settings; None: their defaults.
    workdir: of the run's files, with which the same call goes on; None: all stays in memory.
    callbacks: objects that are told what happens; see docs/extending.md.
    allow_config_change: names of settings, such as `train.learning_rate`, that may differ from
      those of the run in the workdir.
    mesh, quiet: devices, None: all of them; print nothing.
    **method_settings: fields of the method's settings; they go before those of a settings object.

  Raises:
    UserError: an argument is wrong, or the run cannot end well; names the argument.
    Stopped: by SIGTERM, or by Ctrl-C, where it is a `KeyboardInterrupt` too.
  """
  given = dict(train=train, evaluate=evaluate, checkpoint=checkpoint, adversarial=adversarial)
  config = Config(**{k: chosen.copy_of(k, v) for k, v in given.items() if v is not None})
  stream, allowed = checked_stream(stream), _allowed(allow_config_change)
  workdir = None if workdir is None else paths.local(workdir, 'workdir')
  config.method = _method(method, method_settings, workdir)
  config.scenario = scenario or default_scenario(stream, config.method)
  config.stream = dataclasses.replace(stream.settings or StreamConfig())
  loaded = choose_model(config, model)
  config = config if workdir is None else rates.with_stored(workdir, config)
  old = workdirs.is_run(workdir)
  with progress.session(hidden=quiet or not distributed.is_first()):
    parts = experiment.assemble(config, mesh, stream=stream, loaded=loaded, old=old)
    seen = checked_callbacks(callbacks)
    done = run(config, workdir, parts=parts, allowed=allowed, quiet=quiet, callbacks=seen)
  return _result(done, quiet)


def _method(
  given: object, settings: Mapping[str, object], workdir: pathlib.Path | None
) -> methods.Settings:
  """Returns the settings of the method that the user named."""
  if not isinstance(given, methods.Method):
    return chosen.chosen_method(given, settings)
  if workdir is not None or settings:
    raise UserError(
      'method is a Method record, which cannot be stored and has no settings: give workdir=None '
      'and no settings, or name its settings class'
    )
  return chosen.GivenMethod(given)


def _allowed(given: object) -> tuple[str, ...]:
  """Returns the argument `allow_config_change` as names; 'a,b' are two."""
  try:
    found = notation.convert(given, str)
  except ValueError as error:
    raise UserError(f'allow_config_change is {given!r}: {error}') from None
  if not isinstance(found, tuple) or not all(isinstance(name, str) for name in found):
    raise UserError(
      f'allow_config_change is {given!r}; give names of settings, such as train.learning_rate'
    )
  return found


def _result(done: Finished, quiet: bool) -> Result:
  """Returns the result of a run that has ended; says what looks wrong with it."""
  result = Result(done.results, of_run(done), done.workdir, done.log)
  if not quiet and distributed.is_first():
    for line in result.findings.lines():
      console.show(escaped(line))
  return result


@computing
@peers.together()
def run(
  config: Config,
  workdir: str | pathlib.Path | None,
  *,
  parts: Experiment | None = None,
  allowed: Collection[str] = (),
  quiet: bool = False,
  callbacks: Sequence[object] = (),
) -> Finished:
  """Runs what a config describes: looks it over, trains, evaluates.

  Args:
    config: of the run.
    workdir: folder that it leaves its files in; a run that is there goes on. None: all stays in
      memory.
    parts: of the run, if they are assembled already.
    allowed: names of settings that may differ from those of the run that is there.
    quiet: nothing is printed.
    callbacks: objects that are told what happens; see docs/extending.md.

  Raises:
    UserError: the run cannot end well, or the workdir holds something else. Nothing is written
      then.
  """
  workdir = None if workdir is None else paths.local(workdir, 'workdir')
  config = config if workdir is None else rates.with_stored(workdir, config)
  old = workdirs.is_run(workdir)
  quiet = quiet or not distributed.is_first()
  with progress.session(hidden=quiet):
    parts = experiment.assemble(config, old=old) if parts is None else parts
    return _run(config, workdir, parts, allowed, quiet, callbacks, old)


def _run(
  config: Config, workdir: pathlib.Path | None, parts: Experiment, allowed: Collection[str],
  quiet: bool, callbacks: Sequence[object], old: bool,
) -> Finished:  # fmt: skip
  """Runs what was assembled; arguments as of `run`, and whether there is a run already."""
  run_output.check_read(config, workdir, callbacks, old)
  config = parts.config
  say = (lambda line: None) if quiet else lambda line: console.show(escaped(line))
  fresh = workdir is None or newest(workdir / 'checkpoints') < 0
  opening = checks.opening(checks.checkup(parts), workdir) if fresh else checks.choices(parts)
  opened = lambda: workdirs.open_workdir(str(workdir), config, allowed, say, parts.inputs)
  folder = None if workdir is None else opened()
  for line in opening:
    say(line)
  start, loop = time.monotonic(), Loop(parts, folder, quiet, callbacks=callbacks)
  results = loop.run()
  for line in report.picture_notes([results]) if folder else ():
    say(f'warning: {line}')
  say(run_output.seconds_in_words(results, time.monotonic() - start))
  assert loop.last is not None
  return Finished(parts, results, loop.last, folder, loop.output.log.lines)


def of_run(done: Finished) -> Model:
  """Returns the model of a run that has ended."""
  return model.of_run(done.parts, done.last)


def load_stream(
  name: str | StreamConfig, path: str = '', *, raw_text: bool = False, **settings: Any
) -> Stream:
  """Reads a stream of tasks.

      stream = jcl.load_stream('files', 'configs/own_tasks', max_train_per_task=100)

  Args:
    name: `synthetic`, `files`, a benchmark, `package.module:reader`, or a `StreamConfig`.
    path: folder or manifest that holds the data.
    raw_text: the texts have no labels and no answers (scenario cpt).
    **settings: the other fields of `StreamConfig`.

  Raises:
    UserError: the name is unknown, or data or settings cannot be used.
  """
  config = dataclasses.replace(name) if isinstance(name, StreamConfig) else StreamConfig()
  if isinstance(name, str):
    settings = {'name': name, 'path': str(path), **settings}
  elif not isinstance(name, StreamConfig) or path:
    raise UserError('load_stream: give a name and a path, or a StreamConfig with both')
  chosen.set_fields(config, settings, 'load_stream')
  check_read(config, 'stream.')
  return streams.load(config, targets=not raw_text)


Compared = Result | str | pathlib.Path


def compare(*runs: Compared | Sequence[Compared]) -> Comparison:
  """Compares runs of one stream: a row for each method, the mean and interval over its seeds.

      print(jcl.compare(forgetful, result, 'runs/three'))
      jcl.compare(forgetful, result).report().save('comparison.html')

  Args:
    *runs: results of `learn`, workdirs, folders of workdirs as `jcl compare` makes, or lists of
      these. Runs that differ in their seeds alone are one row.

  Returns:
    The comparison: it prints and shows itself as a table; see `jcl.reports.report.Comparison`.

  Raises:
    UserError: there is no run, one is given twice, or the runs are of different streams.
  """
  results: list[Results] = []
  logs: list[Sequence[Json]] = []
  places: list[str] = []
  folders: dict[pathlib.Path, Results] = {}
  for run in (
    one for given in runs for one in (given if isinstance(given, list | tuple) else [given])
  ):
    if isinstance(run, Result):
      results, logs = [*results, run.results], [*logs, run.log]
      places.append(str(run.workdir or ''))
      folders |= {run.workdir / 'results.json': run.results} if run.workdir else {}
    elif isinstance(run, str | pathlib.Path):
      found = run_folders.read_all(paths.local(run, 'runs'), 'compare')
      results += found.values()
      logs += [run_folders.log_of(file).lines for file in found]
      places += [str(file.parent) for file in found]
      folders |= found
    else:
      raise UserError(f'compare: a run is a {type(run).__name__}; give a Result or a workdir')
  return Comparison(results, logs, list(run_folders.differing(folders)), places)


def checked_stream(stream: object) -> Stream:
  """The stream that the user gave.

  Raises:
    UserError: it is none.
  """
  if isinstance(stream, str):
    return load_stream(stream)
  if isinstance(stream, list | tuple) and any(isinstance(s, Stream) for s in stream):
    raise UserError('stream: give one stream; Stream.from_rows puts several tasks into one')
  if not isinstance(stream, Stream):
    raise UserError(
      f'stream is a {type(stream).__name__}; give what jcl.Stream.from_rows, '
      'jcl.Stream.from_datasets or jcl.load_stream return'
    )
  return stream


def default_scenario(stream: Stream, settings: methods.Settings) -> str:
  """`cpt` for raw text, else the first scenario that goes with stream and method."""
  answers = any(example.answer for example in stream.tasks[0].train[:1])
  if not answers:
    return 'cpt'
  fitting = [s for s in settings.scenarios if s != 'cpt']
  if not stream.classes and 'iil' in fitting:
    return 'iil'
  return fitting[0] if fitting else settings.scenarios[0]


def choose_model(config: Config, given: object) -> hf.Loaded | None:
  """Writes the model that the user named into the config -> what is loaded already, or None.

  Raises:
    UserError: it is no model.
  """
  if given is None:
    return None
  if isinstance(given, BackboneConfig):
    config.backbone = dataclasses.replace(given)
    return None
  if isinstance(given, str | pathlib.Path):
    if not str(given):
      raise UserError("model is ''; give a path or a name, or None for a decoder from scratch")
    config.backbone.path = str(given)
    return None
  if isinstance(given, Model):
    return given.loaded()
  raise UserError(
    f'model is a {type(given).__name__}; give a path, a name on the hub, a Model, a '
    'BackboneConfig, or None for a small decoder from scratch'
  )
