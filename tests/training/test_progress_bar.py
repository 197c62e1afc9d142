"""Progress of long work where there is no terminal: a line now and then, or nothing."""

from jcl.training import progress_bar
from jcl.training.folds import FoldRunner
from jcl.training.progress_bar import Bar, FoldBars


def test_a_line_comes_when_time_has_passed_and_says_how_much_is_left(monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr(progress_bar.time, 'monotonic', lambda: now[0])
  bar = Bar('task 1/2 bank: train', 100)
  now[0] = progress_bar.EVERY / 2
  bar.advance(10, tokens=300)
  assert capsys.readouterr().err == ''
  now[0] = 40.0
  bar.advance(20, tokens=300, note='loss 0.500')
  bar.close()
  said = capsys.readouterr().err
  assert said == '  task 1/2 bank: train: 20/100, loss 0.500, 15 tokens/s, 2:40 left\n'


def test_work_that_went_on_after_a_kill_is_not_counted_in_its_speed(monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr(progress_bar.time, 'monotonic', lambda: now[0])
  bar = Bar('train', 100, done=50)
  now[0] = 40.0
  bar.advance(60)
  assert ', 2:40 left' in capsys.readouterr().err  # 10 steps in 40 s, 40 are left


def test_quiet_work_says_nothing(monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr(progress_bar.time, 'monotonic', lambda: now[0])
  bar = Bar('train', 100, quiet=True)
  now[0] = 1000.0
  bar.advance(50)
  assert capsys.readouterr() == ('', '')


def test_folds_are_watched_inside_the_statement_only():
  folds, seen = FoldRunner(), []
  add = lambda carry, chunk: (carry or 0) + chunk
  watch = FoldBars(
    folds, str, True, before=lambda: seen.append('before'), after=lambda: seen.append('after')
  )
  with watch:
    assert folds.run('sum', add, None, [1, 2], 1) == 3
  assert seen == ['before', 'after'] * 2
  folds.run('sum', add, None, [1, 2], 1)
  assert len(seen) == 4
