"""The state of a run, its events, and a file that counts its work through every kill."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable

from jcl.types import Json, Memory, Params, Tree


@dataclasses.dataclass(frozen=True)
class Run:
  """All that a snapshot holds.

  Attributes:
    params: of the model.
    memory: of the method.
    optimizer: leaves of the optimiser's state by path; None: fresh.
    done: phases finished.
    step: steps taken in the task under way.
    epochs: epochs of that task before which the hook `before_epoch` is done.
    drawing: the hook before the next epoch is under way.
    best: the parameters with the best dev score of the task, under `keep_best`.
    best_optimizer: leaves of the optimiser's state at them, where it is carried to the next task.
    best_score: that score.
    record: what `results.json` is made of.
    log_length: bytes of metrics.jsonl.
  """

  params: Params
  memory: Memory = dataclasses.field(default_factory=dict)
  optimizer: dict[str, Tree] | None = None
  done: int = 0
  step: int = 0
  epochs: int = 0
  drawing: bool = False
  best: Params | None = None
  best_optimizer: dict[str, Tree] | None = None
  best_score: float = -math.inf
  record: dict = dataclasses.field(default_factory=dict)
  log_length: int = 0

  replace = dataclasses.replace


@dataclasses.dataclass(frozen=True)
class Event:
  """Something that a run is about to do or has done; equal in a run that went on after a kill.

  Attributes:
    kind: `step` and `chunk` (about to begin), `snapshot begun`, `snapshot written`, `snapshot
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
  """Ignores an event."""


class ProgressCounter:
  """Counts the steps and chunks of a whole run in a file.

  A kill leaves the file as it is, and a snapshot holds the counts of its own moment: the difference
  is what the kill cost, to the step. The file is written in place, without waiting for the disk.

  Args:
    workdir: folder of the files `position` and `resumes.jsonl`; None: nothing is written.
    announce: called with every event.
  """

  def __init__(self, workdir: pathlib.Path | None, announce: Announce = nobody):
    self._workdir, self._announce = workdir, announce
    self.done = self.steps = self.chunks = 0
    self._file = -1

  def open(self) -> 'ProgressCounter':
    """Opens the file: from now on this process writes it."""
    assert self._workdir is not None
    self._file = os.open(self._workdir / 'position', os.O_RDWR | os.O_CREAT, 0o644)
    return self

  def took(self, steps: int = 0, chunks: int = 0) -> None:
    """Counts finished steps and chunks."""
    self.steps, self.chunks = self.steps + steps, self.chunks + chunks
    self._mark()

  def says(self, kind: str) -> None:
    """Announces an event at the present counts."""
    self._announce(Event(kind, self.done, self.steps, self.chunks))

  def state(self) -> list[int]:
    """Returns the counts as a snapshot holds them."""
    return [self.steps, self.chunks]

  def restore(self, done: int, state: list[int]) -> tuple[int, int]:
    """Sets the counts to a snapshot's; returns the steps and chunks done after the snapshot."""
    self.done, (self.steps, self.chunks) = done, state
    text = os.pread(self._file, 100, 0).decode(errors='replace') if self._file >= 0 else ''
    try:
      steps, chunks = (int(word) for word in text.split())
    except ValueError:  # not written yet, or by somebody else
      steps, chunks = state
    return max(steps - self.steps, 0), max(chunks - self.chunks, 0)

  def resumed(self, line: Json | None = None) -> list[Json]:
    """Adds an entry for a resume; returns the entries of all resumes of the run.

    They stand in a file of their own, since a snapshot is older than the last kill.
    """
    if self._workdir is None:
      return []
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


def _object(line: str) -> Json | None:
  """Returns the object in a line of JSON; None for a line that a kill cut short."""
  try:
    found = json.loads(line)
  except ValueError:
    return None
  return found if isinstance(found, dict) else None
