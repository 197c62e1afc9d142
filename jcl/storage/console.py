"""What is printed, in an output of any encoding: a console of cp1252, a log in ASCII.

A character that the encoding lacks is printed as its stand-in (`->`), or escaped (`\\u5929`), so
that nothing is lost and no run ends for want of a letter.
"""

import codecs
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

ERRORS = 'jcl.plain'  # name of the error handler
STAND_INS = {
  '→': '->', '…': '...', '·': '.', 'Ā': 'A', '×': 'x', '±': '+/-', '−': '-', '–': '-', '—': '-',
  '≤': '<=', '≥': '>=', '’': "'", '“': '"', '”': '"', 'Δ': 'delta', 'Σ': 'sum', '²': '^2',
  '\N{NO-BREAK SPACE}': ' ', '\N{THIN SPACE}': ' ', '\N{NARROW NO-BREAK SPACE}': ' ',
}  # fmt: skip
STYLES = {'bold': '1', 'faint': '2', 'red': '31', 'yellow': '33'}
SIGNALS = {'warning': 'yellow', 'error': 'red'}  # first words of lines, and their styles


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
  """Returns what stands in for the characters that an encoding lacks; an error handler."""
  if not isinstance(error, UnicodeEncodeError):
    raise error
  found = error.object[error.start : error.end]
  words = (STAND_INS.get(c) or c.encode('ascii', 'backslashreplace').decode() for c in found)
  return ''.join(words), error.end


codecs.register_error(ERRORS, _plain)


def sayable(text: str, output: TextIO | None = None) -> str:
  """Returns a text as an output can say it; on one of UTF-8 it is the same.

  Args:
    text: to be printed.
    output: where; None: standard output.
  """
  encoding = getattr(sys.stdout if output is None else output, 'encoding', None) or 'utf-8'
  return text.encode(encoding, ERRORS).decode(encoding, 'replace')


def has_colours(output: TextIO | None = None) -> bool:
  """Whether an output is a terminal that shows colours, and NO_COLOR (no-color.org) is not set.

  Args:
    output: where; None: standard output.
  """
  output = sys.stdout if output is None else output
  wanted = not os.environ.get('NO_COLOR') and os.environ.get('TERM') != 'dumb'
  return wanted and output is not None and output.isatty()


def painted(text: str, style: str) -> str:
  """Returns a text in one of `STYLES`, for a terminal."""
  return f'\x1b[{STYLES[style]}m{text}\x1b[0m'


def show(line: str, output: TextIO | None = None) -> None:
  """Prints a line at once; on a terminal its first word is coloured if it warns.

  Args:
    line: the text.
    output: where; None: standard output.
  """
  said = sayable(line, output)
  kind, colon, rest = said.partition(':')
  if colon and kind in SIGNALS and has_colours(output):
    said = painted(kind + colon, SIGNALS[kind]) + rest
  print(said, file=output, flush=True)


class Output:
  """An output whose errors name it, as those of a file do.

  Args:
    output: what is written to.
    name: of it in messages.
  """

  def __init__(self, output: TextIO, name: str):
    self._output, self._name = output, name

  def write(self, text: str) -> int:
    """Writes a text; returns the number of its letters."""
    with self._named():
      return self._output.write(text)

  def flush(self) -> None:
    """Writes what is still held back."""
    with self._named():
      self._output.flush()

  def __getattr__(self, name: str) -> Any:
    return getattr(self._output, name)

  @contextlib.contextmanager
  def _named(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      raise OSError(error.errno, error.strerror, self._name) from None


def make_outputs_plain() -> None:
  """Lets everything that this process prints from now on be said in the encoding of its outputs.

  An encoding that can write no line, such as `idna`, becomes UTF-8.
  """
  for output in (sys.stdout, sys.stderr):
    if hasattr(output, 'reconfigure'):
      try:
        'a→\n'.encode(output.encoding, ERRORS)
        output.reconfigure(errors=ERRORS)
      except UnicodeError:
        output.reconfigure(encoding='utf-8', errors=ERRORS)


def name_outputs() -> None:
  """Makes errors of standard output name it, and opens the standard files that are closed.

  A file that is opened later would take the place of a closed one, and get what is written to it.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
  if sys.stdout is not None and not isinstance(sys.stdout, Output):
    sys.stdout = cast(TextIO, Output(sys.stdout, 'stdout'))


def finish() -> None:
  """Writes what standard output still holds back.

  Raises:
    OSError: it cannot be written.
  """
  if sys.stdout is not None:
    sys.stdout.flush()


def give_up(output: TextIO) -> None:
  """Drops what an output still holds back and cannot write."""
  with contextlib.suppress(OSError, ValueError, AttributeError):
    os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
