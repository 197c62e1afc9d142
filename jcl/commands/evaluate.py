"""Scores a trained run again, on another split or with another way to answer.

jcl evaluate --workdir=runs/lamol [--split=dev] [--answer=score] [--wrong=10]
jcl evaluate --workdir=runs/lamol --harness=arc_easy,lambada_openai
"""

import math
import os
import pathlib
from collections.abc import Sequence

from absl import flags

from jcl.commands import command_line, jax_settings
from jcl.config import Config
from jcl.errors import UserError, count_of
from jcl.streams.escaping import quoted


def define_flags(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Defines the flags of the command."""
  command_line.define_path(
    given, 'workdir', None, 'folder of a run; with --harness also a model folder'
  )
  command_line.define_places(given)
  flags.DEFINE_enum('split', 'test', ['train', 'dev', 'test'], 'examples to score', given)
  flags.DEFINE_enum(
    'answer', '', ['', 'generate', 'score'], 'way to answer; empty: as the run does', given
  )
  flags.DEFINE_list('harness', [], 'tasks of lm-eval to put the model to, in place', given)
  flags.DEFINE_string('harness_include', '', 'folder of task files of your own', given)
  flags.DEFINE_integer('harness_limit', 0, 'examples of a task of lm-eval; 0: all', 0, None, given)
  flags.DEFINE_integer('wrong', 5, 'wrong answers to print for each task', 0, None, given)


def check_there(config: Config) -> None:
  """Refuses a run whose data or base model is gone from where the run had it.

  Raises:
    UserError: names the path and the flag that says where it is now.
  """
  places = {'stream': config.stream.path, 'base': config.backbone.path}
  for flag, path in places.items():
    if os.path.isabs(path) and not os.path.exists(path):
      raise UserError(f'{path}: the run had it there, and it is gone; give --{flag}=PATH')


def put_to_harness(given: flags.FlagValues, workdir: pathlib.Path) -> None:
  """Prints the figures of tasks of lm-eval, a line each."""
  from jcl.commands import harness
  from jcl.model import load_model

  harness.check_installed()
  jax_settings.use_compile_cache()
  model = load_model(workdir, base=given.base or None)
  for found in harness.evaluated(model, given.harness, given.harness_include, given.harness_limit):
    error = '' if found.error is None else f' ± {found.error:.4f}'
    print(f'{found.task}: {found.metric} {found.value:.4f}{error}')


def run(given: flags.FlagValues) -> None:
  """Prints the score of the newest snapshot on every task, and some wrong answers."""
  from jcl import workdir as workdirs

  workdir = pathlib.Path(command_line.required(given, 'workdir'))
  if given.harness:
    return put_to_harness(given, workdir)
  config = workdirs.load_workdir(str(workdir), given.base, given.stream)
  check_there(config)
  config.evaluate.answer = given.answer or config.evaluate.answer
  jax_settings.use_compile_cache()
  from jcl.trained_run import TrainedRun

  trained = TrainedRun(config, workdir, given.allow_config_change)
  stream = trained.parts.stream
  for task, score in trained.scores(given.split):
    if score is None:
      print(f'{task.name}: no {given.split} examples')
      continue
    if score.right is None:
      print(
        f'{task.name}: {score.value:.3f} nats per token, perplexity {math.exp(score.value):.2f}, '
        f'{count_of(score.targets, "token")}'
      )
      continue
    invalid = '' if score.invalid is None else f', {100 * score.invalid:.1f} % invalid'
    others = [f', {name} {100 * value:.1f} %' for name, value in score.measured.items()][1:]
    count = len(score.right)
    print(f'{task.name}: {100 * score.accuracy:.1f} % right of {count}{invalid}{"".join(others)}')
    wrong = [i for i, right in enumerate(score.right) if not right]
    for i in wrong[: given.wrong]:
      example = getattr(task, given.split)[i]
      wanted = stream.shown(example.answer, example.label)
      said = stream.shown(score.answers[i], score.labels[i])
      print(f'  {quoted(example.text)}: {quoted(said)}, not {quoted(wanted)}')
