"""What a run tells its callbacks."""

from collections.abc import Callable, Sequence

from jcl.errors import UserError
from jcl.storage.atomic import describe_error

# Methods that a callback may have, by what they are told; docs/extending.md has the fields.
EVENTS = ('on_start', 'on_step', 'on_evaluation', 'on_task', 'on_end')


class Callbacks:
  """The callbacks of a run.

  A callback that has a true attribute `may_fail`, as sinks have, is left out once it raises: a
  warning says so, and the run goes on. What any other raises ends the run.

  Args:
    listeners: objects with any of the methods `EVENTS`.
    say: prints a line.
  """

  def __init__(self, listeners: Sequence[object], say: Callable[[str], None]):
    self._listeners, self._say = list(listeners), say

  def tell(self, event: str, *value: object) -> None:
    """Calls a method of all that have it.

    Args:
      event: its name, of `EVENTS`.
      *value: its argument.
    """
    for listener in list(self._listeners):
      if (method := getattr(listener, event, None)) is None:
        continue
      try:
        method(*value)
      except Exception as error:
        if not getattr(listener, 'may_fail', False):
          raise
        self._listeners.remove(listener)
        self._say(f'warning: {_words(error, listener)}; the run goes on without it')


def _words(error: Exception, listener: object) -> str:
  """Returns what is wrong with a callback, in one line."""
  if isinstance(error, UserError):
    return str(error)
  name = getattr(listener, 'name', '') or type(listener).__name__
  fault = describe_error(error) if isinstance(error, OSError) else ' '.join(str(error).split())
  return f'{name}: {type(error).__name__}: {fault[:300]}'


def checked_callbacks(callbacks: object) -> Sequence[object]:
  """The callbacks, each of which listens to something.

  Raises:
    UserError: one does not, or there is no list of them.
  """
  if not isinstance(callbacks, list | tuple):
    raise UserError(f'callbacks is a {type(callbacks).__name__}; give a list of objects')
  for callback in callbacks:
    if isinstance(callback, type):
      name = callback.__name__
      raise UserError(f'callbacks holds the class {name}; give an object of it, {name}(…)')
    if not any(callable(getattr(callback, name, None)) for name in EVENTS):
      raise UserError(
        f'callbacks holds a {type(callback).__name__} without any of {", ".join(EVENTS)}'
      )
  return callbacks
