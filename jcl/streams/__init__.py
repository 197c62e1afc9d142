"""Streams of tasks: examples from files or made here, and how they become a stream.

A stream reader, here or in another package, is a function `(StreamConfig) -> RawStream`; all that
its author needs stands here. `load` finds readers by name and builds their streams.
"""

from jcl.config import StreamConfig
from jcl.streams.build import build, without
from jcl.streams.raw import (
  SPLITS,
  TEMPLATE,
  RawRow,
  RawStream,
  RawTask,
  answer_form,
  class_form,
  label_text,
  normalized_text,
  permutation,
)
from jcl.streams.records import Record, rows_of
from jcl.streams.references import References
from jcl.streams.registry import find_reader, load, rebuild
from jcl.streams.splits import class_tasks
from jcl.streams.stream import Example, Lazy, Reference, Stream, Task, TaskPlan
from jcl.streams.tables import table

__all__ = [
  'SPLITS',
  'TEMPLATE',
  'Example',
  'Lazy',
  'RawRow',
  'RawStream',
  'RawTask',
  'Record',
  'Reference',
  'References',
  'Stream',
  'StreamConfig',
  'Task',
  'TaskPlan',
  'answer_form',
  'build',
  'class_form',
  'class_tasks',
  'find_reader',
  'label_text',
  'load',
  'normalized_text',
  'permutation',
  'rebuild',
  'rows_of',
  'table',
  'without',
]
