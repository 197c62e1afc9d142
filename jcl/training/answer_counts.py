"""Which answers of an evaluation are right, by class and by example."""

import collections
from collections.abc import Mapping, Sequence

from jcl.streams.escaping import shortened
from jcl.streams.stream import Stream
from jcl.training.evaluate import LogPerplexity, Score
from jcl.types import Json


def by_class(stream: Stream, task: int, score: Score | LogPerplexity) -> list[Json]:
  """Returns the answers to the test split of a task by class, in the order of the classes.

  Args:
    stream: the stream.
    task: index of the task.
    score: of its test split; of raw text and of free answers there are no classes.

  Returns:
    `task`, `class`, `examples`, `right` and `wrong`, which holds pairs [class that was answered or
    None, how often], the most frequent first.
  """
  shown = lambda label: stream.shown(stream.classes[label], label) if label >= 0 else None
  counts: dict[int, collections.Counter[int]] = {}
  for example, label in zip(stream.tasks[task].test, getattr(score, 'labels', ()), strict=False):
    if example.label >= 0:
      counts.setdefault(example.label, collections.Counter())[label] += 1
  return [
    {
      'task': stream.tasks[task].name,
      'class': shown(wanted),
      'examples': sum(answered.values()),
      'right': answered[wanted],
      'wrong': [[shown(a), n] for a, n in answered.most_common() if a != wanted],
    }
    for wanted, answered in sorted(counts.items())
  ]


def wrong_now(
  stream: Stream, before: Sequence[bool], now: Sequence[bool], score: Score | LogPerplexity
) -> dict[int, str]:
  """Returns {index: answer, shortened} of the examples that were right and are wrong now.

  Args:
    stream: the stream, which has the labels of classes as the user wrote them.
    before: [N] whether each was right.
    now: [N] whether each is right.
    score: of the same examples.
  """
  answers = score.answers or ()
  labels = getattr(score, 'labels', ()) or [-1] * len(answers)
  said = [shortened(stream.shown(a, label)) for a, label in zip(answers, labels, strict=True)]
  return {i: answer for i, answer in enumerate(said) if before[i] and not now[i]}


def flips(
  stream: Stream, found: Sequence[tuple[int, int]], answered: Mapping[int, Mapping[int, str]]
) -> list[Json]:
  """Returns test examples so that a reader finds them, with their texts and answers.

  Args:
    stream: the stream.
    found: (task, index in its test split) of each.
    answered: {task: {index: what is answered now}}.
  """
  lines: list[Json] = []
  for task, index in found:
    e = stream.tasks[task].test[index]
    lines.append(
      {
        'task': stream.tasks[task].name,
        'split': 'test',
        'number': e.number,
        'id': e.name,
        'place': e.place,
        'text': shortened(e.text),
        'answer': shortened(stream.shown(e.answer, e.label)),
        'answered': answered.get(task, {}).get(index),
      }
    )
  return lines
