"""Shows pseudo samples of a trained LAMOL run: what the model remembers of its tasks.

    python launch/generate.py --workdir=runs/lamol --count=20 [--task=bank] [--temperature=0.8]

Of a run on raw text it shows how the model goes on from a prompt:

    python launch/generate.py --workdir=runs/pretrain --prompt='Once upon a time' [--tokens=64]
"""

import math
import pathlib

from absl import flags

from jcl import cli
from jcl import workdir as workdirs
from jcl.errors import UserError

flags.DEFINE_string('workdir', None, 'folder of a run')
flags.DEFINE_integer('count', 10, 'samples of each task', 1, 2**31 - 1)
flags.DEFINE_string('task', '', 'name of a task; empty: all')
flags.DEFINE_float('temperature', 0.0, 'of sampling; 0: as the run does', lower_bound=0)
flags.DEFINE_integer('seed', 0, 'of the samples', lower_bound=0, upper_bound=2**31 - 1)
flags.DEFINE_string('prompt', '', 'what a run on raw text goes on from; empty: a new document')
flags.DEFINE_integer('tokens', 64, 'at most, of a run on raw text', lower_bound=1)


def run() -> None:
  """Prints samples as input and answer, and what was not well formed as it is; or raw text."""
  workdir = pathlib.Path(cli.required('workdir'))
  if not math.isfinite(flags.FLAGS.temperature):
    raise UserError(f'--temperature={flags.FLAGS.temperature}: give a number')
  config = workdirs.load_workdir(str(workdir))
  cli.use_compile_cache()
  from jcl.trained_run import TrainedRun

  reopened = TrainedRun(config, workdir)
  text, given = reopened.tools.text, flags.FLAGS
  if config.scenario == 'cpt':
    for words in reopened.continued(
      given.prompt, given.count, given.temperature or 1.0, given.seed, given.tokens
    ):
      print(f'{given.prompt} … {words}' if given.prompt else words)
    return
  if given.prompt:
    raise UserError(f'--prompt is for runs on raw text; this one is of scenario {config.scenario}')
  for name, ids_RN in reopened.samples(
    flags.FLAGS.task, flags.FLAGS.count, flags.FLAGS.temperature, flags.FLAGS.seed
  ):
    pairs = [text.parse(ids) for ids in ids_RN.tolist()]
    print(f'{name}: {sum(p is not None for p in pairs)} of {len(pairs)} well formed')
    for ids, pair in zip(ids_RN.tolist(), pairs, strict=True):
      print(f'  {pair[0]}  →  {pair[1]}' if pair else f'  (not well formed) {text.decode(ids)}')


if __name__ == '__main__':
  cli.main(run)
