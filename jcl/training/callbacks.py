"""What a run tells its callbacks."""

from collections.abc import Sequence

from jcl.errors import UserError


def checked_callbacks(callbacks: object) -> Sequence[object]:
  """The callbacks, each of which listens to something.

  Raises:
    UserError: one does not, or there is no list of them.
  """
  known = ('on_step', 'on_evaluation', 'on_task')
  if not isinstance(callbacks, list | tuple):
    raise UserError(f'callbacks is a {type(callbacks).__name__}; give a list of objects')
  for callback in callbacks:
    if not any(callable(getattr(callback, name, None)) for name in known):
      raise UserError(
        f'callbacks holds a {type(callback).__name__} without any of {", ".join(known)}'
      )
  return callbacks
