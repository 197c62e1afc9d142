"""What a benchmark is asked to measure; nothing here imports jax or torch."""

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence

from jcl.benchmarks import CONTENDERS
from jcl.config import EvaluateConfig
from jcl.errors import UserError

WORKLOADS: dict[str, str] = {
  'task': 'a task of LAMOL-KD: pseudo samples, teacher, steps, evaluation',
  'step': 'its step, by batch and length',
  'sample': 'top-k sampling, by rows',
  'greedy': 'greedy answers, by rows',
  'fisher': 'squared gradients of single examples',
  'replay': 'draws from a buffer, by what it holds',
  'snapshot': 'model and moments to the disk and back',
  'start': 'a fresh process to its first step, and preflight by rows',
  'long': 'steps on long blocks of raw text',
}


@dataclasses.dataclass(frozen=True)
class Request:
  """The workloads to be measured, their contenders and their sizes.

  Attributes:
    workloads: names of `WORKLOADS`, in their order.
    against: names of `CONTENDERS`.
    model: folder, GGUF file or hub name; empty: a small GPT-2 with random weights.
    data: folder of a manifest, or NAME:FOLDER of a benchmark's files; empty: the synthetic stream.
    rounds: how often each contender does each piece of work.
    batch_size: examples of a step.
    steps: steps of a round.
    learned: steps on the first task before anything is measured, so that samples end as they do.
    batches: examples of a step, for the workload `step`.
    lengths: tokens of the longest row, for the workload `step`.
    drawn: prompts of a round that are continued, and examples for `fisher`.
    rows: prompts that are continued together, for `sample` and `greedy`.
    evaluate_rows: the same, where a run does it: of jcl by default.
    held: rows that a buffer holds, for `replay`.
    examples: of the stream, for preflight in `start`.
    block: tokens of a row, for `long`.
    dtype: of the computation.
    compiled: whether torch-tuned may compile, which it does where that is measured to help.
    seed: of weights, order and draws.
  """

  workloads: Sequence[str]
  against: Sequence[str] = ()
  model: str = ''
  data: str = ''
  rounds: int = 5
  batch_size: int = 16
  steps: int = 3
  learned: int = 20
  batches: Sequence[int] = (8, 32)
  lengths: Sequence[int] = (32, 128)
  drawn: int = 64
  rows: Sequence[int] = (8, 64)
  evaluate_rows: int = EvaluateConfig.batch_size
  held: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000)
  examples: Sequence[int] = (10_000, 100_000, 1_000_000)
  block: int = 2048
  dtype: str = 'float32'
  compiled: bool = True
  seed: int = 0


def check(request: Request) -> None:
  """Refuses a request that cannot be measured.

  Raises:
    UserError: naming the flag.
  """
  _known('workloads', request.workloads, WORKLOADS)
  _known('against', request.against, CONTENDERS)
  if not request.workloads:
    raise UserError(f'--workloads is empty; give some of {", ".join(WORKLOADS)}')
  for flag, values in (
    ('batches', request.batches), ('lengths', request.lengths), ('rows', request.rows),
    ('held', request.held), ('examples', request.examples),
  ):  # fmt: skip
    for value in values:
      if value < 1:
        raise UserError(f'--{flag} has {value}; give whole numbers of at least 1')
  if 'replay' in request.workloads and not request.held:
    raise UserError('--held is empty; give numbers of rows, or leave out the workload replay')
  if request.against and importlib.util.find_spec('torch') is None:
    raise UserError(
      f'--against={",".join(request.against)} needs torch, which is not installed here; install '
      'it (pip install torch), or leave out --against'
    )


def _known(flag: str, names: Sequence[str], known: Mapping[str, object]) -> None:
  """Refuses a name that is not known.

  Raises:
    UserError: naming it.
  """
  for name in names:
    if name not in known:
      raise UserError(f'--{flag} has {name!r}; there are {", ".join(known)}')
