"""The tasks of a stream by place, by name and in order."""

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, overload

from jcl.errors import UserError, count_of, nearest

if TYPE_CHECKING:
  from jcl.streams.stream import Task


class NoTask(UserError, IndexError):
  """A stream has no such task; the message names those that there are."""


class ByTask:
  """A sequence of tasks: `stream[0]`, `stream['travel']`, `for task in stream`.

  Attributes:
    tasks: the tasks, each with a `name`.
  """

  tasks: 'tuple[Task, ...]'

  def __len__(self) -> int:
    return len(self.tasks)

  def __iter__(self) -> 'Iterator[Task]':
    return iter(self.tasks)

  def __contains__(self, task: object) -> bool:
    """Whether a task, or a task of this name, is in the stream."""
    return task in (_names(self.tasks) if isinstance(task, str) else self.tasks)

  @overload
  def __getitem__(self, place: int | str) -> 'Task': ...

  @overload
  def __getitem__(self, place: slice) -> 'tuple[Task, ...]': ...

  def __getitem__(self, place: int | str | slice) -> 'Task | tuple[Task, ...]':
    """Returns a task by place or name, or those of a slice.

    Raises:
      NoTask: there is no such task.
    """
    if isinstance(place, slice):
      return self.tasks[place]
    names = _names(self.tasks)
    try:
      return self.tasks[names.index(place) if isinstance(place, str) else operator.index(place)]
    except (ValueError, IndexError):
      near = nearest(place, names) if isinstance(place, str) else ''
      there = f'there {"is" if len(names) == 1 else "are"} {count_of(len(names), "task")}'
      listed = ', '.join(f'{i}: {name!r}' for i, name in enumerate(names))
      raise NoTask(f'stream[{place!r}]: no such task; {near}{there}: {listed}') from None
    except TypeError:
      kind = type(place).__name__
      raise NoTask(f'stream[…] is given a {kind}; give the place or the name of a task') from None


def _names(tasks: 'tuple[Task, ...]') -> list[str]:
  return [task.name for task in tasks]
