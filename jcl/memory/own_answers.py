"""On-policy replay: a model's own answers to stored prompts replay in place of the stored answers.

Before a task the model answers the prompt of every example in the buffer. The model gives its own
answers a high probability already, so training on them moves it less than training on other words
(Chen et al. 2025, "Retaining by Doing"; Shenfeld et al. 2025, "RL's Razor"). An answer that has no
end-of-sequence is never kept. In place of an answer that is not kept the stored one replays, or
nothing.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import numpy as np

from jcl.batching.answers import Answers
from jcl.batching.batch import Batch
from jcl.memory.pseudo import Sample, examples
from jcl.memory.tools import Tools
from jcl.streams.stream import Reference, Task
from jcl.types import Params


class OwnAnswerSettings(Protocol):
  """The settings of `Replay` that decide how answers are made and which are kept."""

  keep: str
  rejected: str
  temperature: float
  top_k: int
  least_log_probability: float


def make(
  params: Params, held: Sequence[Reference], task: Task, tools: Tools,
  nats: Callable[[Params, Batch], jax.Array], settings: OwnAnswerSettings,
) -> tuple[list[Sample], list[Reference]]:  # fmt: skip
  """Answers the prompts of stored examples, and reports how many answers are kept.

  An own answer has at most as many tokens as the longest stored answer.

  Args:
    params: parameters of the model before the task.
    held: references to the stored examples.
    task: the coming task.
    tools: tools of the run.
    nats: (params, batch) -> [M], −log p of each target, nats; the same function object for all
      tasks, so that it compiles once.
    settings: settings of the method.

  Returns:
    The own answers that are kept, and the stored examples that replay with their stored answer.
  """
  if not held:
    return [], []
  found = [tools.example(reference) for reference in held]
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
  own: list[Sample] = [
    {'task': e.task, 'tokens': [*prompt, *ids], 'prompt_size': len(prompt)}
    for e, prompt, ids in zip(found, prompts, said, strict=True)
  ]
  keeps = right if settings.keep == 'right' else [bool(ids) for ids in said]
  if settings.keep == 'confident':
    keeps = _confident(params, own, keeps, tools, nats, settings.least_log_probability)
  kept = [answer for answer, is_kept in zip(own, keeps, strict=True) if is_kept]
  rest = [reference for reference, is_kept in zip(held, keeps, strict=True) if not is_kept]
  count = {'before': task.name, 'asked': len(held), 'right': sum(right), 'kept': len(kept)}
  tools.report(own_answers=count)
  if not kept:
    tools.report(warnings=f'before {task.name}: none of {len(held)} own answers is kept')
  return kept, rest if settings.rejected == 'stored' else []


def _confident(
  params: Params, own: Sequence[Sample], ended: Sequence[bool], tools: Tools,
  nats: Callable[[Params, Batch], jax.Array], least: float,
) -> list[bool]:  # fmt: skip
  """Returns for each own answer whether it ended and the model is confident of it.

  Args:
    params, tools, nats: as in `make`.
    own: all own answers.
    ended: whether each has an end-of-sequence.
    least: least mean log-probability of the tokens of a confident answer, nats.
  """
  whole = [answer for answer, has_end in zip(own, ended, strict=True) if has_end]
  rows = [tools.text.rows(example)[0] for example in examples(whole)]
  means = iter([-float(np.mean(n_m)) for n_m in tools.map_targets(nats, params, rows, 'own_nats')])
  return [has_end and next(means) >= least for has_end in ended]
