"""`metrics.jsonl`: a line of JSON for each logged step, cut back to a known length on resume."""

import io
import json
import os
import pathlib
from collections.abc import Mapping

from jcl import distributed
from jcl.storage.atomic import name_file_in_errors
from jcl.types import Json


class MetricsLog:
  """Writes the lines of `metrics.jsonl`.

  The first process writes the file; the others only count the bytes that they would write.

  Args:
    path: of the file.
    length: bytes that the file had when the run's snapshot was taken; the rest is cut off.

  Attributes:
    lost: bytes by which the file is shorter than that length.
  """

  def __init__(self, path: pathlib.Path, length: int = 0):
    self._path = path
    with name_file_in_errors(path):
      # Unbuffered: a line that is written is the system's, and no failed write is tried again.
      self._file = open(path, 'a+b', 0) if distributed.is_first() else io.BytesIO()  # noqa: SIM115
      found = self._file.seek(0, os.SEEK_END)
      self._file.truncate(min(length, found))
    self.lost = max(length - found, 0) if distributed.is_first() else 0

  @property
  def lines(self) -> list[Json]:
    """The lines of the file that are not damaged."""
    return read(self._path)[0]

  def write(self, line: Mapping[str, object]) -> None:
    """Appends a line.

    Raises:
      OSError: the line cannot be written; the error names the file.
    """
    left = memoryview((json.dumps(line) + '\n').encode())
    with name_file_in_errors(self._path):
      while left:
        left = left[self._file.write(left) :]

  def length(self) -> int:
    """Returns the bytes written so far; all of them are handed to the system."""
    return self._file.seek(0, os.SEEK_END)

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def read(file: pathlib.Path) -> tuple[list[Json], int]:
  """Returns the lines of a `metrics.jsonl`, and the number of damaged lines; none without a file.

  A last line without a line break, which a run under way is still writing, is neither returned nor
  counted.
  """
  if not file.is_file():
    return [], 0
  lines, damaged = [], 0
  for text in file.read_bytes().split(b'\n')[:-1]:
    try:
      line = json.loads(text)
    except ValueError:
      line = None
    if isinstance(line, dict):
      lines.append(line)
    else:
      damaged += 1
  return lines, damaged
