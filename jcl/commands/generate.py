"""Shows pseudo samples of a trained LAMOL run: what the model remembers of its tasks.

    jcl generate --workdir=runs/lamol --count=20 [--task=bank] [--temperature=0.8]

Of a run on raw text it shows how the model continues a prompt:

    jcl generate --workdir=runs/pretrain --prompt='Once upon a time' [--tokens=64]
"""

import math
import pathlib
from collections.abc import Sequence

from absl import flags

from jcl.commands import command_line, jax_settings
from jcl.errors import UserError
from jcl.streams.escaping import escaped

MOST = 2**31 - 1


def define_flags(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Defines the flags of the command."""
  command_line.define_path(given, 'workdir', None, 'folder of a run')
  command_line.define_places(given)
  flags.DEFINE_integer('count', 10, 'samples of each task', 1, MOST, given)
  flags.DEFINE_string('task', '', 'name of a task; empty: all', given)
  flags.DEFINE_float(
    'temperature', 0.0, 'temperature of sampling; 0: as the run does', 0, None, given
  )
  flags.DEFINE_integer('seed', 0, 'seed of the samples', 0, MOST, given)
  flags.DEFINE_string(
    'prompt', '', 'text that a run on raw text continues; empty: a new document', given
  )
  flags.DEFINE_enum(
    'special_tokens_in_text', '', ['', 'refuse', 'text'],
    'what a special token in the prompt is; empty: as in the run', given,
  )  # fmt: skip
  flags.DEFINE_integer('tokens', 64, 'tokens at most, of a run on raw text', 1, None, given)


def run(given: flags.FlagValues) -> None:
  """Prints samples as input and answer, malformed ones as they are; of raw text, continuations."""
  from jcl import workdir as workdirs

  workdir = pathlib.Path(command_line.required(given, 'workdir'))
  if not math.isfinite(given.temperature):
    raise UserError(f'--temperature={given.temperature}: give a number')
  config = workdirs.load_workdir(str(workdir), given.base, given.stream)
  jax_settings.use_compile_cache()
  from jcl.batching.answers import Answers
  from jcl.trained_run import TrainedRun

  trained = TrainedRun(config, workdir, given.allow_config_change)
  if given.special_tokens_in_text:
    trained.tools.text.encoder.policy = given.special_tokens_in_text
  if config.scenario == 'cpt':
    for words in trained.continued(
      given.prompt, given.count, given.temperature or 1.0, given.seed, given.tokens
    ):
      print(escaped(f'{given.prompt} … {words}' if given.prompt else words))
    return
  if given.prompt:
    raise UserError(f'--prompt is for runs on raw text; this one is of scenario {config.scenario}')
  text, stream = trained.tools.text, trained.parts.stream
  known = Answers(text, stream.classes)
  for name, ids_RN in trained.samples(given.task, given.count, given.temperature, given.seed):
    pairs = [text.parse(ids) for ids in ids_RN.tolist()]
    print(f'{name}: {sum(p is not None for p in pairs)} of {len(pairs)} well formed')
    for ids, pair in zip(ids_RN.tolist(), pairs, strict=True):
      if pair is None:
        print(f'  (not well formed) {escaped(text.decode(ids))}')
        continue
      words, answer = pair[0], stream.shown(pair[1], known.class_of(pair[1]))
      print(f'  {escaped(words)}  →  {escaped(answer)}')
