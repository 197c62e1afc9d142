"""The accuracy matrix of a run as an annotated heat map."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jcl.reports.formatting import MISSING, format_number, one_line, short_method_name
from jcl.reports.metrics import Score, average_so_far
from jcl.reports.plots import FAINT, INK, LETTER, new_figure, png_of, shortened
from jcl.reports.results import (
  Results,
  compute_metrics,
  metrics_of,
  score_matrix,
  score_of,
  unit_of,
)

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

NOT_LEARNED, UNKNOWN = '#ebebeb', '#fafafa'  # colours of cells above the diagonal, and of no score
GAP = 0.3  # cells: the room around the row before training and the column of means
Cells = Sequence[Sequence[float | None]]


def heat_map_png(results: Results) -> bytes:
  """Returns the accuracy matrix of a run as a PNG.

  Args:
    results: the contents of `results.json`.

  Raises:
    UserError: the matrix is malformed.
  """
  compute_metrics(results)  # refuses a malformed matrix
  return png_of(lambda: _figure(results))


def _figure(run: Results) -> 'Figure':
  """Returns the figure. A cell is a unit square; y grows downwards."""
  matrix, score = score_matrix(run), score_of(run)
  names, tasks = [shortened(task) for task in run['tasks']], len(run['tasks'])
  longest = max(map(len, names))
  cell_width, cell_height = (0.64, 0.42) if tasks <= 12 else (0.48, 0.32)
  slanted = longest * LETTER > cell_width
  left = 0.35 + LETTER * max(longest + len('after '), len('before training'))
  top = 0.75 + (LETTER * 0.65 * max(longest, 11) if slanted else 0.25)
  grid_width, grid_height = cell_width * (tasks + 1 + GAP), cell_height * (tasks + 1 + GAP)
  width = max(left + grid_width + (0.65 if slanted else 0.2), 5.4)
  height = top + grid_height + 0.55
  figure = new_figure(width, height)
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
      _draw_cell(axes, (j, y), value, _shade(value, matrix, score), i, j, _cell_text(value, run))
  for i, mean in enumerate(average_so_far(matrix, score)):
    text = _cell_text(mean, run)
    axes.text(tasks + GAP + 0.5, i + 1.5 + GAP, text, ha='center', va='center', weight='bold')
  _name_columns(axes, names, slanted)
  _title(figure, run, left=0.15 / width, height=height)
  _key(figure, matrix)
  return figure


def _name_columns(axes: 'Axes', names: Sequence[str], slanted: bool) -> None:
  """Writes the tasks' names, and that of the column of means, above the columns."""
  tasks = len(names)
  for j, name in enumerate([*names, 'mean so far']):
    x = j + 0.5 + GAP * (j == tasks)
    if slanted:
      axes.text(x - 0.2, -0.15, name, rotation=40, rotation_mode='anchor', va='bottom')
    else:
      axes.text(x, -0.2, name.replace('mean ', 'mean\n'), ha='center', va='bottom')


def _shade(value: float | None, matrix: Cells, score: Score) -> float:
  """Returns how good a cell is, from 0 to 1.

  An accuracy is its own shade; log-perplexity is placed between the worst and the best of its
  matrix.
  """
  if value is None:
    return 0.0
  if score == 'accuracy':
    return value
  known = [cell for row in matrix for cell in row if cell is not None]
  return (max(known) - value) / max(max(known) - min(known), 1e-9)


def _cell_text(value: float | None, run: Results) -> str:
  """Returns a score short enough for a cell: tenths of a per cent only where there is room."""
  score = score_of(run)
  if value is None:
    return ''
  if score == 'accuracy' and (len(run['tasks']) > 12 or value == 1):
    return f'{100 * value:.0f}'
  text = format_number(value, score)
  return text if score == 'accuracy' else text[:5]


def _draw_cell(
  axes: 'Axes', corner: tuple[float, float], value: float | None, shade: float, i: int, j: int,
  text: str,
) -> None:  # fmt: skip
  """Draws cell (i, j): hatched without a score, grey where task j is not learned yet.

  Args:
    axes: whose unit is a cell.
    corner: (x, y) of the cell.
    value: the score.
    shade: how good it is, from 0 to 1.
    i: row of the matrix.
    j: column of the matrix.
    text: what stands in the cell.
  """
  import matplotlib
  from matplotlib.patches import Rectangle

  style: dict[str, Any] = {'edgecolor': 'white', 'linewidth': 1.5}
  if value is None:
    style |= {'facecolor': UNKNOWN, 'hatch': '////'}
  elif i <= j:
    style |= {'facecolor': NOT_LEARNED}
  else:
    style |= {'facecolor': matplotlib.colormaps['Blues'](0.08 + 0.82 * shade)}
  axes.add_patch(Rectangle(corner, 1, 1, **style))
  if i == j + 1 and value is not None:
    inner = (corner[0] + 0.04, corner[1] + 0.04)
    axes.add_patch(Rectangle(inner, 0.92, 0.92, fill=False, edgecolor=INK, linewidth=1.4))
  colour = FAINT if i <= j else 'white' if shade > 0.6 else INK
  axes.text(corner[0] + 0.5, corner[1] + 0.5, text, ha='center', va='center', color=colour)


def _title(figure: 'Figure', run: Results, left: float, height: float) -> None:
  """Writes which run this is, its average at the end and its forgetting.

  Args:
    figure: of the heat map.
    run: the results.
    left: where the text begins, as a share of the figure's width.
    height: of the figure, in inches.
  """
  score, found = score_of(run), metrics_of(run)
  where = f' on {run["stream"]}' if run.get('stream') else ''
  name = short_method_name(run['method'])
  title = one_line(f'{name}{where}, seed {run.get("seed", MISSING)}')
  figure.text(left, 1 - 0.27 / height, title, size=12, weight='bold')
  mixed = len(set(run.get('task_metrics') or [])) > 1
  right = 'metric of each task in %' if mixed else unit_of(run)
  unit = right if score == 'accuracy' else 'log-perplexity in nats, lower is better'
  numbers = {'average at the end': found['average_accuracy'], 'forgetting': found['forgetting']}
  words = [f'{k} {format_number(v, score)}' for k, v in numbers.items() if v is not None]
  text = f'{unit}: {", ".join(words)}' if words else unit
  figure.text(left, 1 - 0.5 / height, text, color=FAINT)


def _key(figure: 'Figure', matrix: Cells) -> None:
  """Explains frames, grey and hatches, those that the matrix has."""
  from matplotlib.patches import Patch

  cells = {(i, j): value for i, row in enumerate(matrix) for j, value in enumerate(row)}

  def any_known(where: Callable[[int, int], bool]) -> bool:
    return any(value is not None for (i, j), value in cells.items() if where(i, j))

  entries = []
  if any_known(lambda i, j: i == j + 1):
    entries.append(Patch(facecolor='white', edgecolor=INK, linewidth=1.4, label='just learned'))
  if any_known(lambda i, j: i <= j):
    entries.append(Patch(facecolor=NOT_LEARNED, label='not learned yet'))
  if None in cells.values():
    entries.append(Patch(facecolor=UNKNOWN, hatch='////', label='not evaluated'))
  figure.legend(
    handles=entries, loc='lower left', bbox_to_anchor=(0.0, 0.0), ncols=len(entries) or 1,
    frameon=False, fontsize=8, labelcolor=FAINT, handlelength=1.2, columnspacing=1.5,
  )  # fmt: skip
