"""The metrics by which a run measures the answers to its tasks."""

import dataclasses
from collections.abc import Sequence

from jcl.config import Config
from jcl.reports import answer_metrics
from jcl.reports.answer_metrics import EXACT
from jcl.streams.stream import Stream, Task


def with_metrics(config: Config, stream: Stream) -> Stream:
  """Returns the stream with each task's metric: `evaluate.metric`, the task's own, or exact match.

  Raw text has no answers, and its stream is returned as it is.

  Raises:
    UserError: a metric is unknown, or its package is not installed.
  """
  if config.scenario == 'cpt':
    return stream
  tasks = []
  for task in stream.tasks:
    metric = config.evaluate.metric or task.metric or EXACT
    given = 'evaluate.metric' if config.evaluate.metric else f'the metric of task {task.name!r}'
    answer_metrics.check(metric, given)
    tasks.append(dataclasses.replace(task, metric=metric))
  return dataclasses.replace(stream, tasks=tuple(tasks))


def metrics_of(tasks: Sequence[Task], labels: bool) -> tuple[str, ...]:
  """Returns the metrics that a run measures on every task.

  Args:
    tasks: tasks of the stream.
    labels: whether the stream's answers are labels of classes.
  """
  own = {task.metric or EXACT for task in tasks}
  asked = {EXACT, 'macro_f1' if labels else 'token_f1', *own}
  return tuple(metric for metric in answer_metrics.METRICS if metric in asked)
