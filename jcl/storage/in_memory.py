"""Stand-ins for the files of a run that has no workdir: everything stays in memory."""

from collections.abc import Mapping

from jcl.storage.encoding import Place, on_host
from jcl.types import Json


class MemoryLog:
  """Keeps the lines of `metrics.jsonl` in a list; see `metrics_log.MetricsLog`.

  Attributes:
    lines: the lines written so far.
    lost: always 0.
  """

  def __init__(self) -> None:
    self.lines: list[Json] = []
    self.lost = 0

  def write(self, line: Mapping[str, object]) -> None:
    """Appends a line."""
    self.lines.append(dict(line))

  def length(self) -> int:
    """Returns 0: there is no file."""
    return 0

  def close(self) -> None:
    """Keeps the lines."""


class NoSnapshots:
  """Takes the calls of `checkpoint.Snapshots` and keeps nothing.

  Attributes:
    folder: always None.
    number, loaded: always -1, as before the first snapshot.
    pending: always False: nothing is being written.
    messages: always empty.
  """

  def __init__(self) -> None:
    self.folder = None
    self.number = self.loaded = -1
    self.pending = False
    self.messages: list[str] = []

  def latest(self, place: Place = on_host) -> None:
    """Returns None: there is no snapshot."""
    return

  def save(self, content: Mapping[str, object]) -> int:
    """Keeps nothing and returns -1."""
    return self.number

  def keep(self, name: str) -> None:
    """Keeps nothing."""

  def check(self) -> None:
    """Raises nothing."""

  def wait(self) -> None:
    """Returns at once."""

  def close(self) -> None:
    """Does nothing."""
