"""Many objects are made without the collector of cycles, which goes over all of them each time."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
  """Pauses the collector of cycles; for work that makes an object a row and no cycles.

  A third of the time of reading a million rows is otherwise spent in looking for them. Objects that
  are in no cycle are freed as always.
  """
  enabled = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if enabled:
      gc.enable()
