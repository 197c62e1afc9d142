"""Shows and watches the folds of a hook: a bar for each."""

from collections.abc import Callable

from jcl.storage.progress import Bar
from jcl.training.folds import FoldRunner


def nothing() -> None:
  """Does nothing, around a chunk."""


class FoldBars:
  """Shows and watches folds, while it is in a `with` statement.

  Args:
    folds: the runner of the folds.
    title: name of a fold -> title of its bar.
    before, after: called around every chunk.
    later: seconds a chunk -> seconds of what the run does after the folds; None: not known.
    brief: the folds are often short; see `Bar`.
  """

  def __init__(
    self,
    folds: FoldRunner,
    title: Callable[[str], str],
    before: Callable[[], None] = nothing,
    after: Callable[[], None] = nothing,
    later: Callable[[float], float | None] | None = None,
    brief: bool = False,
  ):
    self._folds, self._title = folds, title
    self._before, self._after, self._later, self._brief = before, after, later, brief
    self._bar: Bar | None = None

  def __enter__(self) -> None:
    folds = self._folds
    folds.on_start, folds.before_chunk, folds.on_chunk = self._open, self._before, self._advance

  def _open(self, name: str, done: int, chunks: int) -> None:
    self._close()
    self._bar = Bar(self._title(name), chunks, done, self._brief, self._later)

  def _advance(self, name: str, done: int, chunks: int) -> None:
    if self._bar is not None:
      self._bar.advance(done)
    self._after()

  def _close(self) -> None:
    if self._bar is not None:
      self._bar.close()
      self._bar = None

  def __exit__(self, *error: object) -> None:
    self._close()
    self._folds.unwatch()
