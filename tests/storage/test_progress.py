"""Progress of long work: a bar on a terminal, a line now and then elsewhere, or nothing."""

import io
import os
import sys
import types

import pytest

from jcl.storage import progress
from jcl.storage.progress import Bar


class Terminal(io.StringIO):
  encoding = 'utf-8'

  def isatty(self) -> bool:
    return True


def terminal(monkeypatch) -> Terminal:
  """Makes standard error a terminal of 80 columns; a fixture would come before pytest's own."""
  found = Terminal()
  monkeypatch.setattr(sys, 'stderr', found)
  monkeypatch.setenv('COLUMNS', '80')
  monkeypatch.setenv('TERM', 'xterm')
  return found


@pytest.fixture
def clock(monkeypatch):
  """The time in seconds, which the test sets."""
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  return now


def test_a_line_comes_when_time_has_passed_and_says_how_much_is_left(clock, capsys):
  bar = Bar('task 1/2 bank: train', 100)
  clock[0] = 10.0
  bar.advance(10, tokens=300)
  assert capsys.readouterr().err == ''
  clock[0] = 40.0
  bar.advance(20, tokens=300, note='loss 0.500')
  bar.close()
  said = capsys.readouterr().err  # 10 steps in 30 s, 80 are left
  assert said == '  task 1/2 bank: train: 20/100, 4:00 left, loss 0.500, 10 tokens/s\n'


def test_what_comes_before_the_first_step_is_no_measure_of_speed(clock, capsys):
  bar = Bar('train', 100, done=50)
  clock[0] = 1000.0  # it compiles
  bar.advance(51)
  clock[0] = 1040.0
  bar.advance(61)
  assert capsys.readouterr().err.endswith('  train: 61/100, 2:36 left\n')


def test_the_time_of_the_whole_run_is_said_where_it_is_known(clock, capsys):
  bar = Bar('train', 10, later=lambda each: 5 * each + 3600)
  bar.advance(1)
  clock[0] = 40.0
  bar.advance(5)
  assert capsys.readouterr().err == '  train: 5/10, 0:50 left, run 1:01:40\n'


def test_hidden_work_says_nothing(clock, capsys):
  with progress.session(hidden=True), progress.session():
    bar = Bar('train', 100)
    bar.advance(1)
    clock[0] = 1000.0
    bar.advance(50)
    assert progress.is_hidden()
  assert not progress.is_hidden()
  assert capsys.readouterr() == ('', '')


def test_a_bar_fits_its_terminal(monkeypatch):
  screen = terminal(monkeypatch)
  bar = Bar('task 2/5 kitchen: train', 200, later=lambda each: 60.0)
  for done in (1, 90, 91):
    bar.advance(done, 5000, 'loss 0.123, epoch {1}/3')
    bar._bar.refresh()
  shown = screen.getvalue().split('\r')
  assert any('91/200, 0:0' in line and 'run 1:0' in line for line in shown)
  assert max(map(len, shown)) <= 80
  assert not any('tokens/s' in line for line in shown)  # there is no room for it
  bar.close()
  assert screen.getvalue().split('\r')[-2].isspace()  # it leaves nothing behind


def test_a_dumb_terminal_has_lines(clock, monkeypatch):
  screen = terminal(monkeypatch)
  monkeypatch.setenv('TERM', 'dumb')
  bar = Bar('train', 10)
  bar.advance(1)
  clock[0] = 31.0
  bar.advance(2)
  assert screen.getvalue() == '  train: 2/10, 4:08 left\n'


@pytest.mark.parametrize(('size', 'has'), [((0, 0), False), ((80, 0), False), ((80, 24), True)])
def test_a_terminal_without_lines_has_no_bars(size, has, monkeypatch):
  monkeypatch.setattr(terminal(monkeypatch), 'fileno', lambda: 2, raising=False)
  monkeypatch.setattr(progress.os, 'get_terminal_size', lambda file: os.terminal_size(size))
  assert progress.has_bars() == has


def test_watched_items_come_in_order_and_short_work_has_no_bar(monkeypatch):
  screen = terminal(monkeypatch)
  assert list(progress.watched([1, 2, 3], 'tokenising')) == [1, 2, 3]
  assert list(progress.watched(iter('ab'), 'loading', total=2)) == ['a', 'b']
  assert screen.getvalue().strip('\r ') == ''


def test_long_watched_work_has_a_bar(monkeypatch):
  screen = terminal(monkeypatch)
  monkeypatch.setattr(progress, 'BRIEF', 1e-9)
  for _ in progress.watched(range(3), 'tokenising'):
    progress.time.sleep(0.06)  # a bar is drawn ten times a second
  assert 'tokenising' in screen.getvalue()


def test_a_notebook_shares_its_bars(monkeypatch):
  """A widget that is closed leaves an empty line, so one serves all work of a session."""
  shell = types.SimpleNamespace(config={'IPKernelApp': {}})
  module = types.SimpleNamespace(get_ipython=lambda: shell)
  monkeypatch.setitem(sys.modules, 'IPython', module)
  assert progress.is_notebook()
  assert progress.has_bars()
  with progress.session():
    first = Bar('one', 3)
    inner = Bar('inside', 3)
    assert first._bar is not inner._bar
    held = inner._bar
    inner.close()
    again = Bar('two', 7, done=2)
    assert again._bar is held
    assert (held.total, held.n, held.desc) == (7, 2, 'two')
    again.advance(3)
    assert not held.disable
    again.close()
    first.close()
  assert held.disable  # closed at the end of the session


def test_times_are_short():
  assert [progress.clock(x) for x in (0.4, 61, 3599.9, 3661)] == [
    '0:00',
    '1:01',
    '1:00:00',
    '1:01:01',
  ]
