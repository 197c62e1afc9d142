"""A model's own answers to stored prompts, which replay in place of the stored ones.

Before a task the model answers the prompt of every example in the buffer. What it says is likely to
it already, so that training on it moves the model less than training on other words (Chen et al.
2025, Retaining by Doing; Shenfeld et al. 2025, RL's Razor). An answer that does not end, or that is
not kept, is replaced by the stored one or left out.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypedDict

import jax
import numpy as np

from jcl.batching.answers import Answers
from jcl.batching.batch import Batch
from jcl.memory.pseudo import FIRST_NUMBER
from jcl.memory.tools import Tools
from jcl.streams.stream import Example, Reference, Task
from jcl.types import Params


class OwnAnswer(TypedDict):
  """A row of a model's own: ids of prompt and answer, as they were read and written."""

  task: int
  tokens: list[int]
  prompt_size: int


class OwnAnswerSettings(Protocol):
  """The settings of `Replay` that decide how answers are made and which are kept."""

  keep: str
  rejected: str
  temperature: float
  top_k: int
  least_log_probability: float


def examples(kept: Sequence[OwnAnswer]) -> list[Example]:
  """Returns own answers as examples; the number of one is its own within one task only."""
  return [
    Example(
      FIRST_NUMBER + i, '', '', one['task'], tokens=tuple(one['tokens']),
      prompt_size=one['prompt_size'],
    )
    for i, one in enumerate(kept)
  ]  # fmt: skip


def make(
  params: Params, held: Sequence[Reference], task: Task, tools: Tools,
  nats: Callable[[Params, Batch], jax.Array], settings: OwnAnswerSettings,
) -> tuple[list[OwnAnswer], list[Reference]]:  # fmt: skip
  """Answers the prompts of stored examples, and reports how many answers are kept.

  An answer has as many tokens as the longest stored one has at most.

  Args:
    params: of the model before the task.
    held: the stored examples.
    task: the coming task.
    tools: of the run.
    nats: (params, batch) -> [M], −log p of each target; one function for all tasks.
    settings: of the method.

  Returns:
    The answers that are kept, and the examples that replay with their stored answer.
  """
  if not held:
    return [], []
  found = [tools.example(one) for one in held]
  longest = max(len(tools.text.outlines(e)[0].targets) for e in found)
  greedy = settings.temperature == 0
  k, temperature = (1, 1.0) if greedy else (settings.top_k, settings.temperature)
  prompts = [tools.text.prompt(e) for e in found]
  ids_RN = tools.sample(
    params, prompts, tools.key('own_answers', task.index), 0, k, temperature, longest,
    name=f'own answers before {task.name}',
  )  # fmt: skip
  known, eos = Answers(tools.text, tools.stream.classes), tools.text.eos
  said = [ids[: ids.index(eos) + 1] if eos in ids else [] for ids in ids_RN.tolist()]
  right = [bool(s) and known.right(known.read(s), e) for s, e in zip(said, found, strict=True)]
  own: list[OwnAnswer] = [
    {'task': e.task, 'tokens': [*prompt, *ids], 'prompt_size': len(prompt)}
    for e, prompt, ids in zip(found, prompts, said, strict=True)
  ]
  keeps = right if settings.keep == 'right' else [bool(ids) for ids in said]
  if settings.keep == 'confident':
    keeps = _confident(params, own, keeps, tools, nats, settings.least_log_probability)
  kept = [one for one, yes in zip(own, keeps, strict=True) if yes]
  rest = [one for one, yes in zip(held, keeps, strict=True) if not yes]
  count = {'before': task.name, 'asked': len(held), 'right': sum(right), 'kept': len(kept)}
  tools.report(own_answers=count)
  if not kept:
    tools.report(warnings=f'before {task.name}: none of {len(held)} own answers is kept')
  return kept, rest if settings.rejected == 'stored' else []


def _confident(
  params: Params, own: Sequence[OwnAnswer], ended: Sequence[bool], tools: Tools,
  nats: Callable[[Params, Batch], jax.Array], least: float,
) -> list[bool]:  # fmt: skip
  """Returns which of the answers that ended have a mean log-probability of at least `least`."""
  asked = [one for one, yes in zip(own, ended, strict=True) if yes]
  rows = [tools.text.rows(example)[0] for example in examples(asked)]
  means = iter([-float(np.mean(n_m)) for n_m in tools.map_targets(nats, params, rows, 'own_nats')])
  return [yes and next(means) >= least for yes in ended]
