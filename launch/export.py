"""Exports a trained run to where it is served.

    python launch/export.py --workdir=runs/lamol --out=exported [--task=bank] [--dtype=bfloat16] \\
      [--format=peft]

The folder loads with `transformers.AutoModelForCausalLM.from_pretrained` and `AutoTokenizer`, and
in jcl as `--config.backbone.path=exported`.
"""

import pathlib

from absl import flags

from jcl import cli
from jcl import workdir as workdirs

flags.DEFINE_string('workdir', None, 'folder of a run')
flags.DEFINE_string('out', None, 'folder to write; it must not be there yet')
flags.DEFINE_enum('format', 'hf', ['hf', 'peft'], 'a whole model, or its adapter alone')
flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'of the weights')
flags.DEFINE_string('task', '', 'name of the task whose parameters are meant; empty: none is told')


def run() -> None:
  """Writes the newest snapshot's model and tokenizer."""
  workdir = pathlib.Path(cli.required('workdir'))
  out = pathlib.Path(cli.required('out'))
  config = workdirs.load_workdir(str(workdir))
  from jcl.trained_run import TrainedRun

  TrainedRun(config, workdir).export(out, flags.FLAGS.task, flags.FLAGS.format, flags.FLAGS.dtype)
  what = 'model and its tokenizer are' if flags.FLAGS.format == 'hf' else 'adapter is'
  print(f'the {what} in {out}')


if __name__ == '__main__':
  cli.main(run)
