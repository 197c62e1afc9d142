"""What stands in for the files of a run that has no workdir: all of it stays in memory."""

from collections.abc import Mapping
from typing import Any


class MemoryLog:
  """The lines of `metrics.jsonl`, kept in a list.

  Attributes:
    lines: written so far.
    lost: bytes that a file would lack; always 0.
  """

  def __init__(self) -> None:
    self.lines: list[dict[str, Any]] = []
    self.lost = 0

  def write(self, line: Mapping[str, Any]) -> None:
    """Appends a line."""
    self.lines.append(dict(line))

  def length(self) -> int:
    """Bytes of the file that is not there."""
    return 0

  def close(self) -> None:
    """Keeps the lines."""


class NoSnapshots:
  """Snapshots of a run that keeps none: see `checkpoint.Snapshots` for what they would do.

  Attributes:
    folder: None, for there is none.
    number, loaded: -1, as before the first snapshot.
    messages: nothing that the user must know.
  """

  def __init__(self) -> None:
    self.folder = None
    self.number = self.loaded = -1
    self.messages: list[str] = []

  def latest(self, place: Any = None) -> None:
    """There is no snapshot."""
    return

  def save(self, content: Mapping[str, Any]) -> int:
    """Keeps nothing."""
    return self.number

  def keep(self, name: str) -> None:
    """Keeps nothing."""

  def wait(self) -> None:
    """There is nothing to wait for."""

  def close(self) -> None:
    """There is nothing to close."""
