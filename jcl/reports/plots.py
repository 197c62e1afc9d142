"""The accuracy matrix and the comparison of methods as PNG pictures: the same bytes every time."""

import io
import math
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from jcl.reports.comparison import (
  NULL,
  Group,
  Run,
  curve,
  grouped,
  in_one_line,
  learned_and_kept,
  metrics_of,
  score_of,
  shown,
  summary,
  whole_matrix,
)
from jcl.reports.metrics import average_so_far
from jcl.storage.atomic import write_atomically

# Okabe and Ito (2008): told apart with any colour vision; yellow is left out, it is lost on white.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00')
MARKERS = 'osD^vP'
REFERENCE = '#222222'  # a method of which only the end is known
INK, FAINT, GRID, NOT_YET = '#222222', '#666666', '#dddddd', '#ebebeb'
STYLE = {
  'font.family': 'DejaVu Sans',  # comes with matplotlib
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
NAME, LABEL = 24, 36  # characters of a task's name and of a method's label, at most
LETTER = 0.078  # inches, of the usual size
LINES, PANEL = 4.2, 1.6  # inches: width of the lines' axes, and least of a panel and its margin
GAP = 0.3  # cells, around what stands apart in the heat map


def heat_map(results: Run, path: str | pathlib.Path) -> None:
  """Writes a run's accuracy matrix as an annotated heat map.

  Args:
    results: the contents of `results.json`.
    path: of the PNG file; written atomically.

  Raises:
    UserError: the matrix is malformed.
  """
  write_atomically(path, heat_map_png(results))


def comparison_picture(results: Sequence[Run], path: str | pathlib.Path) -> None:
  """Writes the picture of several runs: what each method knows after each task, and what it lost.

  Args:
    results: the contents of their `results.json`; seeds of one method are averaged.
    path: of the PNG file; written atomically.

  Raises:
    UserError: the runs cannot be compared, or a matrix is malformed.
  """
  write_atomically(path, comparison_png(results))


def heat_map_png(results: Run) -> bytes:
  """The bytes of `heat_map`."""
  metrics_of(results)  # refuses a malformed matrix
  return _drawn(lambda: _heat_map(results))


def comparison_png(results: Sequence[Run]) -> bytes:
  """The bytes of `comparison_picture`."""
  groups = grouped(results)
  return _drawn(lambda: _comparison(groups))


def _drawn(draw: Callable[[], Any]) -> bytes:
  """The PNG of the figure that `draw` makes, without any global state of matplotlib."""
  import matplotlib
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  with matplotlib.rc_context(STYLE), warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Glyph .* missing from', UserWarning)  # a box is drawn
    figure, content = draw(), io.BytesIO()
    FigureCanvasAgg(figure).print_png(content, metadata={'Software': None})
  return content.getvalue()


def _figure(width: float, height: float) -> Any:
  from matplotlib.figure import Figure

  return Figure(figsize=(width, height), dpi=DPI, facecolor='white')


def _short(name: Any, most: int = NAME) -> str:
  name = in_one_line(name)
  return name if len(name) <= most else name[: most - 1].rstrip() + '…'


def _heat_map(run: Run) -> Any:
  """The figure; cells are unit squares, the row before training and the means stand apart."""
  matrix, score = whole_matrix(run), score_of(run)
  names, tasks = [_short(t) for t in run['tasks']], len(run['tasks'])
  longest = max(map(len, names))
  cell_width, cell_height = (0.64, 0.42) if tasks <= 12 else (0.48, 0.32)
  slanted = longest * LETTER > cell_width
  left = 0.35 + LETTER * max(longest + len('after '), len('before training'))
  top = 0.75 + (LETTER * 0.65 * max(longest, 11) if slanted else 0.25)
  grid_width, grid_height = cell_width * (tasks + 1 + GAP), cell_height * (tasks + 1 + GAP)
  width = max(left + grid_width + (0.65 if slanted else 0.2), 5.4)
  height = top + grid_height + 0.55
  figure = _figure(width, height)
  axes = figure.add_axes(
    (left / width, 0.55 / height, grid_width / width, grid_height / height),
    xlim=(0, tasks + 1 + GAP), ylim=(tasks + 1 + GAP, 0),
  )  # fmt: skip
  axes.set_axis_off()
  for i, row in enumerate(matrix):
    y = i + GAP * (i > 0)
    label = f'after {names[i - 1]}' if i else 'before training'
    axes.text(-0.15, y + 0.5, label, ha='right', va='center')
    for j, value in enumerate(row):
      _cell(axes, (j, y), value, _shade(value, matrix, score), i, j, _cell_text(value, run))
  for i, mean in enumerate(average_so_far(matrix, score)):
    text = _cell_text(mean, run)
    axes.text(tasks + GAP + 0.5, i + 1.5 + GAP, text, ha='center', va='center', weight='bold')
  for j, name in enumerate([*names, 'mean so far']):
    x = j + 0.5 + GAP * (j == tasks)
    if slanted:
      axes.text(x - 0.2, -0.15, name, rotation=40, rotation_mode='anchor', va='bottom')
    else:
      axes.text(x, -0.2, name.replace('mean ', 'mean\n'), ha='center', va='bottom')
  _title(figure, run, left=0.15 / width, height=height)
  _key(figure, matrix)
  return figure


def _shade(value: float | None, matrix: Sequence[Sequence[float | None]], score: str) -> float:
  """How good a cell is, from 0 to 1; log-perplexity against the extremes of its matrix."""
  if value is None:
    return 0.0
  if score == 'accuracy':
    return value
  known = [cell for row in matrix for cell in row if cell is not None]
  return (max(known) - value) / max(max(known) - min(known), 1e-9)


def _cell_text(value: float | None, run: Run) -> str:
  """Short enough for a cell: tenths of a per cent only where there is room for them."""
  text = shown(value, score_of(run))
  if value is None or score_of(run) != 'accuracy':
    return '' if value is None else text[:5]
  return f'{100 * value:.0f}' if len(run['tasks']) > 12 or value == 1 else text


def _cell(
  axes: Any, corner: tuple[float, float], value: float | None, shade: float, i: int, j: int,
  text: str,
) -> None:  # fmt: skip
  """Cell (i, j): hatched where nothing is known, grey where task j was not learned yet."""
  import matplotlib
  from matplotlib.patches import Rectangle

  edge = {'edgecolor': 'white', 'linewidth': 1.5}
  if value is None:
    style = {**edge, 'facecolor': '#fafafa', 'hatch': '////'}
  elif i <= j:
    style = {**edge, 'facecolor': NOT_YET}
  else:
    style = {**edge, 'facecolor': matplotlib.colormaps['Blues'](0.08 + 0.82 * shade)}
  axes.add_patch(Rectangle(corner, 1, 1, **style))
  if i == j + 1 and value is not None:
    inner = (corner[0] + 0.04, corner[1] + 0.04)
    axes.add_patch(Rectangle(inner, 0.92, 0.92, fill=False, edgecolor=INK, linewidth=1.4))
  colour = FAINT if i <= j else 'white' if shade > 0.6 else INK
  axes.text(corner[0] + 0.5, corner[1] + 0.5, text, ha='center', va='center', color=colour)


def _title(figure: Any, run: Run, left: float, height: float) -> None:
  """What run this is, and the two numbers that the matrix comes down to."""
  score, found = score_of(run), metrics_of(run)
  where = f' on {run["stream"]}' if run.get('stream') else ''
  title = in_one_line(f'{run["method"]}{where}, seed {run.get("seed", NULL)}')
  figure.text(left, 1 - 0.27 / height, title, size=12, weight='bold')
  unit = 'accuracy in %' if score == 'accuracy' else 'log-perplexity in nats, lower is better'
  sums = {'average at the end': found['average_accuracy'], 'forgetting': found['forgetting']}
  words = ', '.join(f'{k} {shown(v, score)}' for k, v in sums.items() if v is not None)
  figure.text(left, 1 - 0.5 / height, f'{unit}: {words}' if words else unit, color=FAINT)


def _key(figure: Any, matrix: Sequence[Sequence[float | None]]) -> None:
  """Says what grey, hatches and frames mean, where there are any."""
  from matplotlib.patches import Patch

  cells = {(i, j): value for i, row in enumerate(matrix) for j, value in enumerate(row)}
  known = lambda where: any(v is not None for (i, j), v in cells.items() if where(i, j))
  entries = []
  if known(lambda i, j: i == j + 1):
    entries.append(Patch(facecolor='white', edgecolor=INK, linewidth=1.4, label='just learned'))
  if known(lambda i, j: i <= j):
    entries.append(Patch(facecolor=NOT_YET, label='not learned yet'))
  if None in cells.values():
    entries.append(Patch(facecolor='#fafafa', hatch='////', label='not evaluated'))
  figure.legend(
    handles=entries, loc='lower left', bbox_to_anchor=(0.0, 0.0), ncols=len(entries) or 1,
    frameon=False, fontsize=8, labelcolor=FAINT, handlelength=1.2, columnspacing=1.5,
  )  # fmt: skip


def _comparison(groups: Sequence[Group]) -> Any:
  """The figure: lines over the stream on the left, a panel a method on the right; in inches."""
  score, tasks = score_of(groups[0].runs[0]), _task_names(groups)
  styles = [_style(i, group) for i, group in enumerate(groups)]
  columns = len(groups) if len(groups) <= 3 else min(math.ceil(len(groups) / 2), 4)
  rows = math.ceil(len(groups) / columns)
  panel = max(3.4 / rows, 0.85 + 0.2 * len(tasks))
  longest = max(len(style['label']) for style in styles)
  across = max(PANEL, 0.3 + 1.1 * LETTER * longest)
  labels = 0.4 + 1.1 * LETTER * (longest + len(' 100.0'))
  start = 0.75 + LINES + labels + 0.3 + LETTER * max(map(len, tasks))
  width, height = start + columns * across + 0.15, 0.9 + rows * panel
  figure = _figure(width, height)
  place = (0.75, 0.7, LINES, rows * panel - 0.8)
  _curves(_axes(figure, place), groups, styles, score)
  limits = _limits(groups, score)
  for index, (group, style) in enumerate(zip(groups, styles, strict=True)):
    row, column = divmod(index, columns)
    bottom = 0.7 + (rows - 1 - row) * panel
    axes = _axes(figure, (start + column * across, bottom, across - 0.25, panel - 0.8))
    _dots(axes, group, style, limits)
    axes.set_yticks(range(len(tasks)), tasks if column == 0 else [''] * len(tasks))
  left, top = 0.15 / width, 1 - 0.27 / height
  bold = {'size': 11, 'weight': 'bold'}
  figure.text(left, top, 'Average over the tasks learned so far', **bold)
  corner = (start - 0.1 - LETTER * max(map(len, tasks))) / width
  figure.text(corner, top, 'Each task: ○ just learned  ● at the end', **bold)
  return figure


def _axes(figure: Any, place: tuple[float, float, float, float]) -> Any:
  """Axes at (left, bottom, width, height) inches."""
  size = (*figure.get_size_inches(), *figure.get_size_inches())
  return figure.add_axes([float(x / s) for x, s in zip(place, size, strict=True)])


def _task_names(groups: Sequence[Group]) -> list[str]:
  """The tasks' names where all runs agree on their order, else their places in it."""
  orders = {tuple(run['tasks']) for group in groups for run in group.runs}
  if len(orders) == 1:
    return [_short(name) for name in orders.pop()]
  return [f'task {i + 1}' for i in range(max(map(len, orders)))]


def _style(index: int, group: Group) -> dict[str, Any]:
  """Colour and marker by place; black and dashed where only the end is known."""
  from matplotlib.colors import to_rgb

  *earlier, last = curve(group)
  ends = bool(earlier) and last is not None and not any(earlier)
  colour = REFERENCE if ends else COLOURS[index % len(COLOURS)]
  return {
    'label': _short(group.label, LABEL),
    'color': colour,
    'words': tuple(0.75 * part for part in to_rgb(colour)),  # pale words cannot be read
    'marker': '' if ends else MARKERS[(index + index // len(COLOURS)) % len(MARKERS)],
    'linestyle': '--' if ends or index >= len(COLOURS) else '-',
    'reference': ends,
  }


def _limits(groups: Sequence[Group], score: str) -> tuple[float, float]:
  """Of an axis on which better is further: 0 to 100 %, or from the worst nats to the best."""
  if score == 'accuracy':
    return -3.0, 103.0
  pairs = [pair for group in groups for pair in learned_and_kept(group)]
  known = [value for pair in pairs for value in pair if value is not None] or [0.0]
  margin = 0.06 * (max(known) - min(known)) or 0.1
  return max(known) + margin, min(known) - margin


def _curves(axes: Any, groups: Sequence[Group], styles: Sequence[dict], score: str) -> None:
  """Draws the lines and names them at their right ends."""
  scale, last = 100 if score == 'accuracy' else 1, 1
  ends: list[tuple[float, dict]] = []
  for group, style in zip(groups, styles, strict=True):
    points = [(i + 1, *p) for i, p in enumerate(curve(group)) if p is not None]
    last = max(last, len(group.runs[0]['tasks']))
    if not points:
      continue
    x, means, low, high = zip(*points, strict=True)
    means, low, high = ([scale * v for v in values] for values in (means, low, high))
    look = {k: style[k] for k in ('color', 'linestyle')}
    if style['reference']:
      axes.axhline(means[-1], linewidth=1.4, zorder=1, **look)
    else:
      axes.fill_between(x, low, high, color=style['color'], alpha=0.18, linewidth=0)
      axes.plot(x, means, marker=style['marker'], markersize=5.5, linewidth=2, **look)
    ends.append((means[-1], style))
  axes.set_ylim(*_limits(groups, score))
  unit = 'accuracy, %' if score == 'accuracy' else 'log-perplexity, nats (lower is better)'
  axes.set_ylabel(unit)
  axes.set_xlim(1 - 0.04 * last, last + 0.04 * last)
  several = any(len(group.runs) > 1 for group in groups)
  axes.set_xlabel('tasks learned' + ('   (bands: range over seeds)' if several else ''))
  axes.xaxis.get_major_locator().set_params(integer=True)
  axes.grid(axis='y', color=GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(length=0)
  _name_ends(axes, ends, score)


def _name_ends(axes: Any, ends: Sequence[tuple[float, dict]], score: str) -> None:
  """Names lines beside their right ends, with the value; moved apart where they would overlap."""
  scale = 100 if score == 'accuracy' else 1
  bottom, top = axes.get_ylim()
  inches = axes.get_position().height * float(axes.figure.get_size_inches()[1])
  ends = sorted(ends, key=lambda end: (end[0] - bottom) / (top - bottom))
  wanted = [(value - bottom) / (top - bottom) for value, _ in ends]
  places = _apart(wanted, 0.17 / inches)
  for place, (value, style) in zip(places, ends, strict=True):
    words = f'{style["label"]} {shown(value / scale, score)}'
    where = {'x': 1.03, 'y': place, 'transform': axes.transAxes, 'va': 'center'}
    axes.text(s=words, color=style['words'], weight='bold', **where)


def _apart(wanted: Sequence[float], least: float) -> list[float]:
  """Rising places at least `least` apart; those that crowd are centred on where they belong."""
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


def _dots(axes: Any, group: Group, style: dict, limits: tuple[float, float]) -> None:
  """Draws a line per task from what was just learned (hollow) to the end (filled)."""
  score = score_of(group.runs[0])
  scale = 100 if score == 'accuracy' else 1
  look = {'color': style['color'], 'marker': 'o', 'clip_on': False}
  for j, (learned, kept) in enumerate(learned_and_kept(group)):
    if learned is not None and kept is not None:
      axes.plot(
        [scale * learned, scale * kept], [j, j], color=style['color'], alpha=0.45, linewidth=2.5
      )
    if learned is not None and not style['reference']:
      axes.plot(scale * learned, j, markersize=7, markerfacecolor='white', **look)
    if kept is not None:
      axes.plot(scale * kept, j, markersize=4.5, **look)
  tasks = len(group.runs[0]['tasks'])
  axes.set(xlim=limits, ylim=(tasks - 0.5, -0.5))
  axes.set_title(style['label'], color=style['words'], weight='bold', loc='left', pad=15)
  forgetting = summary(group)['forgetting'][0]
  unknown = 'only the end is known' if style['reference'] else 'forgetting unknown'
  words = unknown if forgetting is None else f'forgets {shown(forgetting, score)}'
  place = {'xy': (0, 1), 'xytext': (0, 4), 'xycoords': 'axes fraction'}
  axes.annotate(words, **place, textcoords='offset points', color=FAINT, size=8)
  if score == 'accuracy':
    axes.set_xticks([0, 50, 100])
  axes.grid(axis='x', color=GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.spines['left'].set_visible(False)
  axes.tick_params(length=0)
