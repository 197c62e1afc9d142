"""Scores a trained run again, or on another split or with another way to answer.

python launch/evaluate.py --workdir=runs/lamol [--split=dev] [--answer=score] [--wrong=10]
"""

import math
import pathlib

from absl import flags

from jcl import cli
from jcl import workdir as workdirs

flags.DEFINE_string('workdir', None, 'folder of a run')
flags.DEFINE_enum('split', 'test', ['train', 'dev', 'test'], 'which examples')
flags.DEFINE_enum('answer', '', ['', 'generate', 'score'], 'empty: as the run does')
flags.DEFINE_integer('wrong', 5, 'wrong answers to print for each task', lower_bound=0)


def run() -> None:
  """Prints the score of the newest snapshot on every task, and some wrong answers."""
  workdir = pathlib.Path(cli.required('workdir'))
  config = workdirs.load_workdir(str(workdir))
  config.evaluate.answer = flags.FLAGS.answer or config.evaluate.answer
  cli.use_compile_cache()
  from jcl.trained_run import TrainedRun

  reopened = TrainedRun(config, workdir)
  for task, score in reopened.scores(flags.FLAGS.split):
    if score is None:
      print(f'{task.name}: no {flags.FLAGS.split} examples')
      continue
    if score.right is None:
      print(
        f'{task.name}: {score.value:.3f} nats per token, perplexity {math.exp(score.value):.2f}, '
        f'{score.targets} tokens'
      )
      continue
    invalid = '' if score.invalid is None else f', {100 * score.invalid:.1f} % invalid'
    print(f'{task.name}: {100 * score.accuracy:.1f} % right of {len(score.right)}{invalid}')
    wrong = [i for i, right in enumerate(score.right) if not right]
    for i in wrong[: flags.FLAGS.wrong]:
      example = getattr(task, flags.FLAGS.split)[i]
      print(f'  {example.text!r}: {score.answers[i]!r}, not {example.answer!r}')


if __name__ == '__main__':
  cli.main(run)
