"""Charts: where values stand, which values are written at the axes, what is thinned."""

import itertools
import re

import pytest
from support import reported
from support.reported import Parts

from jcl.reports.page import axes, charts, document
from jcl.reports.page.axes import Axis
from jcl.reports.page.charts import Bar, Line, Span


@pytest.mark.parametrize(
  ('low', 'high', 'ticks'),
  [
    (0, 100, [0, 25, 50, 75, 100]),
    (0, 1, [0, 0.25, 0.5, 0.75, 1]),
    (0.9, 1.1, [0.9, 0.95, 1.0, 1.05, 1.1]),
    (1, 5, [1, 2, 3, 4, 5]),
    (0, 1234567, [0, 500000, 1000000]),
    (3, 3, [3]),
  ],
)
def test_ticks_are_round_and_few(low, high, ticks):
  assert axes.ticks_of(low, high) == pytest.approx(ticks)
  assert len(axes.ticks_of(low, high)) <= 5


def test_an_axis_may_be_logarithmic_or_turned_over():
  assert Axis(1, 100, '', log=True).place(10) == pytest.approx(0.5)
  assert Axis(10, 0, '').place(2.5) == pytest.approx(0.75)
  assert Axis(3, 3, '').place(3) == 0
  assert Axis(-3, 3, '', '{:.1f}'.format).words(-2) == '−2.0'


def test_a_line_stands_where_its_values_are():
  x, y = Axis(0, 2, 'steps'), Axis(0, 100, '')
  page = Parts(charts.lines('label', [Line('a', [(0, 0), (2, 100)])], x, y, height=210))
  ((line, _),) = page.all('polyline')
  assert line['points'] == '40,176 348,12'
  assert line['data-name'] == 'a'
  assert page.all('svg')[0][0]['data-plot'] == '[40.0, 348.0, 176.0, 12.0, 0, 2, 0, 100, 0]'


def test_many_points_are_thinned_to_means():
  points = [(float(i), float(i % 2)) for i in range(charts.MOST * 4)]
  found = charts.thinned(points)
  assert len(found) == charts.MOST
  assert found[0] == (1.5, 0.5)
  assert charts.thinned(points[:5]) == points[:5]


def test_parts_of_a_bar_follow_each_other_and_shares_stand_on_each_other():
  page = Parts(charts.bars('label', [Bar('a', [('x', 1, 'c0'), ('y', 3, 'c1')], '4')]))
  boxes = [a for a, _ in page.all('rect') if a['class'].startswith('part')]
  assert [(float(a['x']), float(a['width'])) for a in boxes] == [(2, 89), (91, 267)]
  x, y = Axis(0, 1, ''), Axis(0, 100, '')
  series = [Line('a', [(0, 30), (1, 30)]), Line('b', [(0, 70), (1, 70)], 'c1')]
  page = Parts(charts.shares('label', series, x, y, height=190))
  first, second = (a['points'] for a, _ in page.all('polygon'))
  heights = lambda points: sorted({float(p.split(',')[1]) for p in points.split()})
  assert heights(first) == pytest.approx([156 - 0.3 * 144, 156], abs=0.06)
  assert heights(second) == pytest.approx([12, 156 - 0.3 * 144], abs=0.06)


def test_a_change_has_a_ring_before_and_a_dot_after():
  page = Parts(charts.spans('label', [Span('a', 50, 0, 100, '-100')], Axis(0, 100, '')))
  ring, dot = (a for a, _ in page.all('circle'))
  assert (ring['class'], ring['cx'], dot['class'], dot['cx']) == ('ring c0', '180', 'dot c0', '8')
  page = Parts(charts.spans('label', [Span('a', None, None, None, '·')], Axis(0, 100, '')))
  assert not page.all('circle')


def test_names_of_points_do_not_cover_each_other():
  dots = [charts.Dot(f'a rather long name {i}', 1, 50, None, 'c0') for i in range(3)]
  page = Parts(charts.scatter('label', dots, Axis(0, 2, ''), Axis(0, 100, '')))
  assert len(page.all('circle')) == 3
  shown = [a for a, w in page.all('text') if re.match('a rather', w)]
  assert len({a['x'] for a in shown}) == len(shown) == 2  # at the right, at the left


@pytest.mark.parametrize(
  ('low', 'high', 'ticks'),
  [
    (1, 2, [1, 2]),
    (1, 3, [1, 2, 3]),
    (0, 10, [0, 5, 10]),
    (1, 20, [5, 10, 15, 20]),
    (0, 100, [0, 25, 50, 75, 100]),
    (0, 7, [0, 2, 4, 6]),
  ],
)
def test_tasks_and_steps_have_whole_numbers(low, high, ticks):
  assert axes.ticks_of(low, high, whole=True) == ticks
  assert Axis(low, high, 'tasks learned', whole=True).written == ticks


def test_ticks_of_tasks_steps_and_tokens_are_whole_in_every_picture():
  runs = [reported.run('seq'), reported.run('seq', seed=1), reported.run('joint')]
  for page in (document.document(runs, [reported.log(3)] * 3),
               document.document(runs[:1], [reported.log(2)])):  # fmt: skip
    charts_ = re.findall(r'<svg.*?</svg>', page, re.DOTALL)
    counted = [c for c in charts_ if re.search(r'>(tasks learned|steps of|tokens trained<)', c)]
    assert len(counted) > 1
    for chart in counted:
      below = re.findall(r'text-anchor="(?:middle|end)">([\d.,M]+)</text>', chart)
      assert below
      x = [float(v.replace(',', '')) for v in re.findall(r'text-anchor="middle">([\d.,]+)<', chart)]
      assert all(value.is_integer() for value in x), x
      assert len({b - a for a, b in itertools.pairwise(x)}) <= 1, x  # none is rounded
