"""Style that all pictures share: colours, sizes, and PNG files of the same bytes every time.

matplotlib is imported when the first picture is drawn: it takes a second, which tables need not.
"""

import io
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jcl.reports import fonts
from jcl.reports.formatting import one_line

if TYPE_CHECKING:
  from matplotlib.figure import Figure

INK, FAINT, GRID = '#222222', '#666666', '#dddddd'
STYLE: dict[Any, Any] = {
  'font.family': fonts.DEFAULT,
  'font.size': 9,
  'text.color': INK,
  'text.parse_math': False,  # a $ in a task's name is a $
  'axes.edgecolor': FAINT,
  'axes.labelcolor': INK,
  'axes.linewidth': 0.8,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.titlesize': 9,
  'xtick.color': FAINT,
  'ytick.color': FAINT,
  'xtick.labelcolor': INK,
  'ytick.labelcolor': INK,
  'hatch.color': '#c4c4c4',
  'hatch.linewidth': 0.8,
}
DPI = 144
TASK_NAME = 24  # characters of a task's name at most
LETTER = 0.078  # inches: the mean width of a letter of the usual size


def png_of(draw: Callable[[], 'Figure']) -> bytes:
  """Returns the PNG of a figure; matplotlib's global state stays as it is.

  Args:
    draw: makes the figure; called with `STYLE` in force.
  """
  matplotlib, text = fonts.part(''), fonts.part('text')
  with matplotlib.rc_context(STYLE), warnings.catch_warnings(), fonts.quiet():
    # A letter that all fonts lack is drawn as a box; `fonts.notes` says so.
    warnings.filterwarnings('ignore', 'Glyph .* missing from', UserWarning)
    content, figure = io.BytesIO(), draw()
    families, _ = fonts.chosen(one.get_text() for one in figure.findobj(text.Text))
    if len(families) > 1:  # a text keeps the fonts that it was made with
      with matplotlib.rc_context({'font.family': families}):
        figure = draw()
    fonts.part('backends.backend_agg').FigureCanvasAgg(figure).print_png(
      content, metadata={'Software': None}
    )
  return content.getvalue()


def new_figure(width: float, height: float) -> 'Figure':
  """Returns an empty figure.

  Args:
    width: in inches.
    height: in inches.
  """
  return fonts.part('figure').Figure(figsize=(width, height), dpi=DPI, facecolor='white')


def shortened(name: str, most: int = TASK_NAME) -> str:
  """Returns a name in one line, cut to a number of characters at most."""
  name = one_line(name)
  return name if len(name) <= most else name[: most - 1].rstrip() + '…'
