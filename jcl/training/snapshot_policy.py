"""When a run writes a snapshot: by steps, by chunks, by minutes, and when it is asked to stop."""

import time

from jcl.config import CheckpointConfig
from jcl.training.signals import Requests


class SnapshotPolicy:
  """Says when the next snapshot is due.

  A snapshot is written while the work goes on, so a kill may go back to the one before it. For a
  kill to cost at most N steps or chunks, one is therefore begun every N // 2.

  Args:
    config: the settings.
    requests: whether the run is asked to stop.
    alone: the run is one process. Several processes would not agree on the time, so they write no
      snapshot by minutes.
  """

  def __init__(self, config: CheckpointConfig, requests: Requests, alone: bool):
    self._config, self._requests, self._alone = config, requests, alone
    self.saved()

  def saved(self) -> None:
    """Notes that a snapshot has just been begun."""
    self._since, self._chunks = time.monotonic(), 0

  @property
  def waits(self) -> bool:
    """Whether each snapshot must be finished before the work goes on: a kill may cost one step."""
    return 1 in (self._config.every_steps, self._config.every_chunks)

  @property
  def asked(self) -> bool:
    """Whether the run is asked to stop."""
    return bool(self._requests.asked)

  def overdue(self) -> bool:
    """Whether the newest snapshot is too old, or the run is asked to stop."""
    if self.asked or not self._alone:
      return self.asked
    minutes = self._config.every_minutes
    return bool(minutes) and time.monotonic() - self._since >= 60 * minutes

  def after_step(self, steps: int) -> bool:
    """Whether a snapshot is due after so many steps of the task."""
    every = self._config.every_steps
    return (bool(every) and steps % half(every) == 0) or self.overdue()

  def after_chunk(self) -> bool:
    """Counts a chunk; whether a snapshot is due after it."""
    self._chunks += 1
    every = self._config.every_chunks
    return self.overdue() or (bool(every) and self._chunks >= half(every))


def half(most: int) -> int:
  """Steps or chunks between the beginnings of two snapshots, so that a kill costs `most`."""
  return max(most // 2, 1)
