"""Several methods in one picture: scores over the stream, and what each method forgets."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from jcl.reports.comparison import Group, curve, group_runs, learned_and_kept, summary
from jcl.reports.formatting import format_number
from jcl.reports.metrics import Score
from jcl.reports.plots import DPI, FAINT, GRID, INK, LETTER, new_figure, png_of, shortened
from jcl.reports.results import Results, score_of

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

# Those of the page, `--c0` to `--c7` in light: a method has one colour in both.
COLOURS = (
  '#0b62a8', '#b8480a', '#0a7a55', '#9b3a86', '#7a6200', '#5b5fc7', '#b3261e', '#4d5b66',
)  # fmt: skip
MARKERS = 'osD^vPX*'
LABEL = 36  # characters of a method's label at most
LINES, PANEL = 4.2, 1.6  # inches: width of the left axes; least width of a panel with its margin


class Style(NamedTuple):
  """How a method is drawn.

  Attributes:
    label: its name.
    colour: of its lines.
    text_colour: of its name; darker, since pale text cannot be read.
    marker: of its points.
    linestyle: as matplotlib has it.
    end_only: only its scores at the end are known, as for joint training.
  """

  label: str
  colour: str
  text_colour: tuple[float, float, float]
  marker: str
  linestyle: str
  end_only: bool


def comparison_png(results: Sequence[Results]) -> bytes:
  """Returns a picture that compares runs, as a PNG.

  Args:
    results: the contents of the runs' `results.json`; seeds of one method are averaged.

  Raises:
    UserError: the runs cannot be compared, or a matrix is malformed.
  """
  groups = group_runs(results)
  return png_of(lambda: _figure(groups))


def _figure(groups: Sequence[Group]) -> 'Figure':
  """Returns the figure: lines over the stream on the left, a panel for each method on the right."""
  score, tasks = score_of(groups[0].runs[0]), _task_names(groups)
  styles = [_style(i, group) for i, group in enumerate(groups)]
  columns = len(groups) if len(groups) <= 3 else min(math.ceil(len(groups) / 2), 4)
  rows = math.ceil(len(groups) / columns)
  # All lengths are inches.
  panel = max(3.4 / rows, 0.85 + 0.2 * len(tasks))
  longest = max(len(style.label) for style in styles)
  across = max(PANEL, 0.3 + 1.1 * LETTER * longest)
  labels = 0.4 + 1.1 * LETTER * (longest + len(' 100.0'))
  start = 0.75 + LINES + labels + 0.3 + LETTER * max(map(len, tasks))
  width, height = start + columns * across + 0.15, 0.9 + rows * panel
  figure = new_figure(width, height)
  place = (0.75, 0.7, LINES, rows * panel - 0.8)
  _draw_curves(_axes(figure, place), groups, styles, score)
  limits = _limits(groups, score)
  for index, (group, style) in enumerate(zip(groups, styles, strict=True)):
    row, column = divmod(index, columns)
    bottom = 0.7 + (rows - 1 - row) * panel
    axes = _axes(figure, (start + column * across, bottom, across - 0.25, panel - 0.8))
    _draw_panel(axes, group, style, limits)
    axes.set_yticks(range(len(tasks)), tasks if column == 0 else [''] * len(tasks))
  left, top = 0.15 / width, 1 - 0.27 / height
  figure.text(left, top, 'Average over the tasks learned so far', size=11, weight='bold')
  corner = (start - 0.1 - LETTER * max(map(len, tasks))) / width
  figure.text(corner, top, 'Each task: ○ just learned  ● at the end', size=11, weight='bold')
  return figure


def _axes(figure: 'Figure', place: tuple[float, float, float, float]) -> 'Axes':
  """Returns new axes; `place` is (left, bottom, width, height) in inches."""
  width, height = map(float, figure.get_size_inches())
  left, bottom, across, up = place
  return figure.add_axes((left / width, bottom / height, across / width, up / height))


def _task_names(groups: Sequence[Group]) -> list[str]:
  """Returns the tasks' names if all runs have them in one order, else `task 1`, `task 2`, …"""
  orders = {tuple(run['tasks']) for group in groups for run in group.runs}
  if len(orders) == 1:
    return [shortened(name) for name in orders.pop()]
  return [f'task {i + 1}' for i in range(max(map(len, orders)))]


