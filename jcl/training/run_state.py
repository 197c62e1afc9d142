"""Where a run stands: events for those who watch it, and a file that no kill can take back."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Run:
  """All that a snapshot holds.

  Attributes:
    params: of the model.
    memory: of the method.
    optimizer: leaves of the optimiser's state by path; None: fresh.
    done: phases finished.
    step: steps taken in the task under way.
    best: the parameters with the best dev score of the task, under `keep_best`.
    best_score: that score.
    record: what `results.json` will say.
    log_length: bytes of metrics.jsonl.
  """

  params: Any
  memory: Any = None
  optimizer: Any = None
  done: int = 0
  step: int = 0
  best: Any = None
  best_score: float = -math.inf
  record: dict = dataclasses.field(default_factory=dict)
  log_length: int = 0

  replace = dataclasses.replace


@dataclasses.dataclass(frozen=True)
class Event:
  """Something a run is about to do, or has done; the same in a run that went on after a kill.

  Attributes:
    kind: `step` and `chunk` (about to begin), `snapshot begun`, `snapshot renamed`, `snapshot
      committed`, `task done`.
    done: phases finished.
    steps: taken since the beginning of the run.
    chunks: of folds, computed since the beginning of the run.
  """

  kind: str
  done: int
  steps: int
  chunks: int


Announce = Callable[[Event], None]


def nobody(event: Event) -> None:
  """Listens to no event."""


class ProgressCounter:
  """Counts steps and chunks of a whole run, and keeps the counts in a file as they grow.

  A kill leaves the file, a snapshot holds the counts of its own moment: the difference is what the
  kill cost, to the step. The file is written in place, without waiting for the disk.

  Args:
    workdir: of the run; `position` and `resumes.jsonl` are written in it. None: nothing is written.
    announce: called with every event.
  """

  def __init__(self, workdir: pathlib.Path | None, announce: Announce = nobody):
    self._workdir, self._announce = workdir, announce
    self.done = self.steps = self.chunks = 0
    self._file = -1

  def open(self) -> 'ProgressCounter':
    """From now on this process writes."""
    self._file = os.open(self._workdir / 'position', os.O_RDWR | os.O_CREAT, 0o644)
    return self

  def took(self, steps: int = 0, chunks: int = 0) -> None:
    """Counts what was done."""
    self.steps, self.chunks = self.steps + steps, self.chunks + chunks
    self._mark()

  def says(self, kind: str) -> None:
    """Announces an event here."""
    self._announce(Event(kind, self.done, self.steps, self.chunks))

  def state(self) -> list[int]:
    """As a snapshot holds it."""
    return [self.steps, self.chunks]

  def restore(self, done: int, state: list[int]) -> tuple[int, int]:
    """From a snapshot -> the steps and the chunks that were done beyond it."""
    self.done, (self.steps, self.chunks) = done, state
    text = os.pread(self._file, 100, 0).decode(errors='replace') if self._file >= 0 else ''
    try:
      steps, chunks = (int(word) for word in text.split())
    except ValueError:  # not written yet, or by somebody else
      steps, chunks = state
    return max(steps - self.steps, 0), max(chunks - self.chunks, 0)

  def resumed(self, line: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Adds a line to those of all times this run was resumed -> all of them.

    They stand in a file of their own: a snapshot is older than the last kill.
    """
    path = self._workdir / 'resumes.jsonl'
    if line is not None and self._file >= 0:
      half = path.exists() and not path.read_bytes().endswith(b'\n')  # a kill struck
      with open(path, 'a', encoding='utf-8') as file:
        file.write('\n' * half + json.dumps(line) + '\n')
    lines = path.read_text('utf-8', 'replace').splitlines() if path.exists() else []
    return [found for found in map(_object, lines) if found is not None]

  def _mark(self) -> None:
    if self._file >= 0:
      os.pwrite(self._file, f'{self.steps:15d} {self.chunks:15d}\n'.encode(), 0)

  def close(self) -> None:
    """Closes the file."""
    if self._file >= 0:
      os.close(self._file)
      self._file = -1


def _object(line: str) -> dict[str, Any] | None:
  """What a line holds; None for half of one."""
  try:
    found = json.loads(line)
  except ValueError:
    return None
  return found if isinstance(found, dict) else None
