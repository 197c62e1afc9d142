"""Pictures of docs/results.md, drawn from the kept runs of its tables."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from table_specs import Table

from jcl.reports.comparison_plot import COLOURS, MARKERS, comparison_png
from jcl.reports.plots import FAINT, GRID, new_figure, png_of
from jcl.reports.results import Probe, Results

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def picture(table: Table, runs: Mapping[str, Results]) -> bytes:
  """Returns the picture of a table as a PNG.

  Args:
    table: the table.
    runs: its kept runs by `ROW-SEED`, at least one. If each was probed, the picture shows how far
      the models have moved, else the scores over the stream and what is forgotten.
  """
  order = list(table.rows)
  row_of = lambda key: key.rpartition('-')[0]
  known = {key: runs[key] for key in sorted(runs, key=lambda key: (order.index(row_of(key)), key))}
  ends = {row_of(key): lines[-1] for key, run in known.items() if (lines := run.get('probe'))}
  if len(ends) < len(known):
    return comparison_png(list(known.values()))
  return png_of(lambda: _drift(ends))


def _drift(ends: Mapping[str, Probe]) -> 'Figure':
  """Returns a figure with a point for each row: KL on text and KL on prompts, in nats.

  Args:
    ends: name of a row -> the last line of its probe.
  """
  figure = new_figure(7.6, 4.2)
  axes = figure.add_axes((0.09, 0.13, 0.88, 0.75))
  points = [(line['kl'] or 0.0, line['kl_prompts'] or 0.0) for line in ends.values()]
  across, up = (max(axis) or 1.0 for axis in zip(*points, strict=True))
  for index, (name, (text, prompts)) in enumerate(zip(ends, points, strict=True)):
    crowded = any(0 < x - text < across / 8 and abs(y - prompts) < up / 20 for x, y in points)
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    axes.plot(text, prompts, marker=marker, markersize=8, color=colour, linestyle='')
    axes.annotate(
      name, (text, prompts), (-8 if crowded else 8, 0), textcoords='offset points',
      ha='right' if crowded else 'left', va='center', color=colour, weight='bold',
    )  # fmt: skip
  axes.margins(0.18)
  axes.set_xlim(left=0)
  axes.set_ylim(bottom=0)
  axes.set_xlabel('KL from the start on general text, nats per token')
  axes.set_ylabel('KL on prompts of the last task')
  axes.grid(color=GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(length=0)
  title = 'How far a model has moved from its start'
  figure.text(0.02, 0.94, title, size=11, weight='bold')
  figure.text(0.98, 0.94, 'nearer to the corner is nearer to the start', color=FAINT, ha='right')
  return figure
