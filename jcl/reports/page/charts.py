"""Charts as SVG, drawn for a screen of 360 pixels: text that can be selected, colours of the page.

A chart is `WIDTH` units wide and as high as it needs. Its classes (`c0` to `c7`, `dash`, `area`)
have their colours in `page.css`, in light and in dark. `data-plot` tells the page's script how
units become values.
"""

import json
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jcl.reports.page.axes import Axis
from jcl.reports.page.markup import Html, cut, join, tag, text

WIDTH = 360.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 12.0, 12.0, 34.0  # margins of the plot
ROW, BAR, NAMES = 36.0, 13.0, 46  # height of a row of bars and of its bar; letters of its name
COLOURS = 8
MOST = 300  # points of a line at most


class Line(NamedTuple):
  """A line of a chart.

  Attributes:
    name: in the key.
    points: (x, y), in the values of the axes.
    style: its classes, such as `c0 dash`.
    dots: whether its points are marked.
    band: (x, least, greatest) around the line; empty: none.
  """

  name: str
  points: Sequence[tuple[float, float]]
  style: str = 'c0'
  dots: bool = False
  band: Sequence[tuple[float, float, float]] = ()


def colour(index: int) -> str:
  """Returns the classes of line or bar number `index`; a dash tells later ones from the first."""
  return f'c{index % COLOURS}' + (' dash' if index // COLOURS % 2 else '')


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
  """Returns points of which at most `MOST` are left: neighbours become their means."""
  size = math.ceil(len(points) / MOST)
  if size < 2:
    return list(points)
  parts = [points[i : i + size] for i in range(0, len(points), size)]
  mean = lambda part, axis: math.fsum(point[axis] for point in part) / len(part)
  return [(mean(part, 0), mean(part, 1)) for part in parts]


def lines(
  label: str, series: Sequence[Line], x: Axis, y: Axis,
  bounds: Sequence[tuple[float, str]] = (), height: float = 210.0,
) -> Html:  # fmt: skip
  """Returns a chart of lines.

  Args:
    label: what the chart shows, for readers who do not see it.
    series: the lines, the most important last.
    x, y: the axes.
    bounds: (x, words) of vertical lines, such as the starts of tasks.
    height: of the whole chart, in units.
  """
  across = lambda v: LEFT + x.place(v) * (WIDTH - LEFT - RIGHT)
  up = lambda v: height - BOTTOM - y.place(v) * (height - BOTTOM - TOP)
  parts: list[str] = [*_grid(x, y, across, up, height), *_bounds(bounds, across, height)]
  for line in series:
    parts += _line(line, across, up)
  return _svg(label, join(parts), height, plot=_plot(x, y, height))


def _plot(x: Axis, y: Axis, height: float) -> str:
  """Returns where the axes lie and what they hold, as the page's script reads it."""
  box = [LEFT, WIDTH - RIGHT, height - BOTTOM, TOP]
  return json.dumps([*box, x.low, x.high, y.low, y.high, int(y.log)])


def _grid(
  x: Axis, y: Axis, across: Callable[[float], float], up: Callable[[float], float], height: float
) -> list[Html]:
  """Returns the lines of the values, and the words at both axes."""
  parts = []
  for value in y.written:
    at = up(value)
    parts.append(_stroke(LEFT, at, WIDTH - RIGHT, at, 'grid'))
    parts.append(words(LEFT - 5, at + 4, y.words(value), 'end'))
  for value in x.written:
    parts.append(_below(across(value), height - BOTTOM + 14, x.words(value)))
  parts.append(words(LEFT, height - 5, x.label, 'start', 'faint'))
  parts.append(_stroke(LEFT, height - BOTTOM, WIDTH - RIGHT, height - BOTTOM, 'axis'))
  return parts


def _bounds(
  bounds: Sequence[tuple[float, str]], across: Callable[[float], float], height: float
) -> list[Html]:
  """Returns vertical lines, the words of each where they do not reach the next."""
  parts, free = [], LEFT
  for value, label in bounds:
    at = across(value)
    parts.append(_stroke(at, TOP - 10, at, height - BOTTOM, 'bound'))
    shown = cut(label, 12)
    if at >= free and at + 6.2 * len(shown) < WIDTH:
      parts.append(words(at + 3, TOP - 3, shown, 'start', 'faint'))
      free = at + 6.2 * len(shown) + 6
  return parts


def _line(line: Line, across: Callable[[float], float], up: Callable[[float], float]) -> list[Html]:
  """Returns a line, its band below it and its dots above it."""
  parts = []
  if len(line.band) > 1:
    edge = [(across(x), up(most)) for x, _, most in line.band]
    edge += [(across(x), up(least)) for x, least, _ in reversed(line.band)]
    parts.append(tag('polygon', points=_points(edge), class_=f'area {line.style}'))
  places = [(across(a), up(b)) for a, b in thinned(line.points)]
  parts.append(
    tag(
      'polyline',
      points=_points(places),
      class_=f'line {line.style}',
      data_name=cut(line.name, NAMES),
    )
  )
  if line.dots or len(places) == 1:
    parts += [tag('circle', cx=_f(a), cy=_f(b), r=3, class_=f'dot {line.style}') for a, b in places]
  return parts


def shares(
  label: str, series: Sequence[Line], x: Axis, y: Axis, bounds: Sequence[tuple[float, str]] = (),
  height: float = 190.0,
) -> Html:  # fmt: skip
  """Returns areas that stand on each other.

  Args:
    label: what the chart shows.
    series: the shares, from the lowest area to the highest; all have the same x.
    x, y: the axes.
    bounds: as in `lines`.
    height: in units.
  """
  across = lambda v: LEFT + x.place(v) * (WIDTH - LEFT - RIGHT)
  up = lambda v: height - BOTTOM - y.place(v) * (height - BOTTOM - TOP)
  parts: list[str] = []
  base = [0.0] * len(thinned(series[0].points)) if series else []
  for line in series:
    places = thinned(line.points)
    top = [low + b for low, (_, b) in zip(base, places, strict=True)]
    edge = [(across(a), up(t)) for t, (a, _) in zip(top, places, strict=True)]
    edge += [(across(a), up(low)) for low, (a, _) in reversed([*zip(base, places, strict=True)])]
    inner = tag('title', line.name)
    parts.append(tag('polygon', inner, points=_points(edge), class_=f'part {line.style}'))
    base = top
  parts += [*_grid(x, y, across, up, height), *_bounds(bounds, across, height)]
  return _svg(label, join(parts), height)


class Bar(NamedTuple):
  """A row of a chart of bars.

  Attributes:
    name: of the row.
    parts: (name, value, classes) of its parts, from the left.
    shown: what is written at its end.
  """

  name: str
  parts: Sequence[tuple[str, float, str]]
  shown: str


def bars(label: str, rows: Sequence[Bar], most: float = 0.0) -> Html:
  """Returns horizontal bars, each below its name.

  Args:
    label: what the chart shows.
    rows: the bars.
    most: the value that is as wide as the chart; 0: the largest.
  """
  sums = [math.fsum(max(v, 0.0) for _, v, _ in row.parts) for row in rows]
  most = most or max(sums, default=0.0) or 1.0
  parts: list[str] = []
  for i, row in enumerate(rows):
    top, at = i * ROW, 2.0
    parts.append(words(2, top + 12, cut(row.name, NAMES), 'start'))
    parts.append(words(WIDTH - 2, top + 12, row.shown, 'end', 'strong'))
    parts.append(_box(2, top + 17, WIDTH - 4, BAR, 'track'))
    for name, value, style in row.parts:
      wide = max(value, 0.0) / most * (WIDTH - 4)
      parts.append(_box(at, top + 17, wide, BAR, f'part {style}', name))
      at += wide
  return _svg(label, join(parts), len(rows) * ROW + 2)


class Span(NamedTuple):
  """A row of a chart of changes.

  Attributes:
    name: of the row.
    before, after: the values; None where unknown.
    best: a third value, marked by a stroke; None: no mark.
    shown: what is written at its end.
    style: its classes.
  """

  name: str
  before: float | None
  after: float | None
  best: float | None
  shown: str
  style: str = 'c0'


def spans(label: str, rows: Sequence[Span], x: Axis) -> Html:
  """Returns a line for each row from its value before (a ring) to that after (a dot)."""
  across = lambda v: 8 + x.place(v) * (WIDTH - 16)
  height = len(rows) * ROW + 18
  parts: list[str] = []
  for value in x.written:
    parts.append(_stroke(across(value), 18, across(value), height - 18, 'grid'))
    parts.append(_below(across(value), height - 4, x.words(value)))
  for i, row in enumerate(rows):
    top, at, style = i * ROW, i * ROW + 24, row.style
    parts.append(words(2, top + 12, cut(row.name, NAMES), 'start'))
    parts.append(words(WIDTH - 2, top + 12, row.shown, 'end', 'strong'))
    known = [v for v in (row.best, row.before, row.after) if v is not None]
    if len(known) > 1:
      parts.append(_stroke(across(min(known)), at, across(max(known)), at, f'span {style}'))
    if row.best is not None:
      parts.append(_stroke(across(row.best), at - 6, across(row.best), at + 6, f'mark {style}'))
    if row.before is not None:
      parts.append(tag('circle', cx=_f(across(row.before)), cy=at, r=5, class_=f'ring {style}'))
    if row.after is not None:
      parts.append(tag('circle', cx=_f(across(row.after)), cy=at, r=4, class_=f'dot {style}'))
  return _svg(label, join(parts), height)


class Dot(NamedTuple):
  """A point of a scatter: its name, its place, half the height of its interval, its classes."""

  name: str
  x: float
  y: float
  half: float | None
  style: str


def scatter(label: str, dots: Sequence[Dot], x: Axis, y: Axis, height: float = 230.0) -> Html:
  """Returns points with their names beside them; one that would cover another is in the key alone.

  Args:
    label: what the chart shows.
    dots: the points.
    x, y: the axes.
    height: in units.
  """
  across = lambda v: LEFT + x.place(v) * (WIDTH - LEFT - RIGHT)
  up = lambda v: height - BOTTOM - y.place(v) * (height - BOTTOM - TOP)
  parts: list[str] = [*_grid(x, y, across, up, height)]
  names: list[str] = []
  taken = [(up(dot.y), across(dot.x) - 6, across(dot.x) + 6) for dot in dots]
  for i, dot in enumerate(dots):
    at, level, shown = across(dot.x), up(dot.y), cut(dot.name, 24)
    if dot.half:
      low, high = (min(max(up(dot.y + s * dot.half), TOP), height - BOTTOM) for s in (-1, 1))
      parts.append(_stroke(at, low, at, high, f'mark {dot.style}'))
    inner = tag('title', dot.name)
    parts.append(tag('circle', inner, cx=_f(at), cy=_f(level), r=5, class_=f'dot {dot.style}'))
    wide = 6.2 * len(shown)
    others = [place for j, place in enumerate(taken) if j != i]
    free = lambda start: start > LEFT and start + wide < WIDTH and not any(
      abs(level - v) < 12 and start < b and start + wide > a for v, a, b in others
    )  # fmt: skip
    if (start := next(filter(free, (at + 9, at - 9 - wide)), None)) is not None:
      names.append(words(start, level + 4, shown, 'start', 'strong'))
      taken.append((level, start, start + wide))
  return _svg(label, join([*parts, *names]), height)


def small(
  label: str, title: str, shown: str, series: Sequence[Line], x: Axis, y: Axis, mark: float
) -> Html:  # fmt: skip
  """Returns a small chart, one of many side by side.

  Args:
    label: what it shows, for readers who do not see it.
    title: above it, at the left.
    shown: above it, at the right.
    series: its lines.
    x, y: the axes, of which the ends of y are written.
    mark: x of a vertical line.
  """
  wide, height, left = 170.0, 112.0, 30.0
  across = lambda v: left + x.place(v) * (wide - left - 8)
  up = lambda v: height - 18 - y.place(v) * (height - 18 - 24)
  parts: list[str] = [
    words(2, 12, cut(title, 17), 'start', 'strong'), words(wide - 2, 12, shown, 'end', 'strong'),
  ]  # fmt: skip
  for value in (y.low, y.high):
    parts.append(_stroke(left, up(value), wide - 8, up(value), 'grid'))
    parts.append(words(left - 4, up(value) + 4, y.words(value), 'end', 'faint'))
  for value in (x.low, x.high):
    anchor = 'start' if value == x.low else 'end'
    parts.append(words(across(value), height - 4, x.words(value), anchor, 'faint'))
  parts.append(_stroke(across(mark), 22, across(mark), height - 18, 'bound'))
  for line in series:
    parts += _line(line, across, up)
  plot = json.dumps([left, wide - 8, height - 18, 24, x.low, x.high, y.low, y.high, int(y.log)])
  return _svg(label, join(parts), height, wide, plot)


def words(
  x: float, y: float, content: str, anchor: str = 'start', class_: str | None = None
) -> Html:
  """Returns a text of a picture."""
  anchor_ = None if anchor == 'start' else anchor
  return tag('text', content, x=_f(x), y=_f(y), text_anchor=anchor_, class_=class_)


def _svg(
  label: str, inner: str, height: float, width: float = WIDTH, plot: str | None = None
) -> Html:
  """Returns a picture with its description."""
  return tag(
    'svg', text(inner), viewBox=f'0 0 {_f(width)} {_f(height)}',
    role='img', aria_label=label, data_plot=plot,
  )  # fmt: skip


def _below(x: float, y: float, content: str) -> Html:
  """Returns a value at an axis below, inside the picture at its ends."""
  near = x + 3.5 * len(content) > WIDTH
  return words(WIDTH - 1 if near else x, y, content, 'end' if near else 'middle')


def _stroke(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
  return tag('line', x1=_f(x1), y1=_f(y1), x2=_f(x2), y2=_f(y2), class_=class_)


def _box(x: float, y: float, wide: float, high: float, class_: str, title: str = '') -> Html:
  inner = tag('title', title) if title else ''
  return tag('rect', inner, x=_f(x), y=_f(y), width=_f(wide), height=_f(high), class_=class_)


def _points(places: Sequence[tuple[float, float]]) -> str:
  return ' '.join(f'{_f(x)},{_f(y)}' for x, y in places)


def _f(value: float) -> str:
  """Returns a coordinate with two decimals, without zeros at its end."""
  return f'{value:.2f}'.rstrip('0').rstrip('.')