def _style(index: int, group: Group) -> Style:
  """Returns the style of a method: by its place, or black and dashed if only its end is known."""
  from matplotlib.colors import to_rgb

  end_only = group.end_only
  colour = INK if end_only else COLOURS[index % len(COLOURS)]
  red, green, blue = to_rgb(colour)
  return Style(
    label=shortened(group.label, LABEL),
    colour=colour,
    text_colour=(0.75 * red, 0.75 * green, 0.75 * blue),
    marker='' if end_only else MARKERS[(index + index // len(COLOURS)) % len(MARKERS)],
    linestyle='--' if end_only or index >= len(COLOURS) else '-',
    end_only=end_only,
  )


def _limits(groups: Sequence[Group], score: Score) -> tuple[float, float]:
  """Returns the ends of an axis on which further is better.

  They are 0 and 100 % with a margin, or the worst and the best log-perplexity.
  """
  if score == 'accuracy':
    return -3.0, 103.0
  pairs = [pair for group in groups for pair in learned_and_kept(group)]
  known = [value for pair in pairs for value in pair if value is not None] or [0.0]
  margin = 0.06 * (max(known) - min(known)) or 0.1
  return max(known) + margin, min(known) - margin


def _draw_curves(
  axes: 'Axes', groups: Sequence[Group], styles: Sequence[Style], score: Score
) -> None:
  """Draws the average score after each task, a line for each method, its name at the right end."""
  scale, last = 100 if score == 'accuracy' else 1, 1
  ends: list[tuple[float, Style]] = []
  for group, style in zip(groups, styles, strict=True):
    points = [(i + 1, point) for i, point in enumerate(curve(group)) if point is not None]
    last = max(last, len(group.runs[0]['tasks']))
    if not points:
      continue
    x = [place for place, _ in points]
    means, least, greatest = ([scale * point[k] for _, point in points] for k in range(3))
    if style.end_only:
      axes.axhline(
        means[-1], linewidth=1.4, zorder=1, color=style.colour, linestyle=style.linestyle
      )
    else:
      axes.fill_between(x, least, greatest, color=style.colour, alpha=0.18, linewidth=0)
      axes.plot(
        x, means, marker=style.marker, markersize=5.5, linewidth=2, color=style.colour,
        linestyle=style.linestyle,
      )  # fmt: skip
    ends.append((means[-1], style))
  axes.set_ylim(*_limits(groups, score))
  unit = 'accuracy, %' if score == 'accuracy' else 'log-perplexity, nats (lower is better)'
  axes.set_ylabel(unit)
  axes.set_xlim(1 - 0.04 * last, last + 0.04 * last)
  several = any(len(group.runs) > 1 for group in groups)
  axes.set_xlabel('tasks learned' + ('   (bands: range over seeds)' if several else ''))
  axes.locator_params(axis='x', integer=True)
  axes.grid(axis='y', color=GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(length=0)
  _name_ends(axes, ends, score)


def _name_ends(axes: 'Axes', ends: Sequence[tuple[float, Style]], score: Score) -> None:
  """Writes names and values beside the right ends of lines, moved apart where they would overlap.

  Args:
    axes: of the lines.
    ends: (y of the end, the line's style).
    score: the unit.
  """
  scale = 100 if score == 'accuracy' else 1
  bottom, top = axes.get_ylim()
  inches = axes.bbox.height / DPI
  ends = sorted(ends, key=lambda end: (end[0] - bottom) / (top - bottom))
  wanted = [(value - bottom) / (top - bottom) for value, _ in ends]
  places = _apart(wanted, 0.17 / inches)
  for place, (value, style) in zip(places, ends, strict=True):
    words = f'{style.label} {format_number(value / scale, score)}'
    axes.text(
      1.03, place, words, color=style.text_colour, weight='bold', va='center',
      transform=axes.transAxes,
    )  # fmt: skip


def _apart(wanted: Sequence[float], least: float) -> list[float]:
  """Returns rising places at least `least` apart, as near as may be to where they belong.

  Args:
    wanted: rising places. Those that crowd are spread around their mean.
    least: the distance.
  """
  blocks: list[list[float]] = []
  centre = lambda block: math.fsum(block) / len(block)
  for place in wanted:
    blocks.append([place])
    while (
      len(blocks) > 1
      and centre(blocks[-1]) - centre(blocks[-2])
      < least * (len(blocks[-1]) + len(blocks[-2])) / 2 - 1e-9
    ):
      last = blocks.pop()
      blocks[-1] = blocks[-1] + last
  return [centre(b) + least * (k - (len(b) - 1) / 2) for b in blocks for k in range(len(b))]


def _draw_panel(axes: 'Axes', group: Group, style: Style, limits: tuple[float, float]) -> None:
  """Draws a line for each task from its score just learned (hollow) to that at the end (filled)."""
  score = score_of(group.runs[0])
  scale, colour = 100 if score == 'accuracy' else 1, style.colour
  for j, (learned, kept) in enumerate(learned_and_kept(group)):
    if learned is not None and kept is not None:
      axes.plot([scale * learned, scale * kept], [j, j], color=colour, alpha=0.45, linewidth=2.5)
    if learned is not None and not style.end_only:
      axes.plot(
        scale * learned, j, markersize=7, markerfacecolor='white', color=colour, marker='o',
        clip_on=False,
      )  # fmt: skip
    if kept is not None:
      axes.plot(scale * kept, j, markersize=4.5, color=colour, marker='o', clip_on=False)
  tasks = len(group.runs[0]['tasks'])
  axes.set(xlim=limits, ylim=(tasks - 0.5, -0.5))
  axes.set_title(style.label, color=style.text_colour, weight='bold', loc='left', pad=15)
  forgetting = summary(group)['forgetting'][0]
  unknown = 'only the end is known' if style.end_only else 'forgetting unknown'
  words = unknown if forgetting is None else f'forgets {format_number(forgetting, score)}'
  axes.annotate(
    words, (0, 1), (0, 4), xycoords='axes fraction', textcoords='offset points', color=FAINT,
    size=8,
  )  # fmt: skip
  if score == 'accuracy':
    axes.set_xticks([0, 50, 100])
  axes.grid(axis='x', color=GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.spines['left'].set_visible(False)
  axes.tick_params(length=0)
