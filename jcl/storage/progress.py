"""Progress of long work: a bar on a terminal or in a notebook, elsewhere a line now and then.

Work says how far it is when it knows: nothing here waits for a device.
"""

import contextlib
import contextvars
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

from jcl.storage import console

EVERY = 30.0  # seconds between plain lines
BRIEF = 1.0  # seconds below which work that says so has no bar
GAUGE = 20  # columns of percentage and bar beside title and words, at least
FORMAT = '{l_bar}{bar}| '  # of tqdm; the words follow
Item = TypeVar('Item')
_hidden: contextvars.ContextVar[bool] = contextvars.ContextVar('hidden', default=False)
_parked: contextvars.ContextVar[list | None] = contextvars.ContextVar('parked', default=None)


@contextlib.contextmanager
def session(hidden: bool = False) -> Iterator[None]:
  """Shows the progress of all work inside, or hides it.

  In a notebook the work inside shares its bars: a bar that is closed leaves an empty line there.

  Args:
    hidden: show nothing; inside a hidden session all are hidden.
  """
  hiding = _hidden.set(hidden or _hidden.get())
  outermost = _parked.get() is None
  parking = _parked.set([]) if outermost else None
  try:
    yield
  finally:
    if parking is not None:
      for bar in _parked.get() or ():
        bar.close()
      _parked.reset(parking)
    _hidden.reset(hiding)


def is_hidden() -> bool:
  """Whether progress is hidden here."""
  return _hidden.get()


def is_notebook() -> bool:
  """Whether this process is the kernel of a notebook."""
  shell = getattr(sys.modules.get('IPython'), 'get_ipython', lambda: None)()
  return 'IPKernelApp' in getattr(shell, 'config', {})


def has_bars() -> bool:
  """Whether progress is shown as bars here."""
  if is_hidden():
    return False
  terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get('TERM') != 'dumb'
  return (terminal and not _is_without_lines()) or is_notebook()


def _is_without_lines() -> bool:
  """Whether the terminal says that it has no lines, as in a container: tqdm shows nothing there."""
  try:
    return os.get_terminal_size(sys.stderr.fileno()).lines == 0
  except (OSError, ValueError):  # standard error is no file
    return False


def clock(seconds: float) -> str:
  """Returns seconds as `4:07`, and from an hour on as `1:04:07`."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{rest:02}' if hours else f'{minutes}:{rest:02}'


class Bar:
  """The progress of one piece of work.

  Speed and time left count from the first advance on, since what comes before it compiles.

  Args:
    title: name of the work, such as `task 2/5 bank: train`.
    total: number of its steps or chunks.
    done: steps or chunks that were done before a resume.
    brief: the work is often short; a bar is shown once it takes longer than `BRIEF`.
    later: seconds a step or chunk -> seconds of what the run does after this work; None: not known.
  """

  def __init__(
    self, title: str, total: int, done: int = 0, brief: bool = False,
    later: Callable[[float], float | None] | None = None,
  ):  # fmt: skip
    self._title, self._total, self._done, self._later = title, total, done, later
    self._said = time.monotonic()
    self._start: tuple[float, int] | None = None  # time and count at the first advance
    self._tokens, self._quiet = 0, is_hidden()
    self._bar = _make_bar(console.sayable(title, sys.stderr), total, done, brief)

  def advance(self, done: int, tokens: int = 0, note: str = '') -> None:
    """Shows how far the work has come.

    Args:
      done: steps or chunks done.
      tokens: tokens read since the last call.
      note: shown beside the speed.
    """
    now = time.monotonic()
    if self._start is None:
      self._start = now, done
    else:
      self._tokens += tokens
    if self._bar is not None:
      words = self._words(now, done, note, short=True)
      self._bar.bar_format = FORMAT + words.replace('{', '{{').replace('}', '}}')
      self._bar.update(done - self._done)
    elif not self._quiet and now - self._said > EVERY:
      words = self._words(now, done, note)
      console.show(f'  {self._title}: {words}', sys.stderr)
      self._said = now
    self._done = done

  def _words(self, now: float, done: int, note: str, short: bool = False) -> str:
    """Returns count, time left, note and speed; `short`: as many as a terminal has room for."""
    assert self._start is not None
    seconds, count = now - self._start[0], done - self._start[1]
    words = [f'{done}/{self._total}']
    if count > 0:
      each = seconds / count
      left = each * (self._total - done)
      later = None if self._later is None else self._later(each)
      words.append(f'{clock(left)} left')
      if later is not None:
        words[-1] += f', run {clock(left + later)}'
    words += note.split(', ') if note else []
    if self._tokens and seconds > 0:
      words.append(f'{self._tokens / seconds:,.0f} tokens/s')
    if short and not is_notebook():
      room = shutil.get_terminal_size().columns - len(self._title) - GAUGE
      while len(words) > 1 and len(', '.join(words)) > room:
        words.pop()
    return ', '.join(words)

  def close(self) -> None:
    """Removes the bar."""
    if self._bar is not None:
      _put_away(self._bar)
      self._bar = None


def watched(items: Iterable[Item], title: str, total: int | None = None) -> Iterator[Item]:
  """Yields items, and shows how many are done where that takes longer than `BRIEF`.

  Args:
    items: pieces of work.
    title: name of the work.
    total: number of items; None: `items` knows it.
  """
  if total is None:
    assert isinstance(items, Sized)
    total = len(items)
  bar = Bar(title, total, brief=True)
  try:
    for done, item in enumerate(items, 1):
      yield item
      bar.advance(done)
  finally:
    bar.close()


def _make_bar(title: str, total: int, done: int, brief: bool) -> Any:
  """Returns a bar of tqdm, or None where there are none; in a notebook one that is free."""
  if not has_bars():
    return None
  free = _parked.get()
  if free and not brief:
    bar = free.pop()
    bar.bar_format = FORMAT
    bar.set_description_str(title, refresh=False)
    bar.reset(total)
    bar.n = done
    return bar
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # tqdm says that a notebook has no widgets: it writes text then
    from tqdm.auto import tqdm
  return tqdm(
    total=total, initial=done, desc=title, leave=False, dynamic_ncols=True,
    delay=BRIEF if brief else 0, bar_format=FORMAT,
  )  # fmt: skip


def _put_away(bar: Any) -> None:
  """Closes a bar, or keeps it for the next work where a notebook shows it."""
  free = _parked.get()
  if free is not None and is_notebook() and not bar.delay:
    free.append(bar)
  else:
    bar.close()
