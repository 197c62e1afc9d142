"""Fonts of pictures are chosen by the letters that they have; it is said where none has them."""

import os
import subprocess
import sys

import pytest
from support import ROOT

from jcl.reports import fonts, heat_map, plots, report

CHINESE, ARABIC = '天气', 'طقس'


@pytest.fixture
def installed(monkeypatch):
  """Sets the letters of each installed font; DejaVu has ASCII and Arabic."""

  def install(**letters):
    known = {fonts.DEFAULT: frozenset(map(chr, range(32, 127))) | set(ARABIC), **letters}
    monkeypatch.setattr(fonts, '_letters', lambda name: frozenset(known.get(name, ())))
    monkeypatch.setattr(fonts, '_names', lambda: tuple(sorted(known)))

  return install


def test_fonts_are_chosen_by_the_letters_they_have(installed):
  installed(A='天', B=CHINESE, C=CHINESE, D='ก')
  assert fonts.chosen(['plain', ARABIC]) == ([fonts.DEFAULT], set())
  assert fonts.chosen([CHINESE]) == ([fonts.DEFAULT, 'B'], set())
  assert fonts.chosen([CHINESE, 'ก']) == ([fonts.DEFAULT, 'B', 'D'], set())
  assert fonts.chosen([CHINESE, '😀']) == ([fonts.DEFAULT, 'B'], {'😀'})


def test_letters_that_no_font_has_are_named_in_one_line(installed):
  installed()
  (line,) = fonts.notes([CHINESE, 'ก', 'plain'])
  assert 'a box for ก 天 气 (CJK, THAI)' in line
  assert 'install' in line
  assert fonts.notes(['plain']) == []
  installed(B=CHINESE + 'ก')
  assert fonts.notes([CHINESE, 'ก']) in ([], fonts.notes(['ก']))


@pytest.mark.parametrize('shapes', [True, False])
def test_scripts_that_are_not_shaped_are_named(installed, monkeypatch, shapes):
  installed()
  monkeypatch.setattr(fonts, 'shapes', lambda: shapes)
  lines = fonts.notes([ARABIC])
  assert len(lines) == (not shapes)
  assert all('ARABIC' in line and 'matplotlib' in line for line in lines)


def test_no_font_of_boxes_or_of_colours_is_chosen():
  assert not [name for name in fonts._names() if 'Last Resort' in name or 'Color' in name]
  assert fonts._letters('no such font') == frozenset()


def results(*tasks):
  return {
    'method': 'seq', 'scenario': 'cil', 'seed': 0, 'stream': 's', 'tasks': list(tasks),
    'score': 'accuracy', 'matrix': [[0.1, 0.2], [0.9, 0.1], [0.5, 0.8]], 'finished': True,
  }  # fmt: skip


def test_a_picture_uses_the_fonts_that_have_its_letters(monkeypatch):
  """Letters that the default lacks are drawn by another font, the same bytes every time."""
  usual = heat_map.heat_map_png(results('bank', 'home'))
  monkeypatch.setattr(fonts, 'chosen', lambda texts: (['DejaVu Serif', fonts.DEFAULT], set()))
  other = heat_map.heat_map_png(results('bank', 'home'))
  assert other != usual
  assert other == heat_map.heat_map_png(results('bank', 'home'))
  monkeypatch.undo()
  assert heat_map.heat_map_png(results('bank', 'home')) == usual


def test_the_notes_are_about_the_names_in_the_pictures(installed):
  installed()
  assert report.picture_notes([results('bank', 'home')]) == []
  assert '天' in report.picture_notes([results('bank', CHINESE)])[0]


@pytest.mark.parametrize('backend', ['nonsense', 'svg'])
def test_a_backend_that_is_not_known_costs_no_picture(backend):
  code = (
    'from jcl.reports import plots; assert plots.png_of(lambda: plots.new_figure(1, 1)); '
    'import os, matplotlib; print(os.environ["MPLBACKEND"], matplotlib.rcParams["backend"])'
  )
  env = {**os.environ, 'MPLBACKEND': backend, 'PYTHONPATH': str(ROOT)}
  done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == [backend, 'agg' if backend == 'nonsense' else backend]


def test_matplotlib_says_nothing_of_weights_that_fonts_lack(caplog):
  fonts._letters.cache_clear()
  with caplog.at_level('WARNING', 'matplotlib.font_manager'):
    fonts.chosen(['Привет', ARABIC, CHINESE])
    plots.png_of(lambda: plots.new_figure(1, 1))
  assert not caplog.records
