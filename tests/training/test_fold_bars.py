"""Folds are shown and watched where they are asked to be."""

from jcl.storage import progress
from jcl.training import fold_bars
from jcl.training.fold_bars import FoldBars
from jcl.training.folds import FoldRunner

add = lambda carry, chunk: (carry or 0) + chunk


def test_folds_are_watched_inside_the_statement_only():
  folds, seen = FoldRunner(), []
  watch = FoldBars(
    folds, str, before=lambda: seen.append('before'), after=lambda: seen.append('after')
  )
  with watch:
    assert folds.run('sum', add, None, [1, 2], 1) == 3
  assert seen == ['before', 'after'] * 2
  folds.run('sum', add, None, [1, 2], 1)
  assert len(seen) == 4


def test_a_fold_has_a_bar_from_its_first_chunk_on_and_a_finished_one_none(monkeypatch):
  made = []

  class Noted(progress.Bar):
    def __init__(self, title, total, done=0, brief=False, later=None):
      made.append((title, total, done))
      super().__init__(title, total, done, brief, later)

  monkeypatch.setattr(fold_bars, 'Bar', Noted)
  folds = FoldRunner()

  def dying(carry, chunk):
    assert made[-1] == ('task 1: sum', 2, 0)
    if chunk == 2:
      raise KeyboardInterrupt
    return add(carry, chunk)

  watch = FoldBars(folds, lambda name: f'task 1: {name}')
  try:
    with watch:
      folds.run('sum', dying, None, [1, 2], 1)
  except KeyboardInterrupt:
    folds.journal.asked = 0
  with watch:
    assert folds.run('sum', add, None, [1, 2], 1) == 3
  folds.journal.asked = 0
  with watch:
    assert folds.run('sum', add, None, [1, 2], 1) == 3  # from the journal
  assert made == [('task 1: sum', 2, 0), ('task 1: sum', 2, 1)]
