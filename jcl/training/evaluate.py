"""Scores: which answers are right and which are no label; of raw text its log perplexity."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import jax
import numpy as np

from jcl.backbones import Backbone, Params
from jcl.batching.answers import Answer, Answers
from jcl.batching.batch import Batch
from jcl.reports import answer_metrics
from jcl.reports.answer_metrics import EXACT
from jcl.step import losses
from jcl.streams.stream import Example, Task
from jcl.training.hook_tools import HookTools
from jcl.training.task_metrics import metrics_of


@dataclasses.dataclass(frozen=True)
class Score:
  """The answers of a model to the N examples of a split.

  Attributes:
    right: [N] bool, whether the answer is the wanted one, see `jcl.batching.answers`.
    invalid: share of the answers that are no label of the stream; None where answers are free.
    answers: [N] the answers as the model wrote them, see `Stream.shown`.
    labels: [N] index of the class that each stands for; -1 for none.
    metric: the task's metric, whose value is the entry of the matrix.
    measured: {metric: value in [0, 1]}, see `jcl.reports.answer_metrics`.
  """

  right: list[bool]
  invalid: float | None
  answers: list[str]
  labels: list[int] = dataclasses.field(default_factory=list)
  metric: str = EXACT
  measured: Mapping[str, float] = dataclasses.field(default_factory=dict)

  @property
  def accuracy(self) -> float:
    """Share of right answers, in [0, 1]."""
    return float(np.mean(self.right))

  @property
  def value(self) -> float:
    """The entry of the matrix."""
    return self.accuracy if self.metric == EXACT else self.measured[self.metric]

  @property
  def merit(self) -> float:
    """Larger for a better model."""
    return self.value


@dataclasses.dataclass(frozen=True)
class LogPerplexity:
  """How well a model predicts a split of raw text.

  Attributes:
    value: −log p of a token given those before it in its block, the mean over all tokens, nats.
    targets: tokens it is the mean of.
  """

  value: float
  targets: int

  right: ClassVar[None] = None  # nothing is answered
  answers: ClassVar[None] = None
  invalid: ClassVar[None] = None

  @property
  def merit(self) -> float:
    """Larger for a better model."""
    return -self.value


@functools.cache
def _target_nats(backbone: Backbone) -> Callable[[Params, Batch], dict[str, jax.Array]]:
  """(params, batch) -> {nats: [M]}; one function a backbone, so that it compiles once."""

  def log_perplexity(params, batch):
    return {'nats': losses.target_cross_entropy(backbone, params, batch, train=False)}

  return log_perplexity


def log_perplexity(params: Params, examples: Sequence[Example], tools: HookTools) -> LogPerplexity:
  """Returns the log perplexity of a model on blocks of raw text."""
  means, count = tools.mean_targets(_target_nats(tools.backbone), params, examples)
  return LogPerplexity(means['nats'], count)


@functools.cache
def answer_nats(backbone: Backbone) -> Callable[[Params, Batch], jax.Array]:
  """(params, batch) -> [M], nats; one function a backbone, so that it compiles once."""

  def negative_log_likelihood(params, batch):
    logits_MV = backbone.logits(params, batch)
    return losses.cross_entropy(logits_MV, batch.target_token, batch.allowed)

  return negative_log_likelihood


def score(
  params: Params, task: Task, examples: Sequence[Example], tools: HookTools, how: str, longest: int
) -> Score | LogPerplexity:
  """Scores a model on `examples` of one task: its answers, or how well it predicts raw text.

  Args:
    params: what `Method.params_for` returned.
    task: the task of the examples.
    examples: of one split.
    tools: at the last task that the model has seen, which decides what may be answered.
    how: `generate` (greedy text) or `score` (the likeliest allowed label); a head takes the argmax.
    longest: tokens that an answer may have, end-of-sequence included.
  """
  if tools.text.text_format == 'packed':
    return log_perplexity(params, examples, tools)
  known, stream = Answers(tools.text, tools.stream.classes), tools.stream
  found = answers(params, task, examples, tools, how, longest)
  right = [known.right(answer, e) for answer, e in zip(found, examples, strict=True)]
  no_label = [a.label < 0 and not yes for a, yes in zip(found, right, strict=True)]
  invalid = float(np.mean(no_label)) if stream.classes else None
  metric = task.metric or EXACT
  wanted = [known.wanted(e) for e in examples]
  said = [known.compared(a, e) for a, e in zip(found, examples, strict=True)]
  names = metrics_of(stream.tasks, bool(stream.classes))
  values = answer_metrics.measured(names, right, said, wanted)
  texts, labels = [a.text for a in found], [a.label for a in found]
  return Score(right, invalid, texts, labels, metric, values)


def answers(
  params: Params, task: Task | None, examples: Sequence[Example], tools: HookTools, how: str,
  longest: int,
) -> list[Answer]:  # fmt: skip
  """Returns what a model answers to each example.

  Args:
    params, examples, tools, how, longest: as in `score`.
    task: the task of the examples; None for a model that was trained on none.
  """
  classes = tools.stream.classes
  if task is not None and (tools.heads is not None or (how == 'score' and classes)):
    allowed, log_p_NC = log_likelihoods(params, task, examples, tools)
    return [Answer(classes[allowed[i]], allowed[i]) for i in log_p_NC.argmax(1)]
  prompts = [tools.text.prompt(e) for e in examples]
  name = f'answers of {task.name}' if task is not None else 'answers'
  ids_RN = tools.sample(params, prompts, tools.key('greedy'), max_new=longest, name=name)
  known = Answers(tools.text, classes)
  return [known.read(ids) for ids in ids_RN.tolist()]


def log_likelihoods(
  params: Params, task: Task, examples: Sequence[Example], tools: HookTools
) -> tuple[list[int], np.ndarray]:
  """Returns the classes C that may be answered, and how likely each is for N examples: [N, C].

  Of a head the values are logits, of a model that writes log p of the label's text, in nats.
  """
  if tools.heads is not None:
    allowed = np.flatnonzero(tools.heads.allowed(task.index))
    # Logits alone are read; the class of an example may belong to a task that is yet to come.
    some = lambda row: dataclasses.replace(row, wanted=np.full(len(row.wanted), allowed[0]))
    rows = [some(tools.text.rows(e)[0]) for e in examples]
    logits = tools.logits(params, rows)
    return allowed.tolist(), np.stack([z_1C[0][allowed] for z_1C in logits])
  classes = allowed_classes(task, tools)
  labels = [tools.stream.classes[c] for c in classes]
  asked = [dataclasses.replace(e, answer=label, number=-1) for e in examples for label in labels]
  rows = [tools.text.question(e) for e in asked]
  nats = tools.map_targets(answer_nats(tools.backbone), params, rows)
  total = np.array([n.sum() for n in nats]).reshape(len(examples), len(labels))
  return classes, -total


def allowed_classes(task: Task, tools: HookTools) -> list[int]:
  """Returns the classes that may be answered: of the task if it is given, else all classes seen."""
  if tools.task_id_given:
    return list(task.classes)
  return sorted({c for t in tools.stream.tasks[: tools.task_index + 1] for c in t.classes})
