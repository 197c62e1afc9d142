"""Exports a trained run to where it is served.

    jcl export --workdir=runs/lamol --out=exported [--task=bank] [--dtype=bfloat16] [--format=peft]

The folder loads with `transformers.AutoModelForCausalLM.from_pretrained` and `AutoTokenizer`, and
in jcl as `--config.backbone.path=exported`.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from jcl.commands import command_line


def define_flags(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Defines the flags of the command."""
  command_line.define_path(given, 'workdir', None, 'folder of a run')
  command_line.define_places(given, several=False)
  command_line.define_path(given, 'out', None, 'folder to write; new, or with the same model in it')
  flags.DEFINE_enum('format', 'hf', ['hf', 'peft'], 'whole model, or its adapter alone', given)
  flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'type of the weights', given)
  flags.DEFINE_string(
    'task', '', 'name of the task whose parameters are exported; empty: no task is told', given
  )


def run(given: flags.FlagValues) -> None:
  """Writes the model and the tokenizer of the newest snapshot."""
  workdir = pathlib.Path(command_line.required(given, 'workdir'))
  out = pathlib.Path(command_line.required(given, 'out'))
  from jcl.model import load_run

  model = load_run(workdir, given.base)
  model.save(out, format=given.format, dtype=given.dtype, task=given.task or None)
  what = 'model and its tokenizer are' if given.format == 'hf' else 'adapter is'
  print(f'the {what} in {out}')
