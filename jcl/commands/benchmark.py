"""Measures jcl on this machine, beside torch loops for the same work if they are asked for.

    jcl benchmark --against=torch,torch-tuned --workloads=task,step --json=results.json

All contenders get the same weights and the same rows and show the same loss before they are timed.
They take turns in every round, and a ratio is theirs / ours of one round: above 1 jcl is faster.
Without --model a small GPT-2 with random weights learns, without --data the synthetic stream.
docs/performance.md explains the workloads and the table.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from jcl.commands import command_line, jax_settings
from jcl.errors import UserError

SIZES = {
  'rounds': 'how often each contender does each piece of work',
  'batch_size': 'examples of a step',
  'steps': 'steps of a round',
  'drawn': 'prompts that are continued in a round, and examples for fisher',
  'block': 'tokens of a row, for long',
}
LISTS = {
  'batches': 'examples of a step, for step',
  'lengths': 'tokens of the longest row, for step',
  'rows': 'prompts that are continued together, for sample and greedy',
  'held': 'rows that a buffer holds, for replay',
  'examples': 'rows of the stream, for preflight in start',
}


def define_flags(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Defines the flags of the command."""
  from jcl import benchmarks
  from jcl.benchmarks.request import WORKLOADS, Request

  word = lambda name, default, page: command_line.define_list(
    given, name, default, page, once='name'
  )
  word('against', '', f'contenders beside jcl: {", ".join(benchmarks.CONTENDERS)}')
  word('workloads', ','.join(WORKLOADS), 'what is measured')
  command_line.define_path(given, 'model', '', 'model folder, GGUF file or hub name')
  page = 'folder of a manifest, or NAME:FOLDER of a benchmark such as clinc150:data/clinc150'
  flags.DEFINE_string('data', '', page, given)
  for name, page in SIZES.items():
    flags.DEFINE_integer(name, getattr(Request, name), page, 1, None, given)
  page = 'steps on the first task before anything is measured'
  flags.DEFINE_integer('learned', Request.learned, page, 0, None, given)
  for name, page in LISTS.items():
    default = ','.join(map(str, getattr(Request, name)))
    command_line.define_list(given, name, default, page, int, once='number')
  flags.DEFINE_enum('dtype', Request.dtype, ['float32', 'bfloat16'], 'of the computation', given)
  page = 'torch-tuned tries torch.compile, and keeps it where it is faster'
  flags.DEFINE_bool('torch_compile', True, page, given)
  flags.DEFINE_integer('seed', 0, 'of weights, order and draws', 0, None, given)
  command_line.define_path(given, 'json', '', 'file for all times and ratios')


def run(given: flags.FlagValues) -> None:
  """Measures, prints how it goes and the table."""
  from jcl.benchmarks import request as requests

  fields = (*SIZES, *LISTS, 'against', 'workloads', 'model', 'data', 'learned', 'dtype', 'seed')
  values: dict[str, Any] = {name: given[name].value for name in fields}
  asked = requests.Request(**values, compiled=given.torch_compile)
  requests.check(asked)
  out = pathlib.Path(given.json) if given.json else None
  if out is not None and not out.parent.is_dir():
    raise UserError(f'--json: there is no folder {out.parent}; give a file in one that is there')
  if out is not None and out.is_dir():
    raise UserError(f'--json={out} is a folder; give a file, {out / "results.json"}')
  if asked.against:  # torch needs some of the device's memory too
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  jax_settings.use_compile_cache()
  from jcl.benchmarks import suite, table
  from jcl.storage.atomic import write_json

  results = suite.run(asked, lambda line: print(line, flush=True))
  print(table.as_text(results))
  if out is not None:
    write_json(out, results)
