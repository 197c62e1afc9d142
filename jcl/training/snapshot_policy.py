"""When a run writes a snapshot: by steps, by chunks, by minutes, and when it is asked to stop."""

import time

from jcl import distributed
from jcl.config import CheckpointConfig
from jcl.training.peers import SAVE, Peers
from jcl.training.signals import Requests


class SnapshotPolicy:
  """Says when the next snapshot is due.

  A snapshot is written while the work goes on, so a kill may go back to the one before it. For a
  kill to cost at most N steps or chunks, one is therefore begun every N // 2.

  Args:
    config: the settings.
    requests: whether the run is asked to stop.
    peers: the processes of the run, where there are several. The first one's clock counts the
      minutes, and all of them agree on the step.
  """

  def __init__(self, config: CheckpointConfig, requests: Requests, peers: Peers | None = None):
    self._config, self._requests, self._peers = config, requests, peers
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
    """Whether the newest snapshot is too old, or the run is asked to stop.

    Where there are several processes, all must call this equally often.
    """
    if self._peers is None:
      return self.asked or self._too_old()
    if distributed.is_first() and self._too_old():
      self._peers.wish(SAVE)
    due = self._peers.point()
    if due not in ('', SAVE):
      self._requests.asked = due
    return self.asked or bool(due)

  def _too_old(self) -> bool:
    """Whether the newest snapshot was begun more than `every_minutes` ago."""
    minutes = self._config.every_minutes
    return bool(minutes) and time.monotonic() - self._since >= 60 * minutes

  def after_step(self, steps: int) -> bool:
    """Whether a snapshot is due after so many steps of the task."""
    every, overdue = self._config.every_steps, self.overdue()
    return overdue or (bool(every) and steps % half(every) == 0)

  def after_chunk(self) -> bool:
    """Counts a chunk; whether a snapshot is due after it."""
    self._chunks += 1
    every = self._config.every_chunks
    return self.overdue() or (bool(every) and self._chunks >= half(every))


def half(most: int) -> int:
  """Steps or chunks between the beginnings of two snapshots, so that a kill costs `most`."""
  return max(most // 2, 1)
