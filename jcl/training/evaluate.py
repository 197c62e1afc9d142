"""Scores: are the answers right, and are they answers at all? Of raw text, how well is it known?"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jcl.backbones import Backbone
from jcl.step import losses
from jcl.streams.stream import Example, Task
from jcl.training.hook_tools import HookTools


class Score(NamedTuple):
  """What a model said to the examples of a split.

  Attributes:
    right: [N] bool, the answer was the wanted one after strip and lower-case.
    invalid: share of the answers that are no known label; None where answers are free.
    answers: [N] the answers in words.
  """

  right: list[bool]
  invalid: float | None
  answers: list[str]

  @property
  def accuracy(self) -> float:
    """Share of right answers."""
    return float(np.mean(self.right))

  value = merit = accuracy  # what the matrix holds; what is larger where the model is better


class LogPerplexity(NamedTuple):
  """How well a model predicts a split of raw text.

  Attributes:
    value: −log p of a token given those before it in its block, the mean over all tokens, nats.
    targets: tokens it is the mean of.
  """

  value: float
  targets: int

  right = answers = invalid = None  # nothing is answered

  @property
  def merit(self) -> float:
    """Larger is better."""
    return -self.value


@functools.cache
def _target_nats(backbone: Backbone):
  """(params, batch) -> {nats: [M]}; one function a backbone, so that it compiles once."""

  def log_perplexity(params, batch):
    return {'nats': losses.target_cross_entropy(backbone, params, batch, train=False)}

  return log_perplexity


def log_perplexity(params: Any, examples: Sequence[Example], tools: HookTools) -> LogPerplexity:
  """That of a model on blocks of raw text."""
  means, count = tools.mean_targets(_target_nats(tools.backbone), params, examples)
  return LogPerplexity(means['nats'], count)


@functools.cache
def _negative_log_likelihood(backbone: Backbone):
  """(params, batch) -> [M], nats; one function a backbone, so that it compiles once."""

  def negative_log_likelihood(params, batch):
    logits_MV = backbone.logits(params, batch)
    return losses.cross_entropy(logits_MV, batch.target_token, batch.allowed)

  return negative_log_likelihood


def score(
  params: Any, task: Task, examples: Sequence[Example], tools: HookTools, how: str, longest: int
) -> Score | LogPerplexity:
  """The answers of a model to `examples` of one task; of raw text how well it predicts it.

  Args:
    params: what `Method.params_for` gave.
    task: theirs.
    examples: of one split.
    tools: of the last task seen, which decides what is allowed.
    how: `generate`, greedy text, or `score`, the likeliest allowed label. A head's argmax else.
    longest: tokens that an answer may have, end-of-sequence included.
  """
  if tools.text.text_format == 'packed':
    return log_perplexity(params, examples, tools)
  classes = [c.lower() for c in tools.stream.classes]
  if tools.class_task is not None:
    answers = _by_head(params, examples, tools)
  elif how == 'score' and classes:
    answers = _by_likelihood(params, task, examples, tools)
  else:
    prompts = [tools.text.prompt(e) for e in examples]
    ids_RN = tools.sample(
      params, prompts, tools.key('greedy'), max_new=longest, name=f'answers of {task.name}'
    )
    answers = [tools.text.decode(ids) for ids in ids_RN.tolist()]
  right = [same(answer, e.answer) for answer, e in zip(answers, examples, strict=True)]
  known = set(classes)
  invalid = float(np.mean([a.strip().lower() not in known for a in answers])) if known else None
  return Score(right, invalid, answers)


def same(answer: str, wanted: str) -> bool:
  """Exact match after strip and lower-case."""
  return answer.strip().lower() == wanted.strip().lower()


def allowed_classes(task: Task, tools: HookTools) -> list[int]:
  """Classes that may answer an example of `task` now: its own where told, else all seen."""
  if tools.task_id_given:
    return list(task.classes)
  return sorted({c for t in tools.stream.tasks[: tools.task_index + 1] for c in t.classes})


def _by_head(params: Any, examples: Sequence[Example], tools: HookTools) -> list[str]:
  rows = [row for item in tools.rows(examples) for row in item]
  logits = tools.map_targets(tools.backbone.logits, params, rows)
  allowed = [tools.heads.allowed(e.task) for e in examples]
  best = [
    int(np.where(where_C, z_1C[0], -np.inf).argmax())
    for where_C, z_1C in zip(allowed, logits, strict=True)
  ]
  return [tools.stream.classes[c] for c in best]


def _by_likelihood(
  params: Any, task: Task, examples: Sequence[Example], tools: HookTools
) -> list[str]:
  labels = [tools.stream.classes[c] for c in allowed_classes(task, tools)]
  asked = [dataclasses.replace(e, answer=label, number=-1) for e in examples for label in labels]
  rows = [tools.text.question(e) for e in asked]
  nats = tools.map_targets(_negative_log_likelihood(tools.backbone), params, rows)
  total = np.array([n.sum() for n in nats]).reshape(len(examples), len(labels))
  return [labels[i] for i in total.argmin(1)]
