"""The order in which tasks are learned, and where it comes from, in words."""

from collections.abc import Sequence

from jcl.config import PUBLISHED_TASKS
from jcl.streams.raw import OWN
from jcl.streams.registry import BUILT_IN

SHOWN = 12  # tasks
SEEDED = tuple(name for name in BUILT_IN if name not in (*OWN, *PUBLISHED_TASKS))


def is_drawn(stream: str) -> bool:
  """Whether a comparison over seeds draws the order of a stream anew with each seed.

  The order of tasks in a user's own files means something, such as time, so it is kept. A published
  order of tasks is kept as well.

  Args:
    stream: its reader, `stream.name`.
  """
  return stream in SEEDED


def describe_order(tasks: Sequence[str], stream: str, seed: int, order: str = '') -> str:
  """Returns the order of tasks in one line.

  Args:
    tasks: their names as they are learned, each in one line.
    stream: its reader, `stream.name`.
    seed: `stream.order_seed`.
    order: `stream.task_order`; empty: the first published order.
  """
  names = ', '.join(tasks[:SHOWN])
  if len(tasks) > SHOWN:
    names += f', … ({len(tasks)} in all)'
  what = 'tasks' if stream in ('synthetic', *OWN, *PUBLISHED_TASKS) else 'classes'
  if seed < 0 and stream in PUBLISHED_TASKS:
    how = f'stream.task_order={order}' if order else 'the first published order'
  elif seed < 0:
    how = 'as given, not shuffled'
  elif stream in BUILT_IN:
    how = f'{what} shuffled by stream.order_seed={seed}'
  else:
    how = f'as {stream} orders them for stream.order_seed={seed}'
  return f'{names} ({how})'
