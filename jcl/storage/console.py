"""What is printed, in an output of any encoding: a console of cp1252, a log in ASCII.

A character that the encoding lacks is printed as its stand-in (`->`), or escaped (`\\u5929`), so
that nothing is lost and no run ends for want of a letter.
"""

import codecs
import sys
from typing import TextIO

ERRORS = 'jcl.plain'  # name of the error handler
STAND_INS = {
  '→': '->', '…': '...', '·': '.', 'Ā': 'A', '×': 'x', '±': '+/-', '−': '-', '–': '-', '—': '-',
  '≤': '<=', '≥': '>=', '’': "'", '“': '"', '”': '"', 'Δ': 'delta', 'Σ': 'sum', '²': '^2',
  '\N{NO-BREAK SPACE}': ' ', '\N{THIN SPACE}': ' ', '\N{NARROW NO-BREAK SPACE}': ' ',
}  # fmt: skip


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


def show(line: str, output: TextIO | None = None) -> None:
  """Prints a line at once.

  Args:
    line: the text.
    output: where; None: standard output.
  """
  print(sayable(line, output), file=output, flush=True)


def make_outputs_plain() -> None:
  """Lets everything that this process prints from now on be said in the encoding of its outputs."""
  for output in (sys.stdout, sys.stderr):
    if hasattr(output, 'reconfigure'):
      output.reconfigure(errors=ERRORS)
