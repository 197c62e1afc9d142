"""Prompts as arrays: left-padded, and with how many tokens all of them begin alike."""

import pytest

from jcl.batching.prompt_arrays import left_padded, shared


@pytest.mark.parametrize(
  ('prompts', 'beginnings', 'alike'),
  [
    ([], True, 0),
    ([[5, 6]] * 3, True, 2),
    ([[5, 6]] * 3, False, 2),
    ([[5, 6, 7], [5, 6, 8, 9]], True, 2),
    ([[5, 6, 7], [5, 6, 8, 9]], False, 0),
    ([[5, 6], [5, 6, 7]], True, 1),
    ([[5], [6]], True, 0),
    ([[], [5]], True, 0),
  ],
)
def test_prompts_share_less_than_each_has_unless_all_are_equal(prompts, beginnings, alike):
  assert shared(prompts, beginnings) == alike


def test_prompts_stand_at_the_right_and_rows_after_them_are_empty():
  ids, valid = left_padded([[5, 6, 7], [8]], 3, 0)
  assert ids.tolist() == [[0, 5, 6, 7], [0, 0, 0, 8], [0] * 4]
  assert valid.tolist() == [[False, True, True, True], [False] * 3 + [True], [False] * 4]
  assert left_padded([[], []], 2, 0)[0].shape == (2, 0)
