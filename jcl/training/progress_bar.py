"""Progress of long work: a bar on a terminal, elsewhere a line of text now and then."""

import sys
import time
from collections.abc import Callable

import tqdm

from jcl.storage import console
from jcl.training.folds import FoldRunner

EVERY = 30.0  # seconds between plain lines


class Bar:
  """The progress of one piece of work.

  Args:
    title: name of the work, e.g. `task 2/5 bank: train`.
    total: its steps or chunks.
    quiet: show nothing.
    done: steps or chunks that were done before a resume.
  """

  def __init__(self, title: str, total: int, quiet: bool = False, done: int = 0):
    self._title, self._total, self._done, self._quiet = title, total, done, quiet
    self._start = self._said = time.monotonic()
    self._first, self._tokens = done, 0
    self._bar = None
    if not quiet and sys.stderr.isatty():
      shown = console.sayable(title, sys.stderr)
      self._bar = tqdm.tqdm(total=total, initial=done, desc=shown, leave=False, dynamic_ncols=True)

  def advance(self, done: int, tokens: int = 0, note: str = '') -> None:
    """Shows how far the work has come.

    Args:
      done: steps or chunks done.
      tokens: tokens read since the last call.
      note: shown beside the speed.
    """
    self._tokens += tokens
    now = time.monotonic()
    speed = self._tokens / max(now - self._start, 1e-9)
    words = ', '.join(x for x in (note, f'{speed:,.0f} tokens/s' if self._tokens else '') if x)
    if self._bar is not None:
      self._bar.set_postfix_str(words, refresh=False)
      self._bar.update(done - self._done)
    elif not self._quiet and now - self._said > EVERY:
      left = (now - self._start) * (self._total - done) / max(done - self._first, 1)
      clock = f'{left // 60:.0f}:{left % 60:02.0f}'
      line = f'  {self._title}: {done}/{self._total}, {words}, {clock} left'
      console.show(line, sys.stderr)
      self._said = now
    self._done = done

  def close(self) -> None:
    """Removes the bar."""
    if self._bar is not None:
      self._bar.close()


class FoldBars:
  """Shows and watches the folds of a hook, while it is in a `with` statement.

  Args:
    folds: the runner of the folds.
    title: name of a fold -> title of its bar.
    quiet: show nothing.
    before, after: called around every chunk.
  """

  def __init__(
    self,
    folds: FoldRunner,
    title: Callable[[str], str],
    quiet: bool,
    before: Callable,
    after: Callable,
  ):
    self._folds, self._title, self._quiet = folds, title, quiet
    self._before, self._after = before, after
    self._bar: Bar | None = None
    self._name = ''

  def __enter__(self) -> None:
    self._folds.before_chunk, self._folds.on_chunk = self._before, self._advance

  def _advance(self, name: str, done: int, chunks: int) -> None:
    if name != self._name or done == 1:
      self._close()
      self._name = name
    if self._bar is None:
      self._bar = Bar(self._title(name), chunks, self._quiet)
    self._bar.advance(done)
    self._after()

  def _close(self) -> None:
    if self._bar is not None:
      self._bar.close()
      self._bar = None

  def __exit__(self, *error: object) -> None:
    self._close()
    self._folds.before_chunk = lambda: None
    self._folds.on_chunk = lambda name, done, chunks: None
