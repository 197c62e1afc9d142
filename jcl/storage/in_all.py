"""Work on files that counts only where every process of the run has done its own."""

from collections.abc import Callable

from jcl import distributed
from jcl.storage.orbax import failure_reason
from jcl.storage.sealed_folder import Damaged


def in_all(work: Callable[[], object]) -> None:
  """Does some work in every process; where it fails in one, it fails in all.

  Raises:
    Damaged: it failed in another process; the message says in which one, and why.
  """
  failed: Exception | None = None
  try:
    work()
  except Exception as error:
    failed = error
  said = distributed.exchanged('' if failed is None else reason_of(failed))
  if failed is not None:
    raise failed
  for process, reason in enumerate(said):
    if reason:
      raise Damaged(f'process {process}: {reason}')


def reason_of(error: Exception) -> str:
  """Returns why some work has failed, in one line."""
  return str(error) if isinstance(error, Damaged) else failure_reason(error)
